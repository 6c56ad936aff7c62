"""cuda_report.py FILE.ptxas...: what every kernel takes, from the reports that nvcc left next to the objects.

Prints a table: kernel, and for each architecture its registers and static shared memory. Ends with status 1 where a
kernel spills registers to memory, or where a file is not such a report."""
import re
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def read_report(path, kernels):
    """Adds the file's kernels, if it has any, to kernels[(source, name)][architecture] = (registers, shared, spilled
    bytes). Tells whether it is a report."""
    entry = None
    is_report = False
    with open(path, encoding="utf-8") as file:
        for line in file:
            is_report = is_report or "ptxas info" in line
            if match := ENTRY.search(line):
                entry, spilled = match, 0
            elif match := SPILL.search(line):
                spilled = int(match[2]) + int(match[3])
            elif entry and (match := USED.search(line)):
                shared = SHARED.search(line)
                figures = (int(match[1]), int(shared[1]) if shared else 0, spilled)
                source = re.sub(r"^.*?((kernels|optim|comm)/.*)\.cu\.ptxas$", r"\1", path)
                kernels.setdefault((source, entry[1]), {})[entry[2]] = figures
                entry = None
    return is_report


def demangle(names):
    """Kernel names as a person would write them, without their parameters."""
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    # A template argument of an enumeration, "(NormKind)1", becomes its number alone.
    lines = [re.sub(r"\(\w+\)(\d)", r"\1", line) for line in text.splitlines()]
    return [re.sub(r"\(anonymous namespace\)::|^void |\(.*\)$", "", line) for line in lines]


def main():
    kernels = {}
    for path in sys.argv[1:]:
        if not read_report(path, kernels):
            sys.exit(f"cuda_report: {path} is no report on kernels; nvcc writes one with -Xptxas -v")
    if not kernels:
        sys.exit("cuda_report: no kernel in any report")
    architectures = sorted({a for figures in kernels.values() for a in figures}, key=lambda a: int(re.findall(r"\d+", a)[0]))
    keys = sorted(kernels)
    names = dict(zip(keys, demangle([name for _, name in keys])))
    print(f"{'kernel: registers, bytes of static shared memory':<78}" + "".join(f"{a:>14}" for a in architectures))
    spilled = []
    source = None
    for key in keys:
        if key[0] != source:
            source = key[0]
            print(source)
        cells = []
        for a in architectures:
            registers, shared, spill = kernels[key].get(a, (0, 0, 0))
            cells.append(f"{registers:>6} {shared:>7}")
            if spill:
                spilled.append(f"{names[key]} on {a}: {spill} bytes")
        print(f"  {names[key]:<76.76}" + "".join(cells))
    print(f"{len(keys)} kernels on {', '.join(architectures)}")
    if spilled:
        sys.exit("registers are spilled to memory:\n  " + "\n  ".join(spilled))


main()
