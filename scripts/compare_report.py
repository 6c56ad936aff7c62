"""compare_report.py: the results of compare_optimizers.sh.

    python3 scripts/compare_report.py FOLDER OPTIMIZER...

prints them as a Markdown table, and writes FOLDER/compare.tsv: one line for each optimizer, the lowest loss first, with
tabs between the fields of its first line; "-" is not known. It reads FOLDER/OPTIMIZER/sweep ("loss rate" of each rate
tried, inf where it diverged; the loss is not used where there is one rate), FOLDER/OPTIMIZER/best (the rate of the
full-length run, empty where no rate works) and the metrics of the runs.
"""
import glob
import math
import os
import sys

import command_line
import markdown_table
import metrics

COLUMNS = ["optimizer", "title", "best_rate", "best_val_loss", "best_step", "steps", "tokens_per_second",
           "optimizer_percent", "state_bytes_per_parameter", "at_edge", "sweep"]


class Result:
    """What came of one optimizer."""

    def __init__(self, folder, name):
        self.name = name
        with open(os.path.join(folder, name, "sweep"), encoding="utf-8") as file:
            self.sweep = [line.split() for line in file]  # [(loss, rate)] as texts
        self.sweep.sort(key=lambda entry: float(entry[1]))
        with open(os.path.join(folder, name, "best"), encoding="utf-8") as file:
            self.rate = file.read().strip() or None
        self.run = metrics.read_run(os.path.join(folder, name, "full_" + self.rate)) if self.rate else None
        any_run = self.run or metrics.read_run(sorted(glob.glob(os.path.join(glob.escape(folder), name, "*/")))[0])
        self.title = any_run.optimizer_title
        self.loss = self.run.best_loss if self.run else None

    def is_at_edge(self):
        """Whether the best rate is the lowest or the highest of several."""
        return len(self.sweep) > 1 and self.rate in (self.sweep[0][1], self.sweep[-1][1])

    def tried(self):
        """The rates, each with its loss."""
        if len(self.sweep) == 1:
            return [self.sweep[0][1]]
        return [rate + (" diverged" if loss == "inf" else f" {float(loss):.3f}") for loss, rate in self.sweep]

    def fields(self):
        """Texts in the order of COLUMNS."""
        middle = ["-"] * 6
        if self.run:
            middle = metrics.summary(self.run, ["best_loss", "best_step", "step", "tokens_per_second",
                                                "optimizer_percent", "state_bytes_per_parameter"])
        return [self.name, self.title, self.rate or "-", *middle, str(int(self.is_at_edge())), ";".join(self.tried())]

    def cells(self):
        """Texts of the Markdown table."""
        fields = dict(zip(COLUMNS, self.fields()))
        shown = {key: "–" if value == "-" else value for key, value in fields.items()}
        speed = fields["tokens_per_second"]
        return [self.title, "–" if self.loss is None else f"{self.loss:.4f}", shown["best_step"],
                shown["best_rate"] + (" †" if self.is_at_edge() else ""), "–" if speed == "-" else f"{int(speed):,}",
                shown["optimizer_percent"], shown["state_bytes_per_parameter"], " · ".join(self.tried())]


def main(arguments):
    parser = command_line.Parser(prog="compare_report.py", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("optimizers", metavar="OPTIMIZER", nargs="+")
    options = parser.parse_args(arguments)
    try:
        results = [Result(options.folder, name) for name in options.optimizers]
    except metrics.MetricsError as error:
        sys.exit(f"compare_optimizers.sh: {error}")
    results.sort(key=lambda result: math.inf if result.loss is None else result.loss)
    with open(os.path.join(options.folder, "compare.tsv"), "w", encoding="utf-8") as file:
        for fields in [COLUMNS] + [result.fields() for result in results]:
            print("\t".join(fields), file=file)
    markdown_table.print_table(
        ["optimizer", "best val loss", "at step", "best rate", "tokens/s", "optimizer %", "state B/param",
         "rates tried, each with its best loss"], [result.cells() for result in results], align_right=range(1, 7))
    if any(result.is_at_edge() for result in results):
        print("\n† at the edge of the rates tried: another one may be better (--rates=5)")


if __name__ == "__main__":
    command_line.run(main)
