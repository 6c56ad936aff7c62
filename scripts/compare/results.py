"""results.py: the results of a comparison as one JSON object (compare.json), from which report.py makes the rest.

    version     of the trainer
    model, data, schedule, schedule_steps   sections of the config, and its max_iters, which the schedule belongs to
    model_title, parameters, device, precision, threads_per_run, runs_side_by_side
    tokens_per_step, steps, tokens, tokens_per_parameter, tokens_per_evaluation
    search      kind (grid or random), trials, steps, seed (null for a grid)
    equal_betas [beta1, beta2], or null
    seeds       of the runs of full length
    target      {loss, of}: the loss to which steps are counted, and whose it is
    has_p_values  whether scipy was there
    optimizers  the lowest mean final loss first; then those of which a run diverged, at last those without a loss. For
                each:
        id, title, settings (of the best trial, the optimizer section of a config), learning_rate, weight_decay
        trials  [{learning_rate, weight_decay, loss, status, is_best, was_rejected}]; loss is the last one, or null
        is_at_edge  whether the best rate is the lowest or the highest of those tried
        runs    [{seed, status, final_loss, best_loss, best_step, steps_to_target, curve, tokens_per_second,
                optimizer_percent, state_bytes_per_parameter}]; curve is [[step, validation loss], ...]
        final_loss, best_loss, steps_to_target, tokens_per_second, optimizer_percent
                {mean, sd, n} over the seeds that have the value; sd is null for one seed, mean for none
        state_bytes_per_parameter
        to_best, to_adamw   {difference, t, df, p}: this final loss minus that of the best optimizer, or AdamW's; null
                for itself, or where one has no final loss; t, df, p are null where Welch's test is not defined, p also
                without scipy

Losses are validation losses in nats per token. Statistics are of the final losses: the best of a run is the lowest of
many, and so a little too low.
"""
import math
import statistics

import metrics
from compare.pool import final_loss

try:
    import scipy.stats
except ImportError:
    scipy = None

BASELINE = "adamw"
GIVEN = "as given"  # the source of a target loss that no run decided


def summary(values):
    """{mean, sd, n} of the values that are not None; sd is that of a sample (divided by n - 1)."""
    known = [value for value in values if value is not None]
    return {"mean": statistics.fmean(known) if known else None,
            "sd": statistics.stdev(known) if len(known) > 1 else None, "n": len(known)}


def welch(a, b):
    """Welch's test for the means of two samples with variances of their own, both summaries.

    Returns {difference, t, df, p}: the mean of a minus that of b, the statistic, the degrees of freedom by Welch and
    Satterthwaite, and the two-sided p. None if a sample is empty; t, df and p are None if a sample has one value, or
    neither has a spread; p is None without scipy.
    """
    if a["n"] == 0 or b["n"] == 0:
        return None
    test = {"difference": a["mean"] - b["mean"], "t": None, "df": None, "p": None}
    if a["n"] < 2 or b["n"] < 2:
        return test
    of_a, of_b = a["sd"] ** 2 / a["n"], b["sd"] ** 2 / b["n"]  # variances of the means
    if of_a + of_b == 0:
        return test
    test["t"] = test["difference"] / math.sqrt(of_a + of_b)
    test["df"] = (of_a + of_b) ** 2 / (of_a**2 / (a["n"] - 1) + of_b**2 / (b["n"] - 1))
    if scipy:
        test["p"] = float(2 * scipy.stats.t.sf(abs(test["t"]), test["df"]))
    return test


def steps_to(curve, target):
    """The step at which a curve, [[step, loss], ...], first is at a loss or below, on straight lines between its
    points; None if it never is."""
    for i, (step, loss) in enumerate(curve):
        if loss > target:
            continue
        if i == 0:
            return step
        previous_step, previous_loss = curve[i - 1]
        return previous_step + (step - previous_step) * (previous_loss - target) / (previous_loss - loss)
    return None


def trials_of(optimizer, sections, runs, chosen):
    """The trials entry of an optimizer.

    sections    the settings that were tried
    runs        metrics.Run of each; None if there is only one setting, which needs no trial
    chosen      the number of the best one, or None. Better ones were rejected because they diverge in full runs
    """
    entries, losses = [], [final_loss(run) if run else None for run in runs]
    for section, run, loss in zip(sections, runs, losses):
        entries.append({"learning_rate": optimizer.rate_of(section), "weight_decay": optimizer.decay_of(section),
                        "loss": loss, "status": run.status if run else "no trial", "is_best": False,
                        "was_rejected": False})
    for number in ranking(losses):
        if number == chosen:
            break
        entries[number]["was_rejected"] = True
    if chosen is not None:
        entries[chosen]["is_best"] = True
    return entries


def ranking(losses):
    """The numbers of the trials that have a loss, the lowest first."""
    return sorted((i for i, loss in enumerate(losses) if loss is not None), key=lambda i: losses[i])


def run_entry(seed, run):
    """A run of full length, in an entry of an optimizer."""
    return {"seed": seed, "status": run.status, "final_loss": final_loss(run), "best_loss": run.best_loss,
            "best_step": run.best_step, "steps_to_target": None, "curve": metrics.values(run, "val", ["step", "loss"]),
            "tokens_per_second": run.tokens_per_second, "optimizer_percent": run.optimizer_percent,
            "state_bytes_per_parameter": run.state_bytes_per_parameter}


def optimizer_entry(optimizer, settings, trials, runs):
    """The entry of an optimizer, without the values that need the other optimizers.

    settings    the optimizer section of its best trial; None if no trial worked
    trials      of trials_of()
    runs        {seed: metrics.Run} of full length
    """
    rates = sorted({trial["learning_rate"] for trial in trials})
    best = next((trial for trial in trials if trial["is_best"]), None)
    return {"id": optimizer.id, "title": optimizer.title, "settings": settings,
            "learning_rate": best and best["learning_rate"], "weight_decay": best and best["weight_decay"],
            "trials": trials,
            "is_at_edge": bool(best) and len(rates) > 1 and best["learning_rate"] in (rates[0], rates[-1]),
            "runs": [run_entry(seed, run) for seed, run in runs.items()]}


def default_target(entries):
    """The loss to which steps are counted: that which each finished run of AdamW reaches; without AdamW, each finished run
    of all."""
    reached = {entry["id"]: max(losses) for entry in entries
               for losses in [[run["best_loss"] for run in entry["runs"] if run["final_loss"] is not None]] if losses}
    if not reached:
        return {"loss": None, "of": None}
    if BASELINE in reached:
        return {"loss": reached[BASELINE], "of": "which every finished run of AdamW reaches"}
    return {"loss": max(reached.values()), "of": "which every finished run reaches"}


def place(entry):
    """The key by which optimizers are ordered. A mean over only the runs that did not diverge would favour optimizers
    whose runs diverge."""
    done = entry["final_loss"]["n"]
    return (0 if done == len(entry["runs"]) else 1, entry["final_loss"]["mean"]) if done else (2, 0)


def complete(comparison, target_loss):
    """Adds to a comparison what is computed from its runs: target, has_p_values, and the statistics of its optimizers, in
    order; returns it. It may have been completed before, with another target or without scipy.

    target_loss     None is the default
    """
    entries = comparison["optimizers"]
    target = {"loss": target_loss, "of": GIVEN} if target_loss is not None else default_target(entries)
    for entry in entries:
        for run in entry["runs"]:
            run["steps_to_target"] = None if target["loss"] is None else steps_to(run["curve"], target["loss"])
        finished = [run for run in entry["runs"] if run["final_loss"] is not None]
        for field in ("final_loss", "best_loss", "steps_to_target", "tokens_per_second", "optimizer_percent"):
            entry[field] = summary([run[field] for run in finished])
        sizes = [run["state_bytes_per_parameter"] for run in finished]
        entry["state_bytes_per_parameter"] = sizes[0] if sizes else None
    entries = sorted(entries, key=place)
    baseline = next((entry for entry in entries if entry["id"] == BASELINE), None)
    for entry in entries:
        for field, other in (("to_best", entries[0]), ("to_adamw", baseline)):
            is_other = other is not None and other is not entry
            entry[field] = welch(entry["final_loss"], other["final_loss"]) if is_other else None
    return {**comparison, "target": target, "has_p_values": scipy is not None, "optimizers": entries}
