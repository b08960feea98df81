"""Errors that the user can repair: one line on stderr, beginning with the script's name, and an exit code."""

import argparse
import os
import sys
from pathlib import Path


class UserError(Exception):
    """An error that the user can repair; its text is the one line that they see."""


class Parser(argparse.ArgumentParser):
    """argparse that complains in one line, and whose --help keeps the description's line breaks."""

    def __init__(self, description, **options):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message):
        raise UserError(f"{message}; --help lists the options")


def run_script(main, script=None):
    """Calls main(arguments) for the command line; errors of the user's become one line and an exit code.

    Args:
        main: takes the list of words after the script's name.
        script: the name that the line begins with; by default the name of the running script.
    """
    script = script or Path(sys.argv[0]).stem
    try:
        main(sys.argv[1:])
    except BrokenPipeError:  # the program that read the output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UserError, OSError) as error:  # OSError: a full disk, a folder without write permission
        sys.exit(f"{script}: {' '.join(str(error).split())}")
    except MemoryError as error:
        sys.exit(f"{script}: out of memory ({error}). Try a smaller batch_size or eval_batch_size.")
    except KeyboardInterrupt:
        sys.stderr.write(f"{script}: interrupted\n")
        sys.exit(130)
