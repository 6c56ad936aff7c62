"""compare_losses.py EXPECTED FOUND LIMIT: prints the largest relative difference between the losses of two runs, the folders
EXPECTED and FOUND, step by step; fails where it is above LIMIT, or where they have no losses at the same steps."""
import json
import math
import pathlib
import sys


def read_losses(folder):
    """[(event, step, loss)] of the training and validation lines."""
    lines = [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [(line["event"], line["step"], line["loss"]) for line in lines if line["event"] in ("train", "val")]


def main():
    expected, found, limit = read_losses(sys.argv[1]), read_losses(sys.argv[2]), float(sys.argv[3])
    if not expected or [e[:2] for e in expected] != [f[:2] for f in found]:
        sys.exit(f"{sys.argv[2]} has losses of other steps than {sys.argv[1]}:\n{found}\n{expected}")
    differences = [abs(f[2] / e[2] - 1) for e, f in zip(expected, found)]
    difference = max(d if math.isfinite(d) else math.inf for d in differences)
    print(f"{difference:.2g}")
    if difference > limit:
        sys.exit(f"the losses are {found}\nand should be {expected}")


if __name__ == "__main__":
    main()
