"""Errors that the user can repair: one line on stderr, beginning with the script's name, and an exit code."""

import argparse
import errno
import os
import signal
import sys
from pathlib import Path

# Exit codes by which another program tells these errors from all others, which are 1; of sysexits.h.
FULL_DISK, IN_USE = 74, 75


class UserError(Exception):
    """An error that the user can repair; its text is the one line that they see."""


class InUse(UserError):
    """Another process is doing the same, and will end."""


class Parser(argparse.ArgumentParser):
    """argparse that complains in one line, and whose --help keeps the description's line breaks."""

    def __init__(self, description, **options):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message):
        raise UserError(f"{message}; --help lists the options")


def run_script(main, script=None, save_memory=""):
    """Calls main(arguments) for the command line; errors of the user's become one line and an exit code.

    Args:
        main: takes the list of words after the script's name.
        script: the name that the line begins with; by default the name of the running script.
        save_memory: what to try where memory ends, a sentence.
    """
    script = script or Path(sys.argv[0]).stem
    before = signal.getsignal(signal.SIGINT)
    if callable(before):  # else it is ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the program that read the output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UserError, OSError, MemoryError) as error:  # OSError: a full disk, no permission to write
        memory = f"out of memory ({error}). {save_memory}".rstrip()
        text = memory if isinstance(error, MemoryError) else " ".join(str(error).split())
        print(f"{script}: {text}", file=sys.stderr, flush=True)
        sys.exit(_exit_code(error))
    except KeyboardInterrupt:
        sys.stderr.write(f"{script}: interrupted\n")
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, before)


def _exit_code(error):
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return FULL_DISK if full else IN_USE if isinstance(error, InUse) else 1
