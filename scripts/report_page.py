"""report_page.py: makes the page of report.sh from runs. run_for_page() makes the plain data that the page gets of a
run. The class Runs reads runs and follows them. page() puts the data, dygraphs and the files of report/ together."""
# Why dygraphs: it is made for long series, zooms, has log axes, takes 130 KB of the page, and Debian has it. plotly
# takes 4.5 MB. uPlot, which is faster, is in neither Debian nor PyPI. Chart.js and flot need plug-ins to zoom.
import concurrent.futures
import json
import os
import re
import time

import metrics
import reproduce_table

MAX_POINTS = 2000         # of a curve in the large chart
MAX_SMALL_POINTS = 1000   # of a curve in a small one
MAX_GROUPS = 1000         # of the means of training losses
MAX_CLOCK = 1000          # of the points that say how many tokens and hours a step is
MAX_SAMPLES = 50          # of a run
MAX_SAMPLE_CHARS = 8000
PARALLEL_BYTES = 4 << 20  # of metrics.jsonl: with more, processes read runs in parallel
IDLE_SECONDS = 600        # a run that wrote nothing for so long is not kept in memory
POLL_SECONDS = 3          # of a page that follows runs

SCRIPTS = os.path.dirname(os.path.abspath(__file__))
PARTS = os.path.join(SCRIPTS, "report")
DYGRAPHS_DIRS = ("/usr/share/javascript/dygraphs", "/usr/share/nodejs/dygraphs/dist")


class ReportError(Exception):
    """The reason why the page cannot be made; the text is for the user."""


# ---- what the page shows of a run ----

def short_number(value):
    """A number with six digits, as many as a chart can show."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def printable(text):
    """Text without surrogates, which stand for bytes that are not UTF-8, or come from half a character in JSON."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def indices_to_draw(values, limit):
    """The indices of at most `limit` values: the first, the last, and of equal parts the lowest and the highest."""
    if len(values) <= limit:
        return list(range(len(values)))
    parts = limit // 2 - 1
    kept = {0, len(values) - 1}
    for part in range(parts):
        begin, end = part * len(values) // parts, (part + 1) * len(values) // parts
        piece = values[begin:end]
        kept.add(begin + piece.index(min(piece)))
        kept.add(begin + piece.index(max(piece)))
    return sorted(kept)


def finite_values(events, field):
    """(steps, values) of the events in which this field is a finite number."""
    steps, values = [event["step"] for event in events], [event.get(field) for event in events]
    if metrics.are_numbers(values):
        return steps, values
    kept = [i for i, value in enumerate(values) if metrics.is_number(value)]
    return [steps[i] for i in kept], [values[i] for i in kept]


def curve_of(steps, values, limit):
    """A curve of at most `limit` points for the page; None if there are no values."""
    kept = indices_to_draw(values, limit)
    return {"step": [steps[i] for i in kept], "value": [short_number(values[i]) for i in kept]} if kept else None


def series(events, field, limit=MAX_SMALL_POINTS):
    return curve_of(*finite_values(events, field), limit)


def group_means(steps, values):
    """The means of groups of neighbours, each at the step of its last one, and how many values each has."""
    if not steps:
        return None
    groups = len(values) if len(values) <= MAX_POINTS else MAX_GROUPS
    bounds = [group * len(values) // groups for group in range(groups + 1)]
    pieces = list(zip(bounds, bounds[1:]))
    return {"step": [steps[end - 1] for _, end in pieces],
            "value": [short_number(sum(values[begin:end]) / (end - begin)) for begin, end in pieces],
            "count": [end - begin for begin, end in pieces]}


def skipped_series(run, last_step):
    """How many steps were skipped so far, from 0 at step 0 to all of them at the end; None if no step was."""
    steps = [event["step"] for event in run.skipped]
    if not steps:
        return None
    kept = indices_to_draw(steps, MAX_POINTS - 2)
    return {"step": [0] + [steps[i] for i in kept] + [max(last_step, steps[-1])],
            "value": [0] + [i + 1 for i in kept] + [len(steps)]}


def clock(train, val, times):
    """Tokens and hours of training after numbers of updates. Between two of these points both grow evenly."""
    seconds = dict(times)
    steps, tokens = finite_values(train, "tokens")
    points = [(0, 0, 0.0)] + [(step + 1, count, seconds[step] / 3600) for step, count in zip(steps, tokens)]
    # Adds validations after the last train event.
    last_update, _, hours = points[-1]
    points += [(step, count, hours) for step, count in zip(*finite_values(val, "tokens")) if step > last_update]
    kept = set(range(0, len(points), len(points) // MAX_CLOCK + 1)) | {len(points) - 1}
    # Keeps points where steps change their size, and where validations were.
    bends = [i for i, (before, at, after) in enumerate(zip(points, points[1:], points[2:]), 1)
             if (at[1] - before[1]) * (after[0] - at[0]) != (after[1] - at[1]) * (at[0] - before[0])]
    kept.update(bends[:MAX_CLOCK])
    places = {updates: i for i, (updates, _, _) in enumerate(points)}
    kept.update(places[event["step"]] for event in val if event["step"] in places)
    points = [points[i] for i in sorted(kept)]
    return {"updates": [updates for updates, _, _ in points], "tokens": [count for _, count, _ in points],
            "hours": [short_number(hours) for _, _, hours in points]}


def settings(run):
    """The config, and what else the start event says, as texts by their keys. train.out_dir always differs, so it is
    left out."""
    shown = {**metrics.flat(run.config), **(run.start or {})}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in shown.items()
            if key not in ("event", "config", "resumed_from", "train.out_dir")}


def samples(run):
    """The texts that the run wrote: the first, the last, and others between, up to MAX_SAMPLES in all."""
    events = [event for event in run.samples if isinstance(event.get("text"), str)]
    parts = min(MAX_SAMPLES, len(events))
    kept = [events[i * (len(events) - 1) // max(1, parts - 1)] for i in range(parts)]
    return [{"step": event["step"], "prompt": str(event.get("prompt") or "")[:MAX_SAMPLE_CHARS],
             "text": event["text"][:MAX_SAMPLE_CHARS]} for event in kept]


def summary_row(run, times):
    """A run's row in the table "Runs in numbers"; None is a value that is not known."""
    last = run.val[-1] if run.val else {}
    seconds = times[-1][1] if times else 0
    speed = run.tokens_per_second
    if speed is None and seconds > 0 and run.tokens:
        speed = run.tokens / seconds
    return {
        "status": reproduce_table.status_title(run.status),
        "data": run.data_title, "model": run.model_title, "optimizer": run.optimizer_title,
        "rate": run.learning_rate, "steps": run.step, "tokens": run.tokens,
        "hours": seconds / 3600 if seconds > 0 else None,
        "final_loss": metrics.number(last, "loss"), "best_loss": run.best_loss, "best_step": run.best_step,
        "ema_loss": metrics.number(last, "ema_loss"), "tokens_per_s": speed,
        "optimizer_percent": run.optimizer_percent, "state_bytes": run.state_bytes_per_parameter,
        "skipped": len(run.skipped),
    }


def run_for_page(run):
    """What the page gets of a run, as plain data, and its row for the tables of published losses, or None."""
    train, val, times = run.train, run.val, run.training_seconds()
    losses = finite_values(train, "loss")
    last_step = max([event["step"] for event in train[-1:] + val[-1:]], default=0)
    row = reproduce_table.Row(run) if run.optimizer else None
    return {
        "summary_row": dict(summary_row(run, times), recipe=recipe_of(row)),
        "config": settings(run),
        "clock": clock(train, val, times),
        "series": {
            "loss": curve_of(*losses, MAX_POINTS), "mean_loss": group_means(*losses),
            "grad_norm": series(train, "grad_norm"), "lr": series(train, "lr"),
            "tokens_per_s": series(train, "tokens_per_s"), "skipped": skipped_series(run, last_step),
            "val": series(val, "loss", MAX_POINTS), "ema": series(val, "ema_loss", MAX_POINTS),
            "hellaswag": series(run.hellaswag, "accuracy_norm"),
        },
        "samples": samples(run),
    }, row


def read_for_page(folder):
    """run_for_page() of the run in a folder, or the MetricsError."""
    try:
        with metrics.many_events():
            return run_for_page(metrics.read_run(folder))
    except metrics.MetricsError as error:
        return error


# ---- what was published ----

RECIPES = {"modded_nanogpt": reproduce_table.MODDED_NANOGPT, "modded_first_muon": reproduce_table.MODDED_FIRST_MUON}


def recipe_of(row):
    """The name of the published recipe that a run has, or None."""
    return next((name for name, recipe in RECIPES.items() if row and row.follows(recipe)), None)


def published_curves():
    """Published losses, over steps and over tokens. They belong to runs of the same data and model, or of a recipe."""
    curves = []
    for data, optimizer, model, *losses, source in reproduce_table.PUBLISHED:
        points = [{"steps": tokens // reproduce_table.STEP_TOKENS, "tokens": tokens, "loss": float(loss)}
                  for tokens, loss in zip(reproduce_table.BUDGETS.values(), losses) if loss]
        curves.append({"data": data, "model": model, "optimizer": optimizer, "title": optimizer + ", " + source,
                       "points": points, "is_curve": False})
    for _, last, loss, source, recipe in reproduce_table.MODDED_FINALS:
        if not recipe:
            continue
        is_curve = recipe is reproduce_table.MODDED_NANOGPT
        losses = reproduce_table.MODDED_CURVE if is_curve else {last: loss}
        step_tokens = recipe["train.total_batch_size"] * recipe["model.block_size"]
        points = [{"steps": step, "tokens": step * step_tokens, "loss": float(text.split()[-1])}  # "about 3.280"
                  for step, text in losses.items()]
        name = next(name for name, known in RECIPES.items() if known is recipe)
        curves.append({"recipe": name, "optimizer": "Muon", "title": "Muon, " + source, "points": points,
                       "is_curve": is_curve})
    return [dict(curve, key=f"published {i}") for i, curve in enumerate(curves)]


def published_tables(rows):
    """The tables of reproduce_table.sh. Those with a run of ours come first."""
    def for_page(table, notes, is_ours):
        return {"header": table.header, "rows": [[cell.replace("\\*", "*") for cell in row] for row in table.rows],
                "right": [i in table.align_right for i in range(len(table.header))], "notes": notes, "is_ours": is_ours}

    with_runs = {(row.data, row.size) for row in rows}
    tables, note = reproduce_table.budget_tables(rows)
    result = [for_page(table, [], kind in with_runs) for kind, table in tables.items()]
    has_recipe = any(recipe_of(row) for row in rows)
    result.append(for_page(reproduce_table.modded_finals(rows), [reproduce_table.FINALS_NOTE], has_recipe))
    curve = reproduce_table.modded_curve(rows)
    if curve:
        result.append(for_page(curve, [reproduce_table.CURVE_NOTE], True))
    notes = [reproduce_table.BUDGETS_NOTE, *reproduce_table.SOURCES.strip().split("\n"), note.replace("\\*", "*")]
    return {"notes": list(filter(None, notes)), "tables": sorted(result, key=lambda table: not table["is_ours"])}


# ---- all runs ----

def display_names(folders):
    """Folder names, with as many of the folders above as make them unique, or else with a number."""
    paths = [printable(os.path.realpath(folder)).split("/") for folder in folders]
    names = []
    for i, path in enumerate(paths):
        tails = (path[-depth:] for depth in range(1, len(path) + 1))
        unique = next((tail for tail in tails if sum(other[-len(tail):] == tail for other in paths) == 1), None)
        names.append("/".join(unique) if unique else f"{path[-1]} ({paths[:i].count(path) + 1})")
    return names


class Entry:
    """A run on the page. `shown` is what the page gets, `row` is for the tables, `version` is the number of the page's
    update that brought them."""

    def __init__(self, number, folder):
        self.number = number
        self.folder = folder
        self.run = None  # kept while the run is going on
        self.signature = ()  # signature of the file when it was last read; () before
        self.shown = self.row = None
        self.version = 0

    def read_signature(self):
        """A value that changes when the file does."""
        try:
            status = os.stat(os.path.join(self.folder, "metrics.jsonl"))
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def update(self):
        """Reads what was appended."""
        self.run = self.run or metrics.Run(self.folder)
        self.run.update()
        self.shown, self.row = run_for_page(self.run)
        if self.run.end or time.time() - self.signature[2] / 1e9 > IDLE_SECONDS:
            self.run = None


class Runs:
    """The runs of the page: those in the folders that the user named, or those in runs/."""

    def __init__(self, folders):
        self.named = [os.path.dirname(folder) or "." if os.path.basename(folder) == "metrics.jsonl" else
                      folder.rstrip("/") or "/" for folder in folders]
        self.entries = {}  # by real path
        self.left_out = {}  # {folder: message} for runs that were found and cannot be read
        self.version = 0
        self.order = []

    def refresh(self):
        """Reads runs that are new or have changed. Raises ReportError for a folder that the user named and that is no
        run, if it was never read."""
        found, without = (self.named, []) if self.named else metrics.find_runs(os.path.dirname(SCRIPTS))
        self.left_out = {folder: f"{printable(folder)} has no metrics.jsonl" for folder in without}
        order, changed = [], []
        for folder in found:
            path = os.path.realpath(folder)
            entry = self.entries.setdefault(path, Entry(len(self.entries), folder))
            if entry in order:
                continue
            order.append(entry)
            signature = entry.read_signature()
            if signature != entry.signature:
                entry.signature = signature
                changed.append(entry)
        self._read(changed)
        order = [entry for entry in order if entry.shown is not None]
        changed = [entry for entry in changed if entry.shown is not None]
        if changed or order != self.order:
            self.version += 1
            for entry in changed:
                entry.version = self.version
            self.order = order

    def _read(self, entries):
        """Reads these runs; the first time, several processes read large ones."""
        new = [entry for entry in entries if entry.shown is None]
        size = sum(entry.signature[1] for entry in new if entry.signature)
        if self.version == 0 and len(new) > 1 and size > PARALLEL_BYTES:
            with concurrent.futures.ProcessPoolExecutor(min(len(new), len(os.sched_getaffinity(0)))) as pool:
                results = list(pool.map(read_for_page, [entry.folder for entry in new]))
        else:
            results = [read_for_page(entry.folder) for entry in new]
        for entry, result in zip(new, results):
            if isinstance(result, metrics.MetricsError):
                if self.named:
                    raise ReportError(printable(str(result)))
                self.left_out[entry.folder] = printable(str(result))
            else:
                entry.shown, entry.row = result
        for entry in entries:
            if entry not in new:
                try:
                    entry.update()
                except metrics.MetricsError:
                    entry.run = None  # the page keeps what it has

    def page_data(self, since=0):
        """The runs that changed after a version, and what all pages need to list them."""
        if since > self.version:  # a version of an earlier server
            since = 0
        names = display_names([entry.folder for entry in self.order])
        runs = [dict(entry.shown, id=entry.number, name=name, folder=printable(entry.folder))
                for entry, name in zip(self.order, names) if entry.version > since]
        for entry, name in zip(self.order, names):
            if entry.row:
                entry.row.folder = name
        return {"version": self.version, "names": {entry.number: name for entry, name in zip(self.order, names)},
                "order": [entry.number for entry in self.order], "runs": runs,
                "published_tables": published_tables([entry.row for entry in self.order if entry.row])}


# ---- the page ----

def read_part(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def dygraphs_folder():
    folders = [os.environ["DYGRAPHS_DIR"]] if os.environ.get("DYGRAPHS_DIR") else DYGRAPHS_DIRS
    for folder in folders:
        if os.path.exists(os.path.join(folder, "dygraph.min.js")):
            return folder
    raise ReportError(f"dygraphs, which draws the curves, is missing: no dygraph.min.js in {' or '.join(folders)}; "
                      "install libjs-dygraphs, or run bash scripts/install_deps.sh")


def json_for_html(data):
    """JSON that is safe inside a script element, whatever texts are in it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    if re.search("NaN|Infinity", text):  # such as a mean of numbers near the largest; JSON has null for it
        data = json.loads(text, parse_constant=lambda name: None)
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return printable(text).replace("<", "\\u003c")


def page(data):
    """The whole page as text."""
    folder = dygraphs_folder()

    def library(name):  # leaves out the address of its source map
        return re.sub(r"/[/*]# sourceMappingURL=[^\n]*", "", read_part(os.path.join(folder, name)))

    parts = {"DYGRAPHS_CSS": library("dygraph.min.css"), "DYGRAPHS_JS": library("dygraph.min.js"),
             "CSS": read_part(os.path.join(PARTS, "page.css")), "JS": read_part(os.path.join(PARTS, "page.js")),
             "DATA": json_for_html(data)}
    # In one pass, so that inserted texts are not searched.
    return re.sub(f"@({'|'.join(parts)})@", lambda match: parts[match.group(1)],
                  read_part(os.path.join(PARTS, "page.html")))


def whole_data(runs, live):
    """All that the page needs."""
    made = "following runs on this machine" if live else "made on " + time.strftime("%d %B %Y at %H:%M")
    return dict(runs.page_data(), published_curves=published_curves(), live=live, live_seconds=POLL_SECONDS, made=made)


def write_page(runs, path):
    text = page(whole_data(runs, live=False))
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror}; give another --out=FILE") from None
