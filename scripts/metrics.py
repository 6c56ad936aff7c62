#!/usr/bin/env python3
"""metrics.py: reads metrics.jsonl, which train_gpt2 writes into its train.out_dir. No other script parses that file.

    python3 scripts/metrics.py summary [--fields=FIELD,...] [--budgets=TOKENS,...] RUN_DIR...
    python3 scripts/metrics.py values EVENT FIELD[,FIELD...] RUN_DIR...

summary prints one line for each run, with tabs between the fields, by default all of them in this order:

    folder, optimizer, optimizer_title, model_title, data_title, learning_rate, step, tokens, best_loss, best_step,
    status, tokens_per_second, optimizer_percent, state_bytes_per_parameter, train_data

status is done, stopped or failed (the reason of the end event), diverged (two skipped steps in a row ended the run) or
unfinished. "-" stands for a value that the file does not give. For each budget, in tokens, two more fields follow: the
best validation loss up to the budget, and 1 if the run reached it, else 0.

values prints one line for each event of this name, in order of steps, with a space between the fields. Events in which
one of the fields is missing or not a number are left out. A FIELD inside an object has dots: config.train.max_iters.
Of start and end events it prints only the last one. An empty line separates two runs.

Other programs import this module:

    run = metrics.read_run("runs/mars_small")   # a Run; raises MetricsError
    new_events = run.update()                   # reads what was appended since

The run may still be going on, or may have been killed in the middle of a line. Lines that are not whole are skipped. If
another line follows a cut one on the same physical line, that other line counts. If a step occurs twice, its last line
counts, and so does the last start line. A loss that is not finite is null in the file: number() returns None for it.
"""
import argparse
import contextlib
import gc
import json
import math
import os
import sys

import command_line

OPTIMIZER_TITLES = {  # name: title, as train_gpt2 --list_optimizers prints them
    "adamw": "AdamW",
    "mars-adamw": "MARS-AdamW",
    "mars-lion": "MARS-Lion",
    "mars-shampoo": "MARS-Shampoo",
    "muon": "Muon",
    "moonlight": "Moonlight",
    "mars-m": "MARS-M",
    "mars-m-efficient": "MARS-M efficient",
    "sgd-sai": "SGD-SaI",
    "normuon": "NorMuon",
    "mars-normuon": "MARS-NorMuon",
}
MAX_NUMBER = sys.float_info.max  # JSON may have larger integers
MODEL_SIZES = {(12, 768): "small", (24, 1024): "medium", (36, 1280): "large", (48, 1600): "XL"}  # layers, width

# The attributes of Run that a summary prints, in the order in which the help lists them.
SUMMARY_FIELDS = ("folder", "optimizer", "optimizer_title", "model_title", "data_title", "learning_rate", "step",
                  "tokens", "best_loss", "best_step", "status", "tokens_per_second", "optimizer_percent",
                  "state_bytes_per_parameter", "train_data")
SUMMARY_FORMATS = {"tokens_per_second": ".0f", "optimizer_percent": ".1f", "state_bytes_per_parameter": ".1f"}
NO_RUNS = "there are no runs: no runs/*/metrics.jsonl; train one (bash scripts/run_mars_small.sh) or give its folder"

_EVENT = '{"event":"'
_TAIL_BYTES = 512


class MetricsError(Exception):
    """A metrics.jsonl that cannot be read; the text is for the user."""


def is_number(value):
    """Whether a value of a field is a finite number."""
    return type(value) in (float, int) and -MAX_NUMBER <= value <= MAX_NUMBER  # a bool is no number


def are_numbers(values):
    """is_number() of all values, in a tenth of the time."""
    return not values or set(map(type, values)) <= {float, int} and is_number(min(values)) and is_number(max(values))


def number(fields, name):
    """The finite number in a field of an event or another dict, or None."""
    value = fields.get(name)
    return value if is_number(value) else None


def flat(config):
    """{"section.key": value} of a config. Leaves out a section that is no object."""
    return {f"{section}.{key}": value for section, keys in config.items() if isinstance(keys, dict)
            for key, value in keys.items()}


def text(value):
    """A value as the trainer writes it, with as few digits as it takes; "-" for None."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    short = f"{value:.15g}"
    return short if float(short) == value else f"{value:.17g}"


@contextlib.contextmanager
def many_events():
    """Switches Python's garbage collector off: it would look through all events again and again, and they hold no
    cycles."""
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_collecting:
            gc.enable()


def _last_of_each_step(events):
    return [events[step] for step in sorted(events)]


def _parse_line(decoder, line):
    """The event of a line as a dict, or None if the line holds no whole event."""
    start = line.rfind(_EVENT)
    if start < 0:
        return None
    try:
        event, end = decoder.raw_decode(line, start)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event.get("event"), str) and not line[end:].strip() else None


class Run:
    """One run.

    folder              as it was given
    name                the folder's own name
    start               the last start event that has "resumed_from", or None
    starts              all such start events, in file order
    config              the config of the last one; {} if there is none
    train, val, hellaswag, samples, norms, skipped
                        lists of events (dicts), in order of their steps
    end                 the end event, or None; None again if events other than a checkpoint follow it
    status              done, stopped, failed, diverged (two skipped steps in a row ended the run) or unfinished
    restarts            how many times update() found a file that was rewritten, and started over

    The attributes of SUMMARY_FIELDS are properties; None is a value that the file does not give.
    """

    def __init__(self, folder):
        """Reads nothing yet: update() does."""
        if os.path.basename(folder) == "metrics.jsonl":
            folder = os.path.dirname(folder) or "."
        self.folder = folder
        self.name = os.path.basename(os.path.realpath(folder))
        self.path = os.path.join(folder, "metrics.jsonl")
        self.restarts = 0
        self._decoder = json.JSONDecoder(parse_constant=lambda name: None)
        self._forget()

    def _forget(self):
        self.starts = []
        self.end = None
        self.status = "unfinished"
        self._events = {}  # name: {step: event}
        self._last_skipped = None
        self._reached = None  # what _progress() computed from these events, or None
        self._offset = 0  # offset of the first byte that was not read
        self._tail = b""  # the bytes before it

    def update(self):
        """Reads what was appended since the last call; returns these events, in file order.

        A run that is resumed or started anew rewrites its file. Then everything is read again, all of its events are
        returned, and restarts is one more. Raises MetricsError.
        """
        try:
            with open(self.path, "rb") as file:
                if not self._is_continued(file):
                    self._forget()
                    self.restarts += 1
                file.seek(self._offset)
                data = file.read()
        except OSError as error:
            raise MetricsError(f"cannot read {self.path}: {error.strerror}; give folders that train_gpt2 wrote (its "
                               "train.out_dir)") from None
        whole = data.rfind(b"\n") + 1
        events = self._parse(data[:whole])
        # The line that the trainer is writing, or that a kill cut short. Only a whole line counts.
        last = self._parse(data[whole:])
        if last:
            events += last
            whole = len(data)
        self._offset += whole
        self._tail = (self._tail + data[:whole])[-_TAIL_BYTES:]
        for event in events:
            self._add(event)
        self._reached = None
        return events

    def _parse(self, data):
        """The events in these bytes."""
        lines = data.decode("utf-8", "replace").split("\n")
        with many_events():
            events = [_parse_line(self._decoder, line) for line in lines]
        return [event for event in events if event is not None]

    def _is_continued(self, file):
        """Whether the file still has the bytes before the offset."""
        file.seek(self._offset - len(self._tail))
        return file.read(len(self._tail)) == self._tail

    def _add(self, event):
        name, step = event["event"], event.get("step")
        if name == "start":
            if "resumed_from" in event:
                self.starts.append(event)
        elif name != "end" and type(step) is int and 0 <= step < 1 << 63:  # a bool is no step
            self._events.setdefault(name, {})[step] = event
        if name == "checkpoint":
            return
        self.end = event if name == "end" else None
        if name == "skipped":
            # A validation or a checkpoint may lie between two skipped steps in a row.
            is_second = self._last_skipped is not None and step == self._last_skipped + 1
            self.status = "diverged" if is_second else "unfinished"
            self._last_skipped = step if type(step) is int else None
        elif name == "end":
            self.status = event["reason"] if isinstance(event.get("reason"), str) else "unfinished"
        elif name in ("start", "train") or self.status != "diverged":
            self.status = "unfinished"

    def events(self, name):
        """The events of this name that have a step, in order of steps; also of names that only later trainers write."""
        return _last_of_each_step(self._events.get(name, {}))

    @property
    def train(self):
        """The train events. Their step is the number of the step, from 0; their tokens are those after its update."""
        return self.events("train")

    @property
    def val(self):
        """The val events. Their step counts the updates made; losses are in nats per token."""
        return self.events("val")

    @property
    def hellaswag(self):
        """The hellaswag events. Their step counts the updates made; accuracies are from 0 to 1."""
        return self.events("hellaswag")

    @property
    def samples(self):
        """The sample events. Their step counts the updates made."""
        return self.events("sample")

    @property
    def norms(self):
        """The norms events. Their step is the number of the step, from 0."""
        return self.events("norms")

    @property
    def skipped(self):
        """The skipped events. Their step is the number of the step, from 0."""
        return self.events("skipped")

    @property
    def start(self):
        """The last start event, or None."""
        return self.starts[-1] if self.starts else None

    @property
    def config(self):
        """{section: {key: value}}, as the last start event has it."""
        config = self.start.get("config") if self.start else None
        return config if isinstance(config, dict) else {}

    def section(self, name):
        """A section of the config, as in section("model"); {} if there is none."""
        section = self.config.get(name)
        return section if isinstance(section, dict) else {}

    def training_seconds(self):
        """[(step, seconds)]: how long training took up to each train event, validations and saving left out.

        The file has no times of day. `ms` is the mean over the steps since the previous train event.
        """
        seconds, times, previous = 0.0, [], -1
        for event in self.train:
            seconds += (number(event, "ms") or 0.0) / 1000 * (event["step"] - previous)
            previous = event["step"]
            times.append((event["step"], seconds))
        return times

    # ---- the summary ----

    @property
    def optimizer(self):
        """Name; "-exact" for a MARS that is not approximate, "-gamma-G" for one with another gamma than 0.025."""
        optimizer = self.section("optimizer")
        name = optimizer.get("name")
        if not isinstance(name, str):
            return None
        return name + "".join("-" + word.replace(" ", "-") for word in self._mars_variant(name, optimizer))

    @property
    def optimizer_title(self):
        """The optimizer as people write it, as in "MARS-M exact gamma 0.01"."""
        optimizer = self.section("optimizer")
        name = optimizer.get("name")
        if not isinstance(name, str):
            return None
        return " ".join([OPTIMIZER_TITLES.get(name, name)] + self._mars_variant(name, optimizer))

    @staticmethod
    def _mars_variant(name, optimizer):
        variant = []
        if not name.startswith("mars-"):
            return variant
        if optimizer.get("is_approx") is False:
            variant.append("exact")
        gamma = number(optimizer, "gamma")
        if gamma is not None and gamma != 0.025:
            variant.append("gamma " + text(gamma))
        return variant

    @property
    def model_title(self):
        """The name of a size of GPT-2, else layers x width. Then follows what differs from GPT-2 and makes losses not
        comparable: the length of sequences, the vocabulary, the architecture."""
        model = self.section("model")
        shape = number(model, "n_layer"), number(model, "n_embd")
        if None in shape:
            return None
        words = [MODEL_SIZES.get(shape, f"{shape[0]}x{shape[1]}")]
        block_size, vocab_size = number(model, "block_size"), number(model, "vocab_size")
        if block_size not in (None, 1024):
            words.append("T=" + text(block_size))
        if vocab_size is not None and vocab_size < 50257:
            words.append("V=" + text(vocab_size))
        if str(model.get("position")).startswith("rope"):
            words.append(model["position"])
        if model.get("norm") == "rmsnorm":
            words.append("rmsnorm")
        words += [key for key in ("norm_embedding", "qk_norm") if model.get(key) is True]
        if model.get("activation") == "relu2":
            words.append("relu2")
        if model.get("tie_embeddings") is False:
            words.append("untied")
        if (number(model, "logit_softcap") or 0) > 0:
            words.append("softcap")
        if (number(model, "dropout") or 0) > 0:
            words.append("dropout")
        return " ".join(words)

    @property
    def train_data(self):
        """data.train of the config."""
        path = self.section("data").get("train")
        return path if isinstance(path, str) else None

    @property
    def data_title(self):
        """The name of the data set, or else the folder of its files."""
        path = self.train_data
        if path is None:
            return None
        lower = path.lower()
        if "fineweb" in lower:
            return "FineWeb-Edu" if "edu" in lower else "FineWeb"
        if "openwebtext" in lower or "owt" in lower:
            return "OpenWebText"
        return path.rpartition("/")[0] if "/" in path else "this folder"

    @property
    def learning_rate(self):
        """The learning rate; that of the matrices if the optimizer has two."""
        rate = number(self.section("optimizer"), "muon_learning_rate")
        return number(self.section("optimizer"), "learning_rate") if rate is None else rate

    def _progress(self):
        """(step, tokens): the updates made, and the tokens seen up to then; None before the first."""
        if self._reached is not None:
            return self._reached
        reached = []
        for name, updates in (("train", 1), ("val", 0)):  # the step of a train event is that before its update
            reached += [(number(event, "tokens") or 0, event["step"] + updates)
                        for event in self._events.get(name, {}).values()]
        tokens, step = max(reached, default=(0, 0))
        self._reached = (step, tokens) if tokens > 0 else (None, None)
        return self._reached

    @property
    def step(self):
        """The updates made up to the last train or val event."""
        return self._progress()[0]

    @property
    def tokens(self):
        """The tokens trained on up to the last train or val event."""
        return self._progress()[1]

    def best(self, budget=math.inf):
        """(loss, step) of the lowest validation loss up to a budget in tokens, the earliest of equal ones; (None, None)
        if there is none."""
        losses = [(loss, event["step"]) for event in self._events.get("val", {}).values()
                  for loss in [number(event, "loss")] if loss is not None and (number(event, "tokens") or 0) <= budget]
        return min(losses, default=(None, None))

    @property
    def best_loss(self):
        """The lowest validation loss, in nats per token."""
        return self.best()[0]

    @property
    def best_step(self):
        """The updates made when the lowest validation loss was measured."""
        return self.best()[1]

    def has_reached(self, budget):
        """Whether a validation was made at this many tokens or later."""
        return any((number(event, "tokens") or 0) >= budget for event in self._events.get("val", {}).values())

    def _of_end(self, field, divisor):
        """A field of the end event by a divisor, or None."""
        value = number(self.end or {}, field)
        return value / divisor if value is not None and divisor is not None and divisor > 0 else None

    @property
    def tokens_per_second(self):
        """Tokens per second of training alone, over the whole run."""
        seconds = number(self.end or {}, "train_seconds")
        if number(self.end or {}, "train_tokens") is not None:
            return self._of_end("train_tokens", seconds)
        return self.tokens / seconds if seconds and self.tokens else None

    @property
    def optimizer_percent(self):
        """The optimizer's part of a step's time, in percent."""
        share = self._of_end("optimizer_seconds", number(self.end or {}, "train_seconds"))
        return None if share is None else 100 * share

    @property
    def state_bytes_per_parameter(self):
        """Bytes of optimizer state over all ranks."""
        return self._of_end("optimizer_state_bytes", number(self.start or {}, "parameters"))


def read_run(folder):
    """Reads the metrics.jsonl in a run's folder, or the file itself. Raises MetricsError."""
    run = Run(folder)
    run.update()
    return run


def find_runs(root):
    """The folders of the repository's runs/ that have a metrics.jsonl, and those that have none, as paths from the
    working directory."""
    parent = os.path.relpath(os.path.join(root, "runs"))
    try:
        folders = sorted(entry.path for entry in os.scandir(parent) if entry.is_dir())
    except OSError:
        return [], []
    with_metrics = [folder for folder in folders if os.path.exists(os.path.join(folder, "metrics.jsonl"))]
    return with_metrics, [folder for folder in folders if folder not in with_metrics]


def summary(run, fields=SUMMARY_FIELDS, budgets=()):
    """The fields of a summary as a list of strings. A blank stands for each control character, which would look like the
    end of a field or line. (Bytes that are not UTF-8 stay, as Python's surrogates.)"""
    texts = []
    for field in fields:
        value = getattr(run, field)
        is_formatted = field in SUMMARY_FORMATS and value is not None
        shown = format(value, SUMMARY_FORMATS[field]) if is_formatted else text(value)
        texts.append("".join(c if c.isprintable() or 0xDC80 <= ord(c) <= 0xDCFF else " " for c in shown))
    for budget in budgets:
        texts += [text(run.best(budget)[0]), str(int(run.has_reached(budget)))]
    return texts


def _number_inside(event, path):
    """number() of a path: "a.b" is the field b of the object a."""
    *objects, name = path.split(".")
    for key in objects:
        event = event.get(key)
        if not isinstance(event, dict):
            return None
    return number(event, name)


def values(run, name, fields):
    """The numbers in these fields of each event of a name, as a list of lists."""
    events = [run.start or {}] if name == "start" else [run.end or {}] if name == "end" else run.events(name)
    rows = [[_number_inside(event, field) for field in fields] for event in events]
    return [row for row in rows if None not in row]


def _summary_fields(argument):
    fields = argument.split(",")
    if set(fields) - set(SUMMARY_FIELDS):
        raise argparse.ArgumentTypeError(f"{argument}: give fields of {', '.join(SUMMARY_FIELDS)}")
    return fields


def _budgets(argument):
    try:
        return [int(budget) for budget in argument.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{argument}: give numbers of tokens with commas between") from None


def _parse_arguments(arguments):
    parser = command_line.Parser(prog="metrics.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    summary_parser = commands.add_parser("summary", help="print one line for each run")
    summary_parser.add_argument("--fields", type=_summary_fields, default=SUMMARY_FIELDS, metavar="FIELD,...",
                                help="print these fields instead of all")
    summary_parser.add_argument("--budgets", type=_budgets, default=[], metavar="TOKENS,...",
                                help="add the best validation loss up to each of these numbers of tokens")
    values_parser = commands.add_parser("values", help="print one line for each event of a name")
    values_parser.add_argument("event", metavar="EVENT")
    values_parser.add_argument("fields", metavar="FIELD[,FIELD...]", type=lambda argument: argument.split(","))
    for command in (summary_parser, values_parser):
        command.add_argument("folders", metavar="RUN_DIR", nargs="+")
    return parser.parse_args(arguments)


def main(arguments):
    options = _parse_arguments(arguments)
    sys.stdout.reconfigure(errors="surrogateescape")  # names of folders
    try:
        for i, folder in enumerate(options.folders):
            run = read_run(folder)
            if options.command == "summary":
                print("\t".join(summary(run, options.fields, options.budgets)))
                continue
            if i > 0:
                print()
            for row in values(run, options.event, options.fields):
                print(" ".join(map(text, row)))
    except MetricsError as error:
        print(f"metrics.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    command_line.run(main)
