#!/usr/bin/env bash
# test_metrics.sh: tests of scripts/metrics.py, which reads metrics.jsonl, and of scripts/export_metrics.py. Prints
# "N passed, N failed" at its end. TensorBoard and Weights & Biases are stand-ins, which write down how they are called.
# test_tables.sh tests the summaries, through the tables made of them.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

export LC_ALL=C PYTHONPATH=$PWD/scripts
use_system_python

# program: runs the Python program on standard input, in $here. It has the module, and write(RUN, EVENT...),
# which appends events to a run's metrics; texts and bytes are appended as they are. refusal(MAIN, ARGUMENTS) is the
# line that a program's main() prints before it ends with status 2.
program() {
    {
        cat <<'END'
import contextlib, io, json, os, sys
import metrics

def write(run, *events):
    os.makedirs(run, exist_ok=True)
    with open(run + "/metrics.jsonl", "ab") as file:
        for event in events:
            if isinstance(event, dict):
                event = json.dumps(event, separators=(",", ":")) + "\n"
            file.write(event if isinstance(event, bytes) else event.encode())

def train(step, loss, **more):
    return dict({"event": "train", "step": step, "loss": loss, "tokens": 64 * (step + 1)}, **more)

def val(step, loss, **more):
    return dict({"event": "val", "step": step, "loss": loss, "tokens": 64 * step}, **more)

def start(config=None, **more):
    return dict({"event": "start", "config": config or {}, "parameters": 1000, "resumed_from": None}, **more)

def end(step, reason="done", **more):
    return dict({"event": "end", "step": step, "reason": reason}, **more)

def equal(found, expected):
    assert found == expected, "found %r, expected %r" % (found, expected)

def refusal(main, arguments):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            status = main(arguments.split(" ") if arguments else [])
        except SystemExit as end:
            status = end.code
    equal((arguments, status, errors.getvalue().count("\n")), (arguments, 2, 1))
    return errors.getvalue()
END
        cat
    } >"$here/program.py"
    (cd "$here" && python3 -W error program.py)
}

values() { python3 scripts/metrics.py values "$@"; }
export_metrics() { run "$1" python3 scripts/export_metrics.py "${@:2}"; }

output_is() { [ "$(cat "$here/output")" = "$1" ] || { echo "the output is not '$1':"; cat "$here/output"; return 1; }; }

# ---- the file ----

test_events_in_order_of_steps() {
    program <<'END'
write("run", start(), val(0, 9), train(0, 8), train(5, 4), val(4, 5), val(2, 7), train(5, 3),
      {"event": "new", "step": 1}, {"event": "hellaswag", "step": 4, "accuracy": 0.25},
      {"event": "sample", "step": 2, "text": "It is"},
      {"event": "norms", "step": 5, "clip": 1, "tensors": {}}, {"event": "skipped", "step": 3, "tensor": "wte"})
run = metrics.read_run("run/")
equal([(event["step"], event["loss"]) for event in run.train], [(0, 8), (5, 3)])
equal([(event["step"], event["loss"]) for event in run.val], [(0, 9), (2, 7), (4, 5)])
equal([len(events) for events in (run.hellaswag, run.samples, run.norms, run.skipped, run.events("new"))], [1] * 5)
equal((run.name, run.step, run.tokens), ("run", 6, 384))
equal((run.best(), run.best(128), run.best(-1)), ((5, 4), (7, 2), (None, None)))
equal((run.has_reached(256), run.has_reached(257)), (True, False))
END
}

test_damage_is_passed_over() {
    program <<'END'
whole = json.dumps(train(1, 7.5), separators=(",", ":"))
write("run", "no JSON\n", "\n", "{}\n", "[]\n", '{"event":7}\n', '{"event":"train"}\n',
      '{"event":"train","step":"2"}\n',
      '{"event":"train","step":true,"loss":3}\n', '{"event":"train","step":6,"loss":3} {"a":1}\n',
      '{"event":"train","step":2,"loss":nan}\n',
      '{"event":"train","step":8,"lo', val(3, 6), whole[:-9], whole[:20] + whole + "\r\n",
      '{"event":"train","step":4,"loss":NaN}\n{"event":"train","step":5,"loss":1e999}\n', "[" * 100000 + "\n",
      '{"event":"deep","step":' + "[" * 100000 + "\n", b'{"event":"sample","step":1,"text":"\xff\xfe \\ud800"}\n',
      '{"event":"start","config":{"model":{"n_layer":9}}\n', '{"event":"start","config":[1],"resumed_from":null}\n',
      '{"event":"val","step":7,"loss":5')
run = metrics.read_run("run")
equal([(event["step"], metrics.number(event, "loss")) for event in run.train], [(1, 7.5), (4, None), (5, None)])
equal([event["step"] for event in run.val], [3])
equal(run.samples[0]["text"], "\ufffd\ufffd \ud800")
equal((run.config, run.optimizer, run.model_title, run.learning_rate), ({}, None, None, None))
equal(metrics.summary(run, budgets=[64])[1:], ["-"] * 5 + ["3", "192", "6", "3", "unfinished"] + ["-"] * 5 + ["1"])
write("end", val(1, 3), json.dumps(end(1), separators=(",", ":")))  # whole, only its newline is missing
equal(metrics.read_run("end").status, "done")
write("empty")
equal(metrics.summary(metrics.read_run("empty"))[1:], ["-"] * 9 + ["unfinished"] + ["-"] * 4)
END
}

test_status() {
    program <<'END'
skip = lambda step: {"event": "skipped", "step": step, "tensor": "wte"}
saved = {"event": "checkpoint", "step": 7, "path": "p"}
for i, (events, status) in enumerate([
        ([start()], "unfinished"), ([train(6, 1), end(7)], "done"), ([end(7, "stopped"), saved], "stopped"),
        ([end(7, "failed")], "failed"), ([end(7, 3)], "unfinished"), ([end(7), start()], "unfinished"),
        ([end(7), val(8, 1)], "unfinished"), ([skip(5)], "unfinished"), ([skip(5), skip(7)], "unfinished"),
        ([skip(5), skip(6)], "diverged"), ([skip(5), saved, val(6, 1), skip(6), val(7, 1)], "diverged"),
        ([skip(5), skip(6), train(7, 1)], "unfinished"), ([skip(5), skip(6), start()], "unfinished"),
        ([skip(5), skip(6), end(7)], "done")]):
    write(str(i), *events)
    run = metrics.read_run(str(i))
    equal((i, run.status, run.end is None), (i, status, events[-1]["event"] not in ("end", "checkpoint")))
END
}

test_what_was_appended() {
    program <<'END'
write("run", start(), train(0, 5))
run = metrics.read_run("run")
equal(run.update(), [])
line = json.dumps(val(1, 4), separators=(",", ":"))
write("run", line[:15])
equal(run.update(), [])
write("run", line[15:] + "\n", train(1, 3))
equal([event["event"] for event in run.update()], ["val", "train"])
write("run", line.replace(":1,", ":2,"))
equal([event["step"] for event in run.update()], [2])
write("run", "\n", train(2, 2))
equal([event["step"] for event in run.update()], [2])
equal(([event["loss"] for event in run.train], run.restarts), ([5, 3, 2], 0))
# Cut back as on resume, by another file of the same name; then written anew, to the same length and beyond.
content = open("run/metrics.jsonl").read()
open("run/new", "w").write(content[:content.index(line)])
os.replace("run/new", "run/metrics.jsonl")
equal((len(run.update()), run.restarts, [event["loss"] for event in run.train]), (2, 1, [5]))
os.truncate("run/metrics.jsonl", 0)
write("run", start(), train(0, 6))
equal((len(run.update()), run.restarts, [event["loss"] for event in run.train]), (2, 2, [6]))
os.truncate("run/metrics.jsonl", 0)
write("run", start(), train(0, 7), train(1, 6))
equal((len(run.update()), run.restarts, len(run.starts), len(run.train)), (3, 3, 1, 2))
os.remove("run/metrics.jsonl")
try:
    run.update()
    sys.exit("no error")
except metrics.MetricsError as error:
    assert "cannot read run/metrics.jsonl: No such file" in str(error), error
END
}

# As a start of the trainer leaves it with these keys.
test_models_data_and_optimizers_by_name() {
    program <<'END'
def title(attribute, **config):
    write("run", start(config))
    return getattr(metrics.read_run("run"), attribute)

def model(**keys):
    gpt2 = {"n_layer": 12, "n_embd": 768, "block_size": 1024, "vocab_size": 50304}
    return title("model_title", model=dict(gpt2, **keys))

equal(model(), "small")
equal(model(n_layer=48, n_embd=1600, dropout=0.0, tie_embeddings=True, position="learned", logit_softcap=0), "XL")
equal(model(block_size=64, vocab_size=256), "small T=64 V=256")
equal(model(n_layer=2, position="rope-half", norm="rmsnorm", norm_embedding=True, qk_norm=True, activation="relu2",
            tie_embeddings=False, logit_softcap=15, dropout=0.1),
      "2x768 rope-half rmsnorm norm_embedding qk_norm relu2 untied softcap dropout")
for path, name in [("data/fineweb/edu/*.bin", "FineWeb-Edu"), ("fineweb_1.bin", "FineWeb"),
                   ("d/OWT/t.bin", "OpenWebText"), ("a/b/t.bin", "a/b"), ("t.bin", "this folder")]:
    equal(title("data_title", data={"train": path}), name)
equal(title("learning_rate", optimizer={"learning_rate": 0.1, "muon_learning_rate": 6e-05}), 6e-05)
exact = {"name": "mars-m", "gamma": 0.01, "is_approx": False}
equal(title("optimizer_title", optimizer=exact), "MARS-M exact gamma 0.01")
equal(title("optimizer", optimizer=exact), "mars-m-exact-gamma-0.01")
equal(title("optimizer_title", optimizer={"name": "a new one", "gamma": 0.01}), "a new one")
equal(metrics.flat({"a": {"b": 1, "c": {"d": 2}}, "e": 3, "f": None, "g": []}), {"a.b": 1, "a.c": {"d": 2}})
equal([metrics.text(value) for value in (6e-05, 2.5, 3, 1e20, 0.1 + 0.2, None, True)],
      ["6e-05", "2.5", "3", "1e+20", "0.30000000000000004", "-", "True"])
END
    "$BIN/train_gpt2" --list_optimizers >"$here/optimizers.json"
    program <<'END'
with open("optimizers.json") as file:
    equal(metrics.OPTIMIZER_TITLES, {optimizer["name"]: optimizer["title"] for optimizer in json.load(file)})
END
}

test_seconds_of_training() {
    program <<'END'
write("run", train(0, 5, ms=100), train(10, 4, ms=50), train(20, 4), train(30, 3, ms=200))
equal([(step, round(seconds, 6)) for step, seconds in metrics.read_run("run").training_seconds()],
      [(0, 0.1), (10, 0.6), (20, 0.6), (30, 2.6)])
END
}

# Reading takes a second or less; the limit is for a slow machine. One that reads again for each line takes minutes.
test_a_long_run() {
    mkdir "$here/run"
    awk 'BEGIN {
        for (i = 0; i < 20000; i++)
            printf "{\"event\":\"train\",\"step\":%d,\"loss\":%.6f,\"lr\":0.001,\"tokens\":%d}\n", i, 9 - i / 2e4, i + 1
    }' >"$here/run/metrics.jsonl"
    run 0 timeout 60 python3 scripts/metrics.py summary "$here/run"
    has "$here/output" $'\t20000\t20000\t-'
    # Whoever reads only the beginning sees no error.
    values train step,tokens "$here/run" 2>"$here/error" | head -n 1 >"$here/output" || true
    output_is "0 1"
    [ ! -s "$here/error" ]
}

# ---- the command line ----

test_values() {
    program <<'END'
write("a", start({"train": {"max_iters": 9, "out_dir": "x"}}), train(1, 6e-05, ms=3), train(0, 7.25, ms=None),
      val(2, 4), end(2, seconds=1.5))
write("b", train(0, 3))
write("c", train(0, 2, ms=1))
END
    run 0 values train step,loss "$here/a/metrics.jsonl"
    output_is $'0 7.25\n1 6e-05'
    run 0 values train ms,loss "$here"/{a,b,c}
    output_is $'3 6e-05\n\n\n1 2'
    run 0 values start config.train.max_iters,parameters "$here/a"
    output_is "9 1000"
    run 0 values end seconds "$here/a"
    output_is 1.5
    run 0 values start config.train.out_dir "$here/a"
    output_is ""
    run 0 python3 scripts/metrics.py summary "$here"/{a,b}
    [ "$(cut -f 1 "$here/output")" = "$here/a"$'\n'"$here/b" ]
    run 0 python3 scripts/metrics.py summary --fields=status,best_loss,folder "$here"/{a,b}
    output_is $'done\t4\t'"$here/a"$'\nunfinished\t-\t'"$here/b"
}

test_values_says_what_is_wrong() {
    mkdir -p "$here/run" "$here/folder/metrics.jsonl"
    : >"$here/run/metrics.jsonl"
    run 1 values train loss "$here/run" "$here/nothing"
    output_is "metrics.py: cannot read $here/nothing/metrics.jsonl: No such file or directory; give folders that"`
        `" train_gpt2 wrote (its train.out_dir)"
    run 1 python3 scripts/metrics.py summary "$here/folder"
    has "$here/output" "cannot read $here/folder/metrics.jsonl: Is a directory"
    run 2 python3 scripts/metrics.py summary --fields=status,loss "$here/run"
    has "$here/output" "metrics.py: argument --fields: status,loss: give fields of folder, optimizer, "
    program <<'END'
for arguments in ["", "wrong run", "summary", "values", "values train loss", "summary --wrong run",
                  "summary --budgets=5B run", "summary --fields=status, run", "values --budgets=5 train loss run"]:
    assert refusal(metrics.main, arguments).startswith("metrics.py: ")
END
    run 0 python3 scripts/metrics.py --help
    has "$here/output" "--budgets=TOKENS"
}

# A full disk is an error in one line, and a name cannot add a line or a field.
test_output_that_cannot_be_written() {
    local name=$'a\nrun\tof two' command
    mkdir "$here/$name"
    {
        echo '{"event":"start","config":{"optimizer":{"name":"adamw"},"model":{},"data":{}},"resumed_from":null}'
        echo '{"event":"val","step":0,"loss":2.5,"tokens":0}'
    } >"$here/$name/metrics.jsonl"
    for command in "metrics.py summary" "metrics.py values val loss" reproduce_table.py "export_metrics.py --csv=/dev/full"; do
        # shellcheck disable=SC2016 # the folder is the inner shell's argument
        run 1 bash -c 'python3 scripts/'"$command"' "$1" >/dev/full' _ "$here/$name"
        has "$here/output" ".py: cannot write the output: No space left on device"
        [ "$(wc -l <"$here/output")" -eq 1 ]
    done
    python3 scripts/metrics.py summary --fields=folder,best_loss "$here/$name" >"$here/output"
    [ "$(cat "$here/output")" = "$here/a run of two"$'\t'2.5 ]
}

test_python_is_needed() {
    mkdir "$here/bin"
    for tool in bash dirname basename tr; do ln -s "$(command -v $tool)" "$here/bin/"; done
    command_file "$here/bin/gnuplot" <<<'exit 0'
    for script in "plot.sh x" "reproduce_table.sh x" compare_optimizers.sh "track3.sh track3_muon --report-only"; do
        # shellcheck disable=SC2086 # words
        run 1 env PATH="$here/bin" bash scripts/$script
        output_is "${script%% *}: python3 is missing: install it, or run bash scripts/install_deps.sh"
    done
}

# ---- export_metrics.py ----

# A run with every event.
whole_run() {
    program <<'END'
write("run", start({"model": {"n_layer": 2}, "train": {"max_iters": 2}}, device="a, b", version="0"), val(0, 5.5),
      train(0, 5, lr=0.1, lr_by_role={"matrix": 0.2, "vector": 0.05}, grad_norm=None, ms=3.5, mfu=None),
      {"event": "norms", "step": 0, "clip": 0.5, "tensors": {"wte": {"gradient": 1.5, "update": 2, "weight": 3}}},
      {"event": "skipped", "step": 1, "tensor": "wte"}, val(2, 4, ema_loss=3.75),
      {"event": "hellaswag", "step": 2, "accuracy": 0.25, "accuracy_norm": 0.5, "examples": 8},
      {"event": "sample", "step": 2, "prompt": "It", "text": " is\n"},
      {"event": "checkpoint", "step": 2, "path": "p"}, end(2, seconds=9))
END
}

test_csv() {
    whole_run
    export_metrics 0 "$here/run" --csv "$here/run.csv"
    output_is ""
    program <<'END'
import csv
rows = list(csv.DictReader(open("run.csv", newline="")))
equal([row["event"] for row in rows], "start val train norms skipped val hellaswag sample checkpoint end".split())
known = list(rows[0])
equal(known[:4] + known[-3:], ["event", "step", "tokens", "loss", "resumed_from", "prompt", "text"])
equal(known[13:20], ["mfu", "ms_slowest", "slowest_rank", "gpu_watts", "gpu_mhz", "gpu_celsius", "gpu_throttle"])
shown = [{key: value for key, value in row.items() if value} for row in rows]
equal(shown[0], {"event": "start", "parameters": "1000", "device": "a, b", "version": "0"})
equal(shown[2], {"event": "train", "step": "0", "loss": "5", "tokens": "64", "lr": "0.1", "lr_by_role.matrix": "0.2",
                 "lr_by_role.vector": "0.05", "ms": "3.5"})
equal(shown[3], {"event": "norms", "step": "0", "clip": "0.5"})
equal(shown[7], {"event": "sample", "step": "2", "prompt": "It", "text": " is\n"})
END
    # The file is replaced, and its columns are the same where fewer fields occur.
    program <<<'write("other", val(0, 5), val(0, 6))'
    export_metrics 0 "$here/other" --csv="$here/run.csv"
    [ "$(wc -l <"$here/run.csv")" -eq 2 ]
    grep -q '^event,step,tokens,loss,ema_loss,.*,resumed_from$' "$here/run.csv"
    grep -q '^val,0,0,6,,' "$here/run.csv"
}

# wait_for COMMAND...: until it succeeds, for ten seconds.
wait_for() {
    local i
    for ((i = 0; i < 200; i++)); do
        if "$@"; then return; fi
        sleep 0.05
    done
    echo "this did not come: $*"
    return 1
}

test_following_a_run() {
    local exporter status=0
    program <<<'write("run", start(), val(0, 5))'
    python3 scripts/export_metrics.py "$here/run" --csv "$here/run.csv" --follow >"$here/output" 2>&1 &
    exporter=$!
    wait_for grep -q "^val,0,0,5" "$here/run.csv"
    program <<<'write("run", train(0, 4, gpu_fans=650), "{\"event\":\"val\",\"st")'
    wait_for grep -q "^train,0,64,4,.*,650$" "$here/run.csv"
    head -n 1 "$here/run.csv" | grep -q ",resumed_from,gpu_fans$"
    [ "$(wc -l <"$here/run.csv")" -eq 4 ]
    # Killed and resumed: the cut line goes.
    grep -v '"st$' "$here/run/metrics.jsonl" | sed 's/"loss":5/"loss":6/' >"$here/new"
    mv "$here/new" "$here/run/metrics.jsonl"
    program <<<'write("run", val(1, 3), end(1))'
    wait $exporter
    output_is ""
    [ "$(cut -d , -f 1-4 "$here/run.csv" | paste -s -d ';')" = \
        "event,step,tokens,loss;start,,,;val,0,0,6;train,0,64,4;val,1,64,3;end,1,," ]
    # A run that never ends. A process in the background of a script ignores SIGINT; Python gives that back to this one.
    program <<<'write("killed", start(), val(0, 5))'
    python3 -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
os.execvp(sys.argv[1], sys.argv[1:])' \
        python3 scripts/export_metrics.py "$here/killed" --csv "$here/killed.csv" --follow >"$here/output" 2>&1 &
    exporter=$!
    wait_for grep -q "^val,0,0,5" "$here/killed.csv"
    kill -INT $exporter
    wait $exporter || status=$?
    [ $status -eq 130 ]
    output_is ""
}

# stand_in MODULE: a Python package of standard input, on PYTHONPATH; note(...) writes down a call.
stand_in() {
    mkdir -p "$here/modules"
    {
        echo "def note(*call): print(*call, file=open('$here/calls', 'a'))"
        cat
    } >"$here/modules/$1.py"
    export PYTHONPATH=$PYTHONPATH:$here/modules
}

test_tensorboard() {
    whole_run
    stand_in tensorboardX <<'END'
import os
class SummaryWriter:
    def __init__(self, folder, purge_step, filename_suffix):
        os.makedirs(folder, exist_ok=True)
        note("open", len(os.listdir(folder)))
        open(folder + "/events.out.tfevents.1" + filename_suffix, "w").close()
    def add_scalar(self, tag, value, step): note("scalar", tag, value, step)
    def add_text(self, tag, text, step): note("text", tag, repr(text), step)
    def flush(self): pass
    def close(self): note("close")
END
    export_metrics 0 "$here/run" --tensorboard "$here/tb/run"
    diff - "$here/calls" <<'END'
open 0
text config '    model.n_layer = 2\n    train.max_iters = 2' 0
scalar val/loss 5.5 0
scalar val/tokens 0 0
scalar train/loss 5 0
scalar train/tokens 64 0
scalar lr 0.1 0
scalar lr/matrix 0.2 0
scalar lr/vector 0.05 0
scalar train/ms 3.5 0
scalar norms/clip 0.5 0
scalar norms/wte/gradient 1.5 0
scalar norms/wte/update 2 0
scalar norms/wte/weight 3 0
scalar val/loss 4 2
scalar val/tokens 128 2
scalar val/ema_loss 3.75 2
scalar hellaswag/accuracy 0.25 2
scalar hellaswag/accuracy_norm 0.5 2
scalar hellaswag/examples 8 2
text sample 'It is\n' 2
close
END
    # The event file of the first export goes, that of somebody else stays.
    touch "$here/tb/run/events.out.tfevents.2.other"
    rm "$here/calls"
    export_metrics 0 "$here/run" --tensorboard "$here/tb/run"
    has "$here/calls" "open 1"
}

test_wandb() {
    whole_run
    stand_in wandb <<'END'
import os
class Error(Exception): pass
class Log:
    def define_metric(self, name, step_metric): note("axis", name, step_metric)
    def log(self, values): note(*sorted(values.items()))
    def finish(self): note("finish")
def init(project, name, config):
    if project == "locked": raise Error("no key")
    note("init", project, name, config)
    return Log()
END
    export_metrics 0 "$here/run" --wandb mine
    diff - "$here/calls" <<'END'
init mine run {'model': {'n_layer': 2}, 'train': {'max_iters': 2}}
axis * step
('step', 0) ('val/loss', 5.5) ('val/tokens', 0)
('lr', 0.1) ('lr/matrix', 0.2) ('lr/vector', 0.05) ('step', 0) ('train/loss', 5) ('train/ms', 3.5) ('train/tokens', 64)
('norms/clip', 0.5) ('norms/wte/gradient', 1.5) ('norms/wte/update', 2) ('norms/wte/weight', 3) ('step', 0)
('step', 2) ('val/ema_loss', 3.75) ('val/loss', 4) ('val/tokens', 128)
('hellaswag/accuracy', 0.25) ('hellaswag/accuracy_norm', 0.5) ('hellaswag/examples', 8) ('step', 2)
finish
END
    export_metrics 2 "$here/run" --wandb locked
    output_is "export_metrics.py: wandb: no key"
}

test_export_says_what_is_wrong() {
    whole_run
    program <<'END'
import export_metrics
for arguments in ["", "run", "run --csv", "run --csv=", "run --csv x --wandb y", "run --wrong --csv x",
                  "run run --csv x", "run --csv .", "run --csv no/such/file", "run --csv run/metrics.jsonl",
                  "nothing --csv x", ". --csv x", "--csv x"]:
    assert refusal(export_metrics.main, arguments).startswith("export_metrics.py: ")
END
    export_metrics 2 "$here/run"
    has "$here/output" "export_metrics.py: one of the arguments --tensorboard --wandb --csv is required; see --help"
    has "$here/run/metrics.jsonl" '"event":"end"'
    stand_in tensorboardX <<<'raise ImportError'
    stand_in torch <<<'raise ImportError'
    stand_in wandb <<<'raise ImportError'
    export_metrics 2 "$here/run" --tensorboard "$here/tb"
    has "$here/output" "pip install tensorboardX"
    export_metrics 2 "$here/run" --wandb mine
    has "$here/output" "pip install wandb"
    export_metrics 0 --help
    has "$here/output" "--follow"
}

run_script_tests "$@"
