#!/usr/bin/env python3
"""A model of the time of a training step on many GPUs, from what one GPU measured. It is no measurement.

  python3 dev/bench/scale_model.py                                          # all sizes and optimizers, H200 and H100
  python3 dev/bench/scale_model.py dev/results/nvidia-h200.json --sizes=small --optimizers=adamw,muon --gpus=1,8,64
  python3 dev/bench/scale_model.py --nvlink=370 --infiniband=45 --json

Prints Markdown tables: all inputs, each named as measured (with file and field) or assumed; the step time and the
efficiency with a fixed batch for all GPUs (strong scaling) and with a fixed batch for each GPU (weak scaling); and
where the time goes. With --json it prints the same numbers as JSON. Without RESULT files it reads those of dev/results.

One step is modelled in the order of train_gpt2.cu and optim/optim.c. step_time() is where a reader starts.
- The gradient of a rank's sequences, in micro-steps. During the backward pass of the last micro-step, float32 gradients
  are reduce-scattered in buckets, as soon as all of a bucket is final. The exchanges run one after the other. What has
  not ended when the backward pass ends is exposed. Exact MARS does all this twice.
- The sums over each tensor's gradient, for the norm. Nothing hides this exchange.
- The update. Each rank updates what it owns; the slowest rank counts.
- The all-gather of bfloat16 weights, bucket by bucket from element 0. The next forward pass waits for the embeddings
  and block 0, and inside of each block for the next one; these waits are exposed.

The division between ranks is that of util/partition.c: equal slices of each bucket for elementwise rules
(ncclReduceScatter, ncclAllGather), whole matrices for matrix rules (ncclReduce, ncclBroadcast). One matrix is never
divided, so the largest one bounds what more GPUs gain.

On P GPUs a ring takes bytes x (P-1)/P over the link's rate for a reduce-scatter or an all-gather, and bytes over the
rate for a reduce or a broadcast. A ring leaves each node through one network adapter. NCCL lays one ring for each
adapter, and each GPU of a node has one adapter, so the rate between nodes is that of all adapters of a node. The slower
of the two links bounds the ring. Each exchange also takes call_us, and for each of its P-1 hops nvlink_us or
infiniband_us. optim/grad_sync.c starts one exchange for each rule that updates a tensor, so an optimizer with two rules
has up to twice the latency.
"""
import argparse
import collections
import heapq
import json
import math
import os
import re
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(ROOT, "scripts"))
import markdown_table  # noqa: E402

RESULTS = ("dev/results/nvidia-h200.json", "dev/results/nvidia-h100-80gb-hbm3.json")
SIZES = ("small", "medium", "large", "xl")
GPUS = (1, 2, 4, 8, 16, 32, 64, 96, 240, 256, 480, 1024)
DETAILED_STEPS = (("strong", 8), ("weak", 64), ("weak", 1024))  # the first is that of the published runs

ALIGNMENT = 128  # util/tensor_table.h
VOCAB_MULTIPLE = 64  # model/layers.c
BUCKETS, LEAST_BUCKET, LARGEST_BUCKET = 16, 1 << 14, 1 << 23  # optim/grad_sync.c
STATE_SLACK = 1.1  # util/partition.c
GRADIENT_BYTES, WEIGHT_BYTES = 4, 2  # of an element in an exchange: float32, bfloat16
SUM_BYTES = 3 * 8  # of a tensor: GradientSums of optim/rules/update_coeffs.h
NS_STEPS = 5

MATRIX, EMBEDDING, VECTOR = "matrix", "embedding", "vector"
Tensor = collections.namedtuple("Tensor", "role rows columns offset size")

# optim/optimizers.h: states of one number per element; uses_prev_grad: the rule keeps a previous gradient, too.
Rule = collections.namedtuple("Rule", "is_matrix states uses_prev_grad")
RULES = {
    "muon": Rule(True, 1, False),
    "moonlight": Rule(True, 1, False),
    "mars-shampoo": Rule(True, 1, True),
    "mars-m": Rule(True, 1, True),
    "mars-m-efficient": Rule(True, 1, False),
    "adamw": Rule(False, 2, False),
    "mars-adamw": Rule(False, 2, True),
    "mars-lion": Rule(False, 1, True),
    "sgd-sai": Rule(False, 1, False),
}
# optim/optimizers.c: the rules of hidden matrices, of embeddings and of vectors.
OPTIMIZERS = {
    "adamw": ("adamw", "adamw", "adamw"),
    "mars-adamw": ("mars-adamw", "mars-adamw", "adamw"),
    "mars-lion": ("mars-lion", "mars-lion", "adamw"),
    "mars-shampoo": ("mars-shampoo", "mars-shampoo", "adamw"),
    "muon": ("muon", "muon", "adamw"),
    "moonlight": ("moonlight", "adamw", "adamw"),
    "mars-m": ("mars-m", "adamw", "adamw"),
    "mars-m-efficient": ("mars-m-efficient", "adamw", "adamw"),
    "sgd-sai": ("sgd-sai", "sgd-sai", "sgd-sai"),
}
EXACT = " exact"  # after the name: two gradients a step
DETAILED = ("adamw", "mars-adamw exact", "muon", "mars-m")


class ModelError(Exception):
    """Why there is no result, for the user."""


def round_up(n, multiple):
    return -(-n // multiple) * multiple


def rules_of(optimizer):
    """{role: name of the rule}."""
    name = optimizer[:-len(EXACT)] if optimizer.endswith(EXACT) else optimizer
    return dict(zip((MATRIX, EMBEDDING, VECTOR), OPTIMIZERS[name]))


# ---- inputs ----


def field(values, path, *keys):
    """A value of a JSON file by its keys. path is the file's name, for the message."""
    for i, key in enumerate(keys):
        if not isinstance(values, dict) or key not in values:
            raise ModelError("%s: the field %s is missing; bash dev/gpu_check.sh bench measures it"
                             % (path, ".".join(keys[:i + 1])))
        values = values[key]
    return values


def positive(values, path, *keys):
    value = field(values, path, *keys)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ModelError("%s: %s is %r; expected a number above 0" % (path, ".".join(keys), value))
    return value


def read_json(path, comments=False):
    try:
        with open(path if os.path.exists(path) else os.path.join(ROOT, path), encoding="utf-8") as file:
            text = file.read()
        return json.loads(re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL) if comments else text)
    except OSError as error:
        raise ModelError("%s: %s" % (path, error.strerror)) from error
    except ValueError as error:
        raise ModelError("%s: is not JSON: %s" % (path, error)) from error


def read_config(path):
    """{section: {key: value}} of a file of config/base, with the keys of its own base."""
    config = read_json(path, comments=True)
    base = config.pop("base", None)
    if base is None:
        return config
    sections = read_config(os.path.join(os.path.dirname(path), base))
    for name, section in config.items():
        sections[name] = {**sections.get(name, {}), **section}
    return sections


class Model:
    """The tensors of a GPT-2 without biases, in the order of model/gpt2_tensors.c."""

    def __init__(self, size):
        self.size, self.path = size, "config/base/%s.json" % size
        config = read_config(self.path)
        self.layers = positive(config, self.path, "model", "n_layer")
        self.tokens = positive(config, self.path, "model", "block_size")
        self.micro_batch = positive(config, self.path, "train", "batch_size")
        width, vocabulary = (positive(config, self.path, "model", key) for key in ("n_embd", "vocab_size"))
        self.tensors, self.length = [], 0
        self._add(EMBEDDING, vocabulary, width, round_up(vocabulary, VOCAB_MULTIPLE))
        self._add(EMBEDDING, self.tokens, width)
        self.block_begin = []
        for _ in range(self.layers):
            self.block_begin.append(self.length)
            self._add(VECTOR, 1, width)
            self._add(MATRIX, 3 * width, width)
            self._add(MATRIX, width, width)
            self._add(VECTOR, 1, width)
            self._add(MATRIX, 4 * width, width)
            self._add(MATRIX, width, 4 * width)
        self.block_begin.append(self.length)  # of what follows the blocks
        self._add(VECTOR, 1, width)
        self.parameters = sum(t.size for t in self.tensors)
        bucket = round_up(-(-self.length // BUCKETS), ALIGNMENT)
        self.bucket = min(LARGEST_BUCKET, max(LEAST_BUCKET, bucket))
        self.buckets = -(-self.length // self.bucket)

    def _add(self, role, rows, columns, padded_rows=0):
        self.tensors.append(Tensor(role, rows, columns, self.length, rows * columns))
        self.length += round_up(max(rows, padded_rows) * columns, ALIGNMENT)

    def end_of_need(self, block):
        """The element up to which a block needs weights. What follows the blocks counts as one more block."""
        return self.length if block == self.layers else self.block_begin[block + 1]


class Measured:
    """What one GPU measured: a file of dev/gpu_check.sh."""

    def __init__(self, path):
        self.path, self.values = path, read_json(path)
        bench = ("parts", "bench")
        self.gpu = field(self.values, path, *bench, "kernels", "machine")
        if field(self.values, path, *bench, "optimizers", "model") != "small":
            raise ModelError("%s: parts.bench.optimizers.model is not small; run bash dev/gpu_check.sh bench" % path)
        measured = field(self.values, path, *bench, "optimizers", "optimizers")
        self.optimizers = {o.get("name"): o for o in measured}

    def step(self, model, *keys):
        return positive(self.values, self.path, "parts", "bench", "training", model.size, *keys)

    def check(self, model):
        """Refuses a measurement of another model than config/base describes."""
        for key, expected in (("parameters", model.parameters), ("tokens in a sequence", model.tokens)):
            if self.step(model, key) != expected:
                raise ModelError("%s: parts.bench.training.%s.%s is %s, but %s has %s" % (
                    self.path, model.size, key, self.step(model, key), model.path, expected))

    def sequence_ms(self, model):
        """Forward and backward pass of one sequence."""
        return (self.step(model, "step, ms") - self.step(model, "optimizer, ms")) / self.step(model, "batch")

    def parts(self, model):
        """{operation: ms for one sequence}, scaled so that all parts but the optimizer make up a sequence's time."""
        apart = "one step taken apart, ms"
        names = field(self.values, self.path, "parts", "bench", "training", model.size, apart)
        parts = {name: self.step(model, apart, name) for name in names if name != "optimizer"}
        scale = self.sequence_ms(model) / sum(parts.values())
        return {name: ms * scale for name, ms in parts.items()}

    def passes_and_products(self, optimizer):
        """The ms of an update of small by one GPU: all but the matmuls of Newton-Schulz, and these."""
        if optimizer not in self.optimizers:
            raise ModelError("%s: parts.bench.optimizers.optimizers has no %s; bash dev/gpu_check.sh bench measures it"
                             % (self.path, optimizer))
        values, products = self.optimizers[optimizer], "its products, ms"
        return (positive(values, self.path, "passes, ms"),
                positive(values, self.path, products) if products in values else 0.0)


Timeline = collections.namedtuple("Timeline", "embedding attention mlp block_backward embedding_backward")


def timeline(measured, model, sequences):
    """The ms of what gradients and weights are exchanged in parallel with: of one micro-step, for each block."""
    parts = measured.parts(model)

    def ms(name, share):
        return sequences * share * positive(parts, measured.path, name)

    block, norm = 1 / model.layers, 1 / (2 * model.layers + 1)
    # "linear forward" is c_attn and c_proj of attention, and the MLP's c_proj, each half of the FLOPs.
    return Timeline(embedding=ms("embedding forward", 1) + ms("layernorm forward", norm),
                    attention=ms("linear forward", block / 2) + ms("attention forward", block)
                    + ms("layernorm forward", norm),
                    mlp=ms("linear forward", block / 2) + ms("linear + GELU forward", block)
                    + ms("layernorm forward", norm),
                    block_backward=ms("linear backward, weight", block) + ms("linear backward, input", block)
                    + ms("attention backward", block) + ms("layernorm backward", 2 * norm),
                    embedding_backward=ms("embedding backward", 1))


# ---- who owns what: util/partition.c ----


class Group:
    """The tensors under one rule: for each bucket the elements in even ranges and the others, and for each rank the
    elements and the Newton-Schulz FLOPs of a step."""

    def __init__(self, rule, model, gpus):
        self.rule = rule
        self.even, self.other = [0] * model.buckets, [0] * model.buckets
        self.elements, self.flops = [0] * gpus, [0.0] * gpus

    def add_other(self, model, begin, end):
        while begin < end:
            bucket = begin // model.bucket
            stop = min(end, (bucket + 1) * model.bucket)
            self.other[bucket] += stop - begin
            begin = stop


def iteration_flops(tensor):
    short, long = sorted((tensor.rows, tensor.columns))
    return 4 * short * short * long + 2 * short ** 3


def own_matrices(group, model, tensors, gpus):
    """partition_matrices(): the costliest matrix first, each to the rank with the least cost that has room for it."""
    limit = max(STATE_SLACK * sum(t.size for t in tensors) / gpus, max(t.size for t in tensors))
    cost = [0.0] * gpus
    for tensor in sorted(tensors, key=iteration_flops, reverse=True):
        with_room = [r for r in range(gpus) if group.elements[r] + tensor.size <= limit]
        owner = min(with_room, key=cost.__getitem__) if with_room else min(range(gpus), key=group.elements.__getitem__)
        cost[owner] += iteration_flops(tensor)
        group.elements[owner] += tensor.size
        group.flops[owner] += NS_STEPS * iteration_flops(tensor)
        group.add_other(model, tensor.offset, tensor.offset + tensor.size)


def list_runs(model, chosen):
    """[(begin, end)]: chosen tensors in a row inside one bucket. chosen: a bool for each tensor."""
    runs, is_open = [], False
    for tensor, is_chosen in zip(model.tensors, chosen):
        begin, last = tensor.offset, tensor.offset + tensor.size
        while is_chosen and begin < last:
            end = min(last, (begin // model.bucket + 1) * model.bucket)
            padded = round_up(end, ALIGNMENT)
            if is_open and runs[-1][0] // model.bucket == begin // model.bucket:
                runs[-1] = (runs[-1][0], padded)
            else:
                runs.append((begin, padded))
            begin, is_open = end, True
        is_open = is_chosen
    return runs


def divide_evenly(group, model, chosen, gpus, taken, states):
    """An equal slice of each run for each rank. The remainder goes to the rank that keeps the least state."""
    kept = [(amount, r) for r, amount in enumerate(taken)]
    heapq.heapify(kept)
    slices = 0
    for begin, end in list_runs(model, chosen):
        piece = (end - begin) // gpus // ALIGNMENT * ALIGNMENT
        remainder = end - begin - piece * gpus
        group.even[begin // model.bucket] += piece * gpus
        group.other[begin // model.bucket] += remainder
        amount, owner = kept[0]
        heapq.heapreplace(kept, (amount + states * remainder, owner))
        group.elements[owner] += remainder
        slices += piece
    group.elements = [n + slices for n in group.elements]


def fill_up(group, model, chosen, gpus, taken, states):
    """All ranks are filled up to one level of state."""
    tensors = [t for t, is_chosen in zip(model.tensors, chosen) if is_chosen]
    units = sum(round_up(t.size, ALIGNMENT) for t in tensors) // ALIGNMENT
    heights, count = sorted(taken), 1  # the lowest `count` ranks get all
    amount = units * ALIGNMENT * states + heights[0]
    while count < gpus and amount / count > heights[count]:
        amount += heights[count]
        count += 1
    level, given, begin = amount / count, 0.0, 0
    for r in range(gpus):
        given += max(0.0, level - taken[r])
        end = units if r + 1 == gpus else min(units, math.floor(given / (ALIGNMENT * states) + 1e-6))
        group.elements[r] += (end - begin) * ALIGNMENT
        begin = end
    for tensor in tensors:
        group.add_other(model, tensor.offset, tensor.offset + tensor.size)


def own_elements(rule, model, chosen, gpus, taken):
    """partition_evenly(): equal slices, unless some rank would keep too much and filling up keeps less."""
    states = RULES[rule].states + RULES[rule].uses_prev_grad
    even, filled = Group(rule, model, gpus), Group(rule, model, gpus)
    fill_up(filled, model, chosen, gpus, taken, states)
    if gpus == 1:
        return filled
    divide_evenly(even, model, chosen, gpus, taken, states)
    total = sum(taken) + states * sum(t.size for t, is_chosen in zip(model.tensors, chosen) if is_chosen)
    max_even, max_filled = (max(kept + states * n for kept, n in zip(taken, group.elements))
                            for group in (even, filled))
    return even if max_even <= STATE_SLACK * total / gpus or max_even <= max_filled else filled


def divide(model, optimizer, gpus):
    """The Groups of an optimizer: matrix rules first, since the others even out the state of ranks."""
    rules, groups, taken = rules_of(optimizer), [], [0.0] * gpus
    for name, rule in RULES.items():
        chosen = [rules[t.role] == name for t in model.tensors]
        if not any(chosen):
            continue
        if rule.is_matrix:
            group = Group(name, model, gpus)
            own_matrices(group, model, [t for t, is_chosen in zip(model.tensors, chosen) if is_chosen], gpus)
        else:
            group = own_elements(name, model, chosen, gpus, taken)
        states = rule.states + rule.uses_prev_grad
        taken = [kept + states * n for kept, n in zip(taken, group.elements)]
        groups.append(group)
    return groups


# ---- the update ----


def floor_bytes(rule, exact):
    """The bytes that an update moves for one parameter, as dev/bench/bench_optim.c counts them on a GPU."""
    matrices = 4 * 2 if rule.is_matrix else 0
    return 4 + (4 + 8 * rule.states + matrices + 8) + WEIGHT_BYTES + 8 * rule.uses_prev_grad + 4 * exact


def work(groups, exact, rank):
    """The bytes of a rank's passes and the FLOPs of its Newton-Schulz."""
    return (sum(g.elements[rank] * floor_bytes(RULES[g.rule], exact) for g in groups),
            sum(g.flops[rank] for g in groups))


def update_ms(measured, model, optimizer, groups, small):
    """The update of the slowest rank. Bytes and FLOPs cost what they cost one GPU on small; AdamW on one GPU was
    measured in every size. small: the Groups of one GPU on small."""
    exact = optimizer.endswith(EXACT)
    gpus = len(groups[0].elements)
    passes, products = measured.passes_and_products(optimizer)
    small_bytes, small_flops = work(small, exact, 0)
    shares = [work(groups, exact, r) for r in range(gpus)]
    if optimizer == "adamw":
        return measured.step(model, "optimizer, ms") * max(b for b, _ in shares) / sum(b for b, _ in shares)
    return max(passes * b / small_bytes + (products * f / small_flops if small_flops else 0.0) for b, f in shares)


# ---- exchanges ----


class Network:
    """The links between GPUs: GB/s of one GPU in one direction, and latencies in microseconds."""

    def __init__(self, options, has_latency=True):
        self.options = argparse.Namespace(**vars(options))
        if not has_latency:
            self.options.call_us = self.options.nvlink_us = self.options.infiniband_us = 0.0

    def nodes(self, gpus):
        return -(-gpus // self.options.gpus_per_node)

    def ms_per_byte(self, gpus):
        rate, nodes = self.options.nvlink, self.nodes(gpus)
        if nodes > 1:
            rate = min(rate, gpus // nodes * self.options.infiniband)
        return 1e-6 / rate

    def exchange_ms(self, gpus, even_bytes, other_bytes):
        """Reduce-scatter or all-gather of even ranges, and in parallel reduces or broadcasts."""
        o, nodes = self.options, self.nodes(gpus)
        latency = 1e-3 * (o.call_us + (gpus - nodes) * o.nvlink_us + (nodes - 1) * o.infiniband_us)
        return latency + (even_bytes * (gpus - 1) / gpus + other_bytes) * self.ms_per_byte(gpus)

    def sum_ms(self, gpus, size):
        """An all-reduce of few bytes, along a tree: a chain in each node, a binary tree of nodes, up and down."""
        o, nodes = self.options, self.nodes(gpus)
        hops = (gpus / nodes - 1) * o.nvlink_us + (nodes - 1).bit_length() * o.infiniband_us
        return 1e-3 * (o.call_us + 2 * hops) + 2 * size * (gpus - 1) / gpus * self.ms_per_byte(gpus)


def exchange_buckets(network, group, gpus, buckets, element_bytes):
    """One exchange: the ms, or 0 where the group has no element in these buckets."""
    even, other = (sum(counts[k] for k in buckets) * element_bytes for counts in (group.even, group.other))
    return network.exchange_ms(gpus, even, other) if even + other > 0 else 0.0


def reduce_scatter(network, model, groups, gpus, times):
    """(ms of all exchanges, ms of them after the end of the backward pass)."""
    ready = [(-(l * times.block_backward) - times.embedding_backward, model.block_begin[l])
             for l in range(model.layers, -1, -1)] + [(0.0, 0)]
    started, ended, busy = model.buckets, -math.inf, 0.0
    for time, begin in ready:
        first = -(-begin // model.bucket)
        if first >= started:
            continue
        for group in groups:
            ms = exchange_buckets(network, group, gpus, range(first, started), GRADIENT_BYTES)
            ended, busy = max(ended, time) + ms, busy + ms
        started = first
    return busy, max(0.0, ended)


def all_gather(network, model, groups, gpus, times):
    """(ms of all exchanges, ms that the next forward pass waits)."""
    ended, busy = [], 0.0
    for bucket in range(model.buckets):
        busy += sum(exchange_buckets(network, g, gpus, [bucket], WEIGHT_BYTES) for g in groups)
        ended.append(busy)
    clock, waited = 0.0, 0.0
    for block in range(-1, model.layers):  # -1: the embedding, which comes with block 0
        if block >= 0:
            clock += times.attention
        wait = max(0.0, ended[(model.end_of_need(block + 1) - 1) // model.bucket] - clock)
        waited += wait
        clock += wait + (times.mlp if block >= 0 else times.embedding)
    return busy, waited


# ---- a step ----


class Scale:
    """Step times of one GPU's measurements. Divisions between ranks are kept, since they do not depend on the GPU."""

    divisions = {}

    def __init__(self, measured, options):
        self.measured, self.options = measured, options
        self.network, self.network_without_latency = Network(options), Network(options, has_latency=False)

    def groups(self, model, optimizer, gpus):
        key = (model.size, gpus, tuple(rules_of(optimizer).values()))
        if key not in self.divisions:
            self.divisions[key] = divide(model, optimizer, gpus)
        return self.divisions[key]

    def micro_batch(self, model, sequences):
        """The largest divisor of a GPU's sequences that is not above the wanted micro-batch."""
        limit = min(sequences, self.options.micro_batch or model.micro_batch)
        return next(n for n in range(limit, 0, -1) if sequences % n == 0)

    def exchanges(self, network, model, groups, gpus, micro_batch, gradients):
        """{figure: ms} of a step's exchanges."""
        if gpus == 1:
            scatter = scatter_wait = sums = gather = gather_wait = 0.0
        else:
            times = timeline(self.measured, model, micro_batch)
            scatter, scatter_wait = reduce_scatter(network, model, groups, gpus, times)
            sums = network.sum_ms(gpus, gradients * len(model.tensors) * SUM_BYTES)
            gather, gather_wait = all_gather(network, model, groups, gpus, times)
        return {"sums, ms": sums, "reduce-scatter, ms": gradients * scatter,
                "reduce-scatter exposed, ms": gradients * scatter_wait,
                "all-gather, ms": gather, "all-gather exposed, ms": gather_wait}

    def step_time(self, model, small, optimizer, gpus, sequences):
        """{figure: value} of a step with this many sequences for each GPU. small: the Model of that size."""
        gradients = 2 if optimizer.endswith(EXACT) else 1
        groups = self.groups(model, optimizer, gpus)
        micro_batch = self.micro_batch(model, sequences)
        passes = gradients * sequences * self.measured.sequence_ms(model)
        update = update_ms(self.measured, model, optimizer, groups, self.groups(small, optimizer, 1))
        exchanged, without_latency = (
            self.exchanges(network, model, groups, gpus, micro_batch, gradients)
            for network in (self.network, self.network_without_latency))
        elements = sum(sum(g.even) + sum(g.other) for g in groups) if gpus > 1 else 0

        def step_ms(figures):
            exposed = ("reduce-scatter exposed, ms", "sums, ms", "all-gather exposed, ms")
            return passes + update + sum(figures[name] for name in exposed)

        return {"gpus": gpus, "sequences per GPU": sequences, "micro-batch": micro_batch,
                "step, ms": step_ms(exchanged), "step without latencies, ms": step_ms(without_latency),
                "passes, ms": passes, "update, ms": update, **exchanged,
                "gradients exchanged, bytes": gradients * GRADIENT_BYTES * elements,
                "weights exchanged, bytes": WEIGHT_BYTES * elements}

    def rows(self, model, small, optimizer):
        """The figures of an optimizer with each number of GPUs, for the fixed batch of all GPUs and of each one."""
        o = self.options
        for scaling in ("strong", "weak"):
            whole = o.sequences if scaling == "strong" else o.sequences_per_gpu
            one = self.step_time(model, small, optimizer, 1, whole)["step, ms"]
            for gpus in o.gpus:
                row = {"gpu": self.measured.gpu, "size": model.size, "optimizer": optimizer, "scaling": scaling}
                if scaling == "strong" and o.sequences % gpus:
                    yield {**row, "gpus": gpus, "step, ms": None, "efficiency": None}
                    continue
                sequences = whole // gpus if scaling == "strong" else whole
                figures = self.step_time(model, small, optimizer, gpus, sequences)
                share = one / gpus if scaling == "strong" else one
                yield {**row, **figures, "efficiency": share / figures["step, ms"]}


# ---- what is printed ----


def assumptions(options):
    """[(input, value, where it comes from)] of what nobody measured."""
    nccl = "as NCCL's src/graph/tuning.cc has it for rings, LL128"
    return [
        ("NVLink, GB/s of a GPU in one direction", "%g" % options.nvlink, "the data sheet's is 450"),
        ("InfiniBand, GB/s of a GPU's adapter in one direction", "%g" % options.infiniband, "that of NDR is 50"),
        ("GPUs in a node", "%d" % options.gpus_per_node, ""),
        ("start of an exchange, us", "%g" % options.call_us, nccl),
        ("hop between GPUs of a node, us", "%g" % options.nvlink_us, nccl),
        ("hop between nodes, us", "%g" % options.infiniband_us, nccl),
        ("micro-batch", "%d" % options.micro_batch if options.micro_batch else "train.batch_size of config/base",
         "or the largest divisor below it"),
        ("time of a sequence, in every micro-batch", "that in the measured batch", "a small batch is slower"),
        ("time of a block", "equal for all", "the operations timed one by one, scaled to the measured step"),
        ("rates of an update", "those of small on one GPU", "for AdamW: those of the same size"),
        ("what exchanges take from the passes", "nothing", "they need multiprocessors and memory"),
        ("NCCL's calls in one exchange", "one latency for all", ""),
        ("reading data, logging, evaluation, checkpoints, slow ranks", "no time", ""),
    ]


def measurements(measured, models, optimizers):
    """[(input, value, field)] of a results file."""
    for model in models:
        place = "parts.bench.training.%s" % model.size
        for key in ("batch", "step, ms", "optimizer, ms"):
            yield "%s, AdamW: %s" % (model.size, key), "%g" % measured.step(model, key), '%s."%s"' % (place, key)
        yield "%s: operations of a step" % model.size, "", '%s."one step taken apart, ms"' % place
    for name in optimizers:
        passes, products = measured.passes_and_products(name)
        place = 'parts.bench.optimizers.optimizers, "%s"' % name
        yield "small, %s: all but Newton-Schulz's matmuls, ms" % name, "%g" % passes, place + ': "passes, ms"'
        if products:
            yield "small, %s: these, ms" % name, "%g" % products, place + ': "its products, ms"'


def print_inputs(all_measured, models, options):
    print("\n## Inputs\n")
    rows = [[name, value, "assumed" + (" (%s)" % why if why else "")] for name, value, why in assumptions(options)]
    for measured in all_measured:
        rows += [["%s, %s" % (measured.gpu, name), value, "measured (%s, %s)" % (measured.path, place)]
                 for name, value, place in measurements(measured, models, options.optimizers)]
    markdown_table.print_table(["input", "value", "source"], rows)


def cell(row):
    return "-" if row["efficiency"] is None else "%.1f (%.0f)" % (row["step, ms"], 100 * row["efficiency"])


def print_scaling(rows, options, scaling, title):
    rows = [row for row in rows if row["scaling"] == scaling]
    print("\n%s\n" % title)
    table = [[name] + [cell(row) for row in rows if row["optimizer"] == name] for name in options.optimizers]
    header = ["ms (efficiency in %)"] + [str(gpus) for gpus in options.gpus]
    markdown_table.print_table(header, table, range(1, len(header)))


def print_details(rows, options):
    """Where the time goes, for some optimizers and numbers of GPUs."""
    figures = ("step", "step without latencies", "passes", "update", "sums", "reduce-scatter", "reduce-scatter exposed",
               "all-gather", "all-gather exposed")
    table = [[row["size"], row["optimizer"], row["scaling"], str(row["gpus"]),
              *("%.2f" % row[name + ", ms"] for name in figures),
              *("%.3f" % (1e-9 * row[name + " exchanged, bytes"]) for name in ("gradients", "weights"))]
             for row in rows
             if (row["scaling"], row["gpus"]) in DETAILED_STEPS and row["efficiency"] and row["optimizer"] in DETAILED]
    if not table:
        return
    print("\n### Where the time goes\n\nMilliseconds of a step: the sum of passes, update, sums and what is exposed. "
          "The step without latencies has link rates alone.\n")
    header = ["size", "optimizer", "scaling", "GPUs", "step", "without latencies", "passes", "update", "sums",
              "reduce-scatter", "exposed", "all-gather", "exposed", "gradients, GB", "weights, GB"]
    markdown_table.print_table(header, table, range(3, len(header)))


def print_report(all_rows, all_measured, models, options):
    print("# Step times on many GPUs: a model\n")
    print("No number of the tables by GPUs was measured. One GPU was measured; all else is computed from it by\n"
          "`%s`, whose first lines say how.\nWhat it leaves out and assumes is in the list of inputs. "
          "Efficiency is the time of one GPU over that of all GPUs together;\nit may be above 100 %%, because "
          "the update, which one GPU does alone, is divided too." % options.command)
    print_inputs(all_measured, models, options)
    for measured in all_measured:
        print("\n## %s, modelled" % measured.gpu)
        of_gpu = [row for row in all_rows if row["gpu"] == measured.gpu]
        for model in models:
            rows = [row for row in of_gpu if row["size"] == model.size]
            print("\n### %s, %d parameters" % (model.size, model.parameters))
            print_scaling(rows, options, "strong", "Strong scaling: %d sequences of %d tokens a step, by GPUs. \"-\": "
                          "they do not divide by the GPUs." % (options.sequences, model.tokens))
            print_scaling(rows, options, "weak", "Weak scaling: %d sequences for each GPU, by GPUs." %
                          options.sequences_per_gpu)
        print_details(of_gpu, options)


# ---- command line ----


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, "scale_model.py: %s; see --help\n" % message)


def whole_number(text):
    if not re.fullmatch("[0-9]{1,6}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError("'%s' is not a whole number from 1 to 999999" % text)
    return int(text)


def whole_numbers(text):
    return sorted({whole_number(part) for part in text.split(",")})


def rate(text):
    value = latency(text)
    if value == 0:
        raise argparse.ArgumentTypeError("'%s' is not a number above 0" % text)
    return value


def latency(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError("'%s' is not a number from 0 on" % text)
    return value


def names(known):
    def parse(text):
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError("'%s' is none of %s" % (name, ", ".join(known)))
        return [name for name in known if name in text.split(",")]
    return parse


def read_arguments(arguments):
    exact = [name + EXACT for name, rules in OPTIMIZERS.items() if any(RULES[rule].uses_prev_grad for rule in rules)]
    optimizers = sorted(list(OPTIMIZERS) + exact, key=lambda name: list(OPTIMIZERS).index(name.replace(EXACT, "")))
    parser = Parser(prog="scale_model.py", allow_abbrev=False, description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", metavar="RESULT", nargs="*", default=list(RESULTS),
                        help="a JSON file of dev/gpu_check.sh bench")
    parser.add_argument("--sizes", type=names(SIZES), default=list(SIZES), metavar="LIST",
                        help="of " + ", ".join(SIZES))
    parser.add_argument("--optimizers", type=names(optimizers), default=optimizers, metavar="LIST",
                        help="of " + ", ".join(optimizers))
    parser.add_argument("--gpus", type=whole_numbers, default=list(GPUS), metavar="LIST")
    parser.add_argument("--sequences", type=whole_number, default=480, metavar="N",
                        help="strong scaling: of a step (480)")
    parser.add_argument("--sequences_per_gpu", type=whole_number, default=15, metavar="N",
                        help="weak scaling: of a GPU (15)")
    parser.add_argument("--micro_batch", type=whole_number, metavar="N", help="default: that of config/base")
    parser.add_argument("--nvlink", type=rate, default=450.0, metavar="GB/S", help="of a GPU in one direction (450)")
    parser.add_argument("--infiniband", type=rate, default=50.0, metavar="GB/S", help="likewise, of its adapter (50)")
    parser.add_argument("--gpus_per_node", type=whole_number, default=8, metavar="N", help="(8)")
    parser.add_argument("--call_us", type=latency, default=10.0, metavar="US", help="start of an exchange (10)")
    parser.add_argument("--nvlink_us", type=latency, default=1.9, metavar="US", help="hop in a node (1.9)")
    parser.add_argument("--infiniband_us", type=latency, default=4.0, metavar="US", help="hop between nodes (4)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    options.command = " ".join(["python3 dev/bench/scale_model.py", *arguments])
    return options


def main(arguments):
    options = read_arguments(arguments)
    try:
        models, small = [Model(size) for size in options.sizes], Model("small")
        all_measured = [Measured(path) for path in options.results]
        for measured in all_measured:
            for model in models:
                measured.check(model)
        rows = [row for measured in all_measured for model in models for optimizer in options.optimizers
                for row in Scale(measured, options).rows(model, small, optimizer)]
    except ModelError as error:
        print("scale_model.py: %s" % error, file=sys.stderr)
        return 2
    if options.json:
        inputs = [{"input": name, "value": value, "source": "assumed"} for name, value, _ in assumptions(options)]
        for measured in all_measured:
            inputs += [{"gpu": measured.gpu, "input": name, "value": value, "source": "measured", "file": measured.path,
                        "field": place} for name, value, place in measurements(measured, models, options.optimizers)]
        print(json.dumps({"kind": "model, not measured", "command": options.command, "inputs": inputs, "steps": rows},
                         indent=1))
    else:
        print_report(rows, all_measured, models, options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
