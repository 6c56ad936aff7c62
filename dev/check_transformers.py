#!/usr/bin/env python3
"""Checks that transformers computes the same as this trainer, for every kind of model.

    python3 dev/check_transformers.py [--bin=FOLDER] [--only=NAME]

Needs torch and transformers (4.57 or newer), and train_gpt2, sample_gpt2 and export_hf in FOLDER (default: the current one). For
each model it trains a few steps, opens the checkpoint by AutoModelForCausalLM and compares: the validation loss in
float32 and bfloat16, logits of GPT2LMHeadModel and of modeling_mars_gpt.py where both can compute the model, tokens with
and without a key-value cache and after padding, sample_gpt2's likeliest tokens, the loss that the trainer finds for
what transformers has saved, and logits of what export_hf wrote with the scale of attention folded in. Then the losses in dev/golden/modern. Exit status 1 where something differs."""
import glob
import json
import os
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "checkpoint"), os.path.join(ROOT, "scripts")]
sys.dont_write_bytecode = True
os.environ["HF_HUB_OFFLINE"] = "1"

import metrics
import torch
import transformers
from safetensors.torch import load_file
from modeling_mars_gpt import CACHE, DEFAULTS, MarsGPTConfig, MarsGPTForCausalLM

LENGTH, VOCABULARY, VALIDATION_WINDOWS = 32, 256, 16
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": LENGTH, "vocab_size": VOCABULARY}
GPT2_MODELS = {
    "gpt2": {},
    "bias": {"bias": True},
    "unscaled": {"scale_attn_by_inverse_layer_idx": False},
    "eps": {"norm_eps": 1e-2},
    "relu2": {"activation": "relu2"},
    "untied": {"tie_embeddings": False, "bias": True},
    "odd_vocabulary": {"vocab_size": 257},
}
MARS_MODELS = {
    "rope": {"position": "rope"},
    "rope_half": {"position": "rope-half", "rope_base": 1024},
    "rmsnorm": {"norm": "rmsnorm"},
    "rmsnorm_bias": {"norm": "rmsnorm", "bias": True, "norm_eps": 1e-2},
    "no_gain": {"norm_gain": False},
    "no_gain_bias": {"norm_gain": False, "bias": True},
    "rmsnorm_no_gain": {"norm": "rmsnorm", "norm_gain": False},
    "norm_embedding": {"norm_embedding": True},
    "qk_norm": {"qk_norm": True, "qk_norm_eps": 0.0078125},
    "qk_norm_rope": {"qk_norm": True, "position": "rope", "scale_attn_by_inverse_layer_idx": False},
    "lm_head_bias": {"tie_embeddings": False, "lm_head_bias": True},
    "lm_head_bias_odd": {"tie_embeddings": False, "lm_head_bias": True, "vocab_size": 257},
    "attention_scale": {"attention_scale": 0.12},
    "attention_output_scale": {"attention_output_scale": 0.3, "bias": True},
    "logit_softcap": {"logit_softcap": 4},
    "modded": {"position": "rope", "norm": "rmsnorm", "norm_gain": False, "norm_eps": 1.1920929e-07, "qk_norm": True,
               "qk_norm_eps": 0.0078125, "activation": "relu2", "scale_attn_by_inverse_layer_idx": False,
               "init": "torch", "zero_init_projections": True},
    "track3": {"position": "rope-half", "rope_base": 1024, "norm": "rmsnorm", "norm_eps": 1.1920929e-07, "bias": True,
               "norm_embedding": True, "qk_norm": True, "activation": "relu2", "tie_embeddings": False,
               "lm_head_bias": True, "attention_scale": 0.12, "logit_softcap": 15, "init": "fan-in",
               "scale_attn_by_inverse_layer_idx": False, "zero_init_projections": True, "zero_init_lm_head": True},
}

failures = 0


def check(name, what, ok, detail):
    global failures
    failures += not ok
    print(f"{'ok   ' if ok else 'WRONG'} {name:24s} {what:40s} {detail}", flush=True)


def close(name, what, found, expected, limit):
    """Relative to the expected number."""
    error = abs(found - expected) / abs(expected)
    check(name, what, error <= limit, f"{found:.7f}, expected {expected:.7f}: {error:.1e}")


def read_tokens(path):
    with open(path, "rb") as file:
        data = file.read()
    count = struct.unpack("<3i", data[:12])[2]
    return torch.tensor(struct.unpack(f"<{count}H", data[1024:1024 + 2 * count]))


def windows(tokens, length, count):
    return torch.stack([tokens[i * length:(i + 1) * length + 1] for i in range(count)])


def loss_of(model, batch):
    """The mean loss of each token after the first one, of windows (B, T + 1)."""
    with torch.no_grad():
        logits = model(input_ids=batch[:, :-1]).logits.float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).item()


# ---- runs of the trainer ----


def run(command):
    result = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{result.stdout.decode()}{result.stderr.decode()}")
    return result.stdout


def train(binaries, folder, name, keys, *arguments):
    """The folder of the run's newest checkpoint, and its last validation loss."""
    out_dir = os.path.join(folder, name)
    config = {
        "model": keys,
        "data": {"train": "dev/golden/tiny_train.bin", "val": "dev/golden/tiny_val.bin"},
        "optimizer": {"name": "adamw", "learning_rate": 0.02},
        "train": {"max_iters": 150, "total_batch_size": 8, "batch_size": 8, "eval_sequences": VALIDATION_WINDOWS,
                  "out_dir": out_dir, "device": "cpu", "precision": "float32", "threads": 1}}
    path = os.path.join(folder, name + ".json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)
    run([os.path.join(binaries, "train_gpt2"), path, *arguments])
    return os.path.join(out_dir, "checkpoints", "latest"), metrics.read_run(out_dir).val[-1]["loss"]


# ---- what is compared ----


def open_model(folder, dtype=torch.float32):
    """transformers before version 5 does not scale attention by layer in its default implementation."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=dtype,
                                                             attn_implementation="eager").eval()


def tokens_of(model, prompt, **options):
    return model.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0, **options)[:, prompt.shape[1]:]


def check_generation(name, model, prompt):
    with torch.no_grad():
        whole = model(input_ids=prompt, use_cache=False).logits
        first = model(input_ids=prompt[:, :5], use_cache=True)
        cache = {CACHE: first[CACHE]}
        rest = [first.logits] + [model(input_ids=prompt[:, i:i + 1], use_cache=True, **cache).logits
                                 for i in range(5, prompt.shape[1])]
    error = (torch.cat(rest, 1) - whole).abs().max().item() / whole.abs().max().item()
    check(name, "logits with and without cache", error < 2e-5, f"{error:.1e}")
    cached = tokens_of(model, prompt, use_cache=True)
    check(name, "generate with and without cache", torch.equal(cached, tokens_of(model, prompt, use_cache=False)),
          str(cached[0].tolist()))
    padded = torch.cat([torch.zeros(prompt.shape[0], 3, dtype=prompt.dtype), prompt], 1)
    mask = (torch.arange(padded.shape[1]) >= 3).long().expand(padded.shape)
    same = torch.equal(cached, tokens_of(model, padded, attention_mask=mask))
    check(name, "generate after padding", same, "")
    return cached


def check_sample(name, binaries, folder, prompt, expected):
    path = folder.rstrip("/") + ".prompt"
    with open(path, "wb") as file:
        file.write(bytes(prompt))
    text = run([os.path.join(binaries, "sample_gpt2"), folder, "--tokenizer=bytes", f"--prompt_file={path}",
                "--temperature=0", f"--max_new_tokens={len(expected)}"])
    found = list(text)[len(prompt):len(prompt) + len(expected)]
    check(name, "sample_gpt2", list(text)[:len(prompt)] == prompt and found == expected, str(found))


def mars_from_gpt2(model, keys):
    """The same model by modeling_mars_gpt.py."""
    mars = MarsGPTForCausalLM(MarsGPTConfig(**keys))
    own = mars.state_dict()
    weights = {key: value for key, value in model.state_dict().items() if key in own}
    mars.load_state_dict(weights, strict=True)
    return mars.eval()


def check_export(name, keys, binaries, checkpoint, model, batch):
    """Without the setting, transformers' default attention computes the same."""
    if keys.get("qk_norm") or not keys.get("scale_attn_by_inverse_layer_idx", True):
        return
    folder = checkpoint.rstrip("/") + "_folded"
    run([os.path.join(binaries, "export_hf"), checkpoint, folder, "--fold_attention_scale"])
    folded = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        logits, found = model(input_ids=batch[:, :-1]).logits, folded(input_ids=batch[:, :-1]).logits
    error = (found - logits).abs().max().item() / logits.abs().max().item()
    check(name, "logits of export_hf's folder", error < 1e-5, f"{error:.1e}")


def check_model(name, keys, binaries, folder):
    keys = {**SIZES, **keys}
    checkpoint, expected = train(binaries, folder, name, keys)
    batch = windows(read_tokens(os.path.join(ROOT, "dev/golden/tiny_val.bin")), LENGTH, VALIDATION_WINDOWS)
    model = open_model(checkpoint)
    kind = "GPT2LMHeadModel" if name in GPT2_MODELS else "MarsGPTForCausalLM"
    check(name, "class", type(model).__name__ == kind, type(model).__name__)
    close(name, "validation loss", loss_of(model, batch), expected, 2e-6)
    if keys.get("position", "learned") != "learned":  # a table has no position for the last token
        with torch.no_grad():
            close(name, "loss by labels", model(input_ids=batch, labels=batch).loss.item(), expected, 2e-6)
    close(name, "validation loss in bfloat16", loss_of(open_model(checkpoint, torch.bfloat16), batch), expected, 5e-3)
    if name in GPT2_MODELS:
        own = mars_from_gpt2(model, {key: keys.get(key, DEFAULTS[key]) for key in DEFAULTS})
        with torch.no_grad():
            logits, found = model(input_ids=batch[:, :-1]).logits, own(input_ids=batch[:, :-1]).logits
        error = (found - logits).abs().max().item() / logits.abs().max().item()
        check(name, "logits of MarsGPTForCausalLM", error < 1e-5, f"{error:.1e}")
    check_export(name, keys, binaries, checkpoint, model, batch)
    prompt = batch[:1, :10]
    tokens = check_generation(name, model, prompt)
    if keys["vocab_size"] == VOCABULARY:
        check_sample(name, binaries, checkpoint, prompt[0].tolist(), tokens[0].tolist())
    saved = os.path.join(folder, name + "_saved")
    model.save_pretrained(saved)
    close(name, "loss when saved and opened again", loss_of(open_model(saved), batch), expected, 2e-6)
    again = train(binaries, folder, name + "_again", {}, f"--init_from={saved}", "--eval_only=true")[1]
    close(name, "the trainer's loss of what it saves", again, expected, 2e-6)


def check_golden(path):
    with open(path, encoding="utf-8") as file:
        golden = json.load(file)
    if "gradient_check" not in golden:
        return
    stem, keys, batch_size = path[:-len(".json")], golden["model"], golden["train"]["batch_size"]
    model = MarsGPTForCausalLM(MarsGPTConfig(**{key: keys[key] for key in DEFAULTS})).eval()
    weights = load_file(stem + "_init.safetensors")
    model.load_state_dict({key if key.startswith("lm_head") else "transformer." + key: value.float()
                           for key, value in weights.items()}, strict=True)
    batch = windows(read_tokens(stem + "_train.bin"), keys["block_size"], batch_size * golden["train"]["accum"])
    close(os.path.basename(stem), "loss in dev/golden/modern", loss_of(model, batch), golden["gradient_check"]["loss"],
          2e-6)


def main():
    options = {"--bin": ".", "--only": ""}
    for argument in sys.argv[1:]:
        key, _, value = argument.partition("=")
        if key not in options:
            sys.exit(__doc__)
        options[key] = value
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        for name, keys in {**GPT2_MODELS, **MARS_MODELS}.items():
            if options["--only"] in ("", name):
                check_model(name, keys, os.path.abspath(options["--bin"]), folder)
    for path in sorted(glob.glob(os.path.join(ROOT, "dev/golden/modern/*.json"))):
        if options["--only"] == "":
            check_golden(path)
    print(f"{failures} differences" if failures else "all the same")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
