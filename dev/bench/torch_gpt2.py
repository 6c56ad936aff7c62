"""torch_gpt2.py: how fast the same GPT-2 trains in PyTorch: what bench_train's tokens/s are compared with.

    python3 dev/bench/torch_gpt2.py [--model tiny|small|medium|large|xl] [--batch 32] [--steps 20]
                                    [--precision bfloat16|float32] [--no_compile] [--device auto|cpu|cuda] [--out FILE]

A GPT-2 as nanoGPT trains it: bfloat16 autocast over float32 weights (--precision float32: no autocast), torch.compile of
the whole model, flash attention through scaled_dot_product_attention, fused AdamW with the global norm clipped at 1, the
output matrix tied to the token embedding, a vocabulary of 50304, no biases, no dropout. Shapes, attention scale and GELU
are those of bench_train. Where the batch does not fit the GPU's memory it is halved until it does. Prints one JSON object,
and writes it to FILE.
"""
import argparse
import json
import math
import pathlib
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

# n_layer, n_head, n_embd, block_size, vocab_size
SIZES = {
    "tiny": (2, 2, 128, 64, 512),
    "small": (12, 12, 768, 1024, 50304),
    "medium": (24, 16, 1024, 1024, 50304),
    "large": (36, 20, 1280, 1024, 50304),
    "xl": (48, 25, 1600, 1024, 50304),
}
# Steps between two waits, as in bench_train.
STEPS_AHEAD = 4
WARM_UP_STEPS = 3


class LayerNorm(nn.Module):
    def __init__(self, n_embd):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_embd))

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Attention(nn.Module):
    def __init__(self, n_embd, n_head, layer):
        super().__init__()
        self.n_head = n_head
        self.scale = 1.0 / math.sqrt(n_embd // n_head) / (layer + 1)
        self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (y.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for y in self.c_attn(x).split(C, dim=2))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return self.c_proj(out.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, n_embd, n_head, layer):
        super().__init__()
        self.ln_1, self.ln_2 = LayerNorm(n_embd), LayerNorm(n_embd)
        self.attn = Attention(n_embd, n_head, layer)
        self.c_fc = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.c_proj = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.c_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    def __init__(self, n_layer, n_head, n_embd, block_size, vocab_size):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(block_size, n_embd)
        self.blocks = nn.ModuleList(Block(n_embd, n_head, layer) for layer in range(n_layer))
        self.ln_f = LayerNorm(n_embd)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deviation = 0.02 / math.sqrt(2 * n_layer) if name.endswith("c_proj.weight") else 0.02
                nn.init.normal_(parameter, std=deviation)

    def forward(self, inputs, targets):
        x = self.wte(inputs) + self.wpe(torch.arange(inputs.shape[1], device=inputs.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def make_optimizer(model):
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and name not in ("wte.weight", "wpe.weight")]
    rest = [p for name, p in model.named_parameters() if p.dim() != 2 or name in ("wte.weight", "wpe.weight")]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


class Trainer:
    def __init__(self, size, batch, options):
        block_size, vocab_size = size[3], size[4]
        torch.manual_seed(1)
        self.device = device = options.device
        self.is_bfloat16 = options.precision == "bfloat16"
        self.plain = GPT2(*size).to(device)
        self.model = self.plain if options.no_compile else torch.compile(self.plain)
        self.optimizer = make_optimizer(self.plain)
        self.tokens = torch.randint(vocab_size, (2, batch, block_size))
        if device == "cuda":
            self.tokens = self.tokens.pin_memory()

    def step(self):
        inputs, targets = self.tokens.to(self.device, non_blocking=True)
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.is_bfloat16):
            loss = self.model(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.plain.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def seconds(self, steps):
        """Of a step, from several between two waits."""
        synchronize(self.device)
        begun = time.perf_counter()
        for _ in range(steps):
            self.step()
        synchronize(self.device)
        return (time.perf_counter() - begun) / steps


def measure(options, size, batch):
    begun = time.perf_counter()
    trainer = Trainer(size, batch, options)
    for _ in range(WARM_UP_STEPS):
        loss = trainer.step()
    synchronize(options.device)
    ready = time.perf_counter() - begun
    ahead = STEPS_AHEAD if options.device == "cuda" else 1
    seconds = statistics.median(trainer.seconds(ahead) for _ in range(max(1, options.steps // ahead)))
    if not math.isfinite(loss.item()):
        sys.exit("torch_gpt2.py: the loss is not finite")
    cuda = options.device == "cuda"
    return {
        "model": options.model,
        "precision": options.precision,
        "batch": batch,
        "batch asked for": options.batch,
        "tokens/s": round(batch * size[3] / seconds, 1),
        "step, ms": round(seconds * 1e3, 3),
        "memory, GB": round(torch.cuda.max_memory_reserved() * 1e-9, 2) if cuda else None,
        "until the first steps were done, s": round(ready, 1),
        "compiled": not options.no_compile,
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cpu threads": None if cuda else torch.get_num_threads(),
    }


def main():
    parser = argparse.ArgumentParser(description="How fast the same GPT-2 trains in PyTorch; prints JSON.")
    parser.add_argument("--model", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--no_compile", action="store_true")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cuda":
        if options.precision == "float32":
            parser.error("--precision float32 is for CPUs: flash attention has no float32; add --device cpu")
        torch.set_float32_matmul_precision("high")
        torch.backends.cuda.enable_math_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_cudnn_sdp(False)
    batch = options.batch
    while True:
        try:
            figures = measure(options, SIZES[options.model], batch)
            break
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
        # Outside of the handler, where the failed step's tensors are no longer held.
        torch.compiler.reset()
        torch.cuda.empty_cache()
    print(json.dumps(figures))
    if options.out:
        options.out.write_text(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
