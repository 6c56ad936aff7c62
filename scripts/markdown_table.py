"""markdown_table.py: makes Markdown tables whose columns are aligned, so that they also read well as plain text."""


def lines(header, rows, align_right=()):
    """The lines of a table.

    header, rows    a list of texts, and a list of such lists; rows may be shorter than the header
    align_right     the numbers of the columns that are set to the right, from 0
    """
    table = [header, *rows]
    widths = [max([3] + [len(row[i]) for row in table if i < len(row)]) for i in range(len(header))]
    rule = ["-" * (width - 1) + ":" if i in align_right else "-" * width for i, width in enumerate(widths)]
    made = []
    for row in [header, rule, *rows]:
        cells = list(row) + [""] * (len(header) - len(row))
        made.append("| " + " | ".join(cell.rjust(width) if i in align_right else cell.ljust(width)
                                      for i, (cell, width) in enumerate(zip(cells, widths))) + " |")
    return made


def print_table(header, rows, align_right=()):
    """Prints a table; see lines()."""
    for line in lines(header, rows, align_right):
        print(line)
