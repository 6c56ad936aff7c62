#!/usr/bin/env bash
# test_tables.sh: tests of reproduce_table.sh, which makes tables of runs, of plot.sh, and of what both are built on. Prints
# "N passed, N failed" at its end. The runs are made up: metrics.jsonl with the losses that a test needs.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

export LC_ALL=C OMP_WAIT_POLICY=passive
use_system_python

# row TEXT: the output's table row that begins with this, without the spaces that align it. Its first, if it has more.
row() { sed 's/  */ /g; s/^| //; s/ |$//' "$here/output" | awk -v text="$1 |" 'index($0, text) == 1 && !n++'; }

row_is() {
    if [ "$(row "$1")" != "$1 | $2" ]; then
        echo "the row of $1 is '$(row "$1")', not '$1 | $2':"
        cat "$here/output"
        return 1
    fi
}

# start_line RUN LAYERS WIDTH OPTIMIZER DATA [MORE]: begins the metrics of a run; MORE are settings of the optimizer.
start_line() {
    mkdir -p "$1"
    {
        printf '{"event":"start","config":{"model":{"n_layer":%d,"n_head":4,"n_embd":%d,"block_size":%d,' \
            "$2" "$3" "${block_size:-1024}"
        printf '"vocab_size":50304},"data":{"train":"%s","val":"other/v.bin"},"optimizer":{"name":"%s",' "$5" "$4"
        printf '"learning_rate":0.006%s},"schedule":{"name":"cosine"},"train":{"max_iters":100000,' "${6:-}"
        printf '"total_batch_size":480}},"parameters":1000,"device":"a machine","precision":"float32","processes":1,'
        printf '"threads":1,"version":"0","resumed_from":null}\n'
    } >>"$1/metrics.jsonl"
}

# losses RUN STEP:LOSS...: validation losses at steps of 491,520 tokens, or ${step_tokens}.
losses() {
    local run=$1 pair
    shift
    for pair in "$@"; do
        printf '{"event":"val","step":%d,"loss":%s,"tokens":%d}\n' "${pair%:*}" "${pair#*:}" \
            $((${pair%:*} * ${step_tokens:-491520}))
    done >>"$run/metrics.jsonl"
}

end_line() {
    {
        printf '{"event":"end","step":%d,"reason":"%s","seconds":9,"train_seconds":8,' "$2" "$3"
        printf '"optimizer_seconds":2,"train_tokens":16000,"optimizer_state_bytes":8100}\n'
    } >>"$1/metrics.jsonl"
}

# section HEADER: the output's table whose first cell is this, without the spaces that align it.
section() {
    sed 's/  */ /g; s/^| //; s/ |$//' "$here/output" |
        awk -v text="$1 |" 'index($0, text) == 1 { inside = 1 } /^$/ { inside = 0 } inside'
}

# section_has HEADER ROW...: fails unless the table has each of the rows.
section_has() {
    local header=$1 row
    shift
    for row in "$@"; do
        section "$header" | grep -qxF -e "$row" ||
            { echo "the table '$header' has no row '$row':"; cat "$here/output"; return 1; }
    done
}

owt=data/openwebtext/train.bin
edu="data/fineweb/edu100B/edu_fineweb_train_*.bin"
table() { run 0 bash scripts/reproduce_table.sh --out="$here/table" "$@"; }

# ---- the summaries of metrics.py, and markdown_table.py ----

summary() { python3 scripts/metrics.py summary --budgets=100,200,300 "$here/run" | tr '\t' ' '; }

test_summary_of_a_finished_run() {
    start_line "$here/run" 2 64 sgd-sai some/folder/t.bin
    step_tokens=64 losses "$here/run" 0:10 1:9.5 2:4.25 3:4.5
    end_line "$here/run" 3 "done"
    summary >"$here/summary"
    has "$here/summary" "run sgd-sai SGD-SaI 2x64 some/folder 0.006 3 192 4.25 2 done 2000 25.0 8.1 some/folder/t.bin"
    has "$here/summary" "t.bin 9.5 1 4.25 0 4.25 0"
}

test_summary_of_an_older_end_line() {
    start_line "$here/run" 2 64 adamw t.bin
    step_tokens=64 losses "$here/run" 0:10 1:9.5
    echo '{"event":"end","step":1,"reason":"done","seconds":9}' >>"$here/run/metrics.jsonl"
    summary >"$here/summary"
    has "$here/summary" "run adamw AdamW 2x64 this folder 0.006 1 64 9.5 1 done - - - t.bin"
}

# Trained on after its end: the end's times are those of a part.
test_summary_of_a_run_that_went_on() {
    start_line "$here/run" 2 64 adamw t.bin
    step_tokens=64 losses "$here/run" 0:10
    end_line "$here/run" 0 stopped
    echo '{"event":"train","step":6,"loss":8.5,"tokens":448,"ms":3}' >>"$here/run/metrics.jsonl"
    summary >"$here/summary"
    has "$here/summary" "run adamw AdamW 2x64 this folder 0.006 7 448 10 0 unfinished - - - t.bin"
}

test_summary_passes_over_damage() {
    start_line "$here/run" 2 64 mars-adamw t.bin ',"betas_1d":[0.9,0.95],"is_approx":false'
    {
        echo 'no JSON'
        echo '{"event":"val","step":1,"loss":null,"tokens":64}'
        echo '{"event":"val","step":2,"lo{"event":"val","step":2,"loss":1.75,"tokens":128}'
        echo '{"event":"val","step":3,"loss":2.5e-01,"tokens":192}'
        echo '{"event":"val","step":3,"loss":3.5,"tokens":192}'
        printf '{"event":"start","config":{"model":{"n_layer":9,"n_embd":9}}'
        printf '\n{"event":"val","step":4,"loss":0.0'
    } >>"$here/run/metrics.jsonl"
    summary >"$here/summary"
    has "$here/summary" "run mars-adamw-exact MARS-AdamW exact 2x64 this folder 0.006 3 192 1.75 2 unfinished - - - "
    has "$here/summary" "t.bin - 1 1.75 0 1.75 0"
    start_line "$here/run" 2 64 adamw t.bin
    echo '{"event":"skipped","step":5,"tensor":"wte"}' >>"$here/run/metrics.jsonl"
    summary >"$here/summary"
    has "$here/summary" "run adamw AdamW 2x64"
    has "$here/summary" " unfinished "
    echo '{"event":"skipped","step":6,"tensor":"wte"}' >>"$here/run/metrics.jsonl"
    summary >"$here/summary"
    has "$here/summary" " diverged "
    : >"$here/run/metrics.jsonl"
    summary >"$here/summary"
    has "$here/summary" "run - - "
}

test_summary_of_another_gamma() {
    start_line "$here/run" 2 64 mars-m t.bin ',"gamma":0.01,"is_approx":false'
    summary >"$here/summary"
    has "$here/summary" "run mars-m-exact-gamma-0.01 MARS-M exact gamma 0.01 2x64"
    start_line "$here/run" 2 64 mars-m-efficient t.bin ',"gamma":0.025'
    summary >"$here/summary"
    has "$here/summary" "run mars-m-efficient MARS-M efficient 2x64"
    start_line "$here/run" 2 64 adamw t.bin ',"gamma":0.01'
    summary >"$here/summary"
    has "$here/summary" "run adamw AdamW 2x64"
}

test_columns_are_aligned() {
    PYTHONPATH=scripts python3 -c 'import markdown_table
markdown_table.print_table(["name", "µs"], [["long name", "–"], ["b", "1234"], ["c"]], align_right=[1])
print()
markdown_table.print_table(["z"], [])' >"$here/output"
    [ "$(cat "$here/output")" = '| name      |   µs |
| --------- | ---: |
| long name |    – |
| b         | 1234 |
| c         |      |

| z   |
| --- |' ]
}

# ---- reproduce_table.sh ----

test_table_beside_the_published() {
    start_line "$here/small" 12 768 adamw $owt
    losses "$here/small" 0:11 10000:3.1901 40000:3.0214 41000:3.5 100000:2.8861
    end_line "$here/small" 100000 "done"
    start_line "$here/medium" 24 1024 mars-adamw $owt ',"is_approx":true'
    losses "$here/medium" 9000:2.9 10000:2.97 11000:2.8 40000:2.764 100000:2.6
    start_line "$here/large" 36 1280 muon $owt
    losses "$here/large" 10000:2.9155 40000:2.69 100000:2.57
    start_line "$here/exact" 12 768 mars-adamw $owt ',"is_approx":false'
    losses "$here/exact" 10000:3.1 40000:2.9 100000:2.8
    start_line "$here/xl" 48 1600 mars-adamw $owt ',"is_approx":true'
    losses "$here/xl" 10000:2.7 40000:2.6 100000:2.5
    table "$here"/{small,medium,large,exact,xl}
    has "$here/output" "arXiv:2411.10438"
    has "$here/output" "arXiv:2510.21800"
    section_has "OpenWebText, small" "OpenWebText, small | 5B | 20B | 50B | source" \
        "AdamW | 3.190 (3.193) | 3.021 (3.024) | 2.886 (2.885) | MARS, table" \
        "AdamW | 3.190 | 3.021 | 2.886 (2.889) | MARS-M, figure" \
        "Muon | (3.165) | (3.006) | (2.901) | MARS, table" \
        "MARS-AdamW exact | 3.100 (3.107) | 2.900 (2.980) | 2.800 (2.847) | MARS, table" \
        "MARS-AdamW | (3.108) | (2.981) | (2.849) | MARS, table" \
        "MARS-M | – | – | (2.841) | MARS-M, figure"
    section_has "OpenWebText, medium" "AdamW | (3.084) | (2.821) | (2.691) | MARS, table" \
        "MARS-AdamW | 2.900 (2.969) | 2.764 (2.763) | 2.600 (2.636) | MARS, table"
    section_has "OpenWebText, large" "Muon | 2.916 (2.915) | 2.690 (2.691) | 2.570 (2.573) | MARS, table"
    [ "$(section "OpenWebText, XL" | sed 2d)" = "OpenWebText, XL | 5B | 20B | 50B | source
MARS-AdamW | 2.700 | 2.600 | 2.500 | –" ]
    lacks "$here/output" '\*'
    row_is "$here/small" "OpenWebText | small | AdamW | 0.006 | 100,000 | 49.15 | 2.8861 | 100,000 | done"
    has "$here/output" "$here/table_medium.png"
    has "$here/table_small.svg" "MARS-AdamW exact"
    has "$here/table_small.svg" "OpenWebText, small"
}

test_table_of_unfinished_runs() {
    start_line "$here/early" 12 768 adamw $owt
    losses "$here/early" 0:11 7000:3.3 8000:3.4
    printf '{"event":"val","step":9000,"loss":3.' >>"$here/early/metrics.jsonl"
    start_line "$here/later" 24 1024 adamw $owt
    losses "$here/later" 10000:3.08 12000:3.01
    # Resumed at step 12,000, for another try.
    start_line "$here/later" 24 1024 adamw $owt
    losses "$here/later" 12000:3.02 13000:3.03
    printf '{"event":"skipped","step":%d,"tensor":"wte"}\n' 9001 >>"$here/early/metrics.jsonl"
    printf '{"event":"skipped","step":%d,"tensor":"wte"}\n' 13000 13001 >>"$here/later/metrics.jsonl"
    table "$here/early/" "$here/later"
    section_has "OpenWebText, small" "AdamW | 3.300\\* (3.193) | 3.300\\* (3.024) | 3.300\\* (2.885) | MARS, table"
    section_has "OpenWebText, medium" "AdamW | 3.080 (3.084) | 3.020\\* (2.821) | 3.020\\* (2.691) | MARS, table"
    has "$here/output" "\\* best so far, the run has not got there: $here/early at step 8,000; $here/later at"
    has "$here/output" "$here/later at step 13,000."
    row_is "$here/early" "OpenWebText | small | AdamW | 0.006 | 8,000 | 3.932 | 3.3000 | 7,000 | unfinished"
    row "$here/later" | grep -q "| gradients not finite$"
}

test_table_counts_tokens_not_steps() {
    start_line "$here/half" 12 768 adamw $owt
    step_tokens=245760 losses "$here/half" 10000:3.4 20000:3.19 20001:3.0 40000:3.0 80000:2.9
    table "$here/half"
    row_is AdamW "3.190 (3.193) | 2.900 (3.024) | 2.900\\* (2.885) | MARS, table"
}

test_table_of_what_was_not_published() {
    start_line "$here/new" 12 768 my-rule $owt
    start_line "$here/fw" 24 1024 mars-m "$edu" ',"is_approx":false'
    start_line "$here/quick" 6 384 moonlight data/quickstart/train_*.bin
    block_size=512 start_line "$here/short" 12 768 mars-lion $owt ',"is_approx":true'
    losses "$here/new" 10000:3
    losses "$here/fw" 10000:3.1 20000:3
    losses "$here/quick" 10:2
    losses "$here/short" 10:7.5
    table "$here"/{quick,fw,new,short}
    section_has "OpenWebText, small" "my-rule | 3.000 | 3.000\\* | 3.000\\* | –"
    [ "$(section "OpenWebText, small T=512" | sed 2d)" = "OpenWebText, small T=512 | 5B | source
MARS-Lion | 7.500\\* | –" ]
    [ "$(section "FineWeb-Edu, medium" | sed 2d)" = "FineWeb-Edu, medium | 5B | 20B | source
MARS-M exact | 3.100 | 3.000\\* | –" ]
    [ "$(section "data/quickstart, 6x384" | sed 2d)" = "data/quickstart, 6x384 | 5B | source
Moonlight | 2.000\\* | –" ]
    [ -s "$here/table_6x384_data_quickstart.png" ]
    [ -s "$here/table_medium_FineWeb-Edu.svg" ]
    # The tables of the papers' data come first, and of their sizes.
    grep '^| .* | source *|$' "$here/output" | sed 's/^| //; s/ *|.*//' >"$here/headers"
    [ "$(paste -s -d ';' "$here/headers")" = "OpenWebText, small;OpenWebText, medium;OpenWebText, large;"`
        `"OpenWebText, small T=512;FineWeb-Edu, small;FineWeb-Edu, medium;FineWeb-Edu, XL;data/quickstart, 6x384;"`
        `"modded-nanogpt" ]
}

# What the papers and repositories say, a second time: every row of the tables where no run of theirs is there.
published='OpenWebText, small | 5B | 20B | 50B | source
AdamW | (3.193) | (3.024) | (2.885) | MARS, table
AdamW | – | – | (2.889) | MARS-M, figure
Muon | (3.165) | (3.006) | (2.901) | MARS, table
MARS-AdamW exact | (3.107) | (2.980) | (2.847) | MARS, table
MARS-AdamW | (3.108) | (2.981) | (2.849) | MARS, table
MARS-M | – | – | (2.841) | MARS-M, figure
MARS-M gamma 0.01 | – | – | (2.841) | MARS-M, figure
Moonlight | – | – | (2.849) | MARS-M, figure
OpenWebText, medium | 5B | 20B | 50B | source
AdamW | (3.084) | (2.821) | (2.691) | MARS, table
AdamW | – | – | (2.688) | MARS-M, figure
Muon | (3.009) | (2.813) | (2.688) | MARS, table
MARS-AdamW | (2.969) | (2.763) | (2.636) | MARS, table
MARS-M | – | – | (2.628) | MARS-M, figure
MARS-M gamma 0.01 | – | – | (2.624) | MARS-M, figure
Moonlight | – | – | (2.639) | MARS-M, figure
OpenWebText, large | 5B | 20B | 50B | source
AdamW | (3.013) | (2.741) | (2.561) | MARS, table
AdamW | – | – | (2.569) | MARS-M, figure
Muon | (2.915) | (2.691) | (2.573) | MARS, table
MARS-AdamW | (2.876) | (2.647) | (2.518) | MARS, table
MARS-M | – | – | (2.5205) | MARS-M, figure
MARS-M gamma 0.01 | – | – | (2.513) | MARS-M, figure
Moonlight | – | – | (2.525) | MARS-M, figure
FineWeb-Edu, small | 50B | source
AdamW | (2.893) | MARS-M, figure
MARS-AdamW | (2.853) | MARS, figure ±0.005
MARS-M | (2.855) | MARS-M, figure
MARS-M gamma 0.01 | (2.8505) | MARS-M, figure
Moonlight | (2.865) | MARS-M, figure
FineWeb-Edu, XL | 50B | source
AdamW | (2.421) | MARS-M, figure
MARS-AdamW | (2.376) | MARS, figure ±0.005
MARS-M | (2.379) | MARS-M, figure
MARS-M gamma 0.01 | (2.378) | MARS-M, figure
Moonlight | (2.394) | MARS-M, figure
modded-nanogpt | steps | final val loss | source
AdamW | 9,536 | (3.2818) | modded-nanogpt, readme
Muon, config/modded_first_muon.json | 7,000 | (about 3.280) | modded-nanogpt, c26c2a18
Muon | 6,676 | (about 3.275) | modded-nanogpt
Muon | 6,200 | (3.2785) | modded-nanogpt
Muon | 6,000 | (about 3.275) | modded-nanogpt
Muon | 5,600 | (about 3.272) | modded-nanogpt
Muon | 5,400 | (about 3.278) | modded-nanogpt
Muon, config/modded_nanogpt.json | 5,100 | (3.2747) | modded-nanogpt, log of d80ac8e'

test_every_published_loss() {
    start_line "$here/other" 2 64 adamw some/folder/t.bin
    losses "$here/other" 10:5
    table "$here/other"
    # The tables with a source, but for that of the run.
    sed 's/  */ /g; s/^| //; s/ |$//' "$here/output" | awk '
        / \| source$/ { inside = !/^some/ }
        /^$/ { inside = 0 }
        inside && !/^-/' >"$here/rows"
    diff <(echo "$published") "$here/rows"
}

test_tables_fit_a_terminal() {
    start_line "$here/a" 36 1280 mars-m $owt ',"gamma":0.01'
    losses "$here/a" 0:9.9999
    start_line "$here/b" 48 1600 mars-adamw "$edu" ',"is_approx":false,"gamma":0.0125'
    losses "$here/b" 10000:2.9 40000:2.8 40001:2.7
    table "$here/a" "$here/b"
    section_has "OpenWebText, large" "MARS-M gamma 0.01 | 10.000\\* | 10.000\\* | 10.000\\* (2.513) | MARS-M, figure"
    section_has "FineWeb-Edu, XL" "MARS-AdamW exact gamma 0.0125 | 2.900 | 2.800 | 2.700\\* | –" \
        "MARS-AdamW | – | – | (2.376) | MARS, figure ±0.005"
    # All but the list of runs, whose names are as long as they are, and what tells where they are.
    sed "/^| run/,/^$/d; /^\\\\\*/d; \|$here|d" "$here/output" >"$here/text"
    has "$here/text" "FineWeb-Edu, XL"
    has "$here/text" "modded-nanogpt"
    ! LC_ALL=C.UTF-8 grep -E '^.{121,}' "$here/text"
}

test_table_takes_the_best_of_several() {
    local i
    for i in 1 2 3; do start_line "$here/run$i" 12 768 adamw $owt; done
    losses "$here/run1" 10000:3.3 40000:3.1
    losses "$here/run2" 10000:3.2 40000:3.15
    losses "$here/run3" 9000:3.0 # the lowest, but not there yet
    table "$here"/run*
    row_is AdamW "3.200 (3.193) | 3.100 (3.024) | 3.000\\* (2.885) | MARS, table"
    row_is "$here/run2" "OpenWebText | small | AdamW | 0.006 | 40,000 | 19.66 | 3.1500 | 40,000 | unfinished"
    has "$here/table_small.svg" "AdamW, $here/run3"
}

test_table_finds_the_runs() {
    mkdir "$here/tree"
    cp -r scripts "$here/tree/"
    run 1 bash "$here/tree/scripts/reproduce_table.sh"
    has "$here/output" "there are no runs"
    start_line "$here/tree/runs/a" 12 768 adamw $owt
    losses "$here/tree/runs/a" 10000:3.25
    mkdir -p "$here/tree/runs/empty" "$here/tree/runs/begun"
    : >"$here/tree/runs/begun/metrics.jsonl"
    run 0 bash "$here/tree/scripts/reproduce_table.sh"
    row AdamW | grep -q "^AdamW | 3.250 (3.193)"
    has "$here/output" "runs/begun/metrics.jsonl does not say what was run"
    [ -s "$here/tree/runs/table_small.png" ]
}

test_table_says_what_is_wrong() {
    local flag
    run 1 bash scripts/reproduce_table.sh "$here/nothing"
    has "$here/output" "cannot read $here/nothing/metrics.jsonl"
    mkdir "$here/empty"
    : >"$here/empty/metrics.jsonl"
    run 1 bash scripts/reproduce_table.sh --out="$here/table" "$here/empty"
    has "$here/output" "none of the runs says what it is"
    for flag in --wrong --out --out= -o; do
        run 2 bash scripts/reproduce_table.sh "$here/empty" $flag
        has "$here/output" "reproduce_table.sh: "
        has "$here/output" "; see --help"
    done
    run 0 bash scripts/reproduce_table.sh --help
    has "$here/output" "--out=PATH"
    # A run that has validated nothing yet.
    start_line "$here/begun" 12 768 adamw $owt
    table "$here/begun"
    row_is "$here/begun" "OpenWebText | small | AdamW | 0.006 | 0 | 0 | – | – | unfinished"
}

# ---- plot.sh, as far as the tables use it ----

test_plot_of_validation_only() {
    start_line "$here/run" 12 768 adamw $owt
    run 1 bash scripts/plot.sh --validation "$here/run"
    has "$here/output" "holds no validation losses yet"
    losses "$here/run" 0:11 10:3
    run 0 bash scripts/plot.sh --validation --y=2.5:4 --title="It's <it>" --label="a label" "$here/run"
    has "$here/run/loss.svg" "It's &lt;it>"
    has "$here/run/loss.svg" "a label"
    lacks "$here/run/loss.svg" "a label, validation"
    has "$here/run/loss.svg" "validation loss"
    run 2 bash scripts/plot.sh --y=low:high "$here/run"
    run 2 bash scripts/plot.sh --label=a --label=b "$here/run"
    has "$here/output" "2 labels for 1 runs"
}

# A run of a recipe whose validation losses were published is compared with them at each step that was.
modded_start() { # RUN ACTIVATION STEPS
    mkdir -p "$1"
    {
        printf '{"event":"start","config":{"model":{"n_layer":12,"n_head":6,"n_embd":768,"block_size":1024,'
        printf '"vocab_size":50304,"position":"rope","norm":"rmsnorm","qk_norm":true,"activation":"%s"},' "$2"
        printf '"data":{"train":"data/fineweb/10B/fineweb_train_*.bin"},"optimizer":{"name":"muon",'
        printf '"learning_rate":0.0036,"muon_learning_rate":0.00036},"schedule":{"name":"trapezoidal"},'
        printf '"train":{"max_iters":%d,"total_batch_size":512}},"parameters":1000,"resumed_from":null}\n' "$3"
    } >>"$1/metrics.jsonl"
}

test_published_curve() {
    modded_start "$here/mod a" relu2 5100
    step_tokens=524288 losses "$here/mod a" 0:16.02 125:4.9 130:4.8 5100:3.27512
    modded_start "$here/mod_b" relu2 5100
    step_tokens=524288 losses "$here/mod_b" 250:4.35 125:nan
    modded_start "$here/mod_other" gelu 5100 # no published recipe
    step_tokens=524288 losses "$here/mod_other" 0:11
    modded_start "$here/mod_first" gelu 7000
    step_tokens=524288 losses "$here/mod_first" 7000:3.281
    table "$here/mod a" "$here/mod_b" "$here/mod_other" "$here/mod_first"
    grep -qF 'Validation loss at each step of modded-nanogpt, Muon, 5,100 steps that was published.' "$here/output"
    row_is "step | published" "$here/mod a | $here/mod_b"
    row_is 0 '16.0098 | 16.0200 | –'
    row_is 125 '4.9669 | 4.9000 | –'
    row_is 250 '4.3420 | – | 4.3500'
    row_is 5100 '3.2747 | 3.2751 | –'
    [ "$(section step | sed 1,2d | cut -d ' ' -f 1,3 | tr ' \n' ': ')" = "0:16.0098 125:4.9669 250:4.3420 375:4.0605 "`
        `"500:3.9223 750:3.7745 1000:3.6852 1500:3.5799 2000:3.5166 2500:3.4755 3000:3.4433 3500:3.4145 4000:3.3718 "`
        `"4500:3.3205 5000:3.2783 5100:3.2747 " ]
    section_has modded-nanogpt \
        "Muon, config/modded_first_muon.json | 7,000 | 3.2810 (about 3.280) | modded-nanogpt, c26c2a18" \
        "Muon, config/modded_nanogpt.json | 5,100 | 3.2751 (3.2747) | modded-nanogpt, log of d80ac8e" \
        "Muon | 5,400 | (about 3.278) | modded-nanogpt"
    if [ -n "$(row 130)" ]; then return 1; fi
    row "$here/mod_b" | grep -qF '| FineWeb | small rope rmsnorm qk_norm relu2 |'
}

# The loss at the last step counts, of several runs the lowest; a run that is not there yet has none.
test_final_losses() {
    modded_start "$here/one" relu2 5100
    step_tokens=524288 losses "$here/one" 5000:3.2 5100:3.29 5100:3.28
    modded_start "$here/two" relu2 5100
    step_tokens=524288 losses "$here/two" 5100:3.27506
    modded_start "$here/first" gelu 7000
    step_tokens=524288 losses "$here/first" 6912:3.281
    table "$here/one"
    section_has modded-nanogpt \
        "Muon, config/modded_nanogpt.json | 5,100 | 3.2800 (3.2747) | modded-nanogpt, log of d80ac8e"
    table "$here"/{one,two,first}
    section_has modded-nanogpt \
        "Muon, config/modded_nanogpt.json | 5,100 | 3.2751 (3.2747) | modded-nanogpt, log of d80ac8e" \
        "Muon, config/modded_first_muon.json | 7,000 | (about 3.280) | modded-nanogpt, c26c2a18"
}

run_script_tests "$@"
