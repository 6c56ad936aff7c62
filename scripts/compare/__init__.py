"""compare: the parts of compare_optimizers.py. Data flow one way: optimizers.py decides which settings are tried,
model.py makes the config of each run, pool.py trains, results.py makes one JSON of all runs, and report.py makes
tables, plots and a page from that JSON alone.
"""


class CompareError(Exception):
    """An error that ends a comparison; the text is for the user. status is the program's exit status: 2 for wrong
    arguments."""

    def __init__(self, message, status=1):
        super().__init__(message)
        self.status = status
