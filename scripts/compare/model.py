"""model.py: what all runs of a comparison share, and the config of each run.

A config file of the trainer gives the model, the data, the batch, the shape of the schedule and how to train; its
optimizer and its numbers of steps are replaced.
"""
import glob
import json
import os
import subprocess
import zlib

from compare import optimizers

TEXT_FOLDER = "data/compare"
TEXT = {"train": TEXT_FOLDER + "/train_*.bin", "val": TEXT_FOLDER + "/val_*.bin"}  # in configs that come with no data
DEFAULT_VOCABULARY = 50304       # of tokens whose folder has no tokens.json
FULL_EVALUATIONS = 40            # of a run of full length
TRIAL_EVALUATIONS = 4
TIMING_STEPS = 8
HEADER_BYTES = 1024              # a file of tokens may begin with a header
FINGERPRINT_BYTES = 1000000


class ModelError(Exception):
    """What keeps the runs from being made; the text is for the user."""


def run_program(*command):
    """What a program prints. Raises ModelError with its message."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
                              check=False)
    except OSError as error:
        raise ModelError(f"cannot run {command[0]}: {error.strerror}; build it with make (bash scripts/install_deps.sh "
                         "installs what that needs)") from None
    if done.returncode != 0:
        raise ModelError(f"{' '.join(command)} failed with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def prepare_text(prepare_data):
    """Makes the tokens of TEXT, the bytes of the quickstart's text, where there are none yet."""
    if os.path.exists(os.path.join(TEXT_FOLDER, "tokens.json")):
        return
    print(run_program("bash", "scripts/quickstart.sh", "--text-only"), end="")
    os.makedirs(TEXT_FOLDER, exist_ok=True)
    run_program(prepare_data, "--tokenizer=bytes", "--out=" + TEXT_FOLDER, "data/quickstart/text.txt")


def token_files(pattern):
    """The files of data.train or data.val. Raises ModelError where there is none."""
    files = sorted(glob.glob(os.path.expanduser(pattern)))
    if not files:
        raise ModelError(f"there is no file {pattern}; prepare_data makes such files")
    return files


def fingerprint(files):
    """What tells other tokens under the same names: the bytes of all files and a checksum of their beginning."""
    with open(files[0], "rb") as file:
        checksum = zlib.crc32(file.read(FINGERPRINT_BYTES))
    return f"{sum(map(os.path.getsize, files))}-{checksum}"


def vocabulary(train_files):
    """vocab_size of the tokens.json next to the tokens."""
    try:
        with open(os.path.join(os.path.dirname(train_files[0]), "tokens.json"), encoding="utf-8") as file:
            return int(json.load(file)["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_VOCABULARY


def scaled(steps, of, to):
    """A number of steps of a run of `of` steps, in one of `to`."""
    return round(steps * to / of)


class Model:
    """The shared part of all runs.

    config          the trainer's config file, with all keys filled in
    tokens_id       the fingerprint of its tokens
    """

    def __init__(self, train_gpt2, path, data, device, precision, prepare_data):
        """
        path            a config file
        data            (train, val) globs instead of the config's, or None
        Raises ModelError.
        """
        overrides = ["--init_from=scratch"]
        if data:
            overrides += ["--data.train=" + data[0], "--data.val=" + data[1],
                          f"--vocab_size={vocabulary(token_files(data[0]))}"]
        self.config = json.loads(run_program(train_gpt2, path, *overrides, "--print_config"))
        self.config["train"].update({"device": device, "precision": precision})
        if not data and self.config["data"]["train"] == TEXT["train"]:
            prepare_text(prepare_data)
        val_files = token_files(self.config["data"]["val"])
        self.tokens_id = fingerprint(token_files(self.config["data"]["train"]) + val_files)
        self._limit_validation(val_files)

    def _limit_validation(self, val_files):
        """Validations take the config's number of sequences, or as many as there are."""
        block_size, train = self.config["model"]["block_size"], self.config["train"]
        tokens = sum(os.path.getsize(file) - HEADER_BYTES for file in val_files) // 2
        sequences = (tokens - 1) // block_size
        if sequences < 1:
            raise ModelError(f"{self.config['data']['val']} has less than one sequence of {block_size} tokens; give "
                             "more validation tokens, or a config with a smaller block_size")
        if train["eval_sequences"] == 0 or train["eval_sequences"] > sequences:
            train["eval_sequences"] = sequences

    @property
    def tokens_per_step(self):
        return self.config["train"]["total_batch_size"] * self.config["model"]["block_size"]

    @property
    def tokens_per_evaluation(self):
        return self.config["train"]["eval_sequences"] * self.config["model"]["block_size"]

    def run_config(self, settings, keys, steps, evaluations, seed, folder):
        """The config of a run as the text of its file.

        settings        the optimizer section, of optimizers.Optimizer.settings()
        keys            those that this optimizer has
        evaluations     how often to validate after step 0
        seed            of the initial weights and of the order of the data
        """
        given, train = self.config["optimizer"], dict(self.config["train"])
        optimizer = dict(settings)
        optimizer.update({key: given[key] for key in optimizers.TRAINING_KEYS if key in given and key in keys})
        rates = [optimizer[key] for key in ("learning_rate", "muon_learning_rate") if key in optimizer]
        train.update({
            "max_iters": steps, "eval_interval": -(-steps // evaluations), "log_interval": -(-steps // 50),
            "checkpoint_interval": -(-steps // 4), "keep_checkpoints": 1, "norms_interval": 0, "sample_interval": 0,
            "ema_start": 0, "eval_only": False, "overwrite": False, "init_from": "auto", "seed": seed,
            "out_dir": folder})
        config = {"model": self.config["model"], "data": {**self.config["data"], "hellaswag": "", "seed": seed},
                  "optimizer": optimizer, "schedule": self._schedule(steps, min(rates)), "train": train}
        return f"// tokens {self.tokens_id}\n{json.dumps(config, indent=4)}\n"

    def _schedule(self, steps, rate):
        """The config's schedule for a run of another length and with another (smallest) peak."""
        schedule = dict(self.config["schedule"])
        given, of = self.config["optimizer"], self.config["train"]["max_iters"]
        for key in ("warmup_iters", "warmdown_iters", "lr_decay_iters"):
            if key in schedule:
                schedule[key] = scaled(schedule[key], of, steps)
        if "min_lr" in schedule:
            peak = min(given["learning_rate"], given.get("muon_learning_rate", given["learning_rate"]))
            schedule["min_lr"] = optimizers.rounded(rate * schedule["min_lr"] / peak)
        return schedule
