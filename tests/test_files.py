"""A small file of every kind that people have, given to prep without a word; and of every kind that is none."""

import bz2
import csv
import gzip
import io
import json
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

import duckdb
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import pairs_of, reading_of, write
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings

from lib.errors import UserError
from prep import plain, preprocess, tables
from prep.plain import LONGEST_ROW, zstd

ROWS = [("ann", "tea", 4), ("bob", "tea", 1), ("bob", "jam", 2.5), ("cem", "jam", 5)]
NUMBERS = [(1, 10, 4), (2, 10, 1), (2, 11, 2.5), (3, 11, 5)]
ONES = [row[:2] + (1,) for row in NUMBERS]


def text(separator=",", header="user,item,rating", rows=ROWS, end="\n", line="{0}{s}{1}{s}{2}", after=""):
    """The rows as a text."""
    lines = [header.replace(",", separator)] if header else []
    lines += [line.format(*row, s=separator) + after for row in rows]
    return "".join(line + end for line in lines)


def packed(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def parquet(tmp_path, columns, path="a.parquet"):
    """A Parquet file of columns given in SQL."""
    duckdb.sql(f"SELECT {columns}").write_parquet(str(tmp_path / path))


def matrix(save, value):
    buffer = io.BytesIO()
    save(buffer, value)
    return buffer.getvalue()


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        content = text().encode()
        info = tarfile.TarInfo("a.csv")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


SPARSE = sp.csr_matrix(([1, 1, 2], ([0, 1, 1], [2, 0, 2])), (2, 3))
OBJECTS = [dict(zip(("user_id", "item_id", "stars"), row)) for row in ROWS]
RETAIL = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,CustomerID\n" + "".join(
    f"5363{place},{item},WHITE {item},{count},12/{place + 13}/2010 8:26,{user}\n"
    for place, (user, item, count) in enumerate(NUMBERS)
)

# What it is: (file name, content, the interactions, words of what is said about it).
READ = {
    "commas": ("a.csv", text(), ROWS, "user=user item=item rating=rating time=-"),
    "tabs": ("a.tsv", text("\t"), ROWS, ""),
    "semicolons, under a wrong ending": ("a.tsv", text(";"), ROWS, ""),
    "bars": ("a.psv", text("|"), ROWS, ""),
    "double colons, without a header": ("ratings.dat", text("::", None, NUMBERS), NUMBERS, "rating=2"),
    "spaces, without a header": ("a.txt", text(" ", None, NUMBERS), NUMBERS, "no header: columns by number"),
    "spaces for alignment": ("a.txt", text(" ", None, NUMBERS, line=" {0:>4}  {1:>6}   {2}"), NUMBERS, ""),
    "no ending": ("ratings", text(), ROWS, ""),
    "quoted, with delimiters": (
        "a.csv", 'user,item,rating\n"ann","tea, green",4\nbob,"a ""b""\nc",1\n',
        [("ann", "tea, green", 4)], "",
    ),
    "all quoted, semicolons": ("a.csv", text(";", '"user","item","rating"', line='"{0}";"{1}";"{2}"'), ROWS, ""),
    "line ends of Windows": ("a.csv", text(end="\r\n"), ROWS, ""),
    "line ends of old Macs": ("a.csv", text(end="\r"), ROWS, ""),
    "mixed line ends": ("a.csv", text().replace("\n", "\r\n", 2), ROWS, ""),
    "no line end at the end": ("a.csv", text().rstrip(), ROWS, ""),
    "a byte order mark": ("a.csv", "\ufeff" + text(), ROWS, "user=user "),
    "UTF-16": ("a.csv", text().encode("utf-16"), ROWS, ""),
    "UTF-16 without a mark": ("a.csv", text().encode("utf-16-le"), ROWS, ""),
    "Latin-1": (
        "a.csv", text(rows=[("José", "café", 3)]).encode("latin-1"), [("José", "café", 3)],
        "not UTF-8: read as Windows-1252, such as 'José'; --encoding=NAME says otherwise",
    ),
    "Windows-1252": ("a.csv", text(rows=[("a", "5 €", 3)]).encode("cp1252"), [("a", "5 €", 3)], "such as '5 €'"),
    "decimal commas": (
        "a.csv", text(";", line="{0}{s}{1}{s}{2}").replace("2.5", "2,5"), ROWS, "",
    ),
    "gzip": ("a.csv.gz", gzip.compress(text().encode()), ROWS, ""),
    "gzip under another ending": ("a.csv", gzip.compress(text().encode()), ROWS, ""),
    "bzip2": ("a.csv.bz2", bz2.compress(text().encode()), ROWS, ""),
    "zstandard": ("a.csv.zst", zstd.compress(text().encode()), ROWS, ""),
    "a zip with one table": ("a.zip", packed({"ratings.csv": text()}), ROWS, ""),
    "a zip with a table among others": (
        "a.zip", packed({"x/README.txt": "This is about tea.\n", "x/ratings.csv": text(), "x/items.csv": "item,title\ntea,Tea\n"}),
        ROWS, "of 3 files, 1 is read; left out: x/README.txt, x/items.csv",
    ),
    "JSON lines": ("a.jsonl", "".join(json.dumps(row) + "\n" for row in OBJECTS), ROWS, "rating=stars"),
    "a JSON array": ("a.json", json.dumps(OBJECTS, indent=1), ROWS, ""),
    "JSON lines, packed": ("a.json.gz", gzip.compress(json.dumps(OBJECTS).encode()), ROWS, ""),
    "RecBole": ("a.inter", text("\t", "user_id:token,item_id:token,rating:float"), ROWS, "user=user_id:token"),
    "a sparse matrix of scipy": ("a.npz", matrix(sp.save_npz, SPARSE), [(0, 2, 1), (1, 0, 1), (1, 2, 2)], "read as an array"),
    "a matrix of numpy": ("a.npy", matrix(np.save, SPARSE.toarray()), [(0, 2, 1), (1, 0, 1), (1, 2, 2)], ""),
    "lists": ("train.txt", "1 10\n2 10 11\n3 11\n4 7 8 9\n", [*ONES, (4, 7, 1), (4, 8, 1), (4, 9, 1)], "read as lists"),
    "counted lists": ("users.dat", "1 10\n2 10 11\n1 11\n3 7 8 9\n", [(0, 10, 1), (1, 10, 1), (1, 11, 1), (2, 11, 1), (3, 7, 1), (3, 8, 1), (3, 9, 1)], "counted lists"),
    "a sequence": ("seq.txt", text(" ", None, NUMBERS, line="{0} {1}"), ONES, "user=0 item=1 rating=-"),
    "a matrix with names": ("a.csv", "user,tea,jam,oat,egg,nut\nann,1,0,0,2,0\nbob,0,1,,,\n", [("ann", "egg", 2), ("ann", "tea", 1), ("bob", "jam", 1)], "a row for each user"),
    "lines before the table": ("a.dat", "18800\n92834\n" + text("\t", None, NUMBERS), NUMBERS, "before the table is left out, 2 lines"),
    "comments before the table": ("a.csv", "# made by hand\n# in 2019\n" + text(), ROWS, "before the table is left out, 2 lines"),
    "empty columns at the end": ("a.csv", text(header="user,item,rating,,,", after=",,,"), ROWS, ""),
    "a comma at every row's end": ("a.csv", text(after=","), ROWS, ""),
    "names that occur twice": ("a.csv", text(header="x,x,user,item,rating", line="1,2,{0},{1},{2}"), ROWS, ""),
    "an unnamed index": ("a.csv", ",user,item,rating\n" + text(header=None, line="7,{0},{1},{2}"), ROWS, "user=user"),
    "a shop": ("retail.csv", RETAIL, NUMBERS, "user=CustomerID item=StockCode count=Quantity time=InvoiceDate title=Description"),
    "reviews": (
        "a.csv", 'reviewerID,asin,reviewText,overall,unixReviewTime\n' + "".join(f'{u},{i},"so,\nso",{r},9\n' for u, i, r in ROWS),
        ROWS, "user=reviewerID item=asin rating=overall time=unixReviewTime",
    ),
    "plays": ("a.tsv", text("\t", "user-mboid,artist-name,plays").replace("user-mboid", "user_id"), ROWS, "count=plays"),
    "an id and a name": ("a.csv", text(header="User ID,Movie Name,movieId,Stars", line="{0},A {1},{1},{2}"), ROWS, "item=movieId rating=Stars time=- title=Movie Name"),
    "books": ("a.csv", text(";", '"User-ID","ISBN","Book-Rating"'), ROWS, "user=User-ID item=ISBN"),
    "two candidates": ("a.csv", text(header="user,movie,book,rating", line="{0},{1},x,{2}"), ROWS, "--item-col=book takes the other column"),
    "true and false": ("a.csv", "user,item,liked\na,b,True\na,c,false\n", [("a", "b", 1), ("a", "c", 0)], "rating=liked"),
    "numbers above 100 are counts": ("a.txt", "1 10 500\n2 10 3\n3 4 7\n", [(1, 10, 500), (2, 10, 3), (3, 4, 7)], "count=2"),
    "the Netflix Prize's": ("a.txt", "5:\n1,4,2005-09-06\n2,3,2005-09-06\n6:\n1,2,2005-09-06\n", [(1, 5, 4), (1, 6, 2), (2, 5, 3)], "the Netflix Prize's files"),
    "spaces in quoted names": ("a.csv", "user,item\n" + "".join(f'{u},"say {u}, ok"\n' for u in range(9)), [(u, f"say {u}, ok", 1) for u in range(9)], "user=user item=item"),
    "spaces behind commas": ("a.csv", text(", ", "user,item,rating"), ROWS, ""),
    "check-ins": ("a.txt", "".join(f"{u}\t2010-10-1{u}T23:55:27Z\t30.2359\t-97.79{u}\t22{u}\n" for u in range(5)), [(u, 220 + u, 1) for u in range(5)], "user=0 item=4 rating=- time=1"),
    "clicks": ("a.dat", "1,2014-04-07T10:51:09.277Z,214,0\n1,2014-04-07T10:54:09.868Z,215,0\n2,2014-04-07T10:54:46.998Z,214,0\n", [(1, 214, 1), (1, 215, 1), (2, 214, 1)], "user=0 item=2"),
    "behaviours of a shop": ("a.csv", "".join(f"{u},{i},0,pv,151154407{u}\n" for u, i, _ in NUMBERS), ONES, "rating=- time=4"),
    "behaviours with names": ("a.csv", "user_id,item_id,click,like,share\n" + "".join(f"{u},{i},1,0,0\n" for u, i, _ in NUMBERS), ONES, "rating=-"),
    "Amazon, 2023": ("a.csv", "rating,title,text,asin,parent_asin,user_id\n" + "".join(f"{r},Great,very,B0{i}X,B0{i},A{u}\n" for u, i, r in NUMBERS), [(f"A{u}", f"B0{i}", r) for u, i, r in NUMBERS], "item=parent_asin rating=rating time=-; --item-col=asin takes"),
    "numbers of rows, as R writes them": ("a.txt", '"user" "item" "rating"\n' + "".join(f'"{n}" "{u}" "{i}" {r}\n' for n, (u, i, r) in enumerate(ROWS, 1)), ROWS, ""),
    "quotes behind backslashes": ("a.csv", '"User-ID";"ISBN";"Book-Rating"\n"1";"05\\"";"4"\n"2";"06";"5"\n', [(1, '05"', 4), (2, "06", 5)], ""),
    "a matrix of Matrix Market": ("a.mtx", "%%MatrixMarket matrix coordinate real general\n2 3 3\n1 3 1\n2 1 1\n2 3 2\n", [(1, 3, 1), (2, 1, 1), (2, 3, 2)], ""),
    "a graph of KONECT": ("out.x", "% bip weighted\n% 4 3 2\n" + text(" ", None, NUMBERS), NUMBERS, ""),
    "MySQL's word for nothing": ("a.tsv", text("\t") + "\\N\ttea\t3\n", ROWS, ""),
    "a title above the table": ("a.csv", "All ratings,,\n,,\n" + text(), ROWS, "before the table is left out, 2 lines"),
    "a third column of times": ("a.txt", "1 10 978300760\n2 10 978300761\n3 4 978300762\n", [(1, 10, 1), (2, 10, 1), (3, 4, 1)], "rating=- time=2"),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_a_file_is_read_with_nothing_else_said(tmp_path, kind):
    name, content, expected, words = READ[kind]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    reading = reading_of(tmp_path / name)
    assert pairs_of(reading.interactions) == sorted(expected)
    assert words in "; ".join(reading.notes)
    # An id with a line break is none, which costs two lines; MySQL's word stands for a missing user.
    assert reading.bad == {"quoted, with delimiters": 2, "MySQL's word for nothing": 1}.get(kind, 0)


# What it is: (file name, content, words of the error).
REFUSED = {
    "nothing": ("a.csv", b"", "a.csv is empty"),
    "spaces alone": ("a.csv", b" \n\n", "a.csv is empty"),
    "a header alone": ("a.csv", b"user,item,rating\n", "nothing is left: there are no interactions"),
    "one column": ("a.csv", b"user\nann\nbob\n", "one column, such as 'user': a row needs a user and an item"),
    "a web page": ("a.csv", b"<!DOCTYPE html>\n<html><body>404, not found</body></html>", "is a web page, not a table"),
    "a picture": ("a.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not text: it holds NUL bytes, the first at byte 9"),
    "NUL bytes": ("a.csv", text().encode() + b"x,\0,1\n", "holds NUL bytes, the first at byte 62"),
    "a PDF": ("a.csv", b"%PDF-1.4\n", "is a PDF"),
    "a pickle": ("a.csv", b"\x80\x04\x95", "a Python pickle, which may run any code"),
    "Excel": ("a.xlsx", packed({"[Content_Types].xml": "", "xl/workbook.xml": ""}), "Save the sheet as CSV"),
    "HDF5": ("a.h5", b"\x89HDF\r\n\x1a\n\0", "is HDF5"),
    "a tar": ("a.tgz", tar(), "is a tar archive. Unpack it first"),
    "half a gzip": ("a.csv.gz", gzip.compress(text().encode() * 99)[:-30], "is damaged or truncated"),
    "half a zip": ("a.zip", packed({"a.csv": text() * 99})[:-40], "is a truncated zip"),
    "half a Parquet file": ("a.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
    "JSON that is no table": ("a.json", b'{"user": 1, "item": ', "cannot be read as JSON"),
    "a dense array of three dimensions": ("a.npy", matrix(np.save, np.ones((2, 2, 2))), "has 3 dimensions, not 2"),
    "pickled objects": ("a.npy", matrix(np.save, np.array([{}], object)), "is no matrix of"),
    "no user": ("a.csv", b"what,item,stars\nx,tea,4\n", "has no column 'user', only what, item, stars. Name it with --user-col"),
    "no item": ("a.csv", b"user,thing\nx,tea\n", "has no column 'item', only user, thing. Name it with --item-col=NAME"),
    "two users": ("a.csv", b"user,user,item\n1,2,3\n", "two columns named user. Give --user-col as a number"),
    "all ids missing": ("a.csv", b"user,item,rating\n,1,2\n,2,3\n", "2 of 2 rows cannot be used .*no user id"),
    "all ratings bad": ("a.csv", b"user,item,rating\na,b,good\na,c,bad\n", "2 of 2 rows cannot be used .*the rating is not a number"),
    "an infinite rating": ("a.csv", text(after="").encode() + b"x,y,1e400\n", "1 of 5 rows .*line 6: the rating is not a number"),
    "more fields than names": ("a.csv", b"user,item\n1,2,3\n4,5,6\n", "the rows have 3 fields, the header has 2: user, item"),
    "an unknown encoding": ("a.csv", "user,item\nа,б\nв,Џ\n".encode("koi8_u", "replace") + b"\x81,\x8d\n", "neither UTF-8 nor Windows-1252. Say what it is, such as --encoding=cp1251"),
    "a password": ("a.zip", packed({"a.csv": text()}).replace(b"PK\x03\x04\x14\0\0", b"PK\x03\x04\x14\0\x01").replace(b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\x01"), "is encrypted"),
    "a field that is too long": ("a.txt", b"user item rating\n1 2 3\n1 " + b"2" * (LONGEST_ROW + 1) + b" 3\n", "a.txt cannot be read: field larger than field limit"),
    "rows without values": ("a.csv", b"," * 70_000 + b"\n1,2,3\n", "a.csv cannot be read: its rows are empty"),
    "two tables in a zip": (
        "a.zip", packed({"a.csv": text(), "b.csv": text(header="user,item,stars")}),
        r"tables with different columns: a.csv \(user, item, rating\) and b.csv \(user, item, stars\)",
    ),
    "a quote that does not close": ("a.csv", b'user,item,rating\na,"b,1\n' + b"a,c,2\n" * 9, "10 of 10 rows cannot be used"),
    "prose": ("a.txt", b"This is not a table. It is a text.\nNobody rates anything here, nor will.\nThe end.\n", "rows with different numbers of fields"),
    "too few rows a user": ("a.csv", text().encode(), "no user had more than 2, no item more than 2. Check that"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_cannot_be_read_ends_in_one_line(tmp_path, kind):
    name, content, words = REFUSED[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        preprocess.main([f"--file={tmp_path / name}", "--name=mine", f"--data_dir={tmp_path / 'data'}"])
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".mine.lock"]


@pytest.mark.parametrize("name", ["a.zip", "a.csv.gz", "a.csv.bz2", "a.csv.zst"])
def test_what_is_packed_suspiciously_well_is_refused_before_the_disk_is_full(tmp_path, monkeypatch, name):
    monkeypatch.setattr(plain, "SUSPICIOUS", 2**17)
    content = b"1,2,3\n" * 2**16
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstd.compress, "zip": lambda x: packed({"a": x})}
    path = write(tmp_path / name, pack[name.rpartition(".")[2]](content))
    with pytest.raises(
        UserError, match="is more than 200 times as large as the 0.0 MiB that it is packed in"
    ):
        reading_of(path)
    monkeypatch.setattr(plain, "SUSPICIOUS", 2**20)
    assert len(reading_of(path).interactions.user) == 2**16


def test_a_zip_that_the_disk_has_no_room_for_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(plain.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1))
    path = write(tmp_path / "a.zip", packed({"a.csv": text()}))
    with pytest.raises(
        UserError, match="a.zip: a.csv has 0.0 GiB unpacked, and the disk .* has 0.0 GiB free"
    ):
        reading_of(path)


def test_a_long_text_without_a_header_is_no_date_and_takes_no_minutes(tmp_path):
    path = write(tmp_path / "a.csv", "1,2," + "x" * 100_000 + "\n" + "1,2,3\n" * 9)
    assert len(reading_of(path).interactions.user) >= 9


def test_dates_in_two_formats_are_left_out_and_said(tmp_path):
    rows = "ann,tea,1,2020-01-01\nann,tea,2,31.12.2019\n" * 3
    reading = reading_of(write(tmp_path / "a.csv", "user,item,rating,time\n" + rows))
    assert (
        "times are left out: they are not all of one known kind, such as '2020-01-01' and '31.12.2019'"
        in reading.notes
    )
    assert reading.interactions.time is None


@pytest.mark.parametrize(
    "values, expected",
    [
        (["2020-01-01", "2020-01-02T00:00:01Z"], [1577836800, 1577923201]),
        (["978300760", "978300761"], [978300760, 978300761]),
        (["978300760000", "978300761000"], [978300760, 978300761]),
        (["13/01/2020", "02/01/2020"], [1578873600, 1577923200]),
        (["1/13/2020 8:26", "1/2/2020 0:00"], [1578903960, 1577923200]),
        (["13.1.2020", "2.1.2020"], [1578873600, 1577923200]),
        (["Sat Oct 07 00:00:00 -0700 2017", "Sun Oct 08 00:00:00 -0700 2017"], [1507359600, 1507446000]),
        (["April 20, 2016", "May 1, 2016"], [1461110400, 1462060800]),
        (["20200101", "20200102"], None),
    ],
)
def test_times_of_many_kinds(tmp_path, values, expected):
    rows = "".join(f'u,{place},"{value}"\n' for place, value in enumerate(values))
    reading = reading_of(write(tmp_path / "a.csv", "user,item,date\n" + rows))
    times = reading.interactions.time.tolist()
    assert times == expected if expected else times == sorted(times)


def test_folders_patterns_and_members(tmp_path):
    for place, row in enumerate(ROWS):
        (tmp_path / f"part-{place}.csv").write_text(text(rows=[row]))
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".crc").write_text("x")
    for path in (tmp_path, tmp_path / "part-*.csv", str(tmp_path) + "/**/part-?.csv"):
        assert pairs_of(reading_of(path).interactions) == sorted(ROWS)
    (tmp_path / "part-9.csv").write_text(text(header="user,item,stars"))
    with pytest.raises(UserError, match="different columns: part-0.csv .* and part-9.csv"):
        reading_of(tmp_path)
    for place in range(2):
        parquet(tmp_path, f"'u{place}' AS customer, {place} AS sku", f"p{place}.parquet")
    assert pairs_of(reading_of(tmp_path / "p*.parquet").interactions) == [("u0", 0, 1), ("u1", 1, 1)]
    (tmp_path / "a.zip").write_bytes(packed({"x/a.csv": text(), "x/b.csv": text(header="user,item,stars")}))
    assert pairs_of(reading_of(tmp_path / "a.zip" / "x" / "b.csv").interactions) == sorted(ROWS)
    with pytest.raises(UserError, match="has no member x/c.csv, only x/a.csv, x/b.csv"):
        reading_of(tmp_path / "a.zip" / "x" / "c.csv")
    with pytest.raises(UserError, match="there is no file '.*nowhere/\\*.csv'"):
        reading_of(tmp_path / "nowhere" / "*.csv")


def test_zips_of_one_name_are_all_read(tmp_path):
    for place, row in enumerate(ROWS):
        (tmp_path / f"day-{place}").mkdir()
        (tmp_path / f"day-{place}" / "part.zip").write_bytes(packed({"part.csv": text(rows=[row])}))
    assert pairs_of(reading_of(tmp_path).interactions) == sorted(ROWS)


def test_a_long_id_in_a_list_costs_its_own_length(tmp_path):
    long = "9" * 20_000  # as the other ids a whole number, but too large for int64: all are texts
    lines = "".join(
        f"{user} {user % 7} {user % 5 + 7} 99\n"[: None if user % 2 else -4] + "\n" for user in range(500)
    )
    reading = reading_of(write(tmp_path / "train.txt", f"{long} 1 2\n{lines}"))
    ids = reading.interactions.user_ids
    assert long in ids and ids.dtype == object and len(ids) == 501


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text(text())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pairs_of(reading_of("~/x.csv").interactions) == sorted(ROWS)


@pytest.mark.parametrize(
    "content, columns, expected",
    [
        ("a,b,c\n1,2,3\n", {"user": "2", "item": "0"}, [(3, 1, 1)]),
        ("a,b,c\n1,2,3\n", {"user": "b", "item": "c", "rating": "a"}, [(2, 3, 1)]),
        ("user,item,rating\n1,2,3\n", {"rating": "-"}, [(1, 2, 1)]),
        ("user,item,rating\n1,2,3\n", {"user": "item", "item": "user"}, [(2, 1, 3)]),
        ("user,user,item\n1,2,3\n", {"user": "1"}, [(2, 3, 1)]),
        ("User Id,item,n\n1,2,3\n", {"user": "user_id", "count": "n"}, [(1, 2, 3)]),
        ("0,1\n5,6\n", {"user": "1", "item": "0"}, [(1, 0, 1), (6, 5, 1)]),
    ],
)
def test_columns_by_name_and_by_number(tmp_path, content, columns, expected):
    (tmp_path / "a.csv").write_text(content)
    assert pairs_of(reading_of(tmp_path / "a.csv", **columns).interactions) == expected


@pytest.mark.parametrize(
    "columns, words",
    [
        ({"rating": "stars"}, "no column 'stars' for --rating-col: it has only user, item, rating"),
        ({"user": "item"}, "one column cannot be two of"),
        ({"user": "9"}, "no column '9' for --user-col"),
    ],
)
def test_columns_that_do_not_exist_or_are_chosen_twice_are_named(tmp_path, columns, words):
    (tmp_path / "a.csv").write_text(text())
    with pytest.raises(UserError, match=words):
        reading_of(tmp_path / "a.csv", item="item", **columns)


cells = strategies.text(
    strategies.characters(codec="utf-8", exclude_characters="\0\r\n\ufeff"), max_size=8
).filter(lambda text: text == text.strip())
ids = cells.filter(lambda text: text and not tables.WHOLE.fullmatch(text))


@hypothesis_settings(deadline=None, max_examples=60)
@given(
    strategies.lists(strategies.tuples(ids, ids, strategies.integers(1, 5), cells), min_size=2, max_size=30),
    strategies.sampled_from(",;\t|"),
    strategies.sampled_from(["\n", "\r\n", "\r"]),
    strategies.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    strategies.permutations(["user_id", "Item ID", "RATING", "note"]),
    strategies.booleans(),
)
def test_a_random_table_in_a_random_dialect_is_read_back(rows, delimiter, end, encoding, order, packing):
    """Written by Python's csv module, with quotes where they are needed or, with tabs and bars, around all."""
    quoting = csv.QUOTE_MINIMAL if delimiter in ",;" else csv.QUOTE_ALL
    content = io.StringIO(newline="")
    writer = csv.writer(content, delimiter=delimiter, lineterminator=end, quoting=quoting)
    places = [["user_id", "Item ID", "RATING", "note"].index(name) for name in order]
    writer.writerows([order, *([row[place] for place in places] for row in rows)])
    encoded = content.getvalue().encode(encoding)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.data"
        path.write_bytes(gzip.compress(encoded) if packing else encoded)
        reading = reading_of(path)
    expected = [row[:3] for row in rows]
    assert pairs_of(reading.interactions) == sorted(expected) and not reading.bad
