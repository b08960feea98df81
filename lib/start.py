"""Imported by a script before anything else: from here on it ends as lib.errors.run_script says.

Importing JAX and others takes seconds, in which Ctrl-C would end in a traceback, or in a crash.
"""

import os
import signal
import sys


def _interrupt(number, frame):
    os.write(2, b"interrupted\n")
    os._exit(130)  # not by an exception: extension modules turn it into others, or lose it


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
    signal.signal(signal.SIGINT, _interrupt)
for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, name) is None:  # closed: the next file that is opened would take its place
        setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), mode))
os.environ.pop("MPLBACKEND", None)  # of a notebook from whose shell this is called: it is not installed here

from lib.errors import Output  # noqa: E402  not before the streams are open

for name, errors in (("stdout", "replace"), ("stderr", "backslashreplace")):  # of ∞ in ASCII, say
    stream = getattr(sys, name)
    about = stream.encoding, errors, None, stream.line_buffering, stream.write_through
    setattr(sys, name, Output(stream.detach(), *about))
