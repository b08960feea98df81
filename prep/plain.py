"""Whatever people have → plain files: a folder, a pattern, an archive, any encoding → UTF-8 text or Parquet.

What a file is shows in its first bytes, never in its ending. A file that is plain already is read where it
lies; of the others a copy is written into a scratch folder.
"""

import bz2
import codecs
import csv
import glob
import gzip
import re
import shutil
import sys
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from lib.errors import UserError
from lib.files import refusal

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK = 2**22  # bytes looked at, or copied, at once
GIB = 2**30
LONGEST_ROW = 2**24  # bytes; DuckDB reads twice as many at once, a thread
LONG, MOST_SURPLUS = 1024, 100  # bytes of a line; fields of a row beyond those of the table
# What is more than a GiB, and so many times as large as what it is packed in, is an attack, or a mistake:
# tables shrink to a tenth or so.
SUSPICIOUS, TIMES_AS_LARGE = GIB, 200
PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\x28\xb5\x2f\xfd": zstd.open}
DAMAGED = (OSError, EOFError, zlib.error, zipfile.BadZipFile, zstd.ZstdError, NotImplementedError)
PYTHON_DICTIONARIES = (
    "Make JSON of them: python -c 'import ast, json, sys; "
    "[print(json.dumps(ast.literal_eval(line))) for line in sys.stdin]' <FILE >NEW"
)
# (how a file begins, what it is, what to do)
REFUSED = [
    (rb"\s*<(!doctype|html|\?xml)", "a web page", "Download the data themselves; a browser shows what it is"),
    (rb"%PDF", "a PDF", "Export the table as CSV"),
    (rb"\x89HDF", "HDF5", "Export the interactions as CSV or Parquet"),
    (rb"\xd0\xcf\x11\xe0", "an old Excel workbook", "Save the sheet as CSV"),
    (rb"SQLite format 3", "an SQLite database", "Export the table as CSV"),
    (rb"\x80[\2-\5]", "a Python pickle, which may run any code", "Save the table with to_parquet"),
    (rb"\{u?'", "lines of Python dictionaries", PYTHON_DICTIONARIES),
    (rb"7z\xbc\xaf|Rar!|\xfd7zXZ", "an archive that cannot be read here", "Unpack it first"),
]


class Plain(NamedTuple):
    """One file that can be read."""

    path: Path
    name: str  # as messages show it
    kind: str  # "text", "parquet", "json" or "array", a matrix
    has_quotes: bool = False  # text with a double quote somewhere
    has_spaces: bool = True  # or with a space, so that ids may have some around them
    has_long_lines: bool = False  # some may be longer than LONG; False: none is longer than twice that


def unpack(path, scratch, encoding=None):
    """The plain files behind a path, and what is to be said about them.

    Args:
        path: a file; a folder of files; a pattern such as "part-*.csv"; a member of a zip, "a.zip/b.csv".
        scratch: an empty folder for copies.
        encoding: of texts, such as "cp1251"; None: UTF-8 or UTF-16 if it is that, else Windows-1252.

    Returns:
        ([Plain], [lines for the user]).

    Raises:
        UserError: there is no such file, or it is damaged, or neither text nor another known kind.
    """
    files, notes = [], []
    for file, name in find(path):
        for opened, inner in _members(file, name, scratch):
            if files and not opened.stat().st_size:
                continue  # an empty part among others
            plain, note = look(opened, inner, scratch, encoding)
            files.append(plain)
            notes += note
    if not files:
        raise UserError(f"{path} holds no files")
    return files, notes


def find(path):
    """[(Path, name)] of the files that a path or pattern stands for; UserError if there are none."""
    expanded = Path(path).expanduser()
    if expanded.is_dir():
        found = [
            file
            for file in sorted(expanded.rglob("*"))
            if file.is_file() and not any(part[0] in "._" for part in file.relative_to(expanded).parts)
        ]
        return [(file, str(file.relative_to(expanded))) for file in found]
    if expanded.exists() and not expanded.is_file():
        raise UserError(f"{path} is no file, but a pipe or a device. Write it into a file first")
    if expanded.is_file() or any(parent.is_file() for parent in expanded.parents):
        return [(expanded, expanded.name)]
    found = sorted(Path(match) for match in glob.glob(str(expanded), recursive=True))
    found = [file for file in found if file.is_file()]
    if not found:
        raise UserError(f"there is no file '{path}'")
    return [(file, file.name) for file in found]


@contextmanager
def damage_of(name):
    """Turns what damaged archives raise into a UserError."""
    try:
        yield
    except DAMAGED as error:
        if reason := refusal(error):
            raise UserError(f"{name} cannot be read, or a copy not be written: {reason}") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name} is damaged or truncated: {reason}. Download or copy it again") from error


def archive_of(path):
    """The file on the disk: path itself, or the zip that it names a member of."""
    return path if path.exists() else next(parent for parent in path.parents if parent.is_file())


def _members(path, name, scratch):
    """Generates (path, name) of what is to be read: the file itself, or the members of a zip, unpacked."""
    archive = archive_of(path)
    wanted = path.relative_to(archive).as_posix() if archive != path else None
    if not zipfile.is_zipfile(archive):
        if wanted:
            raise UserError(f"there is no file '{path}': {archive} is no folder and no zip")
        yield path, name
        return
    with damage_of(archive), zipfile.ZipFile(archive) as file:
        members = [info for info in file.infolist() if not info.is_dir()]
        names = [info.filename for info in members]
        if any(one.endswith(".npy") for one in names):
            yield path, name
            return
        if "[Content_Types].xml" in names:
            raise UserError(f"{archive} is an Excel workbook or another Office file. Save the sheet as CSV")
        members = [info for info in members if not re.search(r"(^|/)[._]", info.filename)]
        if wanted:
            members = [info for info in members if info.filename == wanted]
            if not members:
                raise UserError(f"{archive} has no member {wanted}, only {', '.join(names[:20])}")
        for info in members:
            yield extract(file, info, _new(scratch)), info.filename


def extract(archive, info, target):
    """Copies a member of a zip to the path target, which is returned: no archive chooses where it goes."""
    if info.flag_bits & 1:
        raise UserError(f"{archive.filename}: {info.filename} is encrypted. Make a zip without a password")
    _check_ratio(info.filename, info.compress_size, info.file_size)
    if info.file_size > (free := shutil.disk_usage(target.parent).free):
        raise UserError(
            f"{archive.filename}: {info.filename} has {info.file_size / GIB:,.1f} GiB unpacked, and the disk "
            f"of --data_dir has {free / GIB:,.1f} GiB free"
        )
    with archive.open(info) as source:
        return _copy(source, target, info.filename, info.compress_size)


def _copy(source, target, name, packed):
    """Copies what is unpacked from so many bytes to the path target, which is returned."""
    size = 0
    with open(target, "wb") as copy:
        while block := source.read(BLOCK):
            size += copy.write(block)
            _check_ratio(name, packed, size)
    return target


def _check_ratio(name, packed, size):
    """UserError if no table would have so many bytes unpacked."""
    if size > max(SUSPICIOUS, TIMES_AS_LARGE * packed):
        raise UserError(
            f"{name} is more than {TIMES_AS_LARGE} times as large as the {packed / 2**20:,.1f} MiB that it "
            "is packed in: that is no table. If it is one, unpack it first"
        )


def _new(scratch):
    """A path for another copy; DuckDB's files come and go in the same folder."""
    return scratch / f"{uuid4().hex}.copy"


def look(path, name, scratch, encoding=None):
    """(Plain, notes) of one file."""
    start = _start(path)
    for magic, open_packed in PACKED.items():
        if start.startswith(magic):
            with damage_of(name), open_packed(path) as source:
                path = _copy(source, _new(scratch), name, path.stat().st_size)
            start = _start(path)
    if start[257:262] == b"ustar":
        raise UserError(f"{name} is a tar archive. Unpack it first")
    if start.startswith(b"PAR1"):
        return Plain(path, name, "parquet"), []
    if start.startswith(b"PK\3\4") and not zipfile.is_zipfile(path):
        raise UserError(f"{name} is a truncated zip. Download or copy it again")
    if start.startswith((b"PK\3\4", b"\x93NUMPY", b"%%MatrixMarket")):
        return Plain(path, name, "array"), []
    for pattern, what, remedy in REFUSED:
        if re.match(pattern, start, re.IGNORECASE):
            raise UserError(f"{name} is {what}, not a table. {remedy}")
    if not start.strip():
        raise UserError(f"{name} is empty")
    encoding = encoding or _encoding_by_start(start)
    survey = _survey(path)
    if survey.nul and not encoding.startswith("utf-16"):
        raise UserError(f"{name} is not text: it holds NUL bytes, the first at byte {survey.nul:,}")
    notes = []
    if encoding == "utf-8" and not survey.is_utf_8:
        encoding = "cp1252"
        notes.append(
            f"{name} is not UTF-8: read as Windows-1252, such as '{_example(path, encoding, name)}'; "
            "--encoding=NAME says otherwise"
        )
    if encoding != "utf-8" or survey.has_other_line_ends:
        target = _new(scratch)
        _rewrite(path, target, encoding, name)
        path, start = target, _start(target)
    kind = "json" if start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"[") else "text"
    return Plain(path, name, kind, survey.has_quotes, survey.has_spaces, survey.has_long_lines), notes


def with_tabs(file, quote, scratch):
    """A text whose fields are separated by any number of spaces, again with a tab between them."""
    target = _new(scratch)
    quoting = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    csv.field_size_limit(LONGEST_ROW)
    with (
        open(file.path, encoding="utf-8-sig") as lines,
        open(target, "w", encoding="utf-8", newline="") as copy,
    ):
        stripped = (line.strip(" ") for line in lines)
        rows = csv.reader(stripped, delimiter=" ", quoting=quoting, skipinitialspace=True)
        writer = csv.writer(
            copy, delimiter="\t", quoting=quoting, lineterminator="\n", quotechar=quote or None
        )
        try:
            writer.writerows(rows)
        except csv.Error as error:  # a field longer than LONGEST_ROW; a tab, without quotes
            raise UserError(f"{file.name} cannot be read: {error}. Remove that row") from error
    return file._replace(path=target)


def with_short_rows(file, layout, scratch):
    """A text again, with at most MOST_SURPLUS surplus fields a row: DuckDB's time grows with their square.

    Raises:
        UserError: a line is longer than LONGEST_ROW, which DuckDB could leave out without a word.
    """
    if file.kind != "text" or not file.has_long_lines:
        return file
    delimiter, most = layout.delimiter.encode(), layout.width + MOST_SURPLUS
    quoted = rb'"(?:[^"\\]|\\.)*"' if layout.escape == "\\" else rb'"[^"]*"'

    def lines():
        with open(file.path, "rb") as source:
            for number, line in enumerate(iter(lambda: source.readline(LONGEST_ROW + 1), b""), 1):
                if len(line) > LONGEST_ROW:
                    raise UserError(
                        f"{file.name}, line {number:,} is longer than {LONGEST_ROW:,} bytes. Remove it"
                    )
                yield line

    def cut(line):
        if line.count(delimiter) < most:
            return line
        masked = re.sub(quoted, lambda match: b"." * len(match[0]), line) if layout.quote else line
        goes_on = layout.quote and b'"' in masked  # a quoted field, on another line
        if goes_on or masked.count(delimiter) < most:
            return line
        return line[: -len(masked.split(delimiter, most)[-1])] + b"\n"

    if all(cut(line) is line for line in lines()):
        return file
    target = _new(scratch)
    with open(target, "wb") as copy:
        copy.writelines(map(cut, lines()))
    return file._replace(path=target)


def _start(path):
    with open(path, "rb") as file:
        return file.read(BLOCK)


def _encoding_by_start(start):
    """ "utf-16" by its byte order mark or the zeros of its Latin letters; else "utf-8"."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for zeros, encoding in ((start[1:4096:2], "utf-16-le"), (start[0:4096:2], "utf-16-be")):
        if zeros.count(0) > 0.6 * len(zeros) and start[:4096].count(0) < 0.55 * len(start[:4096]):
            return encoding
    return "utf-8"


class _Survey(NamedTuple):
    """What one pass over the bytes of a text shows."""

    is_utf_8: bool
    nul: int  # the place of the first NUL byte, from 1; 0 without one
    has_quotes: bool
    has_spaces: bool
    has_long_lines: bool
    has_other_line_ends: bool  # a carriage return alone, or both kinds of line ends


def _survey(path):
    decoder, is_utf_8, before, last = codecs.getincrementaldecoder("utf-8")(), True, 0, b""
    nul, quotes, spaces, long, alone, pairs, feeds = 0, False, False, False, 0, 0, 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            if is_utf_8 and (decoder.getstate()[0] or not block.isascii()):
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    is_utf_8 = False
            nul = nul or (before + block.index(0) + 1 if 0 in block else 0)
            quotes, spaces = quotes or b'"' in block, spaces or b" " in block
            parts = range(LONG, len(block) + 1, LONG)
            long = long or any(block.find(b"\n", stop - LONG, stop) < 0 for stop in parts)
            if b"\r" in block or last == b"\r":
                both = block.count(b"\r\n") + (last == b"\r" and block[:1] == b"\n")
                pairs, feeds = pairs + both, feeds + block.count(b"\n") - both
                alone += block.count(b"\r") - both
            else:
                feeds += b"\n" in block
            before, last = before + len(block), block[-1:]
    is_utf_8 = is_utf_8 and not decoder.getstate()[0]
    return _Survey(is_utf_8, nul, quotes, spaces, long, alone > 0 or 0 < pairs and feeds > 0)


def _rewrite(path, target, encoding, name):
    """Writes a text again as UTF-8 with line feeds."""
    try:
        with (
            open(path, encoding=encoding) as source,
            open(target, "w", encoding="utf-8", newline="\n") as copy,
        ):
            shutil.copyfileobj(source, copy, BLOCK)
    except LookupError as error:
        raise UserError(f"--encoding: there is no encoding '{encoding}'") from error
    except UnicodeError as error:
        raise UserError(_not_decodable(name, encoding)) from error


def _not_decodable(name, encoding):
    if encoding == "cp1252":
        return (
            f"{name} is neither UTF-8 nor Windows-1252. Say what it is, such as --encoding=cp1251 "
            "(Cyrillic), gb18030 (Chinese) or shift_jis (Japanese)"
        )
    return f"{name} is not {encoding}. Give another --encoding"


def _example(path, encoding, name):
    """The first word of a text that is not ASCII, for the user to judge."""
    try:
        with open(path, encoding=encoding) as file:
            for line in file:
                if not line.isascii():
                    return re.search(r"[\w.' -]*[^\x00-\x7f][\w.' -]*", line).group()[:40].strip()
    except UnicodeError as error:
        raise UserError(_not_decodable(name, encoding)) from error
