#!/usr/bin/env bash
# test_scripts.sh: tests of the shell scripts. Prints "N passed, N failed" at its end.
#
# Where a script would install, download or compile, it meets stand-ins: small commands in a folder of their own, which
# write down how they were called. So nothing here needs root or a network, and nothing of the machine is changed. The
# quickstart trains for real, on a small model; MARS_BIN and MARS_BUILD say where the programs are.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

root=$PWD
BUILD=$(realpath "${MARS_BUILD:-build}")
unset CI
use_system_python

last_line_is() {
    [ "$(tail -n 1 "$here/output")" = "$1" ] || { echo "the last line is not '$1':"; cat "$here/output"; return 1; }
}

# ---- plot.sh ----

# metrics DIR FIRST LAST: the losses of a run, less by 0.1 each step; a validation each second step.
metrics() {
    local step
    mkdir -p "$1"
    {
        echo '{"event":"start","config":{"train":{"max_iters":9,"step":7,"loss":99}},"resumed_from":null}'
        for ((step = $2; step <= $3; step++)); do
            if ((step % 2 == 0)); then
                printf '{"event":"val","step":%d,"loss":11.%d,"tokens":%d}\n' $step $((9 - step)) $((step * 64))
            fi
            printf '{"event":"train","step":%d,"loss":9.%d,"lr":0.001,"tokens":%d,"mfu":null}\n' \
                $step $((9 - step)) $((step * 64 + 64))
        done
    } >>"$1/metrics.jsonl"
}

# A gnuplot that shows the curves it was asked for: each title and its points, on one line.
show_curves() {
    mkdir -p "$here/bin"
    command_file "$here/bin/gnuplot" <<'END'
[ -f "$1" ] || exit 0
touch "$(sed -n "s/^set output '\(.*\)'$/\1/p" "$1")"
grep -q "set terminal png" "$1" || exit 0
sed -n "s/^.* '\{0,1\}\(\/[^']*\)' with .* title '\(.*\)'.*$/\1 \2/p" "$1" | while read -r file title; do
    echo "$title: $(tr '\n' ';' <"$file")" >>"$CURVES"
done
END
    export CURVES=$here/curves PATH=$here/bin:$PATH
}

test_plot_draws_one_run() {
    metrics "$here/one" 0 8
    run 0 bash scripts/plot.sh "$here/one"
    has "$here/output" "$here/one/loss.png"
    has "$here/output" "$here/one/loss.svg"
    [ "$(head -c 4 "$here/one/loss.png" | tail -c 3)" = PNG ]
    [ "$(wc -c <"$here/one/loss.png")" -gt 5000 ]
    has "$here/one/loss.svg" "one, training"
    has "$here/one/loss.svg" "one, validation"
    has "$here/one/loss.svg" "step"
    has "$here/one/loss.svg" "</svg>"
}

test_plot_draws_two_runs() {
    metrics "$here/mars_adamw" 0 8
    metrics "$here/it's & a <run>" 2 6
    run 0 bash scripts/plot.sh --out="$here/both" "$here/mars_adamw/" "$here/it's & a <run>"
    has "$here/both.svg" "mars_adamw, training"
    has "$here/both.svg" "it's &amp; a &lt;run>, validation"
    [ -s "$here/both.png" ]
    [ ! -e "$here/mars_adamw/loss.png" ]
}

# A run by the file that is read.
test_plot_of_a_metrics_file() {
    show_curves
    metrics "$here/a run" 0 2
    run 0 bash scripts/plot.sh "$here/a run/metrics.jsonl"
    has "$here/curves" "a run, training: 0 9.9;1 9.8;2 9.7;"
    cd "$here/a run"
    run 0 bash "$root/scripts/plot.sh" metrics.jsonl
    [ "$(cat "$here/output")" = "./loss.png
./loss.svg" ]
}

test_plot_reads_the_right_numbers() {
    show_curves
    metrics "$here/run" 0 4
    run 0 bash scripts/plot.sh "$here/run"
    has "$here/curves" "run, training: 0 9.9;1 9.8;2 9.7;3 9.6;4 9.5;"
    has "$here/curves" "run, validation: 0 11.9;2 11.7;4 11.5;"
    run 0 bash scripts/plot.sh --x=tokens "$here/run"
    has "$here/curves" "run, training: 64 9.9;128 9.8;192 9.7;256 9.6;320 9.5;"
    has "$here/curves" "run, validation: 0 11.9;128 11.7;256 11.5;"
}

test_plot_passes_over_damage() {
    show_curves
    metrics "$here/run" 0 1
    {
        echo '{"event":"train","step":2,"loss":null,"lr":0.001,"tokens":192}'
        echo '{"event":"skipped","step":3,"tensor":"wte"}'
        echo '{"event":"train","step":10,"loss":1.5e-05,"tokens":704}'
        echo 'no JSON at all'
        echo
        printf '{"event":"train","step":11,"loss":7'
    } >>"$here/run/metrics.jsonl"
    run 0 bash scripts/plot.sh "$here/run"
    has "$here/curves" "run, training: 0 9.9;1 9.8;10 1.5e-05;"
}

test_plot_of_a_resumed_run() {
    show_curves
    metrics "$here/run" 0 1
    sed -i 's/9\.8/3.3/' "$here/run/metrics.jsonl"
    metrics "$here/run" 1 2
    run 0 bash scripts/plot.sh "$here/run"
    has "$here/curves" "run, training: 0 9.9;1 9.8;2 9.7;"
}

test_plot_of_one_kind_of_loss() {
    show_curves
    metrics "$here/run" 0 2
    sed -i '/"train","step"/d' "$here/run/metrics.jsonl"
    run 0 bash scripts/plot.sh "$here/run"
    has "$here/curves" "run, validation"
    lacks "$here/curves" "run, training"
}

test_plot_tells_runs_of_one_name_apart() {
    show_curves
    metrics "$here/a/run" 0 2
    metrics "$here/b/run" 0 2
    run 0 bash scripts/plot.sh "$here/a/run" "$here/b/run"
    has "$here/curves" "$here/a/run, training"
    has "$here/curves" "$here/b/run, training"
    cd "$here/a/run"
    run 0 bash "$root/scripts/plot.sh" .
    has "$here/curves" "run, training"
    [ "$(cat "$here/output")" = "./loss.png
./loss.svg" ]
}

# A line break in a name or title would begin a command of gnuplot's.
test_plot_runs_nothing_that_a_name_says() {
    local name=$'a run\nsystem("touch broken_out")\n#'
    metrics "$here/$name" 0 2
    run 0 bash scripts/plot.sh --title="$name" --label="$name" "$here/$name"
    [ ! -e broken_out ]
    [ -s "$here/$name/loss.svg" ]
}

test_plot_says_what_is_wrong() {
    metrics "$here/run" 0 2
    run 1 bash scripts/plot.sh "$here/nothing"
    has "$here/output" "cannot read $here/nothing/metrics.jsonl"
    run 1 bash scripts/plot.sh "$here/run" "$here/nothing"
    mkdir "$here/empty"
    echo '{"event":"start","config":{}}' >"$here/empty/metrics.jsonl"
    run 1 bash scripts/plot.sh "$here/empty"
    has "$here/output" "holds no losses yet"
    run 2 bash scripts/plot.sh
    run 2 bash scripts/plot.sh --wrong "$here/run"
    has "$here/output" "unknown option --wrong"
    run 1 bash scripts/plot.sh --out="$here/no/such/folder/loss" "$here/run"
    has "$here/output" "cannot write $here/no/such/folder/loss.png"
    run 0 bash scripts/plot.sh --help
    has "$here/output" "--x=tokens"
    mkdir "$here/bin"
    ln -s "$(command -v bash)" "$here/bin/bash"
    run 1 env PATH="$here/bin" bash scripts/plot.sh "$here/run"
    has "$here/output" "gnuplot is missing"
}

# ---- messages ----

# Of each script's own messages: the script or key, what was found, what was expected, and what the user can do.
test_parts_of_messages() {
    local status command parts
    export RUN=$here/run
    metrics "$RUN" 0 2
    while IFS='|' read -r status command parts; do
        IFS='|' read -ra parts <<<"$parts"
        [ ${#parts[@]} -eq 4 ] || { echo "these are not four parts: ${parts[*]}"; return 1; }
        run "$status" bash -c "$command"
        has_parts "$here/output" "${parts[@]}"
    done <<'END'
2|bash scripts/plot.sh --wrong $RUN|plot.sh: |unknown option --wrong|expected --out, --x|see --help
2|bash scripts/plot.sh|plot.sh: |no run|expected the folder of at least one|plot.sh runs/quickstart
2|bash scripts/plot.sh --y=1:x $RUN|plot.sh: --y=|1:x|expected two losses|write --y=2.5:3.5
2|bash scripts/plot.sh --label=a --label=b $RUN|plot.sh: |2 labels|for 1 runs|give one --label for each run
1|bash scripts/plot.sh --out=$RUN/no/x $RUN|plot.sh: |cannot write|expected a folder that can be written|give another --out
1|bash scripts/plot.sh $RUN/none|cannot read |No such file|folders that train_gpt2 wrote|its
2|bash scripts/report.sh --watch --port=0|report.sh|--port=0|expected a number from 1 to 65535|leave it out
2|bash scripts/report.sh --port=80|report.sh|--port is given|nothing is served without --watch|leave --port out
2|bash scripts/track3.sh track3_muon --seeds=0|track3.sh: --seeds=|0: |expected a number of seeds from 1 to 999|write --seeds=10
2|bash scripts/track3.sh track3_muon --target=0|track3.sh: --target=|0: |expected a loss|write --target=3.28
2|bash scripts/track3.sh track3_muon --seed=1|track3.sh: |--seed|every run has its own|give --seeds=N
2|bash scripts/track3.sh track3_muon -x|track3.sh: |unknown option -x|expected --seeds|see --help
1|bash scripts/quickstart.sh $RUN/none.txt|quickstart.sh: |cannot read |expected a text file|correct the path
1|QUICKSTART_SECONDS=0 bash scripts/quickstart.sh|quickstart.sh: QUICKSTART_SECONDS=|0: |expected a whole number of seconds|unset it for 80
2|bash scripts/install_deps.sh --wrong|install_deps.sh: |unknown argument --wrong|expected --lint|see --help
2|bash scripts/test.sh --wrong|test.sh: |unknown argument --wrong|the only option is --all|see --help
2|bash data/openwebtext/prepare.sh --files=x|openwebtext/prepare.sh: --files=|x: |expected a number of files from 1 to 9999|see --help
2|bash data/fineweb/download.sh x|fineweb/download.sh: |unexpected argument x|expected one number of shards|see --help
2|bash data/tinyshakespeare/prepare.sh x|tinyshakespeare/prepare.sh: |unknown argument x|expected --tokenizer=gpt2|see --help
2|bash data/hellaswag/prepare.sh x|hellaswag/prepare.sh: |unexpected argument x|there are no options|leave it out
2|FETCH_TRIES=0 bash data/gpt2/download.sh|gpt2/download.sh: FETCH_TRIES=|0: |expected a number of tries|unset it for 6
END
}

# ---- install_deps.sh ----

# A machine of stand-ins: PATH has only these. $here/has names what is "installed": a compiler's libraries and headers
# by the packages they come from; apt-get writes down how it is called and adds to it. Compilers read all of the program,
# as real ones do: whoever writes it to one that does not may be ended by a signal.
machine() {
    local tool
    mkdir "$here/bin"
    for tool in bash cat env grep mktemp rm sed tail; do ln -s "$(command -v "$tool")" "$here/bin/$tool"; done
    printf '%s\n' "$@" >"$here/has"
    echo 0 >"$here/user"
    command_file "$here/bin/id" <<<"cat '$here/user'"
    command_file "$here/bin/gcc" <<END
cat >/dev/null
grep -qx gcc '$here/has' || exit 1
case "\$*" in
    *-lcjson*) grep -qx libcjson-dev '$here/has' ;;
    *-lxxhash*) grep -qx libxxhash-dev '$here/has' ;;
    *-ldnnl*) grep -qx libdnnl-dev '$here/has' ;;
    *-lutf8proc*) grep -qx libutf8proc-dev '$here/has' ;;
    *-lz*) grep -qx "\$(case "\$*" in *-lzstd*) echo libzstd-dev ;; *) echo zlib1g-dev ;; esac)" '$here/has' ;;
    *-llzma*) grep -qx liblzma-dev '$here/has' ;;
    *-lcmocka*) grep -qx libcmocka-dev '$here/has' ;;
esac
END
    command_file "$here/bin/mpicc" <<<"cat >/dev/null; grep -qx libopenmpi-dev '$here/has'"
    for tool in make mpirun g++ gnuplot curl python3 ip; do command_file "$here/bin/$tool" <<<"exit 0"; done
    command_file "$here/bin/apt-cache" <<<"! grep -qx -- \"\${!#}\" '$here/not_in_this_release' 2>/dev/null"
    command_file "$here/bin/apt-get" <<END
echo "\$DEBIAN_FRONTEND \$*" >>'$here/apt'
if [ -e '$here/apt_fails' ] && [[ "\$*" == *install* ]]; then echo "E: the disk is full"; exit 100; fi
for word in "\$@"; do echo "\$word" >>'$here/has'; done
END
}

install_deps() { run "$1" env PATH="$here/bin" bash scripts/install_deps.sh "${@:2}"; }

unpacking=(zlib1g-dev libzstd-dev liblzma-dev)
all_libraries=(gcc libcjson-dev libxxhash-dev libdnnl-dev libutf8proc-dev "${unpacking[@]}" libcmocka-dev libopenmpi-dev)

test_install_leaves_a_complete_machine_alone() {
    machine "${all_libraries[@]}"
    install_deps 0
    last_line_is "everything needed is installed"
    [ ! -e "$here/apt" ]
}

test_install_takes_a_compiler_with_options() {
    machine "${all_libraries[@]}"
    CC='gcc -m64' CXX='env g++' install_deps 0
    last_line_is "everything needed is installed"
}

test_install_installs_only_what_is_missing() {
    machine gcc libxxhash-dev libcmocka-dev libopenmpi-dev libutf8proc-dev "${unpacking[@]}"
    install_deps 0
    last_line_is "everything needed is installed"
    has "$here/output" "installing libcjson-dev libdnnl-dev"
    grep -q "noninteractive .*update" "$here/apt"
    grep -q "noninteractive .*install -y --no-install-recommends libcjson-dev libdnnl-dev$" "$here/apt"
    [ "$(wc -l <"$here/apt")" -eq 2 ]
}

test_install_of_the_lint_tools() {
    machine "${all_libraries[@]}"
    install_deps 0 --lint
    grep -q "install -y --no-install-recommends clang-format clang-tidy cppcheck shellcheck$" "$here/apt"
}

test_install_of_what_the_emulator_needs() {
    machine "${all_libraries[@]}"
    command_file "$here/bin/g++" <<<"cat >/dev/null; grep -qx libboost-context-dev '$here/has'"
    command_file "$here/bin/uname" <<<"echo riscv64"
    install_deps 0 --emu
    grep -q "install -y --no-install-recommends libboost-context-dev$" "$here/apt"
}

test_install_of_what_fuzzing_needs() {
    machine "${all_libraries[@]}"
    install_deps 0 --fuzz
    grep -q "install -y --no-install-recommends clang libclang-rt-dev llvm$" "$here/apt"
    has "$here/output" "missing: clang libclang-rt-dev (optional; without it, make fuzz fails)"
    command_file "$here/bin/clang" <<<"cat >/dev/null; [[ \"\$*\" == *-fsanitize=fuzzer* ]]"
    command_file "$here/bin/llvm-symbolizer" <<<"exit 0"
    install_deps 0 --fuzz
    last_line_is "everything needed is installed"
}

test_install_of_what_the_report_and_its_test_need() {
    machine "${all_libraries[@]}"
    command_file "$here/bin/python3" <<<"[[ \$* != *dygraphs* ]] || grep -qx libjs-dygraphs '$here/has'"
    install_deps 0
    grep -q "install -y --no-install-recommends libjs-dygraphs$" "$here/apt"
    install_deps 0 --browser
    grep -q "install -y --no-install-recommends chromium-headless-shell$" "$here/apt"
    has "$here/output" "missing: chromium-headless-shell (optional; without it, the tests do not open the page"
    command_file "$here/bin/chromium" <<<"exit 0"
    install_deps 0 --browser
    last_line_is "everything needed is installed"
}

test_install_of_what_the_tests_of_hosts_need() {
    machine "${all_libraries[@]}"
    rm "$here/bin/ip"
    install_deps 0
    grep -q "install -y --no-install-recommends iproute2$" "$here/apt"
    has "$here/output" "missing: iproute2 (optional; without it, the tests do not train on several hosts)"
}

test_install_without_root() {
    machine gcc libdnnl-dev libcmocka-dev libopenmpi-dev libutf8proc-dev "${unpacking[@]}"
    echo 1000 >"$here/user"
    install_deps 1
    has "$here/output" "apt-get update && apt-get install -y --no-install-recommends libcjson-dev libxxhash-dev"
    has "$here/output" "missing: libcjson-dev (required)"
    [ ! -e "$here/apt" ]
}

test_install_without_root_goes_on_where_it_can() {
    machine gcc libcjson-dev libxxhash-dev
    echo 1000 >"$here/user"
    install_deps 0
    has "$here/output" "apt-get install -y --no-install-recommends libdnnl-dev libutf8proc-dev ${unpacking[*]} libopenmpi-dev openmpi-bin libcmocka-dev"
    [ ! -e "$here/apt" ]
}

test_install_through_sudo() {
    machine gcc
    echo 1000 >"$here/user"
    command_file "$here/bin/sudo" <<<"echo \"\$@\" >>'$here/sudo'; \"\$@\""
    install_deps 0
    grep -q "^env DEBIAN_FRONTEND=noninteractive apt-get .*update" "$here/sudo"
    grep -q "^env DEBIAN_FRONTEND=noninteractive apt-get .*install .*libcjson-dev" "$here/sudo"
}

test_install_where_a_release_lacks_a_library() {
    machine gcc libcjson-dev libcmocka-dev libopenmpi-dev
    echo libdnnl-dev >"$here/not_in_this_release"
    install_deps 0
    has "$here/output" "installing libxxhash-dev"
    has "$here/output" "missing: libdnnl-dev (optional; without it, matmuls run as plain loops"
    lacks "$here/apt" libdnnl-dev
}

test_install_where_a_release_lacks_a_requirement() {
    machine gcc libcjson-dev libdnnl-dev libcmocka-dev libopenmpi-dev
    echo libxxhash-dev >"$here/not_in_this_release"
    install_deps 1
    has "$here/output" "missing: libxxhash-dev (required)"
}

test_install_that_fails() {
    machine gcc
    touch "$here/apt_fails"
    install_deps 1
    has "$here/output" "apt-get install"
    has "$here/output" "E: the disk is full"
}

test_install_without_apt() {
    machine gcc libcjson-dev libxxhash-dev libcmocka-dev libopenmpi-dev
    rm "$here/bin/apt-get" "$here/bin/apt-cache"
    install_deps 0
    has "$here/output" "no apt-get"
    has "$here/output" "missing: libdnnl-dev (optional"
    sed -i /libcjson/d "$here/has"
    install_deps 1
    has "$here/output" "missing: libcjson-dev (required)"
}

test_install_knows_its_options() {
    machine "${all_libraries[@]}"
    install_deps 2 --wrong
    has "$here/output" "unknown argument --wrong"
    install_deps 0 --help
    has "$here/output" "--lint"
}

# ---- dev/fuzz/run.sh ----

# A tree with two targets, which stand-ins run: they find what $here/finding_TARGET exists for, and merge by copying.
fuzz_tree() {
    local target
    mkdir -p "$here/bin" "$here/tree/dev/fuzz/corpus" "$here/tree/build/fuzz"
    cp dev/fuzz/run.sh "$here/tree/dev/fuzz"
    command_file "$here/bin/make" <<<"echo \"\$*\" >'$here/made'"
    for target in shard config; do
        touch "$here/tree/dev/fuzz/fuzz_$target.c"
        command_file "$here/tree/build/fuzz/fuzz_$target" <<END
echo "\$*" >>'$here/calls'
if [[ \$1 == -merge=1 ]]; then cp "\$3"/a "\$2"; exit; fi
if [ -e '$here/finding_$target' ]; then echo "fuzz_$target.c:7: it is wrong"; exit 77; fi
echo "#5 DONE   cov: 9 ft: 8 corp: 3/6b lim: 4 exec/s: 0 rss: 1Mb" >&2
echo "Done 5 runs in 2 second(s)" >&2
END
    done
    export PATH=$here/bin:$PATH BUILD=build
}

test_fuzzing_runs_every_target() {
    fuzz_tree
    run 0 bash "$here/tree/dev/fuzz/run.sh" 2
    has "$here/made" fuzz
    has "$here/output" "shard: 5 inputs in 2 s, 3 of them differ in where they go"
    has "$here/output" "config: 5 inputs"
    has "$here/calls" "-max_total_time=2 "
    last_line_is "2 targets, 0 with a finding"
    run 0 bash "$here/tree/dev/fuzz/run.sh" 2 shard
    last_line_is "1 targets, 0 with a finding"
}

test_fuzzing_fails_on_a_finding() {
    fuzz_tree
    touch "$here/finding_config"
    run 1 env FUZZ_JOBS=1 bash "$here/tree/dev/fuzz/run.sh" 2
    has "$here/output" "fuzz_config.c:7: it is wrong"
    has "$here/output" "config: FAILED with status 77"
    has "$here/output" "shard: 5 inputs"
    last_line_is "2 targets, 1 with a finding"
}

test_fuzzing_keeps_inputs() {
    fuzz_tree
    mkdir -p "$here/tree/build/fuzz/inputs/shard" "$here/unpacked"
    (cd "$here/tree/build/fuzz/inputs/shard" && touch a b found_c)
    run 0 bash "$here/tree/dev/fuzz/run.sh" --keep 2 shard
    has "$here/output" "shard: 2 inputs kept"
    cp "$here/tree/dev/fuzz/corpus/shard.tar.gz" "$here/first.tar.gz"
    run 0 bash "$here/tree/dev/fuzz/run.sh" --keep 2 shard
    cmp "$here/tree/dev/fuzz/corpus/shard.tar.gz" "$here/first.tar.gz"
    tar -xzf "$here/first.tar.gz" -C "$here/unpacked"
    [ "$(ls "$here/unpacked")" = "a
found_c" ]
}

test_fuzzing_knows_its_options() {
    fuzz_tree
    run 2 bash "$here/tree/dev/fuzz/run.sh" --wrong
    has "$here/output" "unknown option --wrong"
    for seconds in 0 soon -1 1.5; do run 2 bash "$here/tree/dev/fuzz/run.sh" "$seconds"; done
    has "$here/output" "'1.5' is no number of seconds, from 1"
    run 2 bash "$here/tree/dev/fuzz/run.sh" 2 nothing
    has "$here/output" "there is no dev/fuzz/fuzz_nothing.c"
    run 0 bash "$here/tree/dev/fuzz/run.sh" --help
    has "$here/output" "--keep"
    [ ! -e "$here/made" ]
}

# ---- run_tests.sh ----

# program NAME: a test program that prints standard input and ends as its last line says.
program() { command_file "$here/$1"; }

# cmocka PASSED FAILED SKIPPED: the shell lines that print what a cmocka group does.
cmocka() {
    local i
    {
        echo "[==========] Running $(($1 + $2 + $3)) test(s)."
        for ((i = 0; i < $1; i++)); do printf '[ RUN      ] good_%d\n[       OK ] good_%d\n' "$i" "$i"; done
        for ((i = 0; i < $2; i++)); do printf '[ RUN      ] bad_%d\n1 != 2\n[  FAILED  ] bad_%d\n' "$i" "$i"; done
        echo "[==========] $(($1 + $2 + $3)) test(s) run."
        echo "[  PASSED  ] $1 test(s)."
        if [ "$3" -gt 0 ]; then printf '[  SKIPPED ] %d test(s), listed below:\n[  SKIPPED ] later\n' "$3"; fi
        if [ "$2" -gt 0 ]; then printf '[  FAILED  ] %d test(s), listed below:\n[  FAILED  ] bad_0\n\n' "$2"; fi
    } | sed "s/.*/echo '&'/"
}

run_tests() {
    local status=$1 name tests=()
    shift
    for name in "$@"; do tests+=("$here/$name"); done
    run "$status" env BUILD="$here/build" BIN="$here/bin" bash dev/test/run_tests.sh "${tests[@]}"
}

test_counting_what_passes() {
    cmocka 3 0 0 | program first
    { cmocka 2 0 0; cmocka 5 0 0; } | program two_groups
    run_tests 0 first two_groups
    last_line_is "10 passed, 0 failed"
    has "$here/output" "two_groups                      7 passed, 0 failed"
    lacks "$here/output" "good_0"
}

test_counting_what_fails() {
    cmocka 3 0 0 | program good
    { cmocka 4 2 0; echo 'exit 2'; } | program bad
    run_tests 1 good bad
    last_line_is "7 passed, 2 failed"
    has "$here/output" "1 != 2"
    lacks "$here/output" "good_0"
    has "$here/build/test_logs/bad.log" "good_0"
}

# A test whose setup fails is in neither of the lists.
test_counting_errors() {
    {
        echo 'echo "[==========] Running 3 test(s)."'
        echo 'echo "[==========] 3 test(s) run."'
        echo 'echo "[  PASSED  ] 2 test(s)."'
        echo 'exit 1'
    } | program errors
    run_tests 1 errors
    last_line_is "2 passed, 1 failed"
}

test_counting_crashes() {
    { echo 'echo "[==========] Running 3 test(s)."; echo before it dies'; echo 'kill -SEGV $$'; } | program crash
    { cmocka 2 0 0; echo 'echo "[==========] Running 3 test(s)."'; echo 'exit 1'; } | program second_group
    echo 'exit 0' | program silent
    run_tests 1 crash second_group silent missing
    last_line_is "0 passed, 4 failed"
    has "$here/output" "died of signal 11"
    has "$here/output" "before it dies"
    has "$here/output" "second_group                    0 passed, 1 failed, ended with status 1"
    has "$here/output" "silent                          0 passed, 1 failed, printed no summary"
    has "$here/output" "missing                         0 passed, 1 failed, ended with status 127"
}

test_counting_a_failure_after_the_summary() {
    { cmocka 2 0 0; echo 'echo "LeakSanitizer: detected memory leaks"; exit 23'; } | program leak
    run_tests 1 leak
    last_line_is "2 passed, 1 failed"
    has "$here/output" "detected memory leaks"
}

test_counting_what_hangs() {
    echo 'sleep 60' | program hang
    export TEST_SECONDS=1
    run_tests 1 hang
    last_line_is "0 passed, 1 failed"
    has "$here/output" "did not end within 1 seconds"
}

test_counting_what_is_skipped() {
    cmocka 2 0 3 | program skips
    run_tests 0 skips
    last_line_is "2 passed, 0 failed"
    has "$here/output" "3 skipped"
    export CI=true
    run_tests 1 skips
    last_line_is "2 passed, 3 failed"
    has "$here/output" "3 skipped, of which 3 count as failed under CI"
}

# A reason that may_be_skipped.txt has for this script, one that it lacks, and one that it has for another.
test_skips_that_are_excused() {
    local reason="this machine allows no such namespaces"
    {
        echo "echo 'SKIPPED: test_a: $reason: no room'"
        echo "echo 'SKIPPED: test_b: $reason'"
        echo 'echo "2 passed, 0 failed, 2 skipped"'
    } >"$here/test_hosts.sh"
    cp "$here/test_hosts.sh" "$here/other.sh"
    export CI=true
    run_tests 0 test_hosts.sh
    last_line_is "2 passed, 0 failed"
    has "$here/output" "2 passed, 0 failed, 2 skipped  ("
    run_tests 1 other.sh
    last_line_is "2 passed, 2 failed"
    sed -i "s/test_b: $reason/test_b: there is no mpirun/" "$here/test_hosts.sh"
    run_tests 1 test_hosts.sh
    last_line_is "2 passed, 1 failed"
    has "$here/output" "2 skipped, of which 1 count as failed under CI"
    CI='' run_tests 0 test_hosts.sh
}

test_a_script_that_skips() {
    {
        echo "source '$PWD/dev/test/script_fixture.sh'"
        echo 'test_a() { skip "it rains"; echo unseen; }'
        echo 'test_b() { :; }'
        echo 'run_script_tests "$@"'
    } >"$here/script.sh"
    run 0 bash "$here/script.sh"
    has "$here/output" "SKIPPED: test_a: it rains"
    last_line_is "1 passed, 0 failed, 1 skipped"
    lacks "$here/output" unseen
}

test_counting_shell_tests() {
    echo 'echo "12 passed, 1 failed"; exit 1' >"$here/shell.sh"
    echo 'echo "2 passed, 0 failed"' >"$here/other.sh"
    echo 'echo "all is well"' >"$here/wordy.sh"
    cmocka 1 0 0 | program good
    run_tests 1 shell.sh good other.sh wordy.sh
    last_line_is "15 passed, 2 failed"
}

# Each of them waits for the other; what they print comes in the order they were given.
test_side_by_side() {
    local name
    for name in first second; do
        {
            echo "touch $here/$name"
            echo "while ! [ -e $here/first ] || ! [ -e $here/second ]; do sleep 0.01; done"
            if [ $name = first ]; then echo "sleep 0.3"; fi
            cmocka 2 0 0
        } | program "$name"
    done
    export TEST_JOBS=2 TEST_SECONDS=20
    run_tests 0 first second
    last_line_is "4 passed, 0 failed"
    [ "$(cut -d ' ' -f 1 "$here/output" | head -n 2 | tr '\n' ' ')" = "first second " ]
    cmocka 1 1 0 | program third
    run_tests 1 first third second
    last_line_is "5 passed, 1 failed"
}

# shellcheck disable=SC2016 # the variables are the program's
test_environment_of_tests() {
    {
        echo 'echo "$MARS_BUILD $MARS_BIN $OMPI_ALLOW_RUN_AS_ROOT"'
        echo 'read -r line || echo no input'
        cmocka 1 1 0
    } | program shows
    run_tests 1 shows
    has "$here/output" "$here/build $here/bin 1"
    has "$here/output" "no input"
    run 2 bash dev/test/run_tests.sh
}

# ---- test.sh ----

# A tree in which make, the installer and the tests are stand-ins.
make_tree() {
    local tool
    mkdir -p "$here/scripts" "$here/dev/test/scripts" "$here/bin"
    cp scripts/test.sh "$here/scripts"
    mkdir -p "$here/dev/emu"
    touch "$here"/dev/test/scripts/{test_one.c,test_kernels.c,test_golden.c,test_gpt2.c,test_hellaswag.c,test_devices.c,test_gpu.cu,test_two.sh,test_gpu_check.sh} \
        "$here/dev/emu/test_emulator.cu"
    echo "flags: avx512bw avx512vl avx512dq avx512_bf16 amx_bf16" >"$here/cpuinfo"
    export MARS_CPUINFO=$here/cpuinfo
    for tool in gcc-11 g++-11 clang aarch64-linux-gnu-gcc qemu-aarch64 clang-format clang-tidy cppcheck shellcheck nvcc; do
        command_file "$here/bin/$tool" <<<'exit 1'
    done
    echo "echo aarch64 \"\$@\" >>'$here/calls'" >"$here/dev/aarch64.sh"
    echo "echo install \"\$@\" >>'$here/calls'" >"$here/scripts/install_deps.sh"
    command_file "$here/bin/make" <<END
echo "make \$*" >>'$here/calls'
[ -e '$here/make_fails' ] || exit 0
if [[ "\$*" == *\$(cat '$here/make_fails')* ]]; then echo "error: it does not compile"; exit 2; fi
END
    cat >"$here/dev/test/run_tests.sh" <<END
echo "tests \$BUILD \$BIN ci=\${CI:-} \${MARS_TEST_DEVICE:-}\${MARS_EMU_ORDER:-} \$*" >>'$here/calls'
echo "all=\${MARS_TEST_ALL:-} \$BUILD" >>'$here/calls'
echo "\$BUILD: fine"
echo "4 passed, \$(if [ -e '$here/test_fails' ]; then echo 1; else echo 0; fi) failed"
END
    export PATH=$here/bin:$PATH
}

# Once for each build and lane.
test_all_builds_are_tested() {
    local order
    make_tree
    export CI=true
    run 0 bash "$here/scripts/test.sh"
    last_line_is "60 passed, 0 failed"
    has "$here/calls" "install --emu --lint --compilers --browser"
    # A warning shows early.
    [ "$(grep -n "make lint" "$here/calls" | cut -d : -f 1)" -lt "$(grep -n "tests build build ci=true" "$here/calls" | cut -d : -f 1)" ]
    has "$here/calls" "BUILD=build/emu BIN=build/emu EMU=1 WERROR=1 CC=gcc-11 CXX=g++-11"
    has "$here/calls" "BUILD=build/clang BIN=build/clang WERROR=1 CC=clang"
    has "$here/calls" "BUILD=build/aarch64-onednn-1"
    has "$here/calls" "BUILD=build/aarch64-onednn-0"
    has "$here/calls" "tests build build ci=true  dev/test/scripts/test_gpu_check.sh dev/test/scripts/test_two.sh build/test/test_golden build/test/test_gpt2 build/test/test_hellaswag build/test/test_kernels"
    lacks "$here/calls" "build/test/test_devices"
    lacks "$here/calls" "build/test/test_gpu"
    has "$here/calls" "make --no-print-directory cuda-report"
    has "$here/calls" "all=no build"
    has "$here/calls" "tests build/asan build/asan ci=  build/asan/test/test_hellaswag build/asan/test/test_kernels"
    has "$here/calls" "tests build build ci=  build/test/test_gpt2"
    has "$here/calls" "tests build/emu build/emu ci=  build/emu/test/test_kernels"
    has "$here/calls" "tests build/emu build/emu ci=  build/emu/test/test_gpt2"
    has "$here/calls" "tests build/emu build/emu ci= cudanewest build/emu/test/test_kernels"
    has "$here/calls" "tests build/asan build/asan ci= cuda build/asan/test/test_kernels build/asan/test/test_gpu build/asan/test/test_emulator"
    has "$here/calls" "tests build/emu build/emu ci= cuda build/emu/test/test_golden"
    has "$here/calls" "tests build/emu build/emu ci=  build/emu/test/test_devices"
    has "$here/calls" "tests build/tsan build/tsan ci= cuda build/tsan/test/test_kernels"
    has "$here/calls" "tests build/plain build/plain ci=  build/plain/test/test_kernels"
    run 0 bash "$here/scripts/test.sh" --all
    last_line_is "84 passed, 0 failed"
    for order in reverse newest mix:1; do
        has "$here/calls" "tests build/emu build/emu ci= cuda$order build/emu/test/test_kernels"
    done
    has "$here/calls" "tests build/emu build/emu ci= cuda dev/test/scripts/test_gpu_check.sh"
    has "$here/calls" "all=yes build"
    run 2 bash "$here/scripts/test.sh" --wrong
    # A processor that is as the tests would make it has run them already; an older one cannot.
    echo "flags: avx512bw avx512vl avx512dq" >"$here/cpuinfo"
    run 0 bash "$here/scripts/test.sh"
    has "$here/output" "cpu-avx512: this is such a processor"
    has "$here/output" "cpu-no-amx: skipped"
    last_line_is "52 passed, 0 failed"
    echo "flags: avx2" >"$here/cpuinfo"
    run 0 bash "$here/scripts/test.sh"
    has "$here/output" "cpu-avx512: skipped"
}

test_missing_tools_are_named() {
    make_tree
    rm "$here/bin/gcc-11"
    mkdir "$here/tools"
    for tool in bash dirname nproc mkdir cat grep sed tail env tee basename uname; do
        ln -s "$(command -v $tool)" "$here/tools/$tool"
    done
    export PATH=$here/bin:$here/tools CI='' # without those of the machine that runs this test
    run 0 bash "$here/scripts/test.sh"
    has "$here/output" "gcc-11: skipped: there is no gcc-11"
    CI=true run 1 bash "$here/scripts/test.sh"
    has "$here/output" "gcc-11: FAILED: there is no gcc-11"
}

test_a_failing_stage_is_a_failure() {
    make_tree
    export CI=true
    echo lint >"$here/make_fails"
    run 1 bash "$here/scripts/test.sh"
    last_line_is "60 passed, 1 failed"
    has "$here/output" "error: it does not compile"
    echo build/asan >"$here/make_fails"
    run 1 bash "$here/scripts/test.sh"
    last_line_is "52 passed, 1 failed"
    echo cuda-report >"$here/make_fails"
    run 1 bash "$here/scripts/test.sh"
    last_line_is "60 passed, 1 failed"
    echo found >"$here/make_fails"
    run 1 bash "$here/scripts/test.sh"
    last_line_is "0 passed, 1 failed"
    rm "$here/make_fails"
    touch "$here/test_fails"
    run 1 bash "$here/scripts/test.sh"
    last_line_is "60 passed, 15 failed"
}

# ---- quickstart.sh ----

# A tree in which the sources are links to the real ones, the model is small, and nothing is installed.
quickstart_tree() {
    local entry
    mkdir -p "$here/tree/scripts" "$here/tree/data" "$here/tree/config" "$here/bin"
    for entry in "$root"/Makefile "$root"/*/ "$root"/*.cu; do
        case $(basename "$entry") in
            data | config | scripts | runs | build) ;;
            *) ln -s "${entry%/}" "$here/tree/" ;;
        esac
    done
    ln -s "$root"/data/*.[ch] "$root"/data/{tokenizer,prepare} "$here/tree/data/"
    ln -s "$root"/config/*.[ch] "$here/tree/config/"
    for entry in "$root"/scripts/*; do
        if [ "${entry##*/}" != install_deps.sh ]; then ln -s "$entry" "$here/tree/scripts/"; fi
    done
    echo 'echo "everything needed is installed"' >"$here/tree/scripts/install_deps.sh"
    sed 's/"n_layer": [0-9]*/"n_layer": 1/; s/"n_embd": [0-9]*/"n_embd": 48/; s/"train": {/&"threads": 1,/' \
        config/quickstart.json >"$here/tree/config/quickstart.json"
    ln -s "$root/config/quickstart_adamw.json" "$here/tree/config/"
    cat "$root"/config/*.c "$root"/model/*.c "$root"/checkpoint/*.c >"$here/sources.txt"
    command_file "$here/bin/curl" <<<'exit 7'
    command_file "$here/bin/apt-get" <<<'exit 100'
    export PATH=$here/bin:$PATH BUILD BIN QUICKSTART_SECONDS=1
}

test_quickstart_from_a_text_to_a_sample() {
    quickstart_tree
    head -c 40000 "$here/sources.txt" >"$here/my text.txt"
    cd "$here"
    run 0 bash tree/scripts/quickstart.sh "my text.txt"
    has "$here/output" "my text.txt: 40000 bytes"
    has "$here/output" "(62 sequences)"
    for title in MARS-M AdamW; do
        grep -aq "^$title: validation loss 5\.[0-9]* before training, [1-4]\.[0-9]* after [0-9]* steps; " "$here/output"
        has tree/runs/quickstart/loss.svg "$title, validation"
    done
    [ "$(grep -a ' after .* steps; ' "$here/output" | sed 's/.* after \([0-9]*\) steps.*/\1/' | uniq | wc -l)" -eq 1 ]
    has "$here/output" "$(head -n 1 "$here/sources.txt" | cut -d ' ' -f 1-3)"
    [ -s tree/runs/quickstart/loss.png ]
    [ -s tree/runs/quickstart/checkpoints/latest/model.safetensors ]
    has tree/runs/quickstart/checkpoints/latest/tokens.json '"bytes"'
    has tree/runs/quickstart/checkpoints/latest/config.json '"scale_attn_by_inverse_layer_idx":	false'
    grep -q '"event":"end".*"reason":"done"' tree/runs/quickstart/metrics.jsonl
    grep -q '"event":"end".*"reason":"done"' tree/runs/quickstart_adamw/metrics.jsonl
    last_line_is "report page     $here/tree/runs/quickstart/report.html"
    has tree/runs/quickstart/report.html quickstart_adamw
    # What it advises at its end works.
    grep -a "^write more" "$here/output" | sed 's/^write more *//' >"$here/more.sh"
    grep -a "^train longer" "$here/output" | sed 's/^train longer *//' >"$here/longer.sh"
    [ -s "$here/more.sh" ] && [ -s "$here/longer.sh" ]
    cd tree
    run 0 bash "$here/more.sh"
    has "$here/output" "And then"
    run 0 bash "$here/longer.sh"
    has "$here/output" "resumed from"
    has "$here/output" "done in"
}

test_quickstart_downloads_once() {
    quickstart_tree
    command_file "$here/bin/curl" <<END
echo "\$@" >>'$here/calls'
while [ "\$1" != -o ]; do shift; done
head -c 120000 '$here/sources.txt' >"\$2"
END
    run 0 bash "$here/tree/scripts/quickstart.sh"
    has "$here/output" "downloaded Shakespeare"
    has "$here/output" "data/quickstart/text.txt: 120000 bytes"
    [ -s "$here/tree/runs/quickstart/report.html" ]
    # Again, over the first, with Ctrl-C in the first run: AdamW's results of the first time are not shown.
    cat >"$here/ctrl_c.py" <<'END'
import os
import pty
import sys

process, terminal = pty.fork()
if process == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
output, is_sent = b"", False
try:
    while True:
        output += os.read(terminal, 4096)
        if b"| loss" in output and not is_sent:
            os.write(terminal, b"\3")
            is_sent = True
except OSError:  # the terminal's other end is closed
    pass
sys.stdout.buffer.write(output.replace(b"\r", b""))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
END
    run 0 env QUICKSTART_SECONDS=600 DYGRAPHS_DIR="$here" python3 "$here/ctrl_c.py" bash "$here/tree/scripts/quickstart.sh"
    [ "$(wc -l <"$here/calls")" -eq 1 ]
    has "$here/output" "config/quickstart_adamw.json is left out, as the run before it was stopped"
    has "$here/output" "MARS-M: validation loss"
    lacks "$here/output" "AdamW: validation loss"
    lacks "$here/tree/runs/quickstart/loss.svg" AdamW
    tail -n 1 "$here/output" | grep -q "^no report page: .*dygraphs"
    [ ! -e "$here/tree/runs/quickstart/report.html" ]
    # What a proxy may send in its place is no text to train on.
    rm -r "$here/tree/data/quickstart"
    command_file "$here/bin/curl" <<<"while [ \"\$1\" != -o ]; do shift; done; echo '<html>' >\"\$2\""
    run 1 bash "$here/tree/scripts/quickstart.sh"
    has "$here/output" "give a file: quickstart.sh TEXT_FILE"
}

test_quickstart_says_what_is_wrong() {
    quickstart_tree
    run 1 bash "$here/tree/scripts/quickstart.sh" "$here/no_such_text"
    has "$here/output" "cannot read $here/no_such_text; expected a text file"
    run 1 bash "$here/tree/scripts/quickstart.sh" "$here"
    head -c 5000 "$here/sources.txt" >"$here/short"
    run 1 bash "$here/tree/scripts/quickstart.sh" "$here/short"
    has "$here/output" "has 5000 bytes; training needs at least 20000"
    for seconds in soon 0 -1 1.5 1234567 ' 5'; do
        run 1 env QUICKSTART_SECONDS="$seconds" bash "$here/tree/scripts/quickstart.sh" "$here/sources.txt"
        has "$here/output" "QUICKSTART_SECONDS=$seconds: expected a whole number of seconds from 1 to 999999"
    done
    : >"$here/empty"
    run 1 bash "$here/tree/scripts/quickstart.sh" "$here/empty"
    has "$here/output" "has 0 bytes; training needs at least 20000"
    run 1 bash "$here/tree/scripts/quickstart.sh" "$here/short" "$here/short"
    run 0 bash "$here/tree/scripts/quickstart.sh" --help
    has "$here/output" "QUICKSTART_SECONDS"
}

# So that their losses can be compared.
test_quickstart_runs_differ_in_the_optimizer_alone() {
    local name
    for name in quickstart quickstart_adamw; do
        "$BIN/train_gpt2" config/$name.json --print_config |
            sed '/^ *"optimizer": {/,/}/d; /"min_lr"/d; /"out_dir"/d' >"$here/$name"
        grep -q '"n_embd"' "$here/$name"
    done
    cmp "$here/quickstart" "$here/quickstart_adamw"
}

test_quickstart_shows_why_a_build_fails() {
    quickstart_tree
    command_file "$here/bin/make" <<<"[ \"\$1\" = found ] || { echo 'error: no such thing'; exit 2; }"
    run 1 bash "$here/tree/scripts/quickstart.sh" "$here/sources.txt"
    has "$here/output" "error: no such thing"
    has "$here/output" "this failed: make"
}

run_script_tests "$@"
