"""compare_losses.py EXPECTED FOUND LIMIT: prints the largest relative difference between the losses of two runs, the folders
EXPECTED and FOUND, step by step; fails where it is above LIMIT, or where they have no losses at the same steps."""
import math
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts"))
import metrics  # noqa: E402


def read_losses(folder):
    """[(event, step, loss)] of the training and validation events; the loss is NaN where it is not finite."""
    run = metrics.read_run(folder)
    return [(event["event"], event["step"], event["loss"] if metrics.number(event, "loss") is not None else math.nan)
            for event in run.train + run.val]


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
