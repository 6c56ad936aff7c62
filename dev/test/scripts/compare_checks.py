"""compare_checks.py WHAT...: tests of the modules of scripts/compare that need no run: statistics against values
computed by hand, searches, settings, texts. Ends with an assertion's message where one does not hold."""
import json
import math
import sys

from compare import model, optimizers, report, results


def is_near(a, b, tolerance=1e-9):
    return abs(a - b) <= tolerance * max(1, abs(b))


def statistics():
    # 3.1, 3.3, 3.2: mean 3.2, squares of the differences 0.01, 0.01, 0, their sum by 2 is 0.01.
    a = results.summary([3.1, None, 3.3, 3.2])
    assert is_near(a["mean"], 3.2) and is_near(a["sd"], 0.1) and a["n"] == 3, a
    # 3.4, 3.6: mean 3.5, sd sqrt(0.02).
    b = results.summary([3.4, 3.6])
    assert is_near(b["mean"], 3.5) and is_near(b["sd"], math.sqrt(0.02)), b
    # Variances of the means: 0.01 / 3 and 0.02 / 2. t = -0.3 / sqrt(0.04 / 3) = -2.5980762;
    # df = (0.04 / 3)^2 / ((0.01 / 3)^2 / 2 + 0.01^2 / 1) = (16 / 9) / (1 / 18 + 1) = 32 / 19.
    test = results.welch(a, b)
    assert is_near(test["difference"], -0.3) and is_near(test["t"], -2.598076211353316), test
    assert is_near(test["df"], 32 / 19), test
    back = results.welch(b, a)
    assert is_near(back["t"], 2.598076211353316) and is_near(back["df"], 32 / 19), back
    # Nothing to test: one value, none, no spread.
    one, none = results.summary([2.0]), results.summary([None])
    assert one == {"mean": 2.0, "sd": None, "n": 1} and none == {"mean": None, "sd": None, "n": 0}
    assert results.welch(a, one)["t"] is None and is_near(results.welch(a, one)["difference"], 1.2)
    assert results.welch(a, none) is None and results.welch(none, a) is None
    assert results.welch(results.summary([2.0, 2.0]), results.summary([2.0, 2.0]))["t"] is None


def p_values():
    # Variances of 0.03 and 0.01125; of the means 0.01 and 0.005625: df = 0.015625^2 / (0.01^2 / 2 + 0.005625^2) = 2.99.
    a, b = results.summary([1.0, 1.0, 1.3]), results.summary([2.0, 2.15])
    test = results.welch(a, b)
    assert test["p"] == 0.025, test


def steps():
    curve = [[0, 5.0], [10, 3.0], [20, 3.5], [30, 2.0]]
    assert results.steps_to(curve, 6.0) == 0
    assert results.steps_to(curve, 4.0) == 5  # half way from 5 to 3
    assert results.steps_to(curve, 3.0) == 10  # the first time, though it rises again
    assert is_near(results.steps_to(curve, 2.5), 20 + 10 * 1.0 / 1.5)
    assert results.steps_to(curve, 1.9) is None and results.steps_to([], 1.0) is None


def searches():
    assert optimizers.points("grid", 5, 0) == [(1, None), (3, None), (1 / 3, None), (9, None), (1 / 9, None)]
    first = optimizers.points("random", 64, 1)
    assert first[0] == (1.0, None) and first == optimizers.points("random", 64, 1)
    assert first[:7] == optimizers.points("random", 7, 1) and first[1:] != optimizers.points("random", 64, 2)[1:]
    low, high = optimizers.DECAYS
    factor = optimizers.RATE_FACTOR
    for values, bottom, top in (([rate for rate, _ in first[1:]], 1 / factor, factor),
                                ([decay for _, decay in first[1:]], low, high)):
        assert all(bottom <= value <= top for value in values), values
        # Each eighth of the range, in logarithms, has its share of 63 points.
        eighths = [int(8 * math.log(value / bottom) / math.log(top / bottom) * 0.999999) for value in values]
        assert all(5 <= eighths.count(i) <= 11 for i in range(8)), eighths


def settings(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    chosen = {optimizer.id: optimizer for optimizer in optimizers.choose(text, None, {})}
    assert len(chosen) == 13 and list(chosen)[:3] == ["adamw", "mars-adamw", "mars-adamw-exact"], list(chosen)
    mars = {"weight_decay": 0.01, "beta1": 0.95, "gamma": 0.025}

    def usual(name):
        return chosen[name].settings(chosen[name].middle_rate)
    expected = {
        "adamw": {"learning_rate": 3e-3, "weight_decay": 0.1},
        "mars-adamw": {"learning_rate": 6e-3, "lr_1d": 3e-3, **mars, "beta2": 0.99, "is_approx": True},
        "mars-adamw-exact": {"learning_rate": 6e-3, "lr_1d": 3e-3, **mars, "beta2": 0.99, "is_approx": False},
        "mars-lion": {"learning_rate": 3e-4, "lr_1d": 3e-3, **mars, "is_approx": True},
        "mars-shampoo": {"learning_rate": 6e-2, "lr_1d": 3e-2, **mars, "is_approx": True},
        "muon": {"muon_learning_rate": 6e-2, "muon_weight_decay": 0, "learning_rate": 9e-3, "weight_decay": 0.1},
        "normuon": {"muon_learning_rate": 6e-2, "muon_weight_decay": 0, "learning_rate": 9e-3, "weight_decay": 0.1},
        "moonlight": {"learning_rate": 1.8e-2, "weight_decay": 0.1},
        "mars-m": {"learning_rate": 1.8e-2, **mars, "is_approx": True},
        "mars-m-exact": {"learning_rate": 1.8e-2, **mars, "is_approx": False},
        "mars-m-efficient": {"learning_rate": 1.8e-2, **mars},
        "mars-normuon": {"learning_rate": 1.8e-2, **mars, "is_approx": True},
        "sgd-sai": {"learning_rate": 3e-3, "weight_decay": 0.1},
    }
    for name, section in expected.items():
        assert usual(name) == {"name": name.removesuffix("-exact"), **section}, (name, usual(name))
    # A decay is that of the matrices; the betas are those of all moving averages.
    muon = chosen["muon"].settings(0.0123, 0.04, [0.8, 0.7])
    assert muon == {"name": "muon", "muon_learning_rate": 0.012, "muon_weight_decay": 0.04, "learning_rate": 0.0018,
                    "weight_decay": 0.04, "beta1": 0.8, "beta2": 0.7, "momentum": 0.8}, muon
    assert chosen["muon"].decay_of(muon) == 0.04 and chosen["muon"].decay_of(usual("muon")) == 0
    mars_m = chosen["mars-m"].settings(0.01, 0.04, [0.8, 0.7])
    assert mars_m == {"name": "mars-m", "learning_rate": 0.01, "weight_decay": 0.04, "beta1": 0.8, "gamma": 0.025,
                      "is_approx": True, "betas_1d": [0.8, 0.7]}, mars_m
    assert chosen["normuon"].settings(0.01, None, [0.8, 0.7])["muon_beta2"] == 0.7
    # Aliases, rates of one's own, titles.
    alias, = optimizers.choose(text, ["sgd-boost"], {"sgd-sai": 0.5})
    assert alias.id == "sgd-sai" and alias.middle_rate == 0.5 and chosen["mars-m-exact"].title == "MARS-M exact"


class Config(model.Model):
    """A model without files."""

    def __init__(self, schedule, optimizer, max_iters):
        self.config = {"schedule": schedule, "optimizer": optimizer, "train": {"max_iters": max_iters}}

    def of(self, steps, section):
        return self._schedule(steps, section)


def schedules():
    muon = {"learning_rate": 0.1, "muon_learning_rate": 0.2}
    # The end keeps its share of the larger peak; of two peaks it is that share of the smaller.
    cosine = Config({"name": "cosine", "warmup_iters": 50, "lr_decay_iters": 0, "min_lr": 0.02}, muon, 1000)
    assert cosine.of(200, {"learning_rate": 3e-3}) == {
        "name": "cosine", "warmup_iters": 10, "lr_decay_iters": 0, "min_lr": 3e-4}
    assert cosine.of(200, {"learning_rate": 4e-3, "muon_learning_rate": 2e-2})["min_lr"] == 4e-4
    # No phase disappears, and together they are no longer than the run.
    assert cosine.of(5, {"learning_rate": 3e-3})["warmup_iters"] == 1
    both = Config({"name": "trapezoidal", "warmup_iters": 500, "warmdown_iters": 500}, muon, 1000)
    for steps in range(4, 30):
        made = both.of(steps, muon)
        assert made["warmup_iters"] + made["warmdown_iters"] <= steps and made["warmdown_iters"] >= 2, made
    decay = Config({"name": "exp", "warmup_iters": 0, "lr_decay_iters": 60, "min_lr": 0.0}, muon, 1000)
    assert decay.of(8, muon) == {"name": "exp", "warmup_iters": 0, "lr_decay_iters": 1, "min_lr": 0.0}


def orders():
    """An optimizer of which a run diverged stands below those with every seed; one without a loss last."""
    def entry(name, losses):
        return {"id": name, "title": name, "runs": [
            {"final_loss": loss, "best_loss": loss, "curve": [[0, 9.0], [10, loss or 8.0]], "tokens_per_second": None,
             "optimizer_percent": None, "state_bytes_per_parameter": None} for loss in losses]}
    made = results.complete({"optimizers": [entry("none", []), entry("muon", [1.0, None]), entry("adamw", [2.0, 2.2]),
                                            entry("mars-m", [1.9, 2.0])]}, None)
    assert [one["id"] for one in made["optimizers"]] == ["mars-m", "adamw", "muon", "none"], made
    assert made["target"]["loss"] == 2.2 and results.complete(made, 2.0)["target"]["of"] == results.GIVEN
    assert made["optimizers"][1]["to_best"]["difference"] == made["optimizers"][0]["to_adamw"]["difference"] * -1


def texts():
    assert [report.short(value) for value in (None, 0, 0.1, 0.018, 3e-3, 9.5e-4, 1e-2, 12.0)] == [
        "–", "0", "0.1", "0.018", "3e-3", "9.5e-4", "0.01", "12"]
    assert report.significance({"t": -1.5, "df": 3.25, "p": 0.2}, True) == "0.20"
    assert report.significance({"t": -1.5, "df": 3.25, "p": 0.0123}, True) == "0.012"
    assert report.significance({"t": -1.5, "df": 3.25, "p": 1e-9}, True) == "< 0.0001"
    assert report.significance({"t": -1.5, "df": 3.25, "p": None}, False) == "t -1.50, df 3.2"
    assert report.significance({"t": None, "df": None, "p": None}, True) == report.significance(None, True) == "–"
    # The mean of two seeds, at the steps that both have; a run that diverged is not in it.
    runs = [{"curve": [[0, 5], [10, 3], [20, 2]], "final_loss": 2}, {"curve": [[0, 7], [20, 3]], "final_loss": 3},
            {"curve": [[0, 100]], "final_loss": None}]
    assert report.mean_curve(runs) == [[0, 6], [20, 2.5]]


def same(first, second):
    """Two folders of comparisons have the same results, times apart."""
    loaded = []
    for folder in (first, second):
        with open(folder + "/compare.json", encoding="utf-8") as file:
            result = json.load(file)
        for optimizer in result["optimizers"]:
            for entry in [optimizer, *optimizer["runs"]]:
                del entry["tokens_per_second"], entry["optimizer_percent"]
            assert len(optimizer["runs"]) == 2 and optimizer["final_loss"]["n"] == 2, optimizer
        loaded.append(result)
    assert loaded[0] == loaded[1], loaded


globals()[sys.argv[1]](*sys.argv[2:])
