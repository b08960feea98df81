"""Errors that the user can repair: one line on stderr, beginning with the script's name, and an exit code."""

import argparse
import errno
import io
import os
import re
import signal
import sys
from pathlib import Path

# Exit codes by which another program tells these errors from all others, which are 1; of sysexits.h.
FULL_DISK, IN_USE = 74, 75
LONGEST_WORD, LONGEST_LINE = 300, 900  # characters


def printable(text):
    """The text with a visible mark for every character that would steer a terminal, such as an escape."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


class Output(io.TextIOWrapper):
    """A stream on which names and titles, whoever chose them, cannot steer a terminal; progress bars can."""

    def write(self, text):
        moves = re.match(r"\r|[\r\n]*(\x1b\[A)*$", text)  # tqdm: before a bar, and between bars
        start = moves.end() if moves else 0
        return super().write(text[:start] + "\n".join(map(printable, text[start:].split("\n"))))


def shortened(value, most=LONGEST_WORD):
    """The value's text, without its middle if it is longer than so many characters."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 3 :]}"


def one_line(text):
    """The text as a printable line; a very long word, such as a value that was given, loses its middle."""
    return printable(shortened(" ".join(map(shortened, str(text).split())), LONGEST_LINE))


class UserError(Exception):
    """An error that the user can repair; its text is the one line that they see."""

    def __init__(self, text):
        super().__init__(one_line(text))


class InUse(UserError):
    """Another process is doing the same, and will end."""


class Parser(argparse.ArgumentParser):
    """argparse that complains in one line, and whose --help keeps the description's line breaks."""

    def __init__(self, description, **options):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def parse_known_args(self, args=None, namespace=None):
        for word in sys.argv[1:] if args is None else args:
            if word.startswith("--") and word.endswith("=--"):  # argparse would take away the value
                self.error(f"argument {word[:-3]}: it cannot be --")
        return super().parse_known_args(args, namespace)

    def print_help(self, file=None):  # argparse's own is silent where it cannot write
        print(self.format_help(), end="", file=file)

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
        try:
            main(sys.argv[1:])
        except SystemExit:  # after --help, say
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:  # the program that read the output has ended
        sys.exit(141)
    except (UserError, OSError, MemoryError) as error:  # OSError: a full disk, no permission to write
        if _disk_is_full(error) and error.filename is None:  # files are named
            error.filename = "standard output"
        memory = f"out of memory ({error}). {save_memory}".rstrip()
        text = memory if isinstance(error, MemoryError) else one_line(error)
        print(f"{script}: {text}", file=sys.stderr, flush=True)
        sys.exit(_exit_code(error))
    except KeyboardInterrupt:
        sys.stderr.write(f"{script}: interrupted\n")
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, before)
        _drop_what_cannot_be_written()


def _drop_what_cannot_be_written():
    """Of standard output: at its end, Python would try again, complain, and change the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _disk_is_full(error):
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _exit_code(error):
    return FULL_DISK if _disk_is_full(error) else IN_USE if isinstance(error, InUse) else 1
