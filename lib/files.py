"""Files that are either whole or absent: written under a temporary name, flushed, then renamed.

Beside them, locks between processes, and .npz files read with a clear error where they are damaged.
"""

import errno
import fcntl
import glob
import os
import secrets
import shlex
import shutil
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from lib.errors import InUse, UserError

ROOT = Path(__file__).parent.parent  # the project's folder
LARGEST_TEXT = 2**26  # bytes of a JSON file or a list of ids


def refusal(error):
    """What the system says in an error; "" where it is the content of a file that is wrong."""
    is_of_system = isinstance(error, OSError) and error.errno not in (None, 0, errno.EINVAL)
    return os.strerror(error.errno) if is_of_system else ""  # EINVAL: content that leads a seek astray


def check_regular(path):
    """Raises UserError if the path is a pipe or a device: reading may never end, a file would replace it."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is no file, but a pipe or a device")


def read_text(path, remedy):
    """The text in a small file.

    Args:
        remedy: what the user can do about a damaged file, the end of the message.

    Raises:
        UserError: the system cannot read the file, or it is larger than LARGEST_TEXT, or not UTF-8.
    """
    check_regular(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            if (size := os.fstat(file.fileno()).st_size) > LARGEST_TEXT:
                raise UserError(f"{path} cannot be read: it has {size:,} bytes; {LARGEST_TEXT:,} are allowed")
            return file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: it is not text in UTF-8; {remedy}") from error


@contextmanager
def naming(path):
    """Gives the path to an error of the system that names none in the block, as on a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic(path):
    """Opens path for writing in binary; the whole file appears when the block ends, or none if it fails.

    Several may write one path at once: the last to end wins, and nothing of the others is left. Of a symbolic
    link, it is the target that is written.

    Raises:
        UserError: the folder of path does not exist, or path is a device.
        OSError: the system refuses, as on a full disk; it names the path.
    """
    check_regular(path)
    path = Path(os.path.realpath(path) if os.path.islink(path) else path)
    if not path.parent.is_dir():
        command = f"mkdir -p {shlex.quote(str(path.parent))}"
        raise UserError(f"{path} cannot be written: there is no folder {path.parent}; `{command}` makes it")
    file = _open_temporary(path)
    try:
        with naming(path), file:
            yield file
            _flush(file)
            os.replace(file.name, path)
        with _opened(path.parent) as folder:
            os.fsync(folder)  # so that the new name survives a loss of power, too
    except BaseException:
        Path(file.name).unlink(missing_ok=True)
        raise


def _open_temporary(path):
    """A new file beside path, open for writing, and locked: what is not locked, a killed writer has left.

    Such files of the same path are deleted.
    """
    stem = f".{path.name[:50]}."  # the system limits the length of a name
    for left in path.parent.glob(f"{glob.escape(stem)}{'[0-9a-f]' * 8}.tmp"):
        with suppress(OSError), open(left, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
    while True:
        file = open(path.with_name(f"{stem}{secrets.token_hex(4)}.tmp"), "xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(file.name):  # else, another writer has deleted it before it was locked
            return file
        file.close()


def _flush(file):
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _opened(folder):
    """The descriptor of a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def atomic_files(*paths):
    """Opens files that belong together, as `atomic`: all appear when the block ends, in this order, or none.

    Where several write them at once, all files of one appear before those of the next.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(atomic(path)) for path in reversed(paths)][::-1]
        yield files
        for file in files:
            _flush(file)
        with _opened(Path(paths[0]).parent) as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)
            stack.close()


def write_files(folder, contents):
    """Writes {name: bytes} into the folder, which is made if needed, as `atomic_files`."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_files(*(folder / name for name in contents)) as files:
        for file, (name, content) in zip(files, contents.items()):
            with naming(folder / name):
                file.write(content)


def write_parquet(file, frame):
    """Writes a DataFrame into a file that `atomic` has opened."""
    import duckdb  # here, since few calls write Parquet and all would wait 0.2 s

    path = file.name.replace("'", "''")
    with duckdb.connect() as database:  # into the open file itself, so that flushing it reaches the disk
        database.execute(f"COPY (FROM frame) TO '{path}' (FORMAT parquet, USE_TMP_FILE false)")


@contextmanager
def empty_folder(path):
    """An empty folder for temporary files; what a killed call has left there goes first.

    The caller holds a lock, or is the only one to use this path.
    """
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        with naming(path):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def new_folder(path):
    """An empty folder to fill, renamed to path when the block ends; nothing is left of it if the block fails.

    The caller holds a `lock` for path.
    """
    with empty_folder(path.with_name(f".{path.name}.partial")) as partial:
        yield partial
        os.rename(partial, path)


@contextmanager
def lock(path, message=None):
    """Holds a lock on the file path; the system releases it when the process ends, however it ends.

    Args:
        message: the text of the InUse if another process holds the lock; None waits for that process.
    """
    check_regular(path)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if message else 0))
        except BlockingIOError as error:
            raise InUse(message) from error
        yield


def read_npz(path, remedy):
    """{name: array} of a .npz file.

    Args:
        remedy: what the user can do about a damaged file, the end of the message.

    Raises:
        UserError: the system cannot read the file, or it is truncated or damaged.
    """
    check_regular(path)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}  # reading compares the zip's checksums
    except Exception as error:  # zipfile, zlib and numpy's header parser raise different classes
        if reason := refusal(error):
            raise UserError(f"{path} cannot be read: {reason}") from error
        reason = str(error)[:120]
        raise UserError(f"{path} cannot be read: truncated or damaged ({reason}); {remedy}") from error


def keep_arrays(path, key, make, sound):
    """{name: array} that make() returns, cached in the file path under a key.

    If the folder cannot be written, or the file is damaged, the arrays are only calculated again.

    Args:
        key: text; arrays cached under another key are made again.
        make: () -> {name: array}.
        sound: {name: array} -> whether arrays read from the file can be those of make().
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
        note = f"note: {path} could not be written ({error}): the next call calculates it again"
        print(note, file=sys.stderr)
    return arrays
