"""compare_optimizers.sh [OPTION...]: optimizers on the same model, tuned with equal effort, over several seeds.

  --config=FILE        the model, data, batch and schedule: any config of the trainer (default: config/compare/tiny.json,
                       for a CPU; also there: mini.json, modded.json, and small.json, for a GPU). Replaced are its
                       optimizer, numbers of steps, seeds and intervals; min_lr keeps its share of the peak rate, of the
                       smaller one where an optimizer has two
  --optimizers=LIST    names of train_gpt2 --list_optimizers, with commas between; -exact after a name is the exact form
                       of one that has is_approx (default: all, mars-adamw-exact and mars-m-exact)
  --minutes=30         how long all of it may take: every optimizer is timed first, and the number of steps follows
  --steps=N            or the number of steps of a run of full length, instead
  --seeds=1            runs of full length for each optimizer, with other initial weights, and another order of the data
                       unless that is sequential
  --trials=3           how many settings are tried for each optimizer; 1 takes the usual one untried
  --search=grid        where settings come from: grid (of rates) or random (rates and weight decays)
  --search_seed=1      of the random search
  --trial_steps=N      steps of a trial (default: a third of those of a full run)
  --middle_rates=LIST  other rates to search around, as in adamw:1e-3,muon:2e-2
  --equal_betas[=B1,B2]  the same betas for all (0.95,0.99), instead of the papers' (0.9,0.95 for AdamW, 0.95,0.99 for
                       MARS). They hold for all moving averages, so that Muon's momentum is B1
  --target_loss=L      the loss to which steps are counted (default: the one that every run of AdamW reaches)
  --train=, --val=     tokens, files or globs, instead of the config's; a tokens.json next to them gives vocab_size
  --jobs=N             runs side by side (default: one for each core, or for each GPU)
  --device=, --precision=    as train_gpt2 has them
  --out=runs/compare   where runs and results go
  --report-only        makes table, page and plots of --out again from its compare.json, with the --target_loss that is
                       given here and with p where scipy is installed now; needs no trainer
  TRAIN_GPT2=PROGRAM   the trainer, if not ./train_gpt2

What happens: for each optimizer settings are tried, each in a short run with a schedule of its own, and the best one
gets the full runs, one a seed. The seed of the trials (0) is none of these. A grid has the usual weight decay, and rates
a factor of 3 apart. A random search begins with the middle of the grid; the other trials have rates up to a factor of 4
away from it and decays from 0.01 to 0.3, the same multiples for all optimizers. If half or more of the full runs of a
setting diverge, the next best setting takes its place.

How to read the result: the mean final loss orders the optimizers. Between two of them look at the difference, then at
p, which Welch's test gives if scipy is installed; the columns "minus AdamW" and "minus best" have both. A difference
with a p above 0.05 may be chance. One with a small p is real for this model, this length and these trials, and says
little about others. A † says that the best rate is at the edge of those tried: give more trials, or another middle.
Ranks may change with more trials, longer trials and equal betas; a claim should survive all three. The steps to a loss
say how fast an optimizer learns, the tokens/s what its steps cost here.

Results in the folder: compare.json (everything), and compare.md, compare.html and plots, which are made from it. After
an interruption, start the comparison again in the same way: it keeps finished runs, and continues others from their
checkpoint. With more optimizers, seeds or trials than before, it adds them; the results are those of the optimizers,
seeds and trials of the last start.
"""
import fcntl
import glob
import json
import os
import shutil
import signal
import sys

import command_line
import metrics
from compare import CompareError, model, optimizers, pool, report, results

DEFAULT_CONFIG = "config/compare/tiny.json"
DEFAULT_OUT = "runs/compare"
TRIAL_SEED = 0
MAX_STEPS = 1000000
MINUTES_STEPS = (60, 20000)  # least and most that --minutes plans


# ---- the arguments ----

def whole(low, high):
    """A parser of whole numbers in a range."""
    def parse(text):
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"give a whole number from {low:,} to {high:,}")
        return int(text)
    return parse


def positive(text):
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= metrics.MAX_NUMBER:
        raise ValueError("give a number above 0")
    return value


def one_of(*choices):
    """A parser of names."""
    def parse(text):
        if text not in choices:
            raise ValueError(f"give {', '.join(choices[:-1])} or {choices[-1]}")
        return text
    return parse


def names(text):
    """["adamw", "muon"] of adamw,muon."""
    if "" in text.split(","):
        raise ValueError("a name is empty; give names of train_gpt2 --list_optimizers with commas between")
    return text.split(",")


def rates(text):
    """{"adamw": 1e-3} of adamw:1e-3."""
    chosen = {}
    for part in text.split(","):
        name, colon, rate = part.partition(":")
        if not name or not colon:
            raise ValueError("give pairs of an optimizer and a rate, as in adamw:1e-3,muon:2e-2")
        chosen[name] = positive(rate)
    return chosen


def betas(text):
    """[0.9, 0.95] of 0.9,0.95."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 2 or not all(0 <= value < 1 for value in values):
        raise ValueError("give two numbers from 0 to below 1, as in --equal_betas=0.95,0.99")
    return values


def path(text):
    """An absolute path."""
    if not text:
        raise ValueError("the path is empty")
    return os.path.abspath(os.path.expanduser(text))


# name: (parser, default)
OPTIONS = {
    "config": (path, None), "optimizers": (names, None), "minutes": (whole(1, 1000000), 30),
    "steps": (whole(4, MAX_STEPS), None), "seeds": (whole(1, 1000), 1), "trials": (whole(1, 1000), 3),
    "search": (one_of("grid", "random"), "grid"), "search_seed": (whole(0, 2**63), 1),
    "trial_steps": (whole(4, MAX_STEPS), None), "middle_rates": (rates, {}), "equal_betas": (betas, None),
    "target_loss": (positive, None), "train": (path, None), "val": (path, None), "jobs": (whole(1, 1000), None),
    "device": (one_of("auto", "cpu", "cuda"), "auto"), "precision": (one_of("auto", "float32", "bfloat16"), "auto"),
    "out": (path, None),
}


def parse(arguments):
    """The options as {name: value}. Paths that were given are absolute. Raises CompareError."""
    options = {name: default for name, (_, default) in OPTIONS.items()}
    options["report_only"] = False
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        if argument == "--report-only":
            options["report_only"] = True
        elif argument == "--equal_betas":
            options["equal_betas"] = list(optimizers.EQUAL_BETAS)
        elif argument.startswith("--") and equals and name in OPTIONS:
            try:
                options[name] = OPTIONS[name][0](text)
            except ValueError as error:
                raise CompareError(f"--{name}={text}: {error}", 2) from None
        elif argument.startswith("--") and name in OPTIONS:
            raise CompareError(f"--{name} has no value; give --{name}=VALUE, see --help", 2)
        else:
            raise CompareError(f"unknown option {argument}; see --help", 2)
    if (options["train"] is None) != (options["val"] is None):
        raise CompareError("give both --train and --val, or neither", 2)
    if options["search"] == "grid" and options["trials"] > 9:
        raise CompareError(f"--trials={options['trials']}: a grid has at most 9; give --search=random for more", 2)
    if options["report_only"]:
        others = [name for name, (_, default) in OPTIONS.items() if options[name] != default]
        for name in set(others) - {"out", "target_loss"}:
            raise CompareError(f"--{name} is of the comparison, which --report-only does not change; leave it out", 2)
    return options


# ---- the comparison ----

def print_progress(task, run, seconds, finished, total):
    """A line about a run that has ended, for Pool.train()."""
    loss = pool.final_loss(run)
    shown = run.status if loss is None else f"{loss:.4f}"
    print(f"[{finished:{len(str(total))}}/{total}] {task.title:18} {os.path.basename(task.folder):18} {shown} "
          f"({seconds:.0f} s)", flush=True)


class Comparison:
    """A comparison in one folder."""

    def __init__(self, options, train_gpt2, prepare_data, lock):
        self.options = options
        self.out = options["out"]
        self.optimizers = optimizers.choose(model.run_program(train_gpt2, "--list_optimizers"), options["optimizers"],
                                            options["middle_rates"])
        data = (options["train"], options["val"]) if options["train"] else None
        self.model = model.Model(train_gpt2, options["config"], data, options["device"], options["precision"],
                                 prepare_data)
        self.pool = pool.Pool(train_gpt2, options["device"], options["jobs"], lock)
        self.version = model.run_program(train_gpt2, "--version").strip()
        self.points = optimizers.points(options["search"], options["trials"], options["search_seed"])

    def check_plan(self):
        """Sets the numbers of steps. The folder keeps its first plan: runs with another plan could not be compared, and
        are not touched. Raises CompareError."""
        options = self.options
        fixed = {key: options[key] for key in ("minutes", "steps", "trial_steps", "search", "search_seed",
                                               "equal_betas")}
        if fixed["steps"]:
            fixed["minutes"] = None
        fixed.update({"config": self.model.config, "tokens": self.model.tokens_id, "trainer": self.version})
        file = os.path.join(self.out, "plan.json")
        if os.path.exists(file) and glob.glob(os.path.join(glob.escape(self.out), "*", "*", "metrics.jsonl")):
            plan = read_plan(file)
            differ = sorted(key for key in fixed if plan["fixed"].get(key) != fixed[key])
            if differ:
                raise CompareError(f"{self.out} holds a comparison with another {', '.join(differ)}; start it in the "
                                   "same way to go on, give another --out, or remove that folder")
            self.steps, self.trial_steps = plan["steps"], plan["trial_steps"]
            print(f"going on in {self.out}: runs of {self.steps:,} steps, trials of {self.trial_steps:,}")
            return
        self.steps = options["steps"] or self.steps_for(options["minutes"])
        self.trial_steps = options["trial_steps"] or max(4, -(-self.steps // 3))
        write_json(file, {"fixed": fixed, "steps": self.steps, "trial_steps": self.trial_steps})

    def steps_for(self, minutes):
        """The number of steps that fits into this time: each optimizer is timed in a few steps."""
        print(f"timing {len(self.optimizers)} optimizers")
        tasks = [self.task(optimizer, "timing", (1.0, None), model.TIMING_STEPS, 1, TRIAL_SEED)
                 for optimizer in self.optimizers]
        for task in tasks:  # leftovers of an interrupted start
            shutil.rmtree(task.folder, ignore_errors=True)
        runs = self.pool.train(tasks, lambda *_: None)
        step_seconds = 0.0
        for task in tasks:  # the first step sets everything up
            ms = sorted(row[0] for row in metrics.values(runs[task], "train", ["ms"])[1:])
            if not ms:
                raise CompareError(f"{task.title}: timing it gave no steps; see {task.folder}/log.txt")
            print(f"  {task.title:20} {ms[len(ms) // 2]:8.1f} ms a step")
            step_seconds += ms[len(ms) // 2] / 1000
            shutil.rmtree(task.folder)
        # A run of n steps takes n times that time. Its validations take a third of the time that training on their
        # tokens would take, and the start takes a second.
        options, validation = self.options, self.model.tokens_per_evaluation / self.model.tokens_per_step / 3
        trials = options["trials"] if options["trials"] > 1 else 0
        evaluations = options["seeds"] * (model.FULL_EVALUATIONS + 1) + trials * (model.TRIAL_EVALUATIONS + 1)
        left = 0.9 * 60 * minutes * self.pool.jobs - len(tasks) * (options["seeds"] + trials)
        left -= step_seconds * validation * evaluations
        if options["trial_steps"]:
            n = (left / step_seconds - trials * options["trial_steps"]) / options["seeds"]
        else:
            n = left / step_seconds / (options["seeds"] + trials / 3)
        steps = max(MINUTES_STEPS[0], min(MINUTES_STEPS[1], int(n)))
        print(f"{steps:,} steps fit into {minutes} minutes" if steps <= n else
              f"{steps} steps are the least that is planned; this takes more than {minutes} minutes")
        return steps

    def section(self, optimizer, point):
        factor, decay = point
        return optimizer.settings(optimizer.middle_rate * factor, decay, self.options["equal_betas"])

    def task(self, optimizer, name, point, steps, evaluations, seed):
        """A run of an optimizer in the folder OUT/OPTIMIZER/NAME."""
        folder = os.path.join(self.out, optimizer.id, name)
        config = self.model.run_config(optimizer, self.section(optimizer, point), steps, evaluations, seed, folder)
        return pool.Task(optimizer.id, folder, config)

    def run_trials(self):
        """Trains all trials. Returns {optimizer: [run or None of each point]}."""
        if len(self.points) == 1:
            return {optimizer: [None] for optimizer in self.optimizers}
        numbers = range(len(self.points))
        print(f"trials: {len(numbers)} for each of {len(self.optimizers)} optimizers, {self.trial_steps:,} steps each")
        tasks = {(optimizer, i): self.task(optimizer, f"trial_{i + 1}", self.points[i], self.trial_steps,
                                           model.TRIAL_EVALUATIONS, TRIAL_SEED)
                 for i in numbers for optimizer in self.optimizers}
        runs = self.pool.train(list(tasks.values()), print_progress)
        return {optimizer: [runs[tasks[optimizer, i]] for i in numbers] for optimizer in self.optimizers}

    def run_full(self, trials):
        """Trains the full runs. Returns {optimizer: (number of the point, {seed: run})}; the number is None if no point
        works, and the runs are then those of the last point that was tried."""
        if len(self.points) == 1:
            left = {optimizer: [0] for optimizer in self.optimizers}
        else:
            left = {optimizer: results.ranking([pool.final_loss(run) for run in runs])
                    for optimizer, runs in trials.items()}
        done, last, seeds = {}, {}, range(1, self.options["seeds"] + 1)
        while True:
            best = {optimizer: left[optimizer][0] for optimizer in self.optimizers
                    if optimizer not in done and left[optimizer]}
            tasks = {(optimizer, seed): self.task(optimizer, f"full_{point + 1}_seed_{seed}", self.points[point],
                                                  self.steps, model.FULL_EVALUATIONS, seed)
                     for seed in seeds for optimizer, point in best.items()}
            if not tasks:
                return {optimizer: (done.get(optimizer), last.get(optimizer, {})) for optimizer in self.optimizers}
            print(f"full runs: {len(seeds)} for each optimizer, {self.steps:,} steps each")
            runs = self.pool.train(list(tasks.values()), print_progress)
            for optimizer, point in best.items():
                left[optimizer].remove(point)
                last[optimizer] = {seed: runs[tasks[optimizer, seed]] for seed in seeds}
                if 2 * sum(pool.final_loss(run) is not None for run in last[optimizer].values()) > len(seeds):
                    done[optimizer] = point

    def run(self):
        """Trains everything; returns the results for compare.json."""
        self.check_plan()
        trials = self.run_trials()
        full = self.run_full(trials)
        entries = []
        for optimizer in self.optimizers:
            chosen, runs = full[optimizer]
            settings = None if chosen is None else self.section(optimizer, self.points[chosen])
            sections = [self.section(optimizer, point) for point in self.points]
            tried = results.trials_of(optimizer, sections, trials[optimizer], chosen)
            entries.append(results.optimizer_entry(optimizer, settings, tried, runs))
        any_run = next(run for runs in [*trials.values(), *(runs.values() for _, runs in full.values())] for run in runs
                       if run)
        return results.complete({**self.description(any_run), "optimizers": entries}, self.options["target_loss"])

    def description(self, run):
        """The part of compare.json about the comparison itself; run is any of its runs."""
        options, tokens = self.options, self.steps * self.model.tokens_per_step
        return {
            "version": self.version, "model": self.model.config["model"], "data": self.model.config["data"],
            "schedule": self.model.config["schedule"], "schedule_steps": self.model.config["train"]["max_iters"],
            "model_title": run.model_title, "parameters": run.start["parameters"], "device": run.start.get("device"),
            "precision": run.start.get("precision"),
            "threads_per_run": run.start.get("threads"), "runs_side_by_side": self.pool.jobs,
            "tokens_per_step": self.model.tokens_per_step, "steps": self.steps, "tokens": tokens,
            "tokens_per_parameter": tokens / run.start["parameters"],
            "tokens_per_evaluation": self.model.tokens_per_evaluation,
            "search": {"kind": options["search"], "trials": len(self.points), "steps": self.trial_steps,
                       "seed": options["search_seed"] if options["search"] == "random" else None},
            "equal_betas": options["equal_betas"], "seeds": list(range(1, options["seeds"] + 1)),
        }


def read_plan(file):
    """The object in plan.json. Raises CompareError."""
    try:
        with open(file, encoding="utf-8") as opened:
            plan = json.load(opened)
        if isinstance(plan["fixed"], dict) and all(type(plan[key]) is int for key in ("steps", "trial_steps")):
            return plan
    except (ValueError, KeyError, TypeError):
        pass
    raise CompareError(f"{file} is damaged; remove it, and start in the same way but with the --steps= and --trial_steps= "
                       "of the runs that are there")


def write_json(file, value):
    """Writes a file whole or not at all."""
    with open(file + ".part", "w", encoding="utf-8") as opened:
        json.dump(value, opened, indent=1, allow_nan=False)
        opened.write("\n")
    os.replace(file + ".part", file)


def lock_folder(folder):
    """An open file with a lock that holds as long as this program or one of its runs lives. Raises CompareError."""
    try:
        os.makedirs(folder, exist_ok=True)
        lock = open(os.path.join(folder, "lock"), "w", encoding="utf-8")
    except OSError as error:
        raise CompareError(f"cannot use the folder {folder}: {error.strerror}; give another --out") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise CompareError(f"a comparison is running in {folder}, or its last run is just being stopped; wait for it, "
                           "or give another --out") from None
    return lock


def interrupt(signal_number, frame):
    """A handler of signals that end the comparison as Ctrl-C does."""
    raise KeyboardInterrupt


def main(arguments):
    if {"--help", "-h"} & set(arguments):
        print(__doc__, end="")
        return 0
    os.environ["LC_ALL"] = "C"  # of the programs that run here: numbers have a decimal point
    try:
        options = parse(arguments)
        given = os.environ.get("TRAIN_GPT2")
        train_gpt2 = os.path.abspath(given) if given else os.path.join(os.environ.get("BIN", "."), "train_gpt2")
        os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
        options["out"] = options["out"] or DEFAULT_OUT
        options["config"] = options["config"] or DEFAULT_CONFIG
        if options["report_only"]:
            result = report.read(options["out"])
            was_given = result["target"]["loss"] if result["target"]["of"] == results.GIVEN else None
            result = results.complete(result, options["target_loss"] or was_given)
        else:
            for signal_number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(signal_number) != signal.SIG_IGN:  # as nohup sets it
                    signal.signal(signal_number, interrupt)
            with lock_folder(options["out"]) as lock:
                result = Comparison(options, train_gpt2, os.path.join(os.environ.get("BIN", "."), "prepare_data"),
                                    lock).run()
        write_json(os.path.join(options["out"], "compare.json"), result)
        text, written = report.write(options["out"], result)
    except CompareError as error:
        print(f"compare_optimizers.sh: {error}", file=sys.stderr)
        return error.status
    except metrics.MetricsError as error:
        print(f"compare_optimizers.sh: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("compare_optimizers.sh: interrupted; start it again in the same way to go on", file=sys.stderr)
        return 130
    print("\n" + text)
    for file in written:
        print(file)
    return 0


if __name__ == "__main__":
    command_line.run(main)
