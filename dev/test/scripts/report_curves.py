"""report_curves.py DUMP RECORD: compares curves that a report page drew with numbers computed from metrics.jsonl.

DUMP is the page as the browser dumped it. Its element with the id "record" holds one JSON object: under RECORD the rows
of the page's table of curves, as lists of texts. Standard input has one expected curve a line, as JSON:

    {"chart": ..., "run": ..., "curve": ..., "x": [...], "y": [...]}

Of a curve with more than 2,000 points (in the small charts 1,000) at most so many are drawn: then the first and last
point, the lowest and the highest value must be there. Curves that are not expected are errors, too. Prints what
differs; the exit status is 1 if anything does.
"""
import html
import json
import re
import sys

MAX_POINTS = {"loss": 2000}
MAX_SMALL_POINTS = 1000


def is_close(drawn, expected, scale):
    """Whether numbers are the same to six digits. Positions between two points of a run's clock are interpolated, which
    is exact to a ten-thousandth of the axis."""
    return abs(drawn - expected) <= max(2e-6 * abs(expected), 1e-4 * scale)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        record = json.loads(html.unescape(re.search('<pre id="record">(.*?)</pre>', file.read(), re.S).group(1)))
    drawn = {tuple(row[:3]): [float(text) for text in row[3:]] for row in record[sys.argv[2]]}
    failures = []
    for line in sys.stdin:
        curve = json.loads(line)
        key = (curve["chart"], curve["run"], curve["curve"])
        x, y = curve["x"], curve["y"]
        if key not in drawn:
            failures.append("%s: not drawn" % (key,))
            continue
        points, *values = drawn.pop(key)
        limit = MAX_POINTS.get(curve["chart"], MAX_SMALL_POINTS)
        if points != len(x) if len(x) <= limit else not 0.5 * limit <= points <= limit:
            failures.append("%s: %d points, of %d" % (key, points, len(x)))
        expected = [x[0], y[0], x[-1], y[-1], min(y), max(y)]
        if not all(map(is_close, values, expected, [x[-1], 0, x[-1], 0, 0, 0])):
            failures.append("%s: first, last and extremes are %s, not %s" % (key, values, expected))
    failures += ["%s: drawn, but not expected" % (key,) for key in drawn]
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
