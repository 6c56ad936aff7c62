"""track3_report.py: prints what track3.sh says about the runs FOLDER/seed_N. The rule is in track3.sh.

    python3 scripts/track3_report.py states FOLDER MAY_DIFFER SEED...
    python3 scripts/track3_report.py report FOLDER MAY_DIFFER NAME TARGET

states prints complete, diverged or unfinished for each seed, with a space between. report prints the losses, and
whether the result counts. Both fail unless all runs of the folder have one config. MAY_DIFFER are the keys of the
config, with spaces between, in which the runs may differ.
"""
import json
import math
import os
import re
import sys

import command_line
import markdown_table
import metrics

REQUIRED = 0.004  # what (target - mean) * sqrt(n) has to reach

# Fields of the start event about the machine, in which runs may differ.
MACHINE = ["device", "processes", "threads", "version", "resumed_from"]


class ReportError(Exception):
    """A fault of the runs; the text is for the user."""


class Result:
    """The result of one run.

    state      complete, diverged or unfinished (also if there is no run)
    step       the last step that is known; 0 before the first
    max_iters  the step whose validation loss counts, or None
    loss_key   ema_loss in runs with an average of their weights, else loss
    loss       of the validation at max_iters, or None
    """

    def __init__(self, folder):
        self.state, self.step, self.max_iters, self.loss_key, self.loss = "unfinished", 0, None, "loss", None
        if not os.path.exists(os.path.join(folder, "metrics.jsonl")):
            return
        run = metrics.read_run(folder)
        self.step = run.step or 0
        config = metrics.flat(run.config)
        self.max_iters = metrics.number(config, "train.max_iters")
        if metrics.number(config, "train.ema_start"):
            self.loss_key = "ema_loss"
        last = [event for event in run.val if event["step"] == self.max_iters]
        self.loss = metrics.number(last[0], self.loss_key) if last else None
        if run.status == "diverged":
            self.state = "diverged"
        elif run.status == "done":
            if not last or self.loss_key not in last[0]:
                raise ReportError(f"{run.path} has no validation loss at its last step, {self.max_iters}; "
                                  "remove this run")
            self.state = "diverged" if self.loss is None else "complete"


def runs_of(folder):
    """[(seed, run folder)] of the runs that folder has, in order of seeds."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    seeds = sorted(int(name[len("seed_"):]) for name in names if re.fullmatch("seed_[1-9][0-9]*", name))
    runs = [(seed, os.path.join(folder, f"seed_{seed}")) for seed in seeds]
    return [(seed, run) for seed, run in runs if os.path.exists(os.path.join(run, "metrics.jsonl"))]


def settings(start):
    """{key: value} of a start event; the config's keys are SECTION.KEY."""
    config = start.get("config")
    found = metrics.flat(config) if isinstance(config, dict) else {}
    found.update({key: value for key, value in start.items() if key not in ("event", "config")})
    return found


def require_one_config(folder, may_differ):
    """Raises ReportError unless all runs have the same values in each of their starts, except for some keys."""
    first = {}  # key: (value, file)
    for _, run_folder in runs_of(folder):
        run = metrics.read_run(run_folder)
        for start in run.starts:
            for key, value in settings(start).items():
                expected, where = first.setdefault(key, (value, run.path))
                if value != expected and key not in may_differ:
                    raise ReportError(f"the runs are not of one config: {key} is {json.dumps(expected)} in {where} "
                                      f"and {json.dumps(value)} in {run.path}; remove the runs that do not belong, or "
                                      "give another --out")


def listed(seeds):
    """"seed 3", "seeds 3 and 4", "seeds 3, 4 and 5"."""
    words = [str(seed) for seed in seeds]
    return "seed " + words[0] if len(words) == 1 else "seeds " + ", ".join(words[:-1]) + " and " + words[-1]


def verdict(results, target, losses, mean):
    """The last sentence of a report. results: {seed: Result}."""
    diverged = [seed for seed, result in results.items() if result.state == "diverged"]
    unfinished = [seed for seed, result in results.items() if result.state == "unfinished"]
    if diverged:
        return f"No: the result does not count, because {listed(diverged)} diverged."
    if unfinished:
        return f"No verdict yet: {listed(unfinished)} {'is' if len(unfinished) == 1 else 'are'} unfinished."
    n = len(losses)
    if (float(target) - mean) * math.sqrt(n) >= REQUIRED - 1e-9:  # decimals are not exact
        steps = list(results.values())[-1].max_iters
        return f"Yes: the result counts. {n} {'run' if n == 1 else 'runs'} of {steps:,} steps reached {target}."
    if float(target) <= mean:
        return f"No: the result does not count. The mean is not below {target}."
    needed = (REQUIRED / (float(target) - mean)) ** 2
    runs = f"{math.ceil(needed - 1e-6):,}" if needed < 1e6 else "more than a million"
    return f"No: the result does not count. With this mean it takes {runs} runs."


def report(folder, name, target):
    """target is the text of a number."""
    results = {seed: Result(run) for seed, run in runs_of(folder)}
    if not results:
        raise ReportError(f"there are no runs in {folder} (no {folder}/seed_N/metrics.jsonl)")
    last = list(results.values())[-1]
    key = "" if last.loss_key == "loss" else f"({last.loss_key}) "
    print(f"{name}: validation losses {key}at step {'-' if last.max_iters is None else f'{last.max_iters:,}'}")
    print()
    rows = [[str(seed), f"{result.loss:.4f}" if result.state == "complete" else f"{result.state}, step {result.step:,}"]
            for seed, result in results.items()]
    markdown_table.print_table(["seed", "validation loss"], rows, align_right=(0, 1))
    print()
    losses = [result.loss for result in results.values() if result.state == "complete"]
    mean = sum(losses) / len(losses) if losses else None
    if losses:
        deviation = "unknown (one run)"
        if len(losses) > 1:
            deviation = f"{math.sqrt(sum((loss - mean) ** 2 for loss in losses) / (len(losses) - 1)):.4f}"
        print(f"n {len(losses)}, mean {mean:.4f}, standard deviation {deviation}")
        print(f"({target} - mean) * sqrt(n) = {(float(target) - mean) * math.sqrt(len(losses)):.4f}; the rule requires "
              f"at least {REQUIRED}\n")
    print(verdict(results, target, losses, mean))


def main(arguments):
    parser = command_line.Parser(prog="track3_report.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    states_parser, report_parser = commands.add_parser("states"), commands.add_parser("report")
    for command in (states_parser, report_parser):
        command.add_argument("folder", metavar="FOLDER")
        command.add_argument("may_differ", metavar="MAY_DIFFER", type=str.split)
    states_parser.add_argument("seeds", metavar="SEED", nargs="+")
    report_parser.add_argument("name", metavar="NAME")
    report_parser.add_argument("target", metavar="TARGET")
    options = parser.parse_args(arguments)
    try:
        require_one_config(options.folder, options.may_differ + MACHINE)
        if options.command == "states":
            print(" ".join(Result(os.path.join(options.folder, "seed_" + seed)).state for seed in options.seeds))
        else:
            report(options.folder, options.name, options.target)
    except (ReportError, metrics.MetricsError) as error:
        sys.exit(f"track3.sh: {error}")


if __name__ == "__main__":
    command_line.run(main)
