"""report.py: the tables, plots and page of a comparison, from its compare.json alone.

It writes compare.md, compare.html, and, if there is gnuplot, compare.png, compare.svg (every seed faint, the mean of an
optimizer's seeds strong), trials.png and trials.svg (loss by rate) next to the JSON.
"""
import contextlib
import html
import json
import os
import shutil
import statistics
import subprocess
import tempfile

import markdown_table
from compare import CompareError

COLOURS = ("1f77b4", "d62728", "2ca02c", "9467bd", "ff7f0e", "17becf", "8c564b", "e377c2", "202020", "bcbd22", "888888",
           "00008b", "7f5f00", "00a080", "c06080", "6080ff")
FAINT = "A0"         # of gnuplot's colours, how transparent a seed's curve is, from 00 to FF
EARLY_SHARE = 0.15   # of the steps: the plot begins at the losses there
PLOTS = {"compare": "validation loss by step: every seed faint, the mean strong",
         "trials": "what was tried: validation loss at the end of each trial, by learning rate"}
PICTURES = (".png", ".svg")
STYLE = """
body { max-width: 1060px; margin: 24px auto; padding: 0 18px; color: #1c1e21; font: 15px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; margin: 12px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; border-bottom: 1px solid #d5d9df; text-align: right; }
th:first-child, td:first-child, td.text { text-align: left; }
figure { margin: 18px 0; } svg { max-width: 100%; height: auto; } figcaption { color: #5d6470; }
.scroll { overflow-x: auto; }
"""


# ---- numbers as texts ----

def short(value):
    """A rate or a decay with as few digits as it takes, as in 1.8e-2."""
    if value is None:
        return "–"
    if value == 0 or 0.01 <= value < 1000:
        return f"{value:g}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def count(number, word):
    """As in "1 seed" and "5 seeds"."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def spread(entry, digits):
    """The mean, with the standard deviation if there is one."""
    if entry["mean"] is None:
        return "–"
    text = f"{entry['mean']:,.{digits}f}"
    return text if entry["sd"] is None else f"{text} ± {entry['sd']:,.{digits}f}"


def mean(entry, digits):
    return "–" if entry["mean"] is None else f"{entry['mean']:,.{digits}f}"


def steps_text(optimizer):
    """The mean number of steps to the target, and how many seeds reached it if not all did."""
    steps, done = optimizer["steps_to_target"], optimizer["final_loss"]["n"]
    if steps["n"] == 0:
        return "not reached" if done else "–"
    return spread(steps, 0) + ("" if steps["n"] == done else f" ({steps['n']} of {done})")


def difference(test):
    return "–" if test is None else f"{test['difference']:+.4f}"


def significance(test, has_p_values):
    """p of a test; t and the degrees of freedom if p is not known."""
    if test is None or test["t"] is None:
        return "–"
    if not has_p_values:
        return f"t {test['t']:.2f}, df {test['df']:.1f}"
    return "< 0.0001" if test["p"] < 1e-4 else f"{test['p']:.2g}" if test["p"] < 0.1 else f"{test['p']:.2f}"


def trial_text(trial):
    """The settings of a trial and its result."""
    loss = trial["status"] if trial["loss"] is None else f"{trial['loss']:.3f}"
    mark = "**" if trial["is_best"] else ""
    return f"{mark}{short(trial['learning_rate'])}, {short(trial['weight_decay'])}: {loss}{mark}" + (
        " (diverged in full)" if trial["was_rejected"] else "")


# ---- tables ----

def heading(results):
    """What was compared, in one paragraph."""
    search, betas = results["search"], "betas of the papers"
    tuned = "none, one setting for each optimizer"
    if search["trials"] > 1:
        tuned = (f"{search['trials']} trials of {search['steps']:,} steps for each optimizer "
                 f"({'random search over rate and decay' if search['kind'] == 'random' else 'a grid of rates'})")
    if results["equal_betas"]:
        betas = "the same betas for all, {:g} and {:g}".format(*results["equal_betas"])
    return (f"{results['model_title']}: {results['parameters']:,} parameters. {results['steps']:,} steps of "
            f"{results['tokens_per_step']:,} tokens: {results['tokens']:,}, or {results['tokens_per_parameter']:.1f} "
            f"for each parameter. Tokens: {results['data']['train']}. Tuning: {tuned}; {betas}; "
            f"{count(len(results['seeds']), 'seed')}. {results['device']}, {results['precision']}, "
            f"{count(results['runs_side_by_side'], 'run')} side by side with "
            f"{count(results['threads_per_run'], 'thread')} each.")


def loss_table(results):
    """(header, rows) of the main table: the losses."""
    target = results["target"]["loss"]
    header = ["optimizer", "final val loss", "best val loss", "seeds",
              "steps to " + ("–" if target is None else f"{target:.4f}"), "minus AdamW", "p", "minus best", "p"]
    rows = []
    for optimizer in results["optimizers"]:
        tests = optimizer["to_adamw"], optimizer["to_best"]
        cells = [text for test in tests for text in (difference(test), significance(test, results["has_p_values"]))]
        done, seeds = optimizer["final_loss"]["n"], len(results["seeds"])
        rows.append([optimizer["title"], spread(optimizer["final_loss"], 4), mean(optimizer["best_loss"], 4),
                     str(done) if done == seeds else f"{done} of {seeds}", steps_text(optimizer), *cells])
    return header, rows


def cost_table(results):
    """(header, rows) of the settings and of the cost of a step."""
    rows = []
    for optimizer in results["optimizers"]:
        size, speed = optimizer["state_bytes_per_parameter"], optimizer["tokens_per_second"]
        trials = sorted(optimizer["trials"], key=lambda trial: trial["learning_rate"])
        rate = short(optimizer["learning_rate"]) + (" †" if optimizer["is_at_edge"] else "")
        rows.append([optimizer["title"], rate, short(optimizer["weight_decay"]), mean(speed, 0),
                     mean(optimizer["optimizer_percent"], 1), "–" if size is None else f"{size:.1f}",
                     " · ".join(map(trial_text, trials))])
    return ["optimizer", "rate", "decay", "tokens/s", "optimizer %", "state B/param", "trials: rate, decay: loss"], rows


def notes(results):
    """How to read the tables, one sentence or two each."""
    target, lines = results["target"], ["Losses are validation losses in nats per token; ± is the standard deviation "
                                        "over the seeds (n - 1)."]
    if target["loss"] is not None:
        lines.append(f"Steps are counted to a validation loss of {target['loss']:.4f}, {target['of']}, on straight "
                     "lines between validations. They are steps of a schedule of this length: a shorter one would reach "
                     "the loss sooner.")
    if len(results["seeds"]) == 1:
        lines.append("One seed shows no spread: differences as small as those between two seeds mean nothing. "
                     "--seeds=5 shows the spread.")
    elif results["has_p_values"]:
        lines.append("p is of Welch's test, two-sided, on the final losses: how often chance alone would show such a "
                     "difference. It is not corrected for the number of comparisons, and says nothing about other "
                     "rates, models or lengths.")
    else:
        lines.append("t and df are of Welch's test on the final losses. With scipy (python3-scipy) there is a p here.")
    if any(optimizer["final_loss"]["n"] < len(results["seeds"]) for optimizer in results["optimizers"]):
        lines.append("Where seeds are missing, those runs diverged. The mean of the others flatters the optimizer, which "
                     "therefore stands below all that have every seed.")
    if any(optimizer["id"].endswith("-exact") for optimizer in results["optimizers"]):
        lines.append("Exact forms compute two gradients in each step.")
    if any(optimizer["is_at_edge"] for optimizer in results["optimizers"]):
        lines.append("† the lowest or the highest rate that was tried: another may be better (--trials, "
                     "--middle_rates).")
    return lines


def markdown(results):
    parts = [heading(results), "", *markdown_table.lines(*loss_table(results), align_right=range(1, 9)), "",
             *markdown_table.lines(*cost_table(results), align_right=range(1, 6)), ""]
    return "\n".join(parts + notes(results)) + "\n"


# ---- plots ----

def mean_curve(runs):
    """[[step, mean loss]] at the steps at which all finished runs validated."""
    curves = [dict(map(tuple, run["curve"])) for run in runs if run["final_loss"] is not None]
    if not curves:
        return []
    steps = sorted(set.intersection(*map(set, curves)))
    return [[step, statistics.fmean(curve[step] for curve in curves)] for step in steps]


def curves_script(results):
    """The gnuplot commands of compare.svg, or None if no run finished. The first losses say little and would leave no
    room for the others: the plot begins at the loss that half of the optimizers have after EARLY_SHARE of the steps."""
    drawn, early, last = [], [], []
    for i, optimizer in enumerate(results["optimizers"]):
        points, colour = mean_curve(optimizer["runs"]), COLOURS[i % len(COLOURS)]
        if not points:
            continue
        early.append(next((loss for step, loss in points[1:] if step >= EARLY_SHARE * results["steps"]), points[-1][1]))
        last.append(points[-1][1])
        if len(optimizer["runs"]) > 1:
            drawn += [(run["curve"], f'with lines linewidth 1 linecolor rgb "#{FAINT}{colour}" notitle')
                      for run in optimizer["runs"] if run["curve"]]
        drawn.append((points, f'with lines linewidth 2.5 linecolor rgb "#{colour}" title {quoted(optimizer["title"])}'))
    if not drawn:
        return None
    top = max(1.02 * max(last), statistics.median(early))
    return ['set xlabel "step"', 'set ylabel "validation loss (nats per token)"', f"set xrange [0:{results['steps']}]",
            f"set yrange [{0.99 * min(last):.6g}:{top:.6g}]", *plot_command(drawn)]


def trials_script(results):
    """The gnuplot commands of trials.svg, or None if there were no trials."""
    drawn = []
    for i, optimizer in enumerate(results["optimizers"]):
        points = sorted([trial["learning_rate"], trial["loss"]] for trial in optimizer["trials"]
                        if trial["loss"] is not None)
        if points:
            drawn.append((points, f'with points pointtype 7 pointsize 1 linecolor rgb "#{COLOURS[i % len(COLOURS)]}" '
                                  f'title {quoted(optimizer["title"])}'))
    if not drawn:
        return None
    return ['set xlabel "learning rate of the matrices"', 'set ylabel "validation loss of the trial"', "set logscale x",
            'set format x "%.0e"', *plot_command(drawn)]


def quoted(text):
    """A string for gnuplot, in its single quotes. A line break would end the command, and begin another one."""
    printed = "".join(c if c.isprintable() else " " for c in text)
    return "'" + printed.replace("'", "''") + "'"


def plot_command(drawn):
    """The commands that draw [(points, how)], with the points in them."""
    lines = []
    for i, (points, _) in enumerate(drawn):
        lines += [f"$curve{i} << EOD", *(f"{x:.9g} {y:.9g}" for x, y in points), "EOD"]
    return [*lines, "plot " + ", ".join(f"$curve{i} {how}" for i, (_, how) in enumerate(drawn))]


def draw(script, title, path):
    """Writes PATH.png and PATH.svg. Raises CompareError."""
    style = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "plot_style.gp")
    cairo = subprocess.run(["gnuplot", "-e", "set terminal pngcairo"], capture_output=True, check=False)
    terminals = {"png": f"{'png truecolor' if cairo.returncode else 'pngcairo'} size 1000,600 font 'sans,12'",
                 "svg": "svg size 1000,600 font 'sans,14' background rgb 'white'"}
    for ending, terminal in terminals.items():
        commands = [f"set terminal {terminal}", "set output 'picture'", f"load {quoted(style)}",
                    "set key outside right center", "set rmargin", f"set title {quoted(title)} noenhanced", *script]
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(["gnuplot", "-"], input="\n".join(commands) + "\n", cwd=folder, capture_output=True,
                                  text=True, check=False)
            if done.returncode != 0:
                raise CompareError(f"gnuplot failed: {done.stderr.strip()}")
            shutil.copyfile(os.path.join(folder, "picture"), f"{path}.{ending}")


# ---- the page ----

def html_row(cells, tag):
    texts = [html.escape(cell).replace("**", "") for cell in cells]
    made = (f"<{tag}{' class=text' if len(text) > 40 else ''}>{text}</{tag}>" for text in texts)
    return "<tr>" + "".join(made) + "</tr>"


def html_table(header, rows):
    return ('<div class="scroll"><table>' + html_row(header, "th") + "".join(html_row(cells, "td") for cells in rows)
            + "</table></div>")


def page(results, pictures):
    """The page as text, with the pictures, {name: svg}, in it: one file, which needs nothing else."""
    figures = "".join(f"<figure>{svg[svg.index('<svg'):]}<figcaption>{PLOTS[name]}</figcaption></figure>"
                      for name, svg in pictures.items())
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Optimizers compared</title>'
            f"<style>{STYLE}</style></head><body>\n<h1>Optimizers compared</h1>\n"
            f"<p>{html.escape(heading(results))}</p>\n{html_table(*loss_table(results))}\n{figures}\n"
            f"{html_table(*cost_table(results))}\n"
            + "".join(f"<p>{html.escape(note)}</p>\n" for note in notes(results)) + "</body></html>\n")


def read(folder):
    """The results in a folder. Raises CompareError."""
    path = os.path.join(folder, "compare.json")
    try:
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
        markdown(results)
        return results
    except OSError as error:
        raise CompareError(f"cannot read {path}: {error.strerror}; run the comparison first, or give its --out") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CompareError(f"{path} is no result of a comparison ({error}); start the comparison again in the same way, "
                           "which makes it anew from the runs") from None


def write(folder, results):
    """Makes the tables, the plots and the page from the results, which are in FOLDER/compare.json; returns (the tables
    as text, the files written). Raises CompareError."""
    text, written, pictures = markdown(results), ["compare.json", "compare.md"], {}
    with open(os.path.join(folder, "compare.md"), "w", encoding="utf-8") as file:
        file.write(text)
    for name, script in (("compare", curves_script(results)), ("trials", trials_script(results))):
        path = os.path.join(folder, name)
        for ending in PICTURES:  # pictures of earlier results
            with contextlib.suppress(FileNotFoundError):
                os.remove(path + ending)
        if script and shutil.which("gnuplot"):
            draw(script, PLOTS[name], path)
            written += [name + ending for ending in PICTURES]
            with open(path + ".svg", encoding="utf-8") as file:
                pictures[name] = file.read()
    with open(os.path.join(folder, "compare.html"), "w", encoding="utf-8") as file:
        file.write(page(results, pictures))
    return text, [os.path.join(folder, name) for name in [*written, "compare.html"]]
