#!/usr/bin/env python3
"""Writes a run's metrics for TensorBoard, for Weights & Biases, or as a CSV file.

  python3 scripts/export_metrics.py runs/mine --tensorboard tb/mine   # then: tensorboard --logdir tb
  python3 scripts/export_metrics.py runs/mine --wandb PROJECT         # WANDB_MODE=offline works, too
  python3 scripts/export_metrics.py runs/mine --csv mine.csv

Every number of metrics.jsonl becomes a curve: train/loss, train/grad_norm, train/tokens_per_s, val/loss,
hellaswag/accuracy, norms/TENSOR/gradient and so on, and the learning rates as lr and lr/ROLE. The horizontal axis is
the step: for train and norms the number of the step, from 0; for val and hellaswag the updates made. A loss that is not
finite has no point. metrics.jsonl holds no times of day: those that TensorBoard and Weights & Biases show are those of
the export.

--tensorboard also writes the config and the sampled texts. It needs a Python package with a SummaryWriter:
tensorboardX, or torch together with tensorboard. Each run needs a folder of its own: a second export into DIR replaces
the first one.

--wandb needs the package wandb. The W&B run has the name of the run's folder, and its config. Each export makes a new
W&B run.

--csv writes one row for each event, in the order of metrics.jsonl; an existing file is replaced. All files begin with
the same columns: event, step, tokens, loss and so on. Fields that only some runs have follow, by name. The config and
the norms of tensors are left out. A cell is empty where the event has no such field, or where it is null.

With --follow the export goes on while the run trains, until the run ends or Ctrl-C. When the run is resumed and its
metrics.jsonl is cut back, the export starts anew.
"""
import csv
import glob
import os
import time

import command_line
import metrics

CSV_COLUMNS = ["event", "step", "tokens", "loss", "ema_loss", "lr", "lr_by_role.matrix", "lr_by_role.embedding",
               "lr_by_role.lm_head", "lr_by_role.vector", "grad_norm", "ms", "tokens_per_s", "mfu", "ms_slowest",
               "slowest_rank", "gpu_watts", "gpu_mhz", "gpu_celsius", "gpu_throttle", "accuracy", "accuracy_norm",
               "examples", "clip", "tensor", "path", "reason", "seconds", "train_seconds", "optimizer_seconds",
               "train_tokens", "optimizer_state_bytes", "parameters", "device", "precision", "processes", "threads",
               "version", "resumed_from"]
FOLLOW_SECONDS = 1
TENSORBOARD_SUFFIX = ".mars"  # tells our event files from those of others


class ExportError(Exception):
    """The reason why nothing can be exported; the text is for the user."""


def points(event):
    """[(tag, value)]: the numbers of an event; none if it has no step."""
    if event["event"] in ("start", "end") or metrics.number(event, "step") is None:
        return []
    prefixes = {"train/lr": "lr", "train/lr_by_role": "lr", "norms/tensors": "norms"}  # others stay as they are
    found = []

    def walk(tag, fields):
        for key, value in fields.items():
            name = prefixes.get(tag + "/" + key, tag + "/" + key)
            if isinstance(value, dict):
                walk(name, value)
            elif metrics.number(fields, key) is not None:
                found.append((name, value))

    walk(event["event"], {key: value for key, value in event.items() if key not in ("event", "step")})
    return found


class Target:
    """Writes the events of a run to one place. The constructor opens the output; errors are ExportErrors."""

    def write(self, events):
        """Writes events (dicts), in file order, so that a reader sees them at once."""
        raise NotImplementedError

    def restart(self):
        """Drops all output so far: the run starts over."""
        raise NotImplementedError

    def close(self):
        """Ends the writing. Nothing else is called afterwards."""
        raise NotImplementedError


class CsvFile(Target):
    """A CSV file."""

    def __init__(self, path, run):
        self.path = path
        if os.path.exists(path) and os.path.samefile(path, run.path):
            raise ExportError(f"{path} is what the run itself writes; give another file")
        self._events = []
        self._open(CSV_COLUMNS)

    def restart(self):
        self.close()
        self._events = []
        self._open(CSV_COLUMNS)

    def _open(self, columns):
        self.columns = columns
        try:
            self.file = open(self.path, "w", encoding="utf-8", errors="backslashreplace", newline="")
        except OSError as error:
            raise ExportError(f"cannot write {self.path}: {error.strerror}") from None
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.writer.writerow(columns)

    @staticmethod
    def cells(event):
        """{column: text}; of fields that are objects, only lr_by_role."""
        cells = {}
        for key, value in event.items():
            if key == "lr_by_role" and isinstance(value, dict):
                cells.update(("lr_by_role." + role, metrics.text(rate)) for role, rate in value.items())
            elif value is not None and not isinstance(value, (dict, list)):
                cells[key] = metrics.text(value)
        return cells

    def write(self, events):
        rows = [self.cells(event) for event in events]
        self._events += rows
        new = {column for row in rows for column in row} - set(self.columns)
        if new:  # the columns come first in the file
            self.file.close()
            self._open(CSV_COLUMNS + sorted(new.union(self.columns[len(CSV_COLUMNS):])))
            rows = self._events
        self.writer.writerows([row.get(column, "") for column in self.columns] for row in rows)
        self.file.flush()

    def close(self):
        self.file.close()


class TensorBoard(Target):
    """A folder with an event file of TensorBoard."""

    def __init__(self, folder, run):
        self.folder, self.run = folder, run
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ExportError("there is no SummaryWriter: install the Python package tensorboardX (pip install "
                                  "tensorboardX), or torch and tensorboard") from None
        self.make_writer = SummaryWriter
        self._open()

    def _open(self):
        try:
            for path in glob.glob(os.path.join(glob.escape(self.folder), "events.out.tfevents.*" + TENSORBOARD_SUFFIX)):
                os.remove(path)
            # A TensorBoard that is running drops the points from purge_step on.
            self.writer = self.make_writer(self.folder, purge_step=0, filename_suffix=TENSORBOARD_SUFFIX)
        except OSError as error:
            raise ExportError(f"cannot write to {self.folder}: {error.strerror}") from None

    def restart(self):
        self.writer.close()
        self._open()

    def write(self, events):
        for event in events:
            if event["event"] == "start":
                lines = [f"    {key} = {value}" for key, value in metrics.flat(self.run.config).items()]
                self.writer.add_text("config", "\n".join(lines), 0)
            elif event["event"] == "sample":
                self.writer.add_text("sample", f"{event.get('prompt')}{event.get('text')}", event.get("step"))
            for tag, value in points(event):
                self.writer.add_scalar(tag, value, event["step"])
        self.writer.flush()

    def close(self):
        self.writer.close()


class WeightsAndBiases(Target):
    """A run in a project of Weights & Biases."""

    def __init__(self, project, run):
        self.project, self.run = project, run
        try:
            import wandb
        except ImportError:
            raise ExportError("there is no wandb: install the Python package (pip install wandb)") from None
        self.wandb = wandb
        self._open()

    def _open(self):
        try:
            self.log = self.wandb.init(project=self.project, name=self.run.name, config=self.run.config)
        except self.wandb.Error as error:
            raise ExportError(f"wandb: {error}") from None
        self.log.define_metric("*", step_metric="step")

    def restart(self):
        self.log.finish()
        self._open()

    def write(self, events):
        for event in events:
            values = dict(points(event))
            if values:
                self.log.log(dict(values, step=event["step"]))

    def close(self):
        self.log.finish()


def export(run, events, target, follow):
    """Writes the events that were read, and those that follow until the run ends."""
    # If a step occurs twice, its last event counts.
    target.write(list({(event["event"], str(event.get("step"))): event for event in events}.values()))
    while follow and run.end is None and run.status != "diverged":
        time.sleep(FOLLOW_SECONDS)
        restarts = run.restarts
        events = run.update()
        if run.restarts > restarts:
            target.restart()
        if events:
            target.write(events)


def main(arguments):
    parser = command_line.Parser(prog="export_metrics.py", description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a folder that train_gpt2 wrote (its train.out_dir)")
    targets = parser.add_mutually_exclusive_group(required=True)
    targets.add_argument("--tensorboard", metavar="DIR", help="write an event file into this folder")
    targets.add_argument("--wandb", metavar="PROJECT", help="write to this project of Weights & Biases")
    targets.add_argument("--csv", metavar="FILE", help="write a CSV file")
    parser.add_argument("--follow", action="store_true", help="go on while the run trains")
    options = parser.parse_args(arguments)
    target = None
    try:
        run = metrics.Run(options.run_dir)
        events = run.update()
        if options.tensorboard:
            target = TensorBoard(options.tensorboard, run)
        elif options.wandb:
            target = WeightsAndBiases(options.wandb, run)
        elif options.csv:
            target = CsvFile(options.csv, run)
        else:
            parser.error("the target's name is empty")
        export(run, events, target, options.follow)
    except (ExportError, metrics.MetricsError) as error:
        parser.exit(2, f"export_metrics.py: {error}\n")
    except KeyboardInterrupt:
        return 130
    finally:
        if target:
            target.close()
    return 0


if __name__ == "__main__":
    command_line.run(main)
