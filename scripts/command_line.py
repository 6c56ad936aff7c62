"""command_line.py: the argument parser of the Python programs in this folder."""
import argparse


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, which begins with the program's name, and ends with status 2.
    Options have no short forms."""

    def __init__(self, **keywords):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)

    def error(self, message):
        self.exit(2, f"{self.prog.split()[0]}: {message}; see --help\n")
