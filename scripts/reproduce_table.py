"""reproduce_table.sh [--out=PATH] [RUN_DIR...]: our validation losses next to the published ones, as Markdown tables,
and the validation curves of each model size.

Without a RUN_DIR it reads every folder of runs/ that has a metrics.jsonl: of runs that are finished, still going on,
resumed or killed. There is a table for each data set and model size, with a column for each budget: the best
validation loss up to step 10,000, 40,000 and 100,000 of the published batch, 491,520 tokens (which the papers call
5B, 20B and 50B tokens). A run of another batch size is compared at the same number of tokens. There is a row for each
optimizer and source of published losses, which follow in parentheses, and stand alone if there is no run. If a run has
not reached the budget, the table has its best loss so far with an asterisk. Of several runs with the same data,
optimizer and size it shows the best; a run that has reached the budget counts before those that have not. The next
table lists every run. Runs of modded-nanogpt's recipes (config/modded_*.json) are compared with its published losses at
their last step, and step by step.
"""
import collections
import os
import re
import shutil
import subprocess
import sys

import command_line
import markdown_table
import metrics

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STEP_TOKENS = 491520
BUDGETS = {"5B": 10000 * STEP_TOKENS, "20B": 40000 * STEP_TOKENS, "50B": 100000 * STEP_TOKENS}

# Published losses: data set, optimizer, size, the best validation loss for each budget, and the source. An optimizer
# may have several sources, whose losses differ.
PUBLISHED = [
    ("OpenWebText", "AdamW", "small", "3.193", "3.024", "2.885", "MARS, table"),
    ("OpenWebText", "AdamW", "medium", "3.084", "2.821", "2.691", "MARS, table"),
    ("OpenWebText", "AdamW", "large", "3.013", "2.741", "2.561", "MARS, table"),
    ("OpenWebText", "AdamW", "small", None, None, "2.889", "MARS-M, figure"),
    ("OpenWebText", "AdamW", "medium", None, None, "2.688", "MARS-M, figure"),
    ("OpenWebText", "AdamW", "large", None, None, "2.569", "MARS-M, figure"),
    ("OpenWebText", "Muon", "small", "3.165", "3.006", "2.901", "MARS, table"),
    ("OpenWebText", "Muon", "medium", "3.009", "2.813", "2.688", "MARS, table"),
    ("OpenWebText", "Muon", "large", "2.915", "2.691", "2.573", "MARS, table"),
    ("OpenWebText", "MARS-AdamW exact", "small", "3.107", "2.980", "2.847", "MARS, table"),
    ("OpenWebText", "MARS-AdamW", "small", "3.108", "2.981", "2.849", "MARS, table"),
    ("OpenWebText", "MARS-AdamW", "medium", "2.969", "2.763", "2.636", "MARS, table"),
    ("OpenWebText", "MARS-AdamW", "large", "2.876", "2.647", "2.518", "MARS, table"),
    ("OpenWebText", "MARS-M", "small", None, None, "2.841", "MARS-M, figure"),
    ("OpenWebText", "MARS-M", "medium", None, None, "2.628", "MARS-M, figure"),
    ("OpenWebText", "MARS-M", "large", None, None, "2.5205", "MARS-M, figure"),
    ("OpenWebText", "MARS-M gamma 0.01", "small", None, None, "2.841", "MARS-M, figure"),
    ("OpenWebText", "MARS-M gamma 0.01", "medium", None, None, "2.624", "MARS-M, figure"),
    ("OpenWebText", "MARS-M gamma 0.01", "large", None, None, "2.513", "MARS-M, figure"),
    ("OpenWebText", "Moonlight", "small", None, None, "2.849", "MARS-M, figure"),
    ("OpenWebText", "Moonlight", "medium", None, None, "2.639", "MARS-M, figure"),
    ("OpenWebText", "Moonlight", "large", None, None, "2.525", "MARS-M, figure"),
    ("FineWeb-Edu", "AdamW", "small", None, None, "2.893", "MARS-M, figure"),
    ("FineWeb-Edu", "AdamW", "XL", None, None, "2.421", "MARS-M, figure"),
    ("FineWeb-Edu", "MARS-AdamW", "small", None, None, "2.853", "MARS, figure ±0.005"),
    ("FineWeb-Edu", "MARS-AdamW", "XL", None, None, "2.376", "MARS, figure ±0.005"),
    ("FineWeb-Edu", "MARS-M", "small", None, None, "2.855", "MARS-M, figure"),
    ("FineWeb-Edu", "MARS-M", "XL", None, None, "2.379", "MARS-M, figure"),
    ("FineWeb-Edu", "MARS-M gamma 0.01", "small", None, None, "2.8505", "MARS-M, figure"),
    ("FineWeb-Edu", "MARS-M gamma 0.01", "XL", None, None, "2.378", "MARS-M, figure"),
    ("FineWeb-Edu", "Moonlight", "small", None, None, "2.865", "MARS-M, figure"),
    ("FineWeb-Edu", "Moonlight", "XL", None, None, "2.394", "MARS-M, figure"),
]
BUDGETS_NOTE = "Best validation loss up to step 10,000 (5B), 40,000 (20B) and 100,000 (50B) of 491,520 tokens."
SOURCES = """\
In parentheses: the published loss, over a part of the validation set; the runs of config/ take all of it.
MARS: Yuan et al., MARS: Unleashing the power of variance reduction for training large models (arXiv:2411.10438).
MARS-M: Liu, Yuan and Gu, MARS-M: When variance reduction meets matrices (arXiv:2510.21800).
Losses of a figure are read off to ±0.001, or to what stands there. A gamma that is not named is 0.025.
"""

# The order in tables and of tables; names that are not in these lists follow in the order of appearance.
DATA_SETS = ["OpenWebText", "FineWeb-Edu"]
SIZES = ["small", "medium", "large", "XL"]
OPTIMIZERS = ["AdamW", "Muon", "NorMuon", "MARS-AdamW exact", "MARS-AdamW", "MARS-Lion exact", "MARS-Lion",
              "MARS-Shampoo exact", "MARS-Shampoo", "MARS-M exact", "MARS-M", "MARS-M gamma 0.01", "MARS-M efficient",
              "MARS-NorMuon exact", "MARS-NorMuon", "Moonlight", "SGD-SaI"]

# Keys of the config that identify a run of modded-nanogpt (github.com/KellerJordan/modded-nanogpt) with the recipe of
# config/modded_nanogpt.json or config/modded_first_muon.json.
_MODDED = {"model.n_embd": 768, "model.block_size": 1024, "model.position": "rope", "optimizer.name": "muon",
           "train.total_batch_size": 512}
MODDED_NANOGPT = dict(_MODDED, **{"model.activation": "relu2", "train.max_iters": 5100})
MODDED_FIRST_MUON = dict(_MODDED, **{"model.activation": "gelu", "train.max_iters": 7000})

# The losses of the first one at its steps, from its log (commit d80ac8e).
MODDED_CURVE = {0: "16.0098", 125: "4.9669", 250: "4.3420", 375: "4.0605", 500: "3.9223", 750: "3.7745", 1000: "3.6852",
                1500: "3.5799", 2000: "3.5166", 2500: "3.4755", 3000: "3.4433", 3500: "3.4145", 4000: "3.3718",
                4500: "3.3205", 5000: "3.2783", 5100: "3.2747"}

# Its states up to that one: optimizer, steps, validation loss at the last of them, source, and our recipe.
MODDED_FINALS = [
    ("AdamW", 9536, "3.2818", "modded-nanogpt, readme", None),
    ("Muon, config/modded_first_muon.json", 7000, "about 3.280", "modded-nanogpt, c26c2a18", MODDED_FIRST_MUON),
    ("Muon", 6676, "about 3.275", "modded-nanogpt", None),
    ("Muon", 6200, "3.2785", "modded-nanogpt", None),
    ("Muon", 6000, "about 3.275", "modded-nanogpt", None),
    ("Muon", 5600, "about 3.272", "modded-nanogpt", None),
    ("Muon", 5400, "about 3.278", "modded-nanogpt", None),
    ("Muon, config/modded_nanogpt.json", 5100, MODDED_CURVE[5100], "modded-nanogpt, log of d80ac8e", MODDED_NANOGPT),
]


FINALS_NOTE = """\
Final validation loss of modded-nanogpt's runs with GPT-2 small on FineWeb, each at its last step.
In parentheses: published in github.com/KellerJordan/modded-nanogpt."""
CURVE_NOTE = "Validation loss at each step of modded-nanogpt, Muon, 5,100 steps that was published."

# Texts under a table's header; align_right are the numbers of the columns that are set to the right, from 0.
Table = collections.namedtuple("Table", "header rows align_right")


class Row:
    """The values of one run in the tables. It does not keep the train events, of which there may be many.

    val_losses    {step: loss, or None}
    best          {budget: the lowest loss up to it, or None}
    reached       {budget: whether the run got there}
    """

    def __init__(self, run):
        self.folder, self.status, self.config = run.folder, run.status, metrics.flat(run.config)
        self.data, self.size, self.optimizer = run.data_title or "-", run.model_title or "-", run.optimizer_title
        self.rate, self.step, self.tokens = metrics.text(run.learning_rate), run.step or 0, run.tokens or 0
        self.best_loss, self.best_step = run.best()
        self.val_losses = {event["step"]: metrics.number(event, "loss") for event in run.val}
        self.best = {name: run.best(budget)[0] for name, budget in BUDGETS.items()}
        self.reached = {name: run.has_reached(budget) for name, budget in BUDGETS.items()}

    def follows(self, recipe):
        """Whether the config has all values of a recipe."""
        return all(self.config.get(key) == value for key, value in recipe.items())


def fail(message):
    sys.exit(f"reproduce_table.sh: {message}")


def status_title(status):
    """A run's status as the tables show it."""
    return "gradients not finite" if status == "diverged" else status


def in_order(names, known):
    """Each name once: first the known ones, in the order of `known`, then the others."""
    names = list(dict.fromkeys(names))
    return [name for name in known if name in names] + [name for name in names if name not in known]


# ---- the tables of losses at the papers' budgets ----

def best_run(rows, budget):
    """The row of a table's cell, or None. A run that got to the budget counts before those that did not."""
    rows = [row for row in rows if row.best[budget] is not None]
    return min(rows, key=lambda row: (not row.reached[budget], row.best[budget]), default=None)


def budget_table(data, size, rows):
    """The Table of one data set and size, and the rows that it shows with an asterisk."""
    rows = [row for row in rows if (row.data, row.size) == (data, size)]
    published = [line for line in PUBLISHED if (line[0], line[2]) == (data, size)]
    # The budgets for which there are published losses, and those that a run has begun.
    shown, previous = [], None
    for i, budget in enumerate(BUDGETS):
        is_published = any(line[3 + i] for line in published)
        if is_published or (rows and previous is None) or any(row.reached[previous] for row in rows if previous):
            shown.append((i, budget))
        previous = budget
    unfinished, table = [], []
    for optimizer in in_order([line[1] for line in published] + [row.optimizer for row in rows], OPTIMIZERS):
        ours = {budget: best_run([row for row in rows if row.optimizer == optimizer], budget) for _, budget in shown}
        unfinished += [row for budget, row in ours.items() if row and not row.reached[budget]]
        for line in [line for line in published if line[1] == optimizer] or [(None,) * 6 + ("–",)]:
            cells = []
            for i, budget in shown:
                row, words = ours[budget], []
                if row:
                    words.append(f"{row.best[budget]:.3f}" + ("" if row.reached[budget] else "\\*"))
                if line[3 + i]:
                    words.append(f"({line[3 + i]})")
                cells.append(" ".join(words) or "–")
            table.append([optimizer, *cells, line[6]])
    header = [f"{data}, {size}"] + [budget for _, budget in shown] + ["source"]
    return Table(header, table, range(1, len(shown) + 1)), unfinished


def budget_tables(rows):
    """{(data set, size): Table}, and a note on the asterisks, or ""."""
    sizes = collections.defaultdict(list)
    for data, size in [(line[0], line[2]) for line in PUBLISHED] + [(row.data, row.size) for row in rows]:
        sizes[data].append(size)
    tables, unfinished = {}, []
    for data in in_order(sizes, DATA_SETS):
        for size in in_order(sizes[data], SIZES):
            tables[data, size], more = budget_table(data, size, rows)
            unfinished += more
    notes = [f"{row.folder}{' ended' if row.status == 'done' else ''} at step {row.step:,}"
             for row in rows if row in unfinished]
    return tables, f"\\* best so far, the run has not got there: {'; '.join(notes)}." if notes else ""


def print_budget_tables(rows):
    tables, note = budget_tables(rows)
    print(BUDGETS_NOTE)
    print(SOURCES)
    for table in tables.values():
        markdown_table.print_table(*table)
        print()
    if note:
        print(note + "\n")


def print_runs(rows):
    table = []
    for row in rows:
        best = ["–", "–"] if row.best_loss is None else [f"{row.best_loss:.4f}", f"{row.best_step:,}"]
        table.append([row.folder, row.data, row.size, row.optimizer, row.rate, f"{row.step:,}",
                      f"{row.tokens / 1e9:.4g}", *best, status_title(row.status)])
    markdown_table.print_table(["run", "data", "model", "optimizer", "rate", "steps", "tokens, 1e9", "best val loss",
                                "at step", "status"], table, align_right=range(4, 9))


# ---- modded-nanogpt: the losses at the last step, and those of one run step by step ----

def modded_finals(rows):
    """The Table of the losses at the last step."""
    table = []
    for title, steps, published, source, recipe in MODDED_FINALS:
        losses = [row.val_losses.get(steps) for row in rows if recipe and row.follows(recipe)]
        ours = [f"{loss:.4f}" for loss in sorted(loss for loss in losses if loss is not None)[:1]]
        table.append([title, f"{steps:,}", " ".join(ours + [f"({published})"]), source])
    return Table(["modded-nanogpt", "steps", "final val loss", "source"], table, (1, 2))


def modded_curve(rows):
    """The Table of the losses step by step, or None if there is no such run."""
    rows = [row for row in rows if row.follows(MODDED_NANOGPT) and set(row.val_losses.values()) - {None}]
    if not rows:
        return None
    table = []
    for step, published in MODDED_CURVE.items():
        losses = [row.val_losses.get(step) for row in rows]
        table.append([str(step), published] + ["–" if loss is None else f"{loss:.4f}" for loss in losses])
    return Table(["step", "published"] + [row.folder for row in rows], table, range(2 + len(rows)))


def print_modded(rows):
    print("\n" + FINALS_NOTE + "\n")
    markdown_table.print_table(*modded_finals(rows))
    curve = modded_curve(rows)
    if curve:
        print("\n" + CURVE_NOTE + "\n")
        markdown_table.print_table(*curve)


# ---- the drawings, one for each size and data set ----

def draw(size, data, rows, out):
    rows = [row for row in rows if (row.size, row.data) == (size, data) and row.best_loss is not None]
    if not rows:
        return
    runs_of = collections.Counter(row.optimizer for row in rows)
    # Several runs of one optimizer also need their names.
    labels = [row.optimizer + (", " + row.folder if runs_of[row.optimizer] > 1 else "") for row in rows]
    # Leaves out the first losses, near 11, which would leave no room for the others.
    low, high = min(row.best_loss for row in rows), max(row.best_loss for row in rows)
    name = size if data == "OpenWebText" else size + "_" + data
    command = ["bash", os.path.join(ROOT, "scripts", "plot.sh"), "--validation",
               "--x=tokens", f"--y={0.98 * low:.3f}:{max(1.05 * high, 1.3 * low):.3f}",
               f"--out={out}_{re.sub('[^A-Za-z0-9_.-]', '_', name)}", f"--title={data}, {size}"]
    command += ["--label=" + label for label in labels] + [row.folder for row in rows]
    sys.stdout.flush()
    if subprocess.run(command, env=dict(os.environ, LC_ALL="C"), check=False).returncode != 0:
        sys.exit(1)


def read_rows(folders):
    rows = []
    for folder in folders:
        run = metrics.read_run(folder)
        if run.optimizer is None:
            print(f"reproduce_table.sh: {run.path} does not say what was run; it is passed over", file=sys.stderr)
        else:
            rows.append(Row(run))
    if not rows:
        fail("none of the runs says what it is: no metrics.jsonl begins with a whole start line")
    return rows


def main(arguments):
    parser = command_line.Parser(prog="reproduce_table.sh", description=__doc__)
    parser.add_argument("folders", metavar="RUN_DIR", nargs="*",
                        help="a folder that train_gpt2 wrote (its train.out_dir)")
    parser.add_argument("--out", metavar="PATH", help="draw PATH_SIZE.png and PATH_SIZE.svg (default: runs/table)")
    options = parser.parse_intermixed_args(arguments)
    if options.out == "":
        parser.error("--out= is empty: give a path")
    folders = [folder[:-1] if folder.endswith("/") else folder for folder in options.folders]
    folders = folders or metrics.find_runs(ROOT)[0]
    if not folders:
        fail(metrics.NO_RUNS)
    out = options.out
    if out is None:
        os.makedirs(os.path.join(ROOT, "runs"), exist_ok=True)
        out = os.path.join(os.path.relpath(os.path.join(ROOT, "runs")), "table")
    try:
        rows = read_rows(folders)
    except metrics.MetricsError as error:
        fail(error)
    print_budget_tables(rows)
    print_runs(rows)
    print_modded(rows)
    print()
    if not shutil.which("gnuplot"):
        print("no gnuplot, no curves: bash scripts/install_deps.sh installs it")
        return
    for size, data in sorted({(row.size, row.data) for row in rows}):
        draw(size, data, rows, out)


if __name__ == "__main__":
    command_line.run(main)
