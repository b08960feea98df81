"""Files that are whole or not there: written under a temporary name, flushed and renamed; locks; arrays read with care."""

import fcntl
import os
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lib.errors import UserError

ROOT = Path(__file__).parent.parent  # the project's folder


@contextmanager
def atomic(path):
    """Opens path for writing in binary; it appears, whole, when the block ends, or not at all.

    Raises:
        UserError: the folder it is to lie in does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise UserError(
            f"{path} cannot be written: there is no folder {path.parent}; `mkdir -p {shlex.quote(str(path.parent))}` makes it"
        )
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, outlives a loss of power
        finally:
            os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def lock(path, message=None):
    """Holds the file path for this process; if another one holds it, UserError(message), or without one waits for it.

    The system lets go of it when the process ends, however it ends.
    """
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if message else 0))
        except BlockingIOError as error:
            raise UserError(message) from error
        yield


def read_npz(path, remedy):
    """All arrays of a .npz as a dict; UserError, ending with the remedy, if it is truncated or damaged."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {
                key: arrays[key] for key in arrays.files
            }  # the zip's checksums are compared as it is read
    except Exception as error:  # zipfile, zlib, numpy's parser of headers: each has its own kinds
        raise UserError(
            f"{path} cannot be read, it is truncated or damaged ({str(error)[:120]}); {remedy}"
        ) from error


def keep_arrays(path, key, make, sound):
    """The dict of arrays that make() gives, kept in path, and read from there for as long as key, a text, is the same.

    A folder that cannot be written, or a file that is damaged, costs the calculation and nothing else.

    Args:
        sound: whether a dict that was read is such a one as make() gives.
    """
    if path.exists():
        try:
            arrays = read_npz(path, "")
            if str(arrays.pop("key", "")) == key and sound(arrays):
                return arrays
        except UserError:
            pass
    arrays = make()
    try:
        with lock(path.with_name(f".{path.name}.lock")), atomic(path) as file:
            np.savez(file, key=np.array(key), **arrays)
    except OSError as error:
        print(
            f"note: {path} could not be written ({error}); it is calculated again the next time",
            file=sys.stderr,
        )
    return arrays
