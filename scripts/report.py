#!/usr/bin/env python3
"""report.sh [OPTION...] [RUN_DIR...]: makes one page with the curves and numbers of runs, to open in a browser.

    --out=FILE     writes the page there (default: report.html in the current folder)
    --watch        writes nothing, but serves the page on this machine alone, prints its address, and follows the runs
                   until Ctrl-C: new lines, and new runs in runs/
    --port=N       the port of --watch (default: a free one)

Without a RUN_DIR it takes every folder of runs/ that has a metrics.jsonl: of runs that are finished, still going on,
resumed or killed. The page has losses against steps, tokens or hours of training, gradient norms, learning rates,
tokens/s and skipped steps; a table of the runs; how their configs differ; published losses next to ours; and the texts
of runs with train.sample_interval. It is one file, which needs no network.

A curve has at most 2,000 points, in the small charts 1,000: of a longer one the lowest and highest value of each part
are drawn, so that spikes stay. "Training, mean of the last N steps" is computed from all values.

dygraphs, which draws the curves, comes from Debian's libjs-dygraphs when the page is made. For another copy set
DYGRAPHS_DIR to the folder of its dygraph.min.js and dygraph.min.css.
"""
import re
import sys

import report_page


def usage(message):
    print("report.sh: %s; see --help" % message, file=sys.stderr)
    return 2


def main(arguments):
    out, port, is_watching, folders = None, None, False, []
    for argument in arguments:
        if argument in ("-h", "--help"):
            print(__doc__.strip())
            return 0
        if argument == "--watch":
            is_watching = True
        elif re.fullmatch("--out=.+", argument):
            out = argument[len("--out="):]
        elif argument.startswith("--port="):
            port = argument[len("--port="):]
            if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
                return usage("%s: give a number from 1 to 65535" % argument)
        elif argument.startswith("-"):
            return usage("unknown option " + argument)
        else:
            folders.append(argument)
    if is_watching and out:
        return usage("--watch serves the page and writes no file: give it without --out")
    if port and not is_watching:
        return usage("--port is for --watch")
    runs = report_page.Runs(folders)
    try:
        report_page.dygraphs_folder()
        runs.refresh()
        for message in runs.left_out.values():
            print("report.sh: %s; it is left out" % message, file=sys.stderr)
        if is_watching:
            import report_server  # takes long to load, and is needed here alone
            report_server.watch(runs, int(port or 0))
            return 0
        if not runs.order:
            raise report_page.ReportError("there are no runs: no runs/*/metrics.jsonl; train one "
                                          "(bash scripts/run_mars_small.sh) or give its folder")
        report_page.write_page(runs, out or "report.html")
        print(report_page.printable(out or "report.html"))
    except report_page.ReportError as error:
        print("report.sh: %s" % error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
