"""command_line.py: what the Python programs in this folder share: the parser of their arguments, and how they end."""
import argparse
import os
import sys


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, which begins with the program's name, and ends with status 2.
    Options have no short forms."""

    def __init__(self, **keywords):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)

    def error(self, message):
        self.exit(2, f"{self.prog.split()[0]}: {message}; see --help\n")


def run(main):
    """Ends the program with the status that main(arguments) returns. Output that cannot be written, as on a full disk,
    is an error in one line, with status 1; a reader that went away, as "| head", is no error."""
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left when it ends
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        name = os.path.basename(sys.argv[0])
        sys.exit(f"{name}: cannot write {error.filename or 'the output'}: {error.strerror}; free some space, or write "
                 "elsewhere")
    sys.exit(status)
