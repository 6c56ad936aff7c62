#!/usr/bin/env bash
# test_report.sh: tests of report.sh. Prints "N passed, N failed" at its end.
#
# Tests named test_page_... open the page in a browser without a window, chromium-headless-shell or chromium. Where there
# is none, these tests are skipped by name; where CI=true they fail. Each of them adds a script to the page, which clicks
# and writes down what the page shows.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

export LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
browser=$(command -v chromium-headless-shell || command -v chromium || true)

report() { run "$1" bash scripts/report.sh "${@:2}"; }

# start_line RUN OPTIMIZER RATE: begins the metrics of a run.
start_line() {
    mkdir -p "$1"
    {
        printf '{"event":"start","config":{"model":{"n_layer":12,"n_embd":768,"block_size":1024,"vocab_size":50304},'
        printf '"data":{"train":"data/openwebtext/train.bin","val":""},"optimizer":{"name":"%s","learning_rate":%s},' \
            "$2" "$3"
        printf '"train":{"max_iters":100,"out_dir":"%s"}},"parameters":1000,"resumed_from":null}\n' "${1##*/}"
    } >>"$1/metrics.jsonl"
}

# train_lines RUN FIRST LAST [STEP_TOKENS]: a train event each step, and a validation each 10th.
train_lines() {
    awk -v first="$2" -v last="$3" -v tokens="${4:-491520}" 'BEGIN {
        for (step = first; step <= last; step++) {
            if (step % 10 == 0)
                printf "{\"event\":\"val\",\"step\":%d,\"loss\":%.9g,\"tokens\":%d}\n", step, 3 + 7 / (step + 1),
                    step * tokens
            printf "{\"event\":\"train\",\"step\":%d,\"loss\":%.9g,\"lr\":%.9g,\"grad_norm\":%.9g,\"tokens\":%d,", step,
                3 + 8 / (step + 1) + 0.1 * sin(step), 0.001 * step, (step == 777 ? 1000 : 1 + cos(step)),
                (step + 1) * tokens
            printf "\"ms\":%.9g,\"tokens_per_s\":%.9g,\"mfu\":null}\n", 100 + step % 7, 5000 + step % 11
        }
    }' >>"$1/metrics.jsonl"
}

# page_with FILE SCRIPT: opens the page with the script of a file at its end, and leaves what became of the page in
# $here/dump. Fails where the page has an error.
page_with() {
    { cat "$1"; echo '<script>'; cat "$2"; echo '</script>'; } >"$here/opened.html"
    timeout 60 "$browser" --no-sandbox --disable-gpu --user-data-dir="$here/profile" --window-size=1200,900 \
        --enable-logging=stderr --dump-dom "file://$here/opened.html" >"$here/dump" 2>"$here/log" </dev/null ||
        { cat "$here/log"; return 1; }
    if grep CONSOLE "$here/log"; then return 1; fi
    grep -q "drawn [0-9]* ms after" "$here/dump"
}

# The curves that the drawn ones must be, computed from two runs without a look at report_page.py.
expected_curves() {
    python3 - "$here" "$@" <<'END'
import json
import sys

here, axis, *runs = sys.argv[1:]
ends = []
for name in runs:
    with open(f"{here}/{name}/metrics.jsonl") as file:
        events = [json.loads(line) for line in file]
    train = {event["step"]: event for event in events if event["event"] == "train"}
    hours, previous, clock = 0.0, -1, {0: 0.0}
    for step, event in train.items():
        hours += event["ms"] / 3.6e6 * (step - previous)  # the mean since the event before
        previous, clock[step + 1] = step, hours

    def x_of(event):
        if axis == "hours":
            return clock[event["step"] + (event["event"] == "train")]
        return event["step" if axis == "steps" else "tokens"]

    def show(chart, curve, points, title=name):
        print(json.dumps({"chart": chart, "run": title, "curve": curve, "x": [x for x, _ in points],
                          "y": [y for _, y in points]}))
        ends.extend([points[0][0], points[-1][0]])

    for chart in ("loss", "grad_norm", "lr", "tokens_per_s"):
        points = [(x_of(event), event[chart]) for event in train.values() if event[chart] is not None]
        show(chart, "each step" if chart == "loss" else "", points)
    # With a mean over one step and at most 2,000 of them, it is the loss itself.
    if len(train) <= 2000:
        show("loss", "training", [(x_of(event), event["loss"]) for event in train.values() if event["loss"]])
    for field, curve in (("loss", "validation"), ("ema_loss", "validation, average of weights")):
        points = [(x_of(event), event[field]) for event in events if event["event"] == "val" and event.get(field)]
        if points:
            show("loss", curve, points)
    skipped = [event["step"] for event in events if event["event"] == "skipped"]
    if skipped and axis == "steps":
        last = max(max(train), max(event["step"] for event in events if event["event"] == "val"))
        show("skipped", "", [(0, 0)] + list(zip(skipped, range(1, 999))) + [(max(last, skipped[-1]), len(skipped))])
for title, loss in (("AdamW, MARS, table", 2.885), ("AdamW, MARS-M, figure", 2.889), ("Muon, MARS, table", 2.901)):
    show("loss", "published", [(min(ends), loss), (max(ends), loss)], title)
END
}

# compare RECORD AXIS RUN...: fails unless the page drew what is expected.
compare() { expected_curves "${@:2}" | python3 dev/test/scripts/report_curves.py "$here/dump" "$1"; }

test_page_draws_what_the_files_hold() {
    start_line "$here/short" adamw 0.0006
    train_lines "$here/short" 0 99
    {
        echo '{"event":"skipped","step":100,"tensor":"wte"}'
        printf '{"event":"train","step":101,"loss":null,"lr":0.5,"grad_norm":null,"tokens":50135040,"ms":50,'
        echo '"tokens_per_s":9}'
        echo '{"event":"val","step":102,"loss":2.5,"tokens":50135040,"ema_loss":2.25}'
    } >>"$here/short/metrics.jsonl"
    start_line "$here/long" muon 0.02
    train_lines "$here/long" 0 5000 245760
    report 0 --out="$here/page.html" "$here/short" "$here/long"
    # An update as report.sh --watch sends it: one more event.
    cp -r "$here/short" "$here/grown"
    echo '{"event":"val","step":110,"loss":2.125,"tokens":54067200}' >>"$here/grown/metrics.jsonl"
    python3 - "$here" >"$here/update" <<'END'
import json
import os
import sys
sys.path.insert(0, "scripts")
import report_page
here = sys.argv[1]
runs = report_page.Runs([f"{here}/short", f"{here}/long"])
runs.refresh()
os.replace(f"{here}/grown/metrics.jsonl", f"{here}/short/metrics.jsonl")
runs.refresh()
update = runs.page_data(since=1)
assert [run["name"] for run in update["runs"]] == ["short"], "only what changed is sent"
print(json.dumps(update))
END
    head -n -1 "$here/short/metrics.jsonl" >"$here/before"
    cp "$here/short/metrics.jsonl" "$here/after"
    cat >"$here/script" <<END
        const record = {};
        const cells = (row) => [...row.cells].map((cell) => cell.textContent);
        const note = (name) => { record[name] = [...document.querySelectorAll('#drawn tbody tr')].map(cells); };
        const set = (id, value) => {
            const control = byId(id);
            if (control.type === 'checkbox') control.checked = value;
            else control.value = value;
            control.dispatchEvent(new Event(control.type === 'range' ? 'input' : 'change'));
        };
        const runBox = (name) => [...document.querySelectorAll('#runs .entry')]
            .find((entry) => entry.textContent.startsWith(name)).querySelector('input');
        const mouse = (type, target, x, y, buttons) => {
            const place = document.querySelector('#chart-loss canvas').getBoundingClientRect();
            target.dispatchEvent(new MouseEvent(type, {bubbles: true, cancelable: true, view: window, buttons,
                clientX: place.left + x, clientY: place.top + y}));
        };
        record.smoothing = byId('window-steps').textContent;
        set('window', 0);
        for (const axis of ['tokens', 'hours', 'steps']) { set('x', axis); note(axis); }
        set('window', 3);
        note('mean');
        runBox('long').click();
        note('alone');
        record.config = document.querySelector('#config p').textContent;
        runBox('long').click();
        record.configs = [...document.querySelectorAll('#config tr')].map(cells);
        for (let i = 0; i < 2; i++)
            [...document.querySelectorAll('#summary th button')]
                .find((one) => one.textContent === 'best val loss').click();
        record.sorted = [...document.querySelectorAll('#summary tbody tr')].map((row) => cells(row)[0].trim());
        record.row = cells(document.querySelector('#summary tbody tr:last-child'));
        runBox('long').click();
        mouse('mousemove', [...document.querySelectorAll('#chart-loss canvas')].pop(), 400, 100, 0);
        record.pointer = document.querySelector('#chart-loss .values').textContent;
        const canvas = [...document.querySelectorAll('#chart-loss canvas')].pop();
        mouse('mousedown', canvas, 300, 100, 1);
        for (let x = 300; x <= 600; x += 50) mouse('mousemove', document, x, 100, 1);
        mouse('mouseup', document, 600, 100, 0);
        record.zoomed = CHARTS.map((chart) => chart.graph && chart.graph.xAxisRange());
        fetch = async () => ({ok: true, json: async () => ($(cat "$here/update"))});
        follow().then(() => {
            record.still = CHARTS.map((chart) => chart.graph && chart.graph.xAxisRange());
            record.off = [...state.off];
            byId('reset').click();
            note('followed');
            document.body.append(element('pre', {id: 'record', textContent: JSON.stringify(record)}));
        });
END
    page_with "$here/page.html" "$here/script"
    cp "$here/before" "$here/short/metrics.jsonl"
    # The mean of the long run, of which not all points are drawn, has a point for each five steps or so.
    for axis in tokens hours steps; do
        compare $axis $axis short long >"$here/differences" || true
        # Only against steps is it simple where a skipped step stands.
        if grep -vE "^\('loss', 'long', 'training'\): drawn, but not|^$" "$here/differences" |
            { [ $axis = steps ] && cat || grep -v "^('skipped', 'short', ''): drawn, but not"; }; then return 1; fi
    done
    cp "$here/after" "$here/short/metrics.jsonl"
    python3 - "$here" <<'END'
import html
import json
import re
import sys

here = sys.argv[1]
dump = open(f"{here}/dump").read()
record = json.loads(html.unescape(re.search('<pre id="record">(.*?)</pre>', dump, re.S).group(1)))


def curve(name, run, kind):
    return [float(text) for text in next(row for row in record[name] if row[:3] == ["loss", run, kind])[3:]]


def mean(run, steps):
    losses = {}
    for line in open(f"{here}/{run}/metrics.jsonl"):
        event = json.loads(line)
        if event["event"] == "train" and event["loss"] is not None:
            losses[event["step"]] = event["loss"]
    last = max(losses)
    losses = [loss for step, loss in losses.items() if step > last - steps]
    return sum(losses) / len(losses)


def check(found, expected):
    if found != expected:
        raise ValueError("found %r, expected %r" % (found, expected))


check(record["smoothing"], "50 steps")  # a hundredth of the longest
check(round(curve("mean", "short", "training")[4], 5), round(mean("short", 10), 5))
# Means of long runs are of whole groups of five or six steps.
check(round(curve("mean", "long", "training")[4], 5) in [round(mean("long", n), 5) for n in range(10, 16)], True)
check({row[1] for row in record["alone"]}, {"short", "AdamW, MARS, table", "AdamW, MARS-M, figure"})
check(record["config"].startswith("This takes two runs"), True)
check(record["configs"], [["run", "optimizer.name", "optimizer.learning_rate"], [" short", "adamw", "0.0006"],
                          [" long", "muon", "0.02"]])
check(record["sorted"], ["long", "short"])
check([record["row"][i] for i in (0, 1, 2, 4, 6, 9, 10, 11, 12)],
      [" short", "unfinished", "AdamW", "OpenWebText", "102", "2.5000", "2.5000", "102", "2.2500"])
check(re.findall(r"shorttrainingstep \d+|shortvalidationstep \d+", record["pointer"])[:1] != [], True)
windows = [window for window in record["zoomed"] if window]
check(all(window == windows[0] for window in windows) and 20 < windows[0][0] < windows[0][1] < 90, True)
check([window for window in record["still"] if window], windows)
check(record["off"], [1])
check(curve("followed", "short", "validation")[3:5], [110, 2.125])
END
}

test_page_of_strange_names_and_texts() {
    local name
    for name in "it's <b id=bold>\"x\" & ü<script>" $'not \xff UTF-8' $'not \xfe UTF-8' a/same b/same; do
        start_line "$here/$name" "mars-<i>" 1e-3
    done
    sed -i 's/"model":{[^}]*}/"model":"x"/' "$here/b/same/metrics.jsonl"
    sed -i 's/"resumed_from"/"device":"<img src=x onerror=alert(1)>","resumed_from"/' "$here/a/same/metrics.jsonl"
    python3 - "$here/a/same/metrics.jsonl" <<'END'
import json
import sys
with open(sys.argv[1], "a") as file:
    for step in range(200):
        sample = {"event": "sample", "step": step, "prompt": "<b id=bold>",
                  "text": "</script><!-- \ud800 @DATA@ \u2028 %d" % step}
        print(json.dumps(sample, separators=(",", ":")), file=file)
    print('{"event":"val","step":7,"loss":NaN,"tokens":1e999}', file=file)
    print('{"event":"train","step":7,"loss":"3","lr":true,"tokens":[],"ms":-1e999}', file=file)
    print('{"event":"sample","step":"x","text":7}', file=file)
    print('{"event":"train","step":8,"loss":1e308,"ms":1e308,"tokens":1%s}' % ("0" * 400), file=file)
    print('{"event":"train","step":1%s,"loss":3}' % ("0" * 30), file=file)
END
    report 0 --out="$here/page.html" "$here"/it* "$here"/not* "$here"/{a,b}/same
    cat >"$here/script" <<'END'
        const names = [...document.querySelectorAll('#runs .name')].map((name) => name.textContent);
        const record = {names, bold: document.querySelectorAll('#bold, main img').length,
            sample: document.querySelector('#samples pre').textContent,
            samples: document.querySelectorAll('#samples option').length};
        document.body.append(element('pre', {id: 'record', textContent: JSON.stringify(record)}));
END
    page_with "$here/page.html" "$here/script"
    python3 - "$here" <<'END'
import html
import json
import re
import sys

here = sys.argv[1]
text = open(f"{here}/dump", encoding="utf-8").read()
record = json.loads(html.unescape(re.search('<pre id="record">(.*?)</pre>', text, re.S).group(1)))
names = record["names"]
assert names[0] == "it's <b id=bold>\"x\" & \u00fc<script>", names
assert names[1:] == ["not \ufffd UTF-8 (1)", "not \ufffd UTF-8 (2)", "a/same", "b/same"], names
assert record["bold"] == 0 and record["samples"] == 50, record
assert record["sample"].startswith("<b id=bold><" "/script><!-- ") and record["sample"].endswith("@DATA@ \u2028 199")
END
}

test_runs_found_by_default() {
    mkdir "$here/runs" "$here/runs/empty"
    cp -r scripts "$here/scripts"
    run 1 bash "$here/scripts/report.sh"
    has "$here/output" "there are no runs"
    has "$here/output" "runs/empty has no metrics.jsonl; it is left out"
    start_line "$here/runs/one" adamw 1e-3
    mkdir -p "$here/runs/odd/metrics.jsonl" "$here/elsewhere"
    ln -s one "$here/runs/twice"
    (cd "$here/elsewhere" && bash "$here/scripts/report.sh") >"$here/output" 2>&1
    has "$here/output" "odd/metrics.jsonl: Is a directory"
    [ "$(tail -n 1 "$here/output")" = report.html ]
    [ "$(grep -o '"name":"one"' "$here/elsewhere/report.html" | wc -l)" -eq 1 ]
    lacks "$here/elsewhere/report.html" '"name":"twice"'
}

test_the_page_needs_no_network() {
    start_line "$here/one" adamw 1e-3
    report 0 --out="$here/page.html" "$here/one/metrics.jsonl" "$here/one/"
    [ "$(cat "$here/output")" = "$here/page.html" ]
    if grep -noE '(src|href)="?[^ "]*//|sourceMappingURL|@import|url\(' "$here/page.html"; then return 1; fi
    has "$here/page.html" "default-src 'none'"
}

test_bad_arguments() {
    start_line "$here/one" adamw 1e-3
    local argument
    for argument in --wrong --out= --port=65536 --port=9000; do
        report 2 "$argument" "$here/one"
        has "$here/output" "see --help"
    done
    report 2 --watch --out=x "$here/one"
    report 1 "$here/one" "$here/none"
    has "$here/output" "cannot read $here/none/metrics.jsonl: No such file or directory; give folders that train_gpt2"
    report 1 --out="$here/none/page.html" "$here/one"
    has "$here/output" "cannot write $here/none/page.html: No such file or directory"
    report 1 --out="$here" "$here/one"
    has "$here/output" "cannot write $here"
    DYGRAPHS_DIR=$here report 1 "$here/one"
    has "$here/output" "dygraphs, which draws the curves, is missing: no dygraph.min.js in $here; install libjs-dy"
    lacks "$here/output" Traceback
    report 0 --help
    has "$here/output" "--watch"
    run 1 env PATH="$here" "$BASH" scripts/report.sh "$here/one"
    has "$here/output" "python3 is missing"
}

# ask PATH [HOST]: what the server on $port answers to a browser that calls it HOST.
ask() {
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$1" "${2:-127.0.0.1:$port}" >&3
    cat <&3 >"$here/answer"
    exec 3>&-
}

test_watching_runs() {
    local port=
    mkdir -p "$here/runs"
    cp -r scripts "$here/scripts"
    set -m # so that the server gets Ctrl-C
    bash "$here/scripts/report.sh" --watch >"$here/served" 2>&1 &
    local server=$!
    set +m
    for _ in $(seq 100); do
        port=$(sed -n 's|^http://127.0.0.1:\([0-9]*\)/ follows the runs until Ctrl-C$|\1|p' "$here/served")
        if [ -n "$port" ]; then break; fi
        sleep 0.1
    done
    [ -n "$port" ]
    ask /
    has "$here/answer" '"live":true'
    start_line "$here/runs/one" adamw 1e-3
    train_lines "$here/runs/one" 0 20
    sleep 1.1 # it looks at most once a second
    ask "/data?since=0"
    has "$here/answer" '"order":[0],"runs":[{'
    has "$here/answer" '"steps":21'
    start_line "$here/runs/other" muon 1e-3
    printf '{"event":"val","step":21,"loss":1.2345,"tokens":99999999}\n{"event":"tr' >>"$here/runs/one/metrics.jsonl"
    sleep 1.1
    ask "/data?since=1"
    has "$here/answer" '"order":[0,1]'
    has "$here/answer" '1.2345'
    has "$here/answer" '"name":"other"'
    ask "/data?since=2"
    has "$here/answer" '"runs":[]'
    ask /runs/one/metrics.jsonl
    has "$here/answer" "404 Not Found"
    ask / example.org:80
    has "$here/answer" "403 Forbidden"
    run 1 bash "$here/scripts/report.sh" --watch --port="$port"
    has "$here/output" "port $port is in use; give another --port=N"
    kill -INT -- -$server
    wait $server
    [ "$(sed 's/^\^C//' "$here/served" | grep -c .)" -eq 1 ] || { cat "$here/served"; return 1; }
}

if [ -z "$browser" ] && [ "${CI:-}" != true ]; then
    for test in $(declare -F | sed -n 's/^declare -f \(test_page_.*\)/\1/p'); do
        echo "skipped, as there is no chromium: $test"
        unset -f "$test"
    done
fi
run_script_tests "$@"
