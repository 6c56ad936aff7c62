"""gpu_report.py WORK RESULT: merges what the parts of gpu_check.sh left in the folder WORK into the JSON file RESULT,
and prints a short Markdown table of all that RESULT then holds. Parts that did not run keep their figures of an earlier
run.

WORK holds facts.tsv (key, value), steps.tsv (part, step, good|FAILED|skipped, seconds), tests.log, nccl.tsv (case, value,
limit, unit), and the benchmarks' JSON files: kernels.json, optimizers.json, train_MODEL.json, beside_MODEL.json
(bench_train in the part "torch") and torch_MODEL.json.
"""
import json
import math
import pathlib
import re
import sys

MODELS = ("tiny", "small", "medium", "large", "xl")
MODEL_TARGET = 0.60  # of the measured matmul rate, 124M parameters at batch 32 x 1024, on an H100 or H200
MUON_TARGET = 0.02  # of a step of 480 sequences over 8 GPUs
MUON_SEQUENCES, MUON_GPUS = 480, 8


def read_json(path):
    """None where a step that failed left no such file, or half of one."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def read_table(path):
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split("\t") for line in lines]


def by_model(work, prefix):
    found = {model: read_json(work / f"{prefix}_{model}.json") for model in MODELS}
    return {model: figures for model, figures in found.items() if figures}


def count_tests(path):
    """The lines of run_tests.sh: {program: {passed, failed}}."""
    programs = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        match = re.match(r"(test_\w+) +(\d+) passed, (\d+) failed", line)
        if match:
            programs[match[1]] = {"passed": int(match[2]), "failed": int(match[3])}
    return programs


def beside_torch(work):
    ours = by_model(work, "beside")
    compared = {}
    for model, torch in by_model(work, "torch").items():
        compared[model] = {"torch": torch}
        if model in ours:
            compared[model]["ours, tokens/s"] = ours[model]["tokens/s"]
            compared[model]["ours, batch"] = ours[model]["batch"]
            compared[model]["ours over torch"] = round(ours[model]["tokens/s"] / torch["tokens/s"], 4)
    return compared


def muon_share(training, optimizers):
    """Muon's share of a step of 480 sequences over 8 GPUs: what the slowest of them does of it, next to its 60
    sequences. Both were measured on one GPU; exchanges between GPUs are not in it."""
    muon = next((o for o in (optimizers or {}).get("optimizers", []) if o["name"] == "muon"), None)
    small = training.get("small")
    if not muon or not small:
        return None
    passes = (small["step, ms"] - small["optimizer, ms"]) / small["batch"] * MUON_SEQUENCES / MUON_GPUS
    share = muon["one of 8, ms"] / (passes + muon["one of 8, ms"])
    return {"slowest of 8, ms": muon["one of 8, ms"], "forward and backward, ms": round(passes, 3),
            "share": round(share, 5), "target": MUON_TARGET}


def collect(work, part):
    if part == "tests":
        return {"programs": count_tests(work / "tests.log")}
    if part == "bench":
        training, optimizers = by_model(work, "train"), read_json(work / "optimizers.json")
        return {"kernels": read_json(work / "kernels.json"), "optimizers": optimizers, "training": training,
                "muon": muon_share(training, optimizers)}
    if part == "nccl":
        return {"cases": [{"case": case, "found": float(value) if math.isfinite(float(value)) else None,
                           "limit": float(limit), "unit": unit}
                          for case, value, limit, unit in read_table(work / "nccl.tsv")]}
    return {"models": beside_torch(work)} if part == "torch" else {}


def merge(work, old):
    facts = dict(read_table(work / "facts.tsv"))
    machine = ("gpu", "compute capability", "memory", "driver", "CUDA")
    result = {key: facts[key] for key in machine if key in facts}
    result["parts"] = old.get("parts", {}) if old and old.get("gpu") == facts.get("gpu") else {}
    steps = {}
    for part, name, status, seconds in read_table(work / "steps.tsv"):
        steps.setdefault(part, []).append({"step": name, "status": status, "seconds": int(seconds)})
    when = {key: value for key, value in facts.items() if key not in machine}
    for part, list_of_steps in steps.items():
        result["parts"][part] = {**when, "steps": list_of_steps, **collect(work, part)}
    return result


# ---- the table ----


def number(value, digits=2):
    return "" if value is None else f"{value:,.{digits}f}"


def verdict(value, target, below=False):
    if value is None or not target:
        return ""
    good = value < target if below else value >= target
    return f"{'<' if below else '≥'} {target:g}: {'ok' if good else 'below' if not below else 'above'}"


def print_table(head, rows):
    if not rows:
        return
    print("\n| " + " | ".join(head) + " |")
    print("| --- | " + " | ".join("---:" for _ in head[1:]) + " |")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")


def training_rows(bench, torch):
    models = (torch or {}).get("models", {})
    for model, f in (bench or {}).get("training", {}).items():
        beside = models.get(model, {})
        other = beside.get("torch", {})
        smaller = f" at batch {other['batch']}" if other and other["batch"] != beside.get("ours, batch") else ""
        has_target = model == "small" and f["batch"] == 32 and f["table"].endswith("bfloat16")
        yield (f"{model}, {f['parameters'] * 1e-6:.0f}M", f["batch"], number(f["tokens/s"], 0),
               number(f["step, ms"], 1), number(f["model over matmul"]), verdict(f["model over matmul"], has_target and MODEL_TARGET),
               number(f["MFU"]), f"{100 * f['optimizer, share of the step']:.1f} %", number(f["memory, GB"], 1),
               number(other.get("tokens/s"), 0) + smaller, number(beside.get("ours over torch")))


def kernel_rows(bench):
    for k in ((bench or {}).get("kernels") or {}).get("kernels", []):
        unit = "GB/s" if "GB/s" in k else "TFLOP/s"
        ratio = k["over copy"] if unit == "GB/s" else k["over matmul"]
        reached = f"{k[unit]:,.4g} {unit}" if k[unit] is not None else "nothing to see"
        yield k["name"].strip(), k["sizes"], number(k["us"], 1), reached, number(ratio), verdict(ratio, k.get("target"))


def optimizer_rows(bench):
    for o in ((bench or {}).get("optimizers") or {}).get("optimizers", []):
        yield (o["name"], number(o["step, ms"]), number(o["passes over copy"]),
               verdict(o["passes over copy"], o.get("target")), number(o.get("products over matmul")),
               number(o["one of 8, ms"]))


def nccl_rows(nccl):
    for c in (nccl or {}).get("cases", []):
        found = math.inf if c["found"] is None else c["found"]
        yield c["case"], f"{found:g} {c['unit']}", f"≤ {c['limit']:g}: {'ok' if found <= c['limit'] else 'above'}"


def print_checks(parts):
    for name, part in parts.items():
        failed = [s["step"] for s in part["steps"] if s["status"] == "FAILED"]
        skipped = [s["step"] for s in part["steps"] if s["status"] == "skipped"]
        counts = list(part.get("programs", {}).values())
        tests = f", {sum(c['passed'] for c in counts)} tests passed, {sum(c['failed'] for c in counts)} failed"
        print(f"- {name}: {'FAILED: ' + ', '.join(failed) if failed else 'good'}"
              f"{', skipped: ' + ', '.join(skipped) if skipped else ''}{tests if counts else ''}"
              f" ({part['date']}, {part['commit']})")


def print_result(result):
    parts = result["parts"]
    bench, torch = parts.get("bench"), parts.get("torch")
    print(f"### {result['gpu']}\n")
    print(f"Driver {result.get('driver', '?')}, CUDA {result.get('CUDA', '?')}, {result.get('memory', '?')}.\n")
    print_checks(parts)
    kernels = (bench or {}).get("kernels")
    if kernels:
        copy, matmul = kernels["copy GB/s"], kernels["matmul TFLOP/s"]
        print(f"\nMeasured copy {copy:,.0f} GB/s, bfloat16 product {matmul:,.4g} TFLOP/s.")
    print_table(("GPT-2", "batch", "tokens/s", "ms", "of matmul", "", "MFU", "optimizer", "GB", "PyTorch", "ratio"),
                list(training_rows(bench, torch)))
    print_table(("operation", "sizes", "µs", "reached", "of copy or matmul", ""), list(kernel_rows(bench)))
    print_table(("optimizer", "ms", "passes over copy", "", "Newton-Schulz over matmul", "slowest of 8, ms"),
                list(optimizer_rows(bench)))
    nccl = parts.get("nccl")
    if nccl and nccl.get("cases"):
        print(f"\nRanks that share the GPU: {nccl.get('message passing', '?')}.")
    print_table(("ranks that share the GPU", "found", ""), list(nccl_rows(nccl)))
    muon = (bench or {}).get("muon")
    if muon:
        print(f"\nMuon at {MUON_SEQUENCES} sequences over {MUON_GPUS} GPUs, computed, without exchanges: "
              f"{100 * muon['share']:.2f} % of the step ({verdict(muon['share'], MUON_TARGET, below=True)}).")


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: gpu_report.py WORK RESULT")
    work, path = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    result = merge(work, read_json(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print_result(result)


if __name__ == "__main__":
    main()
