#!/usr/bin/env bash
# test_scale_model.sh: tests of dev/bench/scale_model.py, the model of step times on many GPUs, on the measurements in
# dev/results. Prints "N passed, N failed" at its end.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

use_system_python
h200=dev/results/nvidia-h200.json

# model ARGUMENT...: the steps of small on the H200, as JSON in $here/output.
model() { run 0 python3 dev/bench/scale_model.py $h200 --sizes=small --json "$@"; }

# program: runs the Python program on standard input. It has the model's `steps`, the measured `bench`, and near().
program() {
    {
        cat <<'END'
import json, sys
steps = json.load(open(sys.argv[1]))["steps"]
bench = json.load(open(sys.argv[2]))["parts"]["bench"]

def step(gpus, scaling="strong"):
    return next(s for s in steps if s["gpus"] == gpus and s["scaling"] == scaling)

def near(found, expected, limit=1e-6):
    assert abs(found / expected - 1) <= limit, "found %r, expected %r" % (found, expected)
END
        cat
    } >"$here/program.py"
    python3 "$here/program.py" "$here/output" $h200
}

test_one_gpu_takes_the_measured_time() {
    model --optimizers=adamw --gpus=1 --sequences=32
    program <<'END'
near(step(1)["step, ms"], bench["training"]["small"]["step, ms"], 1e-12)
assert step(1)["efficiency"] == 1
END
}

# A bucket of small has 124,373,760 / 16 elements, rounded up to 7,773,440. Block 0 begins at element 39,419,904 and
# ends at 46,499,328, so the last exchange of gradients and the first wait for weights are of 6 buckets.
test_steps_computed_by_hand() {
    model --optimizers=adamw --gpus=8,64,1024
    program <<'END'
# 8 GPUs: slices of 971,648 elements, a remainder of 256. An exchange starts in 10 + 7 x 1.9 us.
s = step(8)
near(s["passes, ms"], 60 * (56.802 - 1.034) / 32)
near(s["reduce-scatter exposed, ms"], 0.0233 + 6 * 4 * (971648 * 7 + 256) / 450e6)
near(s["all-gather exposed, ms"], 6 * (0.0233 + 2 * (971648 * 7 + 256) / 450e6))
near(s["update, ms"], 1.034 * 15546752 / 124373760)
near(s["step, ms"], 105.4381)
# 64 GPUs, 15 sequences each: slices of 121,344, a remainder of 7,424; 56 hops in nodes and 7 between them, at the rate
# of 8 adapters. The sums go 7 hops along each node and 3 between nodes, up and down.
s = step(64, "weak")
near(s["passes, ms"], 15 * (56.802 - 1.034) / 32)
near(s["reduce-scatter exposed, ms"], 0.1444 + 6 * 4 * (121344 * 63 + 7424) / 400e6)
near(s["all-gather exposed, ms"], 6 * (0.1444 + 2 * (121344 * 63 + 7424) / 400e6))
near(s["sums, ms"], 0.0606, 1e-3)
near(s["step, ms"] - s["step without latencies, ms"], 7 * 0.1444 + 0.0606)
near(s["step, ms"], 27.91755)
near(s["efficiency"], (15 * (56.802 - 1.034) / 32 + 1.034) / 27.91755)
# 480 sequences do not divide by 64 or 1024 GPUs.
assert step(64)["step, ms"] is None and step(1024)["efficiency"] is None and step(1024, "weak")["efficiency"] < 1
END
}

# Every element of the flat buffer is exchanged once, and with exact MARS each of two gradients is. The slowest of 8
# ranks is the one that bench_optim finds by the optimizer's own partition.
test_bytes_and_shares_of_every_optimizer() {
    model --gpus=8
    program <<'END'
measured = {o["name"]: o for o in bench["optimizers"]["optimizers"]}
found = [s for s in steps if s["scaling"] == "strong"]
assert {s["optimizer"] for s in found} == set(measured)
for s in found:
    gradients = 2 if s["optimizer"].endswith("exact") else 1
    assert s["gradients exchanged, bytes"] == gradients * 4 * 124373760, s
    assert s["weights exchanged, bytes"] == 2 * 124373760, s
    scale = 1.034 / 1.0468 if s["optimizer"] == "adamw" else 1  # the one that was measured next to the passes
    near(s["update, ms"], scale * measured[s["optimizer"]]["one of 8, ms"], 1e-3)
END
}

test_tables_name_their_inputs() {
    run 0 python3 dev/bench/scale_model.py $h200 --sizes=small --optimizers=muon --gpus=1,8 --nvlink=400
    has "$here/output" "No number of the tables by GPUs was measured."
    grep -q "NVLink, GB/s of a GPU.* 400 .*assumed" "$here/output"
    grep -q "small, AdamW: step, ms .* 56.802 .*measured (dev/results/nvidia-h200.json, parts.bench.training.small" \
        "$here/output"
    has "$here/output" "## NVIDIA H200, modelled"
}

# refused TEXT ARGUMENT...: one line that holds the text, and exit status 2.
refused() {
    run 2 python3 dev/bench/scale_model.py "${@:2}"
    has "$here/output" "$1"
    [ "$(wc -l <"$here/output")" -eq 1 ] || { echo "more than one line:"; cat "$here/output"; return 1; }
}

# The trainer's table says which rule a role has: that of the first of its groups, with the defaults.
test_rules_are_those_of_the_trainer() {
    "$BIN/train_gpt2" --list_optimizers >"$here/optimizers.json"
    PYTHONPATH=dev/bench python3 - "$here/optimizers.json" <<'END'
import json, sys
import scale_model

with open(sys.argv[1]) as file:
    optimizers = {optimizer["name"]: optimizer for optimizer in json.load(file)}
for name in scale_model.OPTIMIZERS:
    rules = {}
    for group in optimizers[name]["groups"]:
        for role in group["roles"]:
            rules.setdefault(role, group["rule"])
    assert rules.pop("lm_head") == rules["embedding"], name
    found = tuple(rules[role] for role in ("matrix", "embedding", "vector"))
    assert found == scale_model.OPTIMIZERS[name], (name, found)
END
}

test_bad_inputs_are_refused() {
    refused "argument --gpus: '0' is not a whole number" --gpus=8,0
    refused "argument --nvlink: '-1' is not a number" --nvlink=-1
    refused "argument --optimizers: 'lion' is none of adamw," --optimizers=lion
    refused "$here/none.json: No such file" "$here/none.json"
    sed '/"optimizer, ms"/d' $h200 >"$here/part.json"
    refused "part.json: the field parts.bench.training.small.optimizer, ms is missing" "$here/part.json"
    sed 's/"parameters": 124373760/"parameters": 5/' $h200 >"$here/other.json"
    refused "parts.bench.training.small.parameters is 5, but config/base/small.json has 124373760" "$here/other.json"
}

run_script_tests "$@"
