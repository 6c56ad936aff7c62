#!/usr/bin/env python3
"""Prints the texts of parquet files as JSON Lines: {"text": ...} for each row, in the order of the files.

A batch of rows is in memory at a time, and of the columns only the one with the texts. What becomes of the lines is not
decided here, except that some documents can be held out into a file of their own.
"""

import argparse
import json
import os
import re
import sys

BATCH = 1000  # rows


def fail(text):
    sys.exit(f"{os.path.basename(sys.argv[0])}: {text}")


def parse_command_line():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE.parquet")
    parser.add_argument("--column", default="text", help="the column with the texts (default: text)")
    parser.add_argument(
        "--hold_out",
        metavar="LIST",
        help='numbers of documents, the first being 0, one a line; a line "# of N documents" says how many there are '
        "in all, for these numbers to mean the same ones",
    )
    parser.add_argument("--held_out", metavar="FILE", help="where those are written instead of standard output")
    options = parser.parse_args()
    if bool(options.hold_out) != bool(options.held_out):
        parser.error("--hold_out and --held_out go together")
    return options


def read_list(path):
    """The numbers in a list of documents to hold out, and how many documents it belongs to."""
    numbers, documents = set(), None
    with open(path, encoding="utf-8") as file:
        for line_number, line in enumerate(file, 1):
            if said := re.match(r"# of (\d+) documents$", line):
                documents = int(said[1])
            elif line.strip().isdigit():
                numbers.add(int(line))
            elif not line.startswith("#"):
                fail(f"{path}, line {line_number}: there should be the number of a document")
    if documents is None:
        fail(f'{path} has no line "# of N documents"')
    return numbers, documents


def open_parquet(path, column):
    from pyarrow import ArrowException, parquet

    try:
        file = parquet.ParquetFile(path)
    except (OSError, ArrowException) as error:
        fail(f"cannot read {path}: {error}")
    if column not in file.schema_arrow.names:
        fail(f"{path} has no column {column}; it has {', '.join(file.schema_arrow.names)}")
    return file


def texts(path, column):
    from pyarrow import ArrowException

    row = 0
    try:
        for batch in open_parquet(path, column).iter_batches(batch_size=BATCH, columns=[column]):
            for text in batch.column(0).to_pylist():
                if not isinstance(text, str):
                    fail(f"{path}, row {row}: its {column} is no text but {text!r}")
                yield text
                row += 1
    except (OSError, ArrowException, UnicodeDecodeError) as error:
        fail(f"cannot read {path} after row {row}: {error}")


def convert(options, lines, held_out_lines):
    held_out = set()
    if options.hold_out:
        held_out, documents = read_list(options.hold_out)
        rows = sum(open_parquet(path, options.column).metadata.num_rows for path in options.files)
        if rows != documents:
            fail(f"{options.hold_out} is about {documents} documents, and these files have {rows}")
    encode = json.JSONEncoder(ensure_ascii=False).encode
    document = 0
    for path in options.files:
        for text in texts(path, options.column):
            (held_out_lines if document in held_out else lines).write('{"text": ' + encode(text) + "}\n")
            document += 1


def main():
    options = parse_command_line()
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        fail(f"pyarrow is missing, which reads parquet files; install it: {sys.executable} -m pip install pyarrow")
    lines = open(sys.stdout.fileno(), "w", encoding="utf-8", newline="\n", buffering=1 << 20, closefd=False)
    try:
        if options.held_out:
            with open(options.held_out, "w", encoding="utf-8", newline="\n") as held_out_lines:
                convert(options, lines, held_out_lines)
        else:
            convert(options, lines, None)
        lines.flush()
    except BrokenPipeError:  # who reads has stopped, and says why
        os._exit(1)
    except OSError as error:
        fail(f"cannot write: {error}")


if __name__ == "__main__":
    main()
