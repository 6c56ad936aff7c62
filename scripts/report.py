#!/usr/bin/env python3
"""report.sh [OPTION...] [RUN_DIR...]: makes one page with the curves and numbers of runs, to open in a browser.

Without a RUN_DIR it takes every folder of runs/ that has a metrics.jsonl: runs may be finished, still going on, resumed
or killed. The page has losses against steps, tokens or hours of training, gradient norms, learning rates, tokens/s and
skipped steps; a table of the runs; how their configs differ; published losses next to ours; and the texts of runs with
train.sample_interval. It is one file, which needs no network.

A curve has at most 2,000 points, in the small charts 1,000: of a longer one the lowest and highest value of each part
are drawn, so that spikes stay. "Training, mean of the last N steps" is computed from all values.

dygraphs, which draws the curves, comes from Debian's libjs-dygraphs when the page is made. For another copy set
DYGRAPHS_DIR to the folder of its dygraph.min.js and dygraph.min.css.
"""
import sys

import command_line
import metrics
import report_page


def parse_arguments(arguments):
    parser = command_line.Parser(prog="report.sh", description=__doc__)
    parser.add_argument("folders", metavar="RUN_DIR", nargs="*",
                        help="a folder that train_gpt2 wrote (its train.out_dir)")
    parser.add_argument("--out", metavar="FILE",
                        help="write the page there (default: report.html in the current folder)")
    parser.add_argument("--watch", action="store_true", help="""write nothing, but serve the page on this machine alone,
                        print its address, and follow the runs until Ctrl-C: new lines, and new runs in runs/""")
    parser.add_argument("--port", metavar="N", type=int, help="the port of --watch (default: a free one)")
    options = parser.parse_intermixed_args(arguments)
    if options.out == "":
        parser.error("--out= is empty; expected a file; leave it out for report.html")
    if options.port is not None and not 1 <= options.port <= 65535:
        parser.error(f"--port={options.port}: expected a number from 1 to 65535; leave it out for a free one")
    if options.watch and options.out:
        parser.error("--watch serves the page and writes no file: give it without --out")
    if options.port and not options.watch:
        parser.error("--port is given, and nothing is served without --watch; add --watch, or leave --port out")
    return options


def main(arguments):
    options = parse_arguments(arguments)
    out = options.out or "report.html"
    runs = report_page.Runs(options.folders)
    try:
        report_page.dygraphs_folder()
        runs.refresh()
        for message in runs.left_out.values():
            print(f"report.sh: {message}; it is left out", file=sys.stderr)
        if options.watch:
            import report_server  # takes long to load, and is needed here alone
            report_server.watch(runs, options.port or 0)
            return 0
        if not runs.order:
            raise report_page.ReportError(metrics.NO_RUNS)
        report_page.write_page(runs, out)
        print(report_page.printable(out))
    except report_page.ReportError as error:
        print(f"report.sh: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    command_line.run(main)
