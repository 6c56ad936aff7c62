#!/usr/bin/env bash
# reproduce_table.sh [--out=PATH] [RUN_DIR...]: our validation losses next to the published ones, as Markdown tables, and
# the validation curves of each model size.
#
#   --out=PATH    draws PATH_SIZE.png and PATH_SIZE.svg (default: runs/table)
#
# Without a RUN_DIR it reads every folder of runs/ that has a metrics.jsonl: of runs that are finished, still going on,
# resumed or killed. There is a table for each data set and model size, with a column for each budget: the best
# validation loss up to step 10,000, 40,000 and 100,000 of the published batch, 491,520 tokens (which the papers call
# 5B, 20B and 50B tokens). A run of another batch size is compared at the same number of tokens. There is a row for each
# optimizer and source of published losses, which follow in parentheses, and stand alone where there is no run. Where a
# run has not got to the budget, its best so far is there with an asterisk. Of several runs with the same data,
# optimizer and size the best is taken; a run that has got to the budget counts before those that have not. The next
# table lists every run. Runs of modded-nanogpt's recipes (config/modded_*.json) are compared with its published losses
# at their last step, and step by step.
set -euo pipefail
export LC_ALL=C # numbers with a point, characters as bytes

fail() {
    echo "reproduce_table.sh: $1" >&2
    exit "${2:-1}"
}

out=
runs=()
for argument in "$@"; do
    case $argument in
        --out=?*) out=${argument#--out=} ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        -*) fail "unknown option $argument; see --help" 2 ;;
        */metrics.jsonl) runs+=("${argument%/*}") ;;
        *) runs+=("${argument%/}") ;;
    esac
done
scripts=$(cd "$(dirname "$0")" && pwd)
if [ ${#runs[@]} -eq 0 ]; then
    case $out in '' | /*) ;; *) out=$PWD/$out ;; esac
    cd "$scripts/.."
    for metrics in runs/*/metrics.jsonl; do
        if [ -e "$metrics" ]; then runs+=("${metrics%/*}"); fi
    done
    [ ${#runs[@]} -gt 0 ] ||
        fail "there are no runs: no runs/*/metrics.jsonl; train one (bash scripts/run_mars_small.sh) or give its folder"
fi
if [ -z "$out" ]; then
    mkdir -p "$scripts/../runs"
    out=$(realpath --relative-to=. "$scripts/../runs")/table
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# What was published: data set, optimizer, size, the best validation loss up to 5B, 20B and 50B tokens, and the source.
# Of one optimizer there may be several sources, which differ.
cat >"$folder/published" <<'END_OF_TABLE'
OpenWebText adamw small 3.193 3.024 2.885 MARS, table
OpenWebText adamw medium 3.084 2.821 2.691 MARS, table
OpenWebText adamw large 3.013 2.741 2.561 MARS, table
OpenWebText adamw small - - 2.889 MARS-M, figure
OpenWebText adamw medium - - 2.688 MARS-M, figure
OpenWebText adamw large - - 2.569 MARS-M, figure
OpenWebText muon small 3.165 3.006 2.901 MARS, table
OpenWebText muon medium 3.009 2.813 2.688 MARS, table
OpenWebText muon large 2.915 2.691 2.573 MARS, table
OpenWebText mars-adamw-exact small 3.107 2.980 2.847 MARS, table
OpenWebText mars-adamw small 3.108 2.981 2.849 MARS, table
OpenWebText mars-adamw medium 2.969 2.763 2.636 MARS, table
OpenWebText mars-adamw large 2.876 2.647 2.518 MARS, table
OpenWebText mars-m small - - 2.841 MARS-M, figure
OpenWebText mars-m medium - - 2.628 MARS-M, figure
OpenWebText mars-m large - - 2.5205 MARS-M, figure
OpenWebText mars-m-gamma-0.01 small - - 2.841 MARS-M, figure
OpenWebText mars-m-gamma-0.01 medium - - 2.624 MARS-M, figure
OpenWebText mars-m-gamma-0.01 large - - 2.513 MARS-M, figure
OpenWebText moonlight small - - 2.849 MARS-M, figure
OpenWebText moonlight medium - - 2.639 MARS-M, figure
OpenWebText moonlight large - - 2.525 MARS-M, figure
FineWeb-Edu adamw small - - 2.893 MARS-M, figure
FineWeb-Edu adamw XL - - 2.421 MARS-M, figure
FineWeb-Edu mars-adamw small - - 2.853 MARS, figure ±0.005
FineWeb-Edu mars-adamw XL - - 2.376 MARS, figure ±0.005
FineWeb-Edu mars-m small - - 2.855 MARS-M, figure
FineWeb-Edu mars-m XL - - 2.379 MARS-M, figure
FineWeb-Edu mars-m-gamma-0.01 small - - 2.8505 MARS-M, figure
FineWeb-Edu mars-m-gamma-0.01 XL - - 2.378 MARS-M, figure
FineWeb-Edu moonlight small - - 2.865 MARS-M, figure
FineWeb-Edu moonlight XL - - 2.394 MARS-M, figure
END_OF_TABLE
cat >"$folder/sources" <<'END_OF_SOURCES'
In parentheses: the published loss, over a part of the validation set; the runs of config/ take all of it.
MARS: Yuan et al., MARS: Unleashing the power of variance reduction for training large models (arXiv:2411.10438).
MARS-M: Liu, Yuan and Gu, MARS-M: When variance reduction meets matrices (arXiv:2510.21800).
Losses of a figure are read off to ±0.001, or to what stands there. A gamma that is not named is 0.025.
END_OF_SOURCES
step_tokens=491520

# What the start line of a run of modded-nanogpt (github.com/KellerJordan/modded-nanogpt) says where it has the recipe of
# config/modded_nanogpt.json and config/modded_first_muon.json.
modded='"n_embd":768 "position":"rope" "name":"muon" "total_batch_size":512'
modded_nanogpt="$modded \"activation\":\"relu2\" \"max_iters\":5100"
modded_first_muon="$modded \"activation\":\"gelu\" \"max_iters\":7000"

# The losses of the first one, as step:loss, from its log (commit d80ac8e).
modded_curve="0:16.0098 125:4.9669 250:4.3420 375:4.0605 500:3.9223 750:3.7745 1000:3.6852 1500:3.5799 2000:3.5166 \
2500:3.4755 3000:3.4433 3500:3.4145 4000:3.3718 4500:3.3205 5000:3.2783 5100:3.2747"

# Its states up to that one: optimizer, steps, validation loss at the last of them, source, and what the start line says.
cat >"$folder/finals" <<END_OF_FINALS
AdamW|9536|3.2818|modded-nanogpt, readme|
Muon, config/modded_first_muon.json|7000|about 3.280|modded-nanogpt, c26c2a18|$modded_first_muon
Muon|6676|about 3.275|modded-nanogpt|
Muon|6200|3.2785|modded-nanogpt|
Muon|6000|about 3.275|modded-nanogpt|
Muon|5600|about 3.272|modded-nanogpt|
Muon|5400|about 3.278|modded-nanogpt|
Muon, config/modded_nanogpt.json|5100|${modded_curve##*:}|modded-nanogpt, log of d80ac8e|$modded_nanogpt
END_OF_FINALS

# ---- the runs ----

for run in "${runs[@]}"; do
    metrics=$run/metrics.jsonl
    [ -r "$metrics" ] || fail "cannot read $metrics; give folders that train_gpt2 wrote (its train.out_dir)"
    line=$(awk -v run="$run" -v budgets="$((10000 * step_tokens)) $((40000 * step_tokens)) $((100000 * step_tokens))" \
        -f "$scripts/metrics.awk" <"$metrics")
    if [ "$(cut -f 2 <<<"$line")" = - ]; then
        echo "reproduce_table.sh: $metrics does not say what was run; it is passed over" >&2
    else
        echo "$line" >>"$folder/runs"
    fi
done
[ -s "$folder/runs" ] || fail "none of the runs says what it is: no metrics.jsonl begins with a whole start line"

# ---- the tables ----

# Tables and rows of what was published come first, in its order, then the rest. A table has the columns for which there
# are published losses, and those that a run has begun.
awk -F '\t' -v published="$folder/published" -v sources="$folder/sources" '
    function list_once(kind, group, name) {
        if ((kind, group, name) in listed) return
        listed[kind, group, name] = 1
        member[kind, group, ++members[kind, group]] = name
    }
    # Names that are known, in their order, before those that are not.
    function list_known(kind, group, names,    i, n, known) {
        n = split(names, known, ",")
        for (i = 1; i <= n; i++) if ((kind, group, known[i]) in present) list_once(kind, group, known[i])
    }
    function add(kind, group, name) {
        present[kind, group, name] = 1
        appeared[++appearances] = kind SUBSEP group SUBSEP name
    }
    # Sizes are grouped by data set, rows by data set and size.
    function order_all(    i, part) {
        list_known("data", "", "OpenWebText,FineWeb-Edu")
        for (i = 1; i <= appearances; i++) {
            split(appeared[i], part, SUBSEP)
            if (part[1] == "size") list_known("size", part[2], "small,medium,large,XL")
            if (part[1] == "row")
                list_known("row", part[2], "adamw,muon,normuon,mars-adamw-exact,mars-adamw,mars-lion-exact," \
                    "mars-lion,mars-shampoo-exact,mars-shampoo,mars-m-exact,mars-m,mars-m-gamma-0.01," \
                    "mars-m-efficient,mars-normuon-exact,mars-normuon,moonlight,sgd-sai")
        }
        for (i = 1; i <= appearances; i++) {
            split(appeared[i], part, SUBSEP)
            list_once(part[1], part[2], part[3])
        }
    }
    # A run that has got to the budget counts before those that have not; then the lower loss.
    function consider(key, loss, is_there, run) {
        if (loss == "-") return
        if (key in ours && (there[key] > is_there || (there[key] == is_there && ours[key] - loss <= 0))) return
        ours[key] = loss
        there[key] = is_there
        whose[key] = run
    }
    function cell(key, source,    text) {
        if (key in ours) text = sprintf("%.3f", ours[key]) (there[key] ? "" : "\\*")
        if (key in ours && !there[key]) unfinished[whose[key]] = 1
        if ((key, source) in paper) text = text (text == "" ? "" : " ") "(" paper[key, source] ")"
        return text == "" ? "–" : text
    }
    function print_row(data, size, id, source,    b, line) {
        line = "| " title[id] " |"
        for (b = 1; b <= 3; b++)
            if ((data, size, b) in shown) line = line " " cell(data SUBSEP id SUBSEP size SUBSEP b, source) " |"
        print line " " source " |"
    }
    function print_table(data, size,    b, i, k, line, rule, id) {
        line = "| " data ", " size " |"
        rule = "| --- |"
        for (b = 1; b <= 3; b++)
            if ((data, size, b) in shown) {
                line = line " " budget[b] " |"
                rule = rule " ---: |"
            }
        print line " source |"
        print rule " --- |"
        for (i = 1; i <= members["row", data "\t" size]; i++) {
            id = member["row", data "\t" size, i]
            if (!papers[data, id, size]) print_row(data, size, id, "–")
            for (k = 1; k <= papers[data, id, size]; k++) print_row(data, size, id, paper_source[data, id, size, k])
        }
        print ""
    }
    function grouped(n,    text) {
        text = sprintf("%.0f", n)
        while (match(text, /[0-9][0-9][0-9][0-9]($|,)/))
            text = substr(text, 1, RSTART) "," substr(text, RSTART + 1)
        return text
    }
    BEGIN {
        budget[1] = "5B"
        budget[2] = "20B"
        budget[3] = "50B"
        title["adamw"] = "AdamW"
        title["muon"] = "Muon"
        title["mars-adamw"] = "MARS-AdamW"
        title["mars-adamw-exact"] = "MARS-AdamW exact"
        title["mars-m"] = "MARS-M"
        title["mars-m-gamma-0.01"] = "MARS-M gamma 0.01"
        title["moonlight"] = "Moonlight"
        while ((getline line < published) > 0) {
            words = split(line, f, " ")
            source = f[7]
            for (i = 8; i <= words; i++) source = source " " f[i]
            add("data", "", f[1])
            add("size", f[1], f[3])
            add("row", f[1] "\t" f[3], f[2])
            paper_source[f[1], f[2], f[3], ++papers[f[1], f[2], f[3]]] = source
            for (b = 1; b <= 3; b++) {
                if (f[3 + b] == "-") continue
                paper[f[1], f[2], f[3], b, source] = f[3 + b]
                shown[f[1], f[3], b] = 1
            }
        }
    }
    {
        title[$2] = $3
        add("data", "", $5)
        add("size", $5, $4)
        add("row", $5 "\t" $4, $2)
        for (b = 1; b <= 3; b++) {
            consider($5 SUBSEP $2 SUBSEP $4 SUBSEP b, $(14 + 2 * b), $(15 + 2 * b), $1)
            if (b == 1 || $(13 + 2 * b) == 1) shown[$5, $4, b] = 1
        }
        step[$1] = $7
        tokens[$1] = $8
        ended[$1] = $11 == "done"
        listing[++runs] = "| " $1 " | " $5 " | " $4 " | " $3 " | " $6 " | " \
            ($7 == "-" ? "0 | 0" : grouped($7) " | " sprintf("%.4g", $8 / 1e9)) " | " \
            ($9 == "-" ? "– | –" : sprintf("%.4f", $9) " | " grouped($10)) " | " \
            ($11 == "skipped" ? "gradients not finite" : $11) " |"
        name[runs] = $1
    }
    END {
        order_all()
        print "Best validation loss up to step 10,000 (5B), 40,000 (20B) and 100,000 (50B) of 491,520 tokens."
        while ((getline line < sources) > 0) print line
        print ""
        for (i = 1; i <= members["data", ""]; i++) {
            data = member["data", "", i]
            for (k = 1; k <= members["size", data]; k++) print_table(data, member["size", data, k])
        }
        for (i = 1; i <= runs; i++) {
            if (!(name[i] in unfinished)) continue
            note = note (note == "" ? "" : "; ") name[i] (ended[name[i]] ? " ended at step " : " at step ") \
                (step[name[i]] == "-" ? 0 : grouped(step[name[i]]))
        }
        if (note != "") print "\\* best so far, the run has not got there: " note ".\n"
        print "| run | data | model | optimizer | rate | steps | tokens, 1e9 | best val loss | at step | status |"
        print "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"
        for (i = 1; i <= runs; i++) print listing[i]
    }' "$folder/runs" | awk -f "$scripts/table.awk"

# ---- modded-nanogpt: the losses at the last step, and those of one run step by step ----

# The validation losses of a run whose start line holds all the words, as "step loss".
losses_of() {
    local words=$1 start word
    start=$(sed -n '/^{"event":"start"/p' "$2/metrics.jsonl" | tail -n 1)
    for word in $words; do
        case $start in *"$word"*) ;; *) return 0 ;; esac
    done
    sed -n 's/^{"event":"val","step":\([0-9]*\),"loss":\([0-9.eE+-]*\),.*}$/\1 \2/p' "$2/metrics.jsonl"
}

echo
echo "Final validation loss of modded-nanogpt's runs with GPT-2 small on FineWeb, each at its last step."
echo "In parentheses: published in github.com/KellerJordan/modded-nanogpt."
echo
{
    echo "| modded-nanogpt | steps | final val loss | source |"
    echo "| --- | ---: | ---: | --- |"
    while IFS='|' read -r title steps published source words; do
        : >"$folder/losses"
        if [ -n "$words" ]; then
            # Of a step that occurs twice in a run the last line counts; of several runs the lowest.
            for run in "${runs[@]}"; do
                losses_of "$words" "$run" | awk -v step="$steps" '$1 == step { loss = $2 }
                    END { if (loss != "") printf "%.4f\n", loss }' >>"$folder/losses"
            done
        fi
        ours=$(sort -g "$folder/losses" | sed -n 1p)
        echo "| $title | ${steps%???},${steps: -3} | ${ours:+$ours }($published) | $source |"
    done <"$folder/finals"
} | awk -f "$scripts/table.awk"

compared=()
for run in "${runs[@]}"; do
    losses_of "$modded_nanogpt" "$run" >"$folder/losses"
    [ -s "$folder/losses" ] || continue
    cp "$folder/losses" "$folder/curve_${#compared[@]}"
    compared+=("$run")
done
if [ ${#compared[@]} -gt 0 ]; then
    echo
    echo "Validation loss at each step of modded-nanogpt, Muon, 5,100 steps that was published."
    echo
    {
        printf '| step | published |'
        printf ' %s |' "${compared[@]}"
        printf '\n| ---: | ---: |'
        printf ' ---: |%.0s' "${compared[@]}"
        echo
        for pair in $modded_curve; do
            printf '| %s | %s |' "${pair%:*}" "${pair#*:}"
            for run in "${!compared[@]}"; do
                awk -v step="${pair%:*}" '$1 == step { loss = sprintf("%.4f", $2) }
                    END { printf " %s |", loss == "" ? "–" : loss }' "$folder/curve_$run"
            done
            echo
        done
    } | awk -f "$scripts/table.awk"
fi

# ---- the drawings, one for each size and data set ----

draw() {
    local data=$1 size=$2 name run title losses labelled=() drawn=()
    while IFS=$'\t' read -r run title; do
        drawn+=("$run")
        labelled+=("--label=$title")
    done < <(awk -F '\t' -v data="$data" -v size="$size" '
        $5 == data && $4 == size && $9 != "-" { run[++n] = $1; title[n] = $3; runs[$3]++ }
        # Several of one kind also need their names.
        END { for (i = 1; i <= n; i++) print run[i] "\t" title[i] (runs[title[i]] > 1 ? ", " run[i] : "") }' \
        "$folder/runs")
    if [ ${#drawn[@]} -eq 0 ]; then return; fi
    # The first losses, near 11, would leave no room for the rest.
    losses=$(awk -F '\t' -v data="$data" -v size="$size" '
        $5 == data && $4 == size && $9 != "-" {
            if (low == "" || $9 < low) low = $9
            if ($9 > high) high = $9
        }
        END { printf "%.3f:%.3f", 0.98 * low, (1.05 * high > 1.3 * low ? 1.05 * high : 1.3 * low) }' "$folder/runs")
    name=$size
    if [ "$data" != OpenWebText ]; then name=${size}_$data; fi
    bash "$scripts/plot.sh" --validation --x=tokens --y="$losses" --out="${out}_${name//[^A-Za-z0-9_.-]/_}" \
        --title="$data, $size" "${labelled[@]}" "${drawn[@]}"
}

echo
if ! command -v gnuplot >/dev/null; then
    echo "no gnuplot, no curves: bash scripts/install_deps.sh installs it"
    exit 0
fi
cut -f 4,5 "$folder/runs" | sort -u | while IFS=$'\t' read -r size data; do draw "$data" "$size"; done
