#!/usr/bin/env bash
# test_compare.sh: tests of compare_optimizers.sh. Prints "N passed, N failed" at its end.
#
# Most comparisons here have a stand-in for the trainer, which writes metrics without training. One trains for real, for
# some steps; MARS_BIN says where the programs are. compare_checks.py has the statistics and what else needs no run.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

export LC_ALL=C OMP_WAIT_POLICY=passive BIN
unset CUDA_VISIBLE_DEVICES
use_system_python

# A stand-in for the trainer. The loss at the end of a run is 2, and the distance of the rate from 3e-3 in powers of
# ten, and (seed mod 4 - 1.5) / 100. A rate above 0.5 diverges; so does a run whose folder's name has the text in the file
# diverges. Each start is written to calls. Where there is a file fails, it fails with the status in there. A run whose
# folder's name has the text in the file slow writes half of its metrics and a checkpoint, and waits for SIGTERM.
fake_trainer() {
    echo "$BIN/train_gpt2" >"$here/real_trainer"
    cat >"$here/trainer" <<'END_OF_TRAINER'
#!/usr/bin/env python3
import json, math, os, re, signal, sys, time

here = os.path.dirname(os.path.abspath(__file__))
def said(name):
    path = os.path.join(here, name)
    return open(path).read().strip() if os.path.exists(path) else None
if sys.argv[-1] in ("--list_optimizers", "--print_config", "--version"):
    os.execv(said("real_trainer"), [said("real_trainer"), *sys.argv[1:]])
with open(os.path.join(here, "calls"), "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + " gpu=" + os.environ.get("CUDA_VISIBLE_DEVICES", "-") + "\n")
if said("fails"):
    print("no such thing")
    sys.exit(int(said("fails")))
config = json.loads(re.sub("//.*", "", open(sys.argv[1]).read()))
train, optimizer, run = config["train"], config["optimizer"], config["train"]["out_dir"]
rate = optimizer.get("muon_learning_rate", optimizer["learning_rate"])
n, tokens = train["max_iters"], train["total_batch_size"] * config["model"]["block_size"]
diverges = rate > 0.5 or (said("diverges") and re.search(said("diverges"), run))
is_slow = bool(said("slow") and said("slow") in run)
os.makedirs(run + "/checkpoints", exist_ok=True)
end = 2 + abs(math.log10(rate / 3e-3)) + (train["seed"] % 4 - 1.5) / 100
with open(run + "/metrics.jsonl", "w") as file:
    def write(**event):
        file.write(json.dumps(event, separators=(",", ":")) + "\n")
    write(event="start", config=config, parameters=1000, device="a machine", precision="float32", processes=1,
          threads=1, version="0", resumed_from=None)
    for i in range(n // 2 if is_slow else n):
        write(event="train", step=i, loss=3, tokens=(i + 1) * tokens, ms=50.5)
    for i in range(0, n // 2 if is_slow else n + 1, max(1, n // 4)):
        write(event="val", step=i, loss=end + 1 - i / n, tokens=i * tokens)
    if diverges:
        for i in (n - 1, n):
            write(event="skipped", step=i, tensor="wte")
    elif not is_slow:
        write(event="val", step=n, loss=end, tokens=n * tokens)
        write(event="end", step=n, reason="done", seconds=9, train_seconds=8, optimizer_seconds=2,
              train_tokens=n * tokens, optimizer_state_bytes=8050)
if is_slow:
    open(os.path.join(here, "started_" + str(os.getpid())), "w").close()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        time.sleep(60)
sys.exit(1 if diverges else 0)
END_OF_TRAINER
    chmod +x "$here/trainer"
    # Tokens: 6,000 and 1,000 of them, bare.
    head -c 12000 /dev/zero >"$here/train.bin"
    head -c 2000 /dev/zero >"$here/val.bin"
    export TRAIN_GPT2=$here/trainer
}

compare() {
    local status=$1
    shift
    run "$status" bash scripts/compare_optimizers.sh --train="$here/train.bin" --val="$here/v*.bin" --out="$here/out" \
        --steps=120 "$@"
}

calls() { wc -l <"$here/calls"; }

# row TEXT [N]: the N-th row (default: the first) of the output's tables that begins with this, without the spaces that
# align it.
row() {
    sed 's/  */ /g; s/^| //; s/ |$//' "$here/output" |
        awk -v text="$1 |" -v n="${2:-1}" 'index($0, text) == 1 && !--n'
}
row_is() {
    if [ "$(row "$1" "$3")" != "$1 | $2" ]; then
        echo "row $3 of $1 is '$(row "$1" "$3")', not '$1 | $2':"
        cat "$here/output"
        return 1
    fi
}

# wait_for PID COMMAND...: waits until the command succeeds; fails where the process has ended before.
wait_for() {
    local process=$1
    shift
    until "$@" >"$here/waited" 2>&1; do
        if ! kill -0 "$process" 2>/dev/null && ! "$@"; then return 1; fi
        sleep 0.05
    done
}

check() { PYTHONPATH=scripts run 0 python3 dev/test/scripts/compare_checks.py "$@"; }

test_statistics() { check statistics; }
test_steps_to_a_loss() { check steps; }
test_searches() { check searches; }
test_settings() { "$BIN/train_gpt2" --list_optimizers >"$here/list"; check settings "$here/list"; }
test_texts() { check texts; }
test_schedules() { check schedules; }
test_orders() { check orders; }

# p is there where scipy is: here a stand-in, which says what it was given.
test_p_values() {
    local -x PYTHONDONTWRITEBYTECODE=1 # the changed file has the size and second of the old bytecode
    mkdir -p "$here/scipy"
    echo >"$here/scipy/__init__.py"
    cat >"$here/scipy/stats.py" <<'END'
class t:
    @staticmethod
    def sf(value, df):
        assert value > 0 and 2.9 < df < 3.1, (value, df)
        return 0.0125
END
    PYTHONPATH=$here:scripts run 0 python3 dev/test/scripts/compare_checks.py p_values
    fake_trainer
    sed -i 's/2.9 < df < 3.1/5.9 < df < 6.1/' "$here/scipy/stats.py" # of two times four seeds that spread as much
    PYTHONPATH=$here compare 0 --optimizers=adamw,muon --trials=1 --seeds=4
    row_is Muon "3.3010 ± 0.0129 | 3.3010 | 4 | not reached | +1.3010 | 0.025 | +1.3010 | 0.025" 1
    has "$here/output" "not corrected for the number of comparisons"
}

test_comparison_of_rates() {
    fake_trainer
    compare 0 --optimizers=muon,mars-adamw-exact,adamw,mars-m-efficient,sgd-sai
    [ "$(calls)" -eq 20 ]
    row_is optimizer "final val loss | best val loss | seeds | steps to 1.9950 | minus AdamW | p | minus best | p" 1
    row_is AdamW "1.9950 | 1.9950 | 1 | 120 | – | – | – | –" 1
    row_is SGD-SaI "1.9950 | 1.9950 | 1 | 120 | +0.0000 | – | +0.0000 | –" 1
    row_is AdamW "3e-3 | 0.1 | 15,360 | 25.0 | 8.1 | 1e-3, 0.1: 2.462 · **3e-3, 0.1: 1.985** · 9e-3, 0.1: 2.462" 2
    row_is "MARS-AdamW exact" "2e-3 † | 0.01 | 15,360 | 25.0 | 8.1 | **2e-3, 0.01: 2.161** · 6e-3, 0.01: 2.286 · `
        `0.018, 0.01: 2.763" 2
    has "$here/output" "† the lowest or the highest rate"
    has "$here/output" "One seed shows no spread"
    # The best come first, and the table is the file.
    [ "$(sed -n 's/^| \([A-Z][^|]*[^ |]\)  *| .*/\1/p' "$here/output" | head -n 5 | tail -n 2 | tr '\n' ,)" = \
        "MARS-M efficient,Muon," ]
    grep -qF -e "$(cat "$here/out/compare.md")" "$here/output"
    has "$here/out/compare.svg" "MARS-M efficient"
    has "$here/out/trials.svg" "MARS-M efficient"
    [ "$(head -c 4 "$here/out/compare.png" | tail -c 3)" = PNG ]
    has "$here/out/compare.html" "<svg"
    has "$here/out/compare.html" "MARS-AdamW exact"
    lacks "$here/out/compare.html" "**"
    [ -z "$(find "$here/out" -name checkpoints)" ]
}

# Table, page and plots come from the JSON alone.
test_report_only() {
    fake_trainer
    compare 0 --optimizers=adamw --trials=1 --seeds=2
    run 0 bash scripts/compare_optimizers.sh --report-only --out="$here/out" --target_loss=2.25
    has "$here/output" "steps to 2.2500"
    run 0 bash scripts/compare_optimizers.sh --report-only --out="$here/out"
    has "$here/output" "steps to 2.2500"
    run 2 bash scripts/compare_optimizers.sh --report-only --out="$here/out" --seeds=3
    has "$here/output" "--seeds is of the comparison"
    # Without gnuplot no picture of other results stays.
    mkdir "$here/few"
    local program
    for program in bash python3 dirname; do ln -s "$(command -v $program)" "$here/few/"; done
    run 0 env PATH="$here/few" bash scripts/compare_optimizers.sh --report-only --out="$here/out"
    [ ! -e "$here/out/compare.svg" ]
    lacks "$here/out/compare.html" "<svg"
    mkdir "$here/moved"
    sed 's/"title": "AdamW"/"title": "Adam\\nW <b>"/' "$here/out/compare.json" >"$here/moved/compare.json"
    run 0 env TRAIN_GPT2=/nowhere bash scripts/compare_optimizers.sh --report-only --out="$here/moved"
    grep -qF "W &lt;b&gt;</td>" "$here/moved/compare.html"
    grep -qF "Adam W &lt;b" "$here/moved/compare.svg"
    [ -s "$here/moved/compare.md" ]
    rm -r "$here/moved"
    run 1 bash scripts/compare_optimizers.sh --report-only --out="$here/moved"
    has "$here/output" "cannot read $here/moved/compare.json: No such file or directory; run the comparison first"
    mkdir "$here/moved"
    for text in '{' '[]' '{"optimizers": 3}'; do
        echo "$text" >"$here/moved/compare.json"
        run 1 bash scripts/compare_optimizers.sh --report-only --out="$here/moved"
        has "$here/output" "$here/moved/compare.json is no result of a comparison"
    done
}

test_seeds() {
    fake_trainer
    compare 0 --optimizers=adamw,muon --seeds=4 --trials=1
    [ "$(calls)" -eq 8 ]
    # Losses of 1.995, 2.005, 2.015 and 1.985; Welch's t for equal spreads, 1.30103 / sqrt(2 * 0.0129099^2 / 4).
    row_is AdamW "2.0000 ± 0.0129 | 2.0000 | 4 | 118 ± 2 | – | – | – | –" 1
    row_is Muon "3.3010 ± 0.0129 | 3.3010 | 4 | not reached | +1.3010 | t 142.52, df 6.0 | +1.3010 | t 142.52, df 6.0" 1
    has "$here/output" "2.0150, which every finished run of AdamW reaches"
    has "$here/output" "4 seeds"
    grep -q '"seed": 3' "$here/out/muon/full_1_seed_3/run.json"
    # A loss of one's own.
    compare 0 --optimizers=adamw,muon --seeds=4 --trials=1 --target_loss=1.99
    [ "$(calls)" -eq 8 ]
    row AdamW | grep -q "| 119 (1 of 4) |"
}

# Every optimizer has as many trials; with more of them the first stay, and the new ones are added.
test_random_search() {
    fake_trainer
    compare 0 --optimizers=adamw,mars-m --search=random --trials=3
    [ "$(calls)" -eq 8 ]
    has "$here/output" "3 trials of 40 steps for each optimizer (random search over rate and decay)"
    [ "$(grep -c trial_ "$here/calls")" -eq 6 ]
    cp -r "$here/out" "$here/first"
    compare 0 --optimizers=adamw,mars-m --search=random --trials=5
    [ "$(grep -c trial_ "$here/calls")" -eq 10 ]
    cmp "$here/first/adamw/trial_3/run.json" "$here/out/adamw/trial_3/run.json"
    compare 1 --optimizers=adamw,mars-m --search=random --trials=5 --search_seed=2
    has "$here/output" "holds a comparison with another search_seed"
}

test_comparison_goes_on() {
    fake_trainer
    compare 0 --trials=2 --optimizers=adamw
    [ "$(calls)" -eq 3 ]
    compare 0 --trials=2 --optimizers=adamw,muon
    has "$here/output" "going on in $here/out: runs of 120 steps, trials of 40"
    [ "$(calls)" -eq 6 ]
    compare 0 --trials=2 --optimizers=adamw,muon --seeds=2
    [ "$(calls)" -eq 8 ]
    compare 0 --trials=3 --optimizers=adamw,muon --seeds=2
    [ "$(grep -c trial_3 "$here/calls")" -eq 2 ]
    # A run that was killed after a skipped step is done again.
    sed -i '$s/.*/{"event":"skipped","step":7,"tensor":"wte"}/' "$here/out/adamw/full_1_seed_2/metrics.jsonl"
    compare 0 --trials=3 --optimizers=adamw,muon --seeds=2
    [ "$(grep -c adamw/full_1_seed_2 "$here/calls")" -eq 2 ]
    has "$here/out/adamw/full_1_seed_2/metrics.jsonl" '"event":"end"'
    # The folder may have another name, and move.
    ln -s "$here/out" "$here/link"
    compare 0 --trials=3 --optimizers=adamw,muon --seeds=2 --out="$here/link"
    [ "$(calls)" -eq "$(sort -u "$here/calls" | wc -l | awk '{ print $1 + 1 }')" ]
    # Runs of another comparison are not touched, whatever differs.
    find "$here/out" -type f | sort | xargs cksum >"$here/before"
    compare 1 --trials=3 --optimizers=adamw --middle_rates=adamw:1e-3
    has "$here/output" "$here/out/adamw/trial_1 holds a run with another config"
    local options=(--trial_steps=50 --search=random --equal_betas --precision=float32 --config=config/compare/modded.json
        --steps=60)
    local option
    for option in "${options[@]}"; do
        compare 1 --trials=3 --optimizers=adamw "$option"
        has "$here/output" "$here/out holds a comparison with another "
    done
    echo more >>"$here/train.bin"
    compare 1 --trials=3 --optimizers=adamw
    has "$here/output" "another tokens;"
    find "$here/out" -type f | sort | xargs cksum | cmp - "$here/before"
    local text
    for text in '{' '[]' '{}' '{"fixed": {}, "steps": "x"}'; do
        echo "$text" >"$here/out/plan.json"
        compare 1 --trials=3 --optimizers=adamw
        has "$here/output" "plan.json is damaged"
    done
    # A start that came to nothing keeps nothing.
    echo 3 >"$here/fails"
    compare 1 --trials=3 --optimizers=adamw --out="$here/new"
    rm "$here/fails"
    compare 0 --trials=1 --optimizers=adamw --out="$here/new" --precision=float32
}

# Stopped by a signal, a comparison stops its runs, and goes on later. No other one can run in its folder.
test_comparison_interrupted() {
    fake_trainer
    echo muon/trial_1 >"$here/slow"
    bash scripts/compare_optimizers.sh --train="$here/train.bin" --val="$here/v*.bin" --out="$here/out" \
        --steps=120 --optimizers=adamw,muon --jobs=2 >"$here/first" 2>&1 &
    local script=$! status=0
    wait_for $script compgen -G "$here/started_*" || { cat "$here/first"; return 1; }
    compare 1 --optimizers=adamw,muon
    has "$here/output" "a comparison is running in $here/out"
    kill -TERM $script
    wait $script || status=$?
    [ $status -eq 130 ]
    has "$here/first" "start it again in the same way"
    rm "$here/slow"
    compare 0 --optimizers=adamw,muon --jobs=2
    [ "$(grep -c muon/trial_1 "$here/calls")" -eq 2 ]
    [ "$(grep -c adamw/full "$here/calls")" -eq 1 ]
}

# Killed, it takes its runs along, and until the last one ended no other comparison begins.
test_comparison_killed() {
    fake_trainer
    echo muon/trial_1 >"$here/slow"
    bash scripts/compare_optimizers.sh --train="$here/train.bin" --val="$here/v*.bin" --out="$here/out" \
        --steps=120 --optimizers=muon --jobs=1 >"$here/first" 2>&1 &
    local script=$! run_pid
    wait_for $script compgen -G "$here/started_*" || { cat "$here/first"; return 1; }
    run_pid=$(basename "$here"/started_* | sed 's/started_//')
    kill -KILL $script
    wait_for $$ eval "! kill -0 $run_pid"
    rm "$here/slow"
    wait_for $$ compare 0 --optimizers=muon --jobs=1
    [ "$(grep -c muon/trial_1 "$here/calls")" -eq 2 ]
}

# Three runs at a time: each waits until three have started, without which none would end.
test_runs_side_by_side() {
    fake_trainer
    sed -i 's/^is_slow = .*/&\
open(here + "\/started_" + str(os.getpid()), "w").close()\
while sum(name.startswith("started_") for name in os.listdir(here)) < 3: time.sleep(0.01)/' "$here/trainer"
    compare 0 --optimizers=adamw --jobs=3
    [ "$(calls)" -eq 4 ]
    has "$here/output" "3 runs side by side with 1 thread each"
    grep -q -- "--threads=1 gpu=-" "$here/calls"
}

# A GPU each, where there are some.
test_places_on_gpus() {
    fake_trainer
    mkdir "$here/bin"
    command_file "$here/bin/nvidia-smi" <<<'printf "GPU 0: NVIDIA H200 (UUID: a)\nGPU 1: NVIDIA H200 (UUID: b)\n"'
    PATH=$here/bin:$PATH compare 0 --optimizers=adamw
    has "$here/output" "2 runs side by side"
    [ "$(sed 's/.*gpu=//' "$here/calls" | sort -u | tr '\n' ' ')" = "0 1 " ]
    PATH=$here/bin:$PATH CUDA_VISIBLE_DEVICES=5 compare 0 --optimizers=adamw,muon
    grep muon "$here/calls" | grep -q "gpu=5"
    PATH=$here/bin:$PATH compare 0 --optimizers=adamw --device=cpu --out="$here/cpu" --jobs=1
    grep "$here/cpu" "$here/calls" | grep -q "gpu=-"
}

test_comparison_plans_its_time() {
    fake_trainer
    timed() {
        run 0 bash scripts/compare_optimizers.sh --train="$here/train.bin" --val="$here/v*.bin" --out="$here/out" \
            --jobs=1 "$@"
    }
    timed --minutes=1 --optimizers=adamw,moonlight
    # Two optimizers of 50.5 ms: 54 s, less 8 to start 8 runs, less 56 validations of 15/16/3 of a step for each, are 218
    # steps for each twice, once in full and once in thirds.
    has "$here/output" "218 steps fit into 1 minutes"
    has "$here/output" "moonlight                50.5 ms a step"
    [ "$(calls)" -eq 10 ]
    sed -i 's/50.5/100/' "$here/trainer"
    timed --minutes=1 --optimizers=adamw,moonlight
    has "$here/output" "going on in $here/out: runs of 218 steps"
    [ "$(calls)" -eq 10 ]
    rm -r "$here/out"
    timed --minutes=1 --optimizers=adamw --seeds=4
    # 54 s, less 7 to start 7 runs, less 179 validations of 15/16/3 of a step, are 414 steps: four runs and three thirds.
    has "$here/output" "82 steps fit"
}

test_comparison_where_rates_diverge() {
    fake_trainer
    sed -i 's/rate > 0\.5/rate > 1e-2/' "$here/trainer"
    compare 0 --optimizers=moonlight,sgd-sai
    row_is Moonlight "6e-3 † | 0.1 | 15,360 | 25.0 | 8.1 | **6e-3, 0.1: 2.286** · 0.018, 0.1: diverged · `
        `0.054, 0.1: diverged" 2
    has "$here/output" "diverged ("
    compare 0 --optimizers=moonlight,muon
    row_is Muon "– | – | 0 of 1 | – | – | – | – | –" 1
    row_is Muon "– | – | – | – | – | 0.02, 0: diverged · 0.06, 0: diverged · 0.18, 0: diverged" 2
    compare 0 --optimizers=muon --out="$here/none" --trials=1 --seeds=2
    row_is Muon "– | – | 0 of 2 | – | – | – | – | –" 1
}

# A setting that diverges in the longer runs gives way to the next best; one seed that diverges is counted.
test_full_runs_that_diverge() {
    fake_trainer
    echo 'adamw/full_1_' >"$here/diverges"
    compare 0 --optimizers=adamw --seeds=2
    row_is AdamW "9e-3 † | 0.1 | 15,360 | 25.0 | 8.1 | 1e-3, 0.1: 2.462 · 3e-3, 0.1: 1.985 (diverged in full) · `
        `**9e-3, 0.1: 2.462**" 2
    echo 'muon/full_.*seed_2' >"$here/diverges"
    compare 0 --optimizers=muon --seeds=3 --out="$here/seeds"
    row Muon | grep -q "| 2 of 3 |"
    has "$here/output" "those runs diverged"
    # Fewer than half are no result.
    echo 'muon/full_3_seed_[23]' >"$here/diverges"
    compare 0 --optimizers=muon --seeds=3 --out="$here/half"
    row Muon 2 | grep -q "diverged in full"
}

# Any config is the model: its architecture, batch, schedule and clipping.
test_comparison_of_a_config() {
    fake_trainer
    cat >"$here/own.json" <<END
{"base": "$PWD/config/modded_nanogpt.json", "model": {"block_size": 32, "n_layer": 3},
 "data": {"train": "$here/train.bin", "val": "$here/val.bin"}, "train": {"total_batch_size": 6, "batch_size": 3}}
END
    run 0 bash scripts/compare_optimizers.sh --config="$here/own.json" --out="$here/out" --steps=102 --trials=1 \
        --optimizers=adamw,normuon,mars-adamw --device=cpu --precision=float32
    local json=$here/out/normuon/full_1_seed_1/run.json text
    for text in '"n_layer": 3' '"position": "rope"' '"activation": "relu2"' '"vocab_size": 50304' \
        '"warmdown_iters": 29' '"total_batch_size": 6' '"name": "trapezoidal"' '"grad_clip": 0' '"split_qkv": true' \
        '"muon_embeddings": false' '"max_iters": 102' '"order": "sequential"' '"precision": "float32"' '"eval_sequences": 31'; do
        has "$json" "$text"
    done
    lacks "$json" muon_scale
    lacks "$here/out/adamw/full_1_seed_1/run.json" split_qkv
    has "$here/out/adamw/full_1_seed_1/run.json" '"grad_clip": 0'
    # A batch by its micro-steps; no weights to start from, no run without steps.
    sed -i 's/"total_batch_size": 6, /"gradient_accumulation_steps": 4, /; s/config.modded_nanogpt/config\/compare\/tiny/' \
        "$here/own.json"
    run 0 bash scripts/compare_optimizers.sh --config="$here/own.json" --out="$here/micro" --steps=8 --trials=1 \
        --optimizers=adamw
    has "$here/output" "8 steps of 384 tokens"
    run 1 bash scripts/compare_optimizers.sh --config="$here/own.json" --out="$here/none" --trials=1 --steps=4 \
        --config=config/finetune.json
    has "$here/output" "config/finetune.json"
    # All of them are configs that the trainer takes.
    for json in "$here"/out/*/*/run.json; do run 0 "$BIN/train_gpt2" "$json" --init_from=scratch --print_config; done
}

# The configs that come with the comparison are whole, and so are the configs of all optimizers' runs.
test_configs_of_all_optimizers() {
    fake_trainer
    compare 0 --trials=1 --equal_betas
    [ "$(calls)" -eq 13 ]
    local file
    for file in config/compare/*.json "$here"/out/*/*/run.json; do
        run 0 "$BIN/train_gpt2" "$file" --init_from=scratch --print_config
    done
    has "$here/output" '"warmup_iters": 6'
    has "$here/output" '"block_size": 64'
    lacks "$here/out/mars-m-efficient/full_1_seed_1/run.json" is_approx
    has "$here/out/compare.md" "the same betas for all, 0.95 and 0.99"
}

# Without tokens of one's own: the quickstart's text, which is there already here.
test_comparison_on_the_quickstarts_text() {
    fake_trainer
    mkdir -p "$here/tree/data/quickstart"
    cp -r scripts config "$here/tree/"
    cat config/*.c model/*.c >"$here/tree/data/quickstart/text.txt"
    run 0 env BIN="$BIN" bash "$here/tree/scripts/compare_optimizers.sh" --steps=120 --optimizers=adamw
    has "$here/output" "data/quickstart/text.txt: "
    has "$here/tree/runs/compare/adamw/full_1_seed_1/run.json" '"train": "data/compare/train_*.bin"'
    has "$here/tree/runs/compare/adamw/full_1_seed_1/run.json" '"vocab_size": 256'
    [ -s "$here/tree/data/compare/train_000000.bin" ]
    [ ! -e "$here/tree/data/quickstart/tokens.json" ]
}

test_comparison_says_what_is_wrong() {
    fake_trainer
    local option
    for option in --wrong wrong --config --minutes=0 --minutes=1.5 --steps=many --steps=0 --steps=3 --seeds=0 \
        --seeds=-1 --trials=0 --trials=10 --search=bayes --search_seed=x --trial_steps=0 --middle_rates=adamw \
        --middle_rates=adamw:0 --middle_rates=adamw:nan --middle_rates=adam:1e-3 --equal_betas=0.9 --equal_betas=0.9,1 --equal_betas=a,b \
        --target_loss=0 --target_loss=inf --jobs=0 --device=tpu --precision=fp8 --out= --config= --optimizers=adam \
        --optimizers= --optimizers=adamw,,muon --optimizers=muon-exact --optimizers=mars-lions --report-only=yes; do
        compare 2 "$option"
        [ "$(wc -l <"$here/output")" -eq 1 ] || { cat "$here/output"; return 1; }
        has "$here/output" "compare_optimizers.sh: "
    done
    run 2 bash scripts/compare_optimizers.sh --train="$here/train.bin"
    has "$here/output" "give both --train and --val"
    run 1 bash scripts/compare_optimizers.sh --train="$here/no*" --val="$here/val.bin" --out="$here/out"
    has "$here/output" "there is no file $here/no*"
    run 1 bash scripts/compare_optimizers.sh --train="$here" --val="$here/val.bin" --out="$here/out"
    has "$here/output" "there is no file $here;"
    run 1 bash scripts/compare_optimizers.sh --out="$here/val.bin"
    has "$here/output" "cannot use the folder $here/val.bin: File exists; give another --out"
    run 1 env TRAIN_GPT2="$here/no_trainer" bash scripts/compare_optimizers.sh --out="$here/out"
    has "$here/output" "cannot run $here/no_trainer: No such file or directory; build it with make"
    compare 1 --config="$here/no.json"
    has "$here/output" "$here/no.json"
    compare 1 --config=config/compare/small.json
    has "$here/output" "less than one sequence of 1024 tokens"
    echo 2 >"$here/fails"
    compare 1
    has "$here/output" "no such thing"
    has "$here/output" "failed with status 2"
    run 0 bash scripts/compare_optimizers.sh --help
    has "$here/output" "How to read the result:"
}

# Two tiny models, a GPT-2 and one like modded-nanogpt, each with two optimizers, trained for real: stopped in the
# middle and continued, a comparison has the same result as one that was not stopped.
test_comparisons_with_the_trainer() {
    cat config/*.c model/*.c >"$here/text"
    truncate -s 12000 "$here/text" # most of the time goes into validation, on a tenth of it
    "$BIN/prepare_data" --tokenizer=bytes --out="$here/tokens" "$here/text" >/dev/null
    local model config command
    for model in tiny modded; do
        config=$here/$model.json
        cat >"$config" <<END
{"base": "$PWD/config/compare/$model.json", "model": {"n_layer": 1, "n_embd": 32, "n_head": 2, "block_size": 16},
 "data": {"train": "$here/tokens/train_*.bin", "val": "$here/tokens/val_*.bin"}, "train": {"eval_sequences": 8}}
END
        command=(bash scripts/compare_optimizers.sh --config="$config" --optimizers="adamw,muon" --steps=200 --trials=2
            --seeds=2 --jobs=2 --device=cpu)
        run 0 "${command[@]}" --out="$here/$model.whole"
        grep "^| \(AdamW\|Muon\) " "$here/output" | head -n 2 | grep -q "± 0\.[0-9]* |  *[1-5]\.[0-9]* |  *2 |"
        "${command[@]}" --out="$here/$model.stopped" >"$here/first" 2>&1 &
        local script=$! status=0
        # A full run is going on, or has just ended.
        wait_for $script test -s "$here/$model.stopped/adamw/full_1_seed_1/metrics.jsonl" -o \
            -s "$here/$model.stopped/adamw/full_2_seed_1/metrics.jsonl"
        kill -TERM $script
        wait $script || status=$?
        [ $status -eq 130 ]
        has "$here/first" "trial_2"
        run 0 "${command[@]}" --out="$here/$model.stopped"
        check same "$here/$model.whole" "$here/$model.stopped"
    done
}

run_script_tests "$@"
