"""optimizers.py: the optimizers of a comparison, the settings that are tried for each, and where they come from.

The names, keys and groups are those of train_gpt2 --list_optimizers. Trials vary only the learning rates, which keep
their proportions, and the weight decay. The other settings are the papers' if they give them, else the trainer's
defaults; with equal betas all have the same betas.
"""
import json
import math
import random

from compare import CompareError

EXACT = "-exact"          # after a name: the form of MARS that computes two gradients in each step
EXACT_BY_DEFAULT = ("mars-adamw", "mars-m")  # those whose exact form is in a comparison of all
RATE_FACTOR = 4           # random search: rates from the middle one by this to the middle one times this
DECAYS = (0.01, 0.3)      # random search: weight decays between these
GRID_FACTOR = 3           # a grid: between two rates
EQUAL_BETAS = (0.95, 0.99)  # those of MARS; 0.95 is Muon's usual momentum, too

# The rates in the middle of the trials. Most are above the published ones, which are for far larger models and longer
# runs: models of some million parameters train better with more.
MIDDLE_RATES = {"mars-lion": 3e-4, "mars-adamw": 6e-3, "muon": 6e-2, "normuon": 6e-2, "mars-shampoo": 6e-2}
MIDDLE_RATE_ORTHOGONALIZED = 1.8e-2  # of the others
MIDDLE_RATE_OTHERS = 3e-3

# The other settings, from the papers if they give them.
MARS_DEFAULTS = {"weight_decay": 0.01, "beta1": 0.95, "gamma": 0.025}
VECTOR_RATES = {"mars-adamw": 0.5, "mars-lion": 10, "mars-shampoo": 0.5}  # lr_1d / learning_rate; Lion's is small
ADAMW_RATE = 0.15  # learning_rate / muon_learning_rate of muon and normuon

# Keys about training, not about the update rule: the model's config sets them for all optimizers that have the key.
TRAINING_KEYS = ("grad_clip", "muon_embeddings", "split_qkv")


def rounded(value):
    """A number with two digits, as written in configs."""
    return float(f"{value:.1e}")


class Optimizer:
    """One optimizer of a comparison.

    id      its name here: that of the trainer, or with "-exact"
    name    that of the trainer
    entry   its object of --list_optimizers
    """

    def __init__(self, optimizer_id, entry, middle_rate=None):
        self.id = optimizer_id
        self.name = entry["name"]
        self.entry = entry
        self.middle_rate = middle_rate or self._usual_rate()

    def _matrix_group(self):
        return next(group for group in self.entry["groups"] if "matrix" in group["roles"])

    def _usual_rate(self):
        orthogonalized = self._matrix_group()["orthogonalized"]
        return MIDDLE_RATES.get(self.name, MIDDLE_RATE_ORTHOGONALIZED if orthogonalized else MIDDLE_RATE_OTHERS)

    @property
    def title(self):
        """The name as people write it."""
        return self.entry["title"] + (" exact" if self.id.endswith(EXACT) else "")

    def settings(self, rate, decay=None, betas=None):
        """The optimizer section of a config.

        rate    of the matrices
        decay   weight decay of what has one; None is the usual one
        betas   (beta1, beta2) of all moving averages, momentum included; None is the papers'
        """
        keys, section = self.entry["keys"], {"name": self.name}
        if self._matrix_group()["learning_rate"] == "muon_learning_rate":
            section["muon_learning_rate"] = rounded(rate)
            section["muon_weight_decay"] = 0 if decay is None else decay
            section["learning_rate"] = rounded(ADAMW_RATE * rate)
        else:
            section["learning_rate"] = rounded(rate)
        if self.name in VECTOR_RATES:
            section["lr_1d"] = rounded(VECTOR_RATES[self.name] * rate)
        section["weight_decay"] = 0.1
        if self.name.startswith("mars-"):
            section.update(MARS_DEFAULTS)
            if self.name == "mars-adamw":
                section["beta2"] = 0.99
        if "is_approx" in keys:
            section["is_approx"] = not self.id.endswith(EXACT)
        if decay is not None:
            section["weight_decay"] = decay
        if betas:
            values = {"beta1": betas[0], "beta2": betas[1], "momentum": betas[0], "muon_beta2": betas[1],
                      "betas_1d": list(betas)}
            section.update({key: value for key, value in values.items() if key in keys})
        return section

    def decay_of(self, section):
        """The weight decay of the matrices in a section of settings()."""
        return section[self._matrix_group()["weight_decay"]]

    def rate_of(self, section):
        """The learning rate of the matrices in a section of settings()."""
        return section[self._matrix_group()["learning_rate"]]


def points(search, trials, seed):
    """The settings that are tried, the same for each optimizer: [(factor of its middle rate, weight decay or None)].

    A grid has the usual weight decay, and rates a factor of GRID_FACTOR apart: the middle, the next above, the next
    below, and so on outwards. The first point of a random search is the middle rate with the usual decay. The others are
    even in the logarithms of both: steps of the R2 sequence (Roberts 2018) from a start by the seed, which leave smaller
    holes than independent draws. With more trials the first ones stay the same.
    """
    if search == "grid":
        return [(float(GRID_FACTOR) ** ((i + 1) // 2 * (-1) ** (i + 1)), None) for i in range(trials)]
    start, plastic = random.Random(seed), 1.32471795724474602596  # the real root of x^3 = x + 1
    begin_rate, begin_decay = start.random(), start.random()
    low, high = map(math.log, DECAYS)
    chosen = [(1.0, None)]
    for i in range(1, trials):
        along_rate, along_decay = (begin_rate + i / plastic) % 1, (begin_decay + i / plastic**2) % 1
        chosen.append((RATE_FACTOR ** (2 * along_rate - 1), rounded(math.exp(low + along_decay * (high - low)))))
    return chosen


def all_ids(entries):
    """The ids of a comparison of all optimizers."""
    ids = []
    for entry in entries:
        ids.append(entry["name"])
        if entry["name"] in EXACT_BY_DEFAULT:
            ids.append(entry["name"] + EXACT)
    return ids


def choose(list_text, ids, middle_rates):
    """The optimizers of a comparison.

    list_text       what train_gpt2 --list_optimizers printed
    ids             names, aliases and names with "-exact"; None is all
    middle_rates    {id or alias: rate} for those with another than the usual
    Raises CompareError.
    """
    entries = json.loads(list_text)
    by_name = {entry["name"]: entry for entry in entries}
    names_of = {entry["alias"]: entry["name"] for entry in entries if "alias" in entry}
    middle_rates = {names_of.get(name, name): rate for name, rate in middle_rates.items()}
    known = all_ids(entries)
    chosen = {}
    for given in ids or known:
        optimizer_id = names_of.get(given, given)
        name = optimizer_id.removesuffix(EXACT)
        entry = by_name.get(name)
        if not entry or (name != optimizer_id and "is_approx" not in entry["keys"]):
            raise CompareError(f"--optimizers: there is no {given}; give some of {' '.join(known)}", 2)
        chosen[optimizer_id] = Optimizer(optimizer_id, entry, middle_rates.get(optimizer_id))
    unknown = set(middle_rates) - set(chosen)
    if unknown:
        raise CompareError(f"--middle_rates: {min(unknown)} is not compared; give some of {' '.join(chosen)}", 2)
    return list(chosen.values())
