#!/usr/bin/env bash
# test_walk.sh: tests that dev/WALK.md names only files, functions and keys that are where it says. Prints "N passed, N
# failed" at its end.
#
# In a stop of the document, a line that begins with "- " and what follows it, backticks hold a file, a name that the file
# defines, or section.key of the config file. A file is valid for the names after it, up to the next file or the stop's
# end. A declaration, a call or a comment defines nothing.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

walk=$PWD/dev/WALK.md

# check_walk DOCUMENT: prints each thing that is wrong, or else the number of stops. Files are looked for in the current
# folder.
check_walk() {
    awk '
    function wrong(what) { print FILENAME ":" FNR ": " what; errors++ }

    # The last word of a declarator: "int *a[3]" gives a. "" where there is none.
    function last_word(text) {
        gsub(/\[[^\]]*\]/, "", text)
        sub(/ *:.*/, "", text)
        return match(text, /[A-Za-z_][A-Za-z0-9_]* *$/) ? word_at(text) : ""
    }
    function word_at(text,   word) {
        word = substr(text, RSTART)
        match(word, /^[A-Za-z0-9_]+/)
        return substr(word, 1, RLENGTH)
    }
    function define(file, word) { if (word != "") defined[file, word] = 1 }

    # What a line of a struct or an enum defines: fields, or constants.
    function define_members(file, text, is_enum,   i, count, parts) {
        if (!is_enum && match(text, /\(\*[A-Za-z_][A-Za-z0-9_]*\)/)) {
            RSTART += 2
            define(file, word_at(text))
            return
        }
        sub(/[;,] *$/, "", text)
        count = split(text, parts, /[,;]/)
        for (i = 1; i <= count; i++)
            if (!is_enum)
                define(file, last_word(parts[i]))
            else if (match(parts[i], /[A-Za-z_][A-Za-z0-9_]*/))
                define(file, word_at(parts[i]))
    }

    # A whole declaration from the first column on, up to the first of { ; =.
    function define_declaration(file, text,   end) {
        match(text, /[{;=]/)
        end = substr(text, RSTART, 1)
        text = substr(text, 1, RSTART - 1)
        gsub(/__launch_bounds__\([^)]*\)/, "", text)
        if (text ~ /^extern / || text ~ /^_Static_assert/ || text ~ /^static_assert/) return
        if (text !~ /\(/) {
            if (text !~ /^(typedef )?(struct|enum|union) /) define(file, last_word(text))
        } else if (end == "{") {
            sub(/ *\(.*/, "", text)
            define(file, last_word(text))
        }
    }

    # Reads a file and notes what it defines; false where it cannot be read.
    function scan(file,   line, status, comment, body, is_enum, macro, pending) {
        if (file in scanned) return scanned[file]
        while ((status = (getline line <file)) > 0) {
            gsub(/\/\*([^*]|\*+[^*\/])*\*+\//, "", line) # comments that end on their line
            if (comment) {
                if (!sub(/^.*\*\//, "", line)) continue
                comment = 0
            }
            if (sub(/\/\*.*$/, "", line)) comment = 1
            sub(/[ \t]+$/, "", line)
            if (macro || line ~ /^#/) {
                if (!macro && match(line, /^# *define +/)) {
                    RSTART += RLENGTH
                    define(file, word_at(line))
                }
                macro = line ~ /\\$/
            } else if (body) {
                if (line ~ /^}/) {
                    body = 0
                    sub(/^} */, "", line)
                    sub(/;.*/, "", line)
                    define(file, last_word(line))
                } else if (line ~ /^    [A-Za-z_]/) {
                    define_members(file, line, is_enum)
                }
            } else if (line ~ /^$/) {
                pending = "" # of a macro that stands alone
            } else if (pending != "" || line ~ /^[A-Za-z_]/) {
                sub(/^template *<[^>]*> */, "", line)
                if (pending == "" && line ~ /^(typedef )?(struct|enum|union)( [A-Za-z_][A-Za-z0-9_]*)? *\{/) {
                    is_enum = line ~ /^(typedef )?enum/
                    sub(/^(typedef )?(struct|enum|union) */, "", line)
                    match(line, /^[A-Za-z0-9_]*/)
                    define(file, substr(line, 1, RLENGTH))
                    sub(/^[^{]*\{/, "", line)
                    body = line !~ /}/
                    if (!body) {
                        pending = line
                        sub(/}.*/, "", line)
                        define_members(file, line, is_enum)
                        sub(/^.*} */, "", pending)
                        sub(/;.*/, "", pending)
                        define(file, last_word(pending))
                        pending = ""
                    } else if (line != "") {
                        define_members(file, line, is_enum)
                    }
                } else {
                    pending = pending " " line
                    sub(/^ /, "", pending)
                    if (pending ~ /[{;=]/) {
                        define_declaration(file, pending)
                        pending = ""
                    }
                }
            }
        }
        close(file)
        return scanned[file] = status == 0
    }

    # Notes the lines of the tables of keys.
    function read_keys(   file, i, line) {
        split("config/config_keys.c optim/optimizer_keys.h", file, " ")
        for (i = 1; i <= 2; i++) {
            while ((getline line <file[i]) > 0) {
                if (match(line, /^ *[A-Z_]*KEY\([a-z0-9_]+, *[a-z0-9_]*/)) {
                    line = substr(line, RSTART, RLENGTH)
                    sub(/^ */, "", line)
                    key_lines[line] = 1
                }
            }
            close(file[i])
        }
    }
    function is_key(section, name,   line) {
        if (!has_keys++) read_keys()
        for (line in key_lines) {
            if (section == "model" && index(line, "MODEL_KEY(" name ",") == 1) return 1
            if (section == "optimizer" && index(line, "KEY(" name ",") == 1) return 1
            if (line ~ "KEY\\(" section ", *" name "$") return 1
        }
        return 0
    }

    function check(span,   parts) {
        if (span ~ /^[A-Za-z0-9_.\/-]+\.(c|h|cu|cuh|sh|py)$/) {
            file = span
            if (!scan(file)) wrong("there is no file " file)
        } else if (span ~ /^(model|data|optimizer|schedule|train)\.[a-z0-9_]+$/) {
            split(span, parts, ".")
            if (!is_key(parts[1], parts[2])) wrong("the config file has no key " span)
        } else if (span !~ /^[A-Za-z_][A-Za-z0-9_]*$/) {
            wrong("\"" span "\" is no file, name or key")
        } else if (file == "") {
            wrong("there is no file before " span)
        } else {
            names++
            if (scan(file) && !((file, span) in defined)) wrong(file " does not define " span)
        }
    }
    function end_stop() {
        if (in_stop && !names) wrong("the stop before this line names no function")
        in_stop = 0
        file = ""
    }

    /^(- |#|$)/ { end_stop() }
    /^- / { stops++; in_stop = 1; names = 0 }
    {
        count = split($0, spans, "`")
        if (count > 0 && count % 2 == 0)
            wrong("a backtick has no other one on its line")
        else
            for (i = 2; i <= count; i += 2) check(spans[i])
    }
    END {
        end_stop()
        if (FNR > 200) wrong("the document has more than 200 lines")
        if (!stops) wrong("the document has no stop")
        if (errors) exit 1
        print stops " stops"
    }' "$1"
}

test_every_name_is_where_the_walk_says() {
    run 0 check_walk "$walk"
    [ "$(sed 's/ stops$//' "$here/output")" -ge 30 ] || { echo "too few stops:"; cat "$here/output"; return 1; }
}

# Each line of changes makes one message, and the copy with all of them makes no other.
test_a_changed_walk_is_refused() {
    local message
    # Of the names, one that nobody defines, and one that another file defines.
    cat >"$here/changes" <<'END'
s/`util\/philox.h`/`util\/philo.h`/
s/`compute_gradient`/`compute_gradients`/
s/`prefetch_batch`/`gpt2_pass`/
s/`data.order`/`data.sequence`/
s/`take_tokens`/`take_tokens()`/
s/`data.train`/`data.train/
END
    { sed -f "$here/changes" "$walk"; seq 200; } >"$here/copy.md"
    run 1 check_walk "$here/copy.md"
    for message in "there is no file util/philo.h" "train_gpt2.cu does not define compute_gradients" \
        "train_gpt2.cu does not define gpt2_pass" "the config file has no key data.sequence" \
        '"take_tokens()" is no file, name or key' "a backtick has no other one" "more than 200 lines"; do
        has "$here/output" "$message"
    done
    [ "$(wc -l <"$here/output")" -eq 7 ] || { echo "not 7 messages:"; cat "$here/output"; return 1; }
}

# refuses_text MESSAGE TEXT: such a document is refused, with this message.
refuses_text() {
    printf '%b\n' "$2" >"$here/doc.md"
    run 1 check_walk "$here/doc.md"
    has "$here/output" "$1"
}

test_what_is_no_walk() {
    # shellcheck disable=SC2016 # backticks of Markdown
    {
        refuses_text "the document has no stop" '# A title\n\n`util/base.c` `die`'
        refuses_text "names no function" '- `util/base.c` alone.'
        refuses_text "there is no file before die" '- `die` alone.'
        # A file is valid to the end of its stop.
        refuses_text "there is no file before warn" '- `util/base.c` `die`\n- `warn`'
    }
}

# write_stop FILE NAME...: prints a document of one stop.
# shellcheck disable=SC2016 # backticks of Markdown
write_stop() {
    printf -- '- `%s`' "$1"
    printf ' `%s`' "${@:2}"
}

test_what_a_file_defines() {
    local undefined=(in_comment void_in_macro declared_variable declared Forward EXTERN_C_BEGIN called_in_initialiser called
        context end x THREADS __launch_bounds__ int)
    local name
    cd "$here"
    cat >code.cu <<'CODE'
/* begins at the first column:
void in_comment(int x) {
*/
#define MACRO(x) \
void_in_macro(x) {
extern int declared_variable;
void declared(int x);
typedef struct Forward Forward;
EXTERN_C_BEGIN

static int variable = called_in_initialiser(1);
static const int table[2] = {1, 2};
enum { ALONE = 1, NEXT };
typedef enum Kind { KIND_A, KIND_B } Kind;
typedef struct Record {
    int field, *other[3]; /* with a comment */
    void (*callback)(void *context, size_t begin,
                     size_t end);
} RecordType;
struct Plain {
    int bits : 3;
};
static void function(int x) { called(x); }
int over_lines(int x,
               int y) {
    return called(x);
}
template <class T, int N>
static __global__ void __launch_bounds__(THREADS, 2)
    some_kernel(T *out) {
}
template <class T> static T in_one_line(T x) { return x; }
CODE
    write_stop code.cu MACRO variable table ALONE NEXT Kind KIND_A KIND_B Record RecordType field other callback Plain bits \
        function over_lines some_kernel in_one_line >doc.md
    run 0 check_walk doc.md
    write_stop code.cu "${undefined[@]}" >doc.md
    run 1 check_walk doc.md
    for name in "${undefined[@]}"; do has output "code.cu does not define $name"; done
}

run_script_tests "$@"
