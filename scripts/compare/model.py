"""model.py: what all runs of a comparison share, and the config of each run.

A config file of the trainer gives the model, the data, the batch, the shape of the schedule and how to train. The
comparison replaces its optimizer (except optimizers.TRAINING_KEYS), numbers of steps, seeds, folders and intervals.
Runs start from scratch, and have no samples, no HellaSwag and no average of the weights.
"""
import glob
import json
import os
import subprocess
import zlib

from compare import CompareError, optimizers

TEXT_FOLDER = "data/compare"
TEXT = {"train": TEXT_FOLDER + "/train_*.bin", "val": TEXT_FOLDER + "/val_*.bin"}  # for configs without data
FULL_EVALUATIONS = 40            # of a run of full length
TRIAL_EVALUATIONS = 4
TIMING_STEPS = 8
HEADER_BYTES = 1024              # of a file of tokens that begins with this number
HEADER_MAGIC = (20240520).to_bytes(4, "little")
FINGERPRINT_BYTES = 1000000


def run_program(*command):
    """Runs a program and returns what it prints. Raises CompareError with its message."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
                              check=False)
    except OSError as error:
        raise CompareError(f"cannot run {command[0]}: {error.strerror}; build it with make (bash scripts/install_deps.sh "
                           "installs what that needs)") from None
    if done.returncode != 0:
        raise CompareError(f"{' '.join(command)} failed with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def prepare_text(prepare_data):
    """Makes the tokens of TEXT, the bytes of the quickstart's text, if there are none yet."""
    if os.path.exists(os.path.join(TEXT_FOLDER, "tokens.json")):
        return
    print(run_program("bash", "scripts/quickstart.sh", "--text-only"), end="")
    os.makedirs(TEXT_FOLDER, exist_ok=True)
    run_program(prepare_data, "--tokenizer=bytes", "--out=" + TEXT_FOLDER, "data/quickstart/text.txt")


def token_files(pattern):
    """The files of data.train or data.val. Raises CompareError if there is none."""
    files = sorted(filter(os.path.isfile, glob.glob(os.path.expanduser(pattern))))
    if not files:
        raise CompareError(f"there is no file {pattern}; prepare_data makes such files")
    return files


def first_bytes(file, count):
    try:
        with open(file, "rb") as opened:
            return opened.read(count)
    except OSError as error:
        raise CompareError(f"cannot read {file}: {error.strerror}") from None


def fingerprint(files):
    """A fingerprint of the tokens: the size of all files, and a checksum of the first megabyte of each."""
    checksum = 0
    for file in files:
        checksum = zlib.crc32(first_bytes(file, FINGERPRINT_BYTES), checksum)
    return f"{sum(map(os.path.getsize, files))}-{checksum}"


def token_count(file):
    has_header = first_bytes(file, len(HEADER_MAGIC)) == HEADER_MAGIC
    return (os.path.getsize(file) - HEADER_BYTES * has_header) // 2


def vocabulary(train_files):
    """vocab_size of the tokens.json next to the tokens; None if there is none."""
    try:
        with open(os.path.join(os.path.dirname(train_files[0]), "tokens.json"), encoding="utf-8") as file:
            return int(json.load(file)["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Model:
    """The part that all runs share.

    config          the trainer's config, with all keys filled in
    tokens_id       the fingerprint of its tokens
    """

    def __init__(self, train_gpt2, path, data, device, precision, prepare_data):
        """
        train_gpt2, prepare_data    the programs
        path                        a config file
        data                        (train, val) globs instead of the config's, or None
        device, precision           as the trainer has them, instead of the config's
        Raises CompareError.
        """
        overrides = [f"--device={device}", f"--precision={precision}"]
        if data:
            overrides += ["--data.train=" + data[0], "--data.val=" + data[1]]
            vocab_size = vocabulary(token_files(data[0]))
            if vocab_size:
                overrides.append(f"--vocab_size={vocab_size}")
        self.config = json.loads(run_program(train_gpt2, path, *overrides, "--print_config"))
        train = self.config["train"]
        if train["init_from"] not in ("scratch", "resume", "auto"):
            raise CompareError(f"{path} starts from the weights in {train['init_from']}, and a comparison from scratch; "
                               "give a config without init_from")
        if train["max_iters"] == 0:
            raise CompareError(f"{path} has max_iters 0, which its schedule is a part of; give another config")
        if not train.get("total_batch_size"):
            train["total_batch_size"] = train["batch_size"] * train["gradient_accumulation_steps"]
        train.pop("gradient_accumulation_steps", None)
        if not data and self.config["data"]["train"] == TEXT["train"]:
            prepare_text(prepare_data)
        val_files = token_files(self.config["data"]["val"])
        self.tokens_id = fingerprint(token_files(self.config["data"]["train"]) + val_files)
        self._limit_validation(val_files)

    def _limit_validation(self, val_files):
        """Validations take the config's number of sequences, or as many as there are."""
        block_size, train = self.config["model"]["block_size"], self.config["train"]
        sequences = (sum(map(token_count, val_files)) - 1) // block_size
        if sequences < 1:
            raise CompareError(f"{self.config['data']['val']} has less than one sequence of {block_size} tokens; give "
                               "more validation tokens, or a config with a smaller block_size")
        if train["eval_sequences"] == 0 or train["eval_sequences"] > sequences:
            train["eval_sequences"] = sequences

    @property
    def tokens_per_step(self):
        return self.config["train"]["total_batch_size"] * self.config["model"]["block_size"]

    @property
    def tokens_per_evaluation(self):
        return self.config["train"]["eval_sequences"] * self.config["model"]["block_size"]

    def run_config(self, optimizer, settings, steps, evaluations, seed, folder):
        """The config of a run as the text of its file.

        optimizer       optimizers.Optimizer
        settings        its section of a config, of its settings()
        evaluations     how often to validate after step 0
        seed            of the initial weights, of dropout and of the order of the data
        """
        given, train, keys = self.config["optimizer"], dict(self.config["train"]), optimizer.entry["keys"]
        section = {**settings, **{key: given[key] for key in optimizers.TRAINING_KEYS if key in given and key in keys}}
        train.update({
            "max_iters": steps, "eval_interval": -(-steps // evaluations), "log_interval": -(-steps // 50),
            "checkpoint_interval": -(-steps // 4), "keep_checkpoints": 1, "norms_interval": 0, "sample_interval": 0,
            "ema_start": 0, "eval_only": False, "overwrite": False, "init_from": "auto", "seed": seed,
            "out_dir": folder})
        config = {"model": self.config["model"], "data": {**self.config["data"], "hellaswag": "", "seed": seed},
                  "optimizer": section, "schedule": self._schedule(steps, section), "train": train}
        return f"// tokens {self.tokens_id}\n{json.dumps(config, indent=4)}\n"

    def _schedule(self, steps, section):
        """The config's schedule for a run of another length, with the rates of an optimizer section."""
        schedule, of = dict(self.config["schedule"]), self.config["train"]["max_iters"]
        for key in ("warmdown_iters", "lr_decay_iters", "warmup_iters"):
            if schedule.get(key):  # 0 has a meaning of its own
                schedule[key] = max(1, round(schedule[key] * steps / of))
        if "warmdown_iters" in schedule:
            schedule["warmup_iters"] = min(schedule["warmup_iters"], steps - schedule["warmdown_iters"])
        if "min_lr" in schedule:
            schedule["min_lr"] = optimizers.rounded(min(rates(section)) * schedule["min_lr"]
                                                    / max(rates(self.config["optimizer"])))
        return schedule


def rates(section):
    """The peak rates in an optimizer section to which the schedule's min_lr applies."""
    return [section[key] for key in ("learning_rate", "muon_learning_rate") if key in section]
