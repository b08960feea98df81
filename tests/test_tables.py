"""prep/tables.py: bad rows and their lines, quotes, ids of any kind, files from their bytes to a Dataset."""

import re
import resource
import time

import duckdb
import numpy as np
import pandas as pd
import pytest
from conftest import pairs_of, reading_of, write
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings
from test_sources import known, zip_of

import data
from lib.errors import UserError
from lib.files import atomic, write_parquet
from prep import filters, preprocess, tables
from prep.plain import LONGEST_ROW

EXPECTED = [(3, 70, 2.5), (12, 5, 4.0), (12, 70, 1.0)]

TEXT = {
    ".csv": "when,movieId,userId,rating\n1,5,12,4\n1,70,12,1\n1,70,3,2.5\n",
    ".tsv": "User ID\tITEM\tSTARS\n12\t5\t4\n12\t70\t1\n3\t70\t2.5\n",
    ".inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "12\t5\t4\t1\n12\t70\t1\t1\n3\t70\t2.5\t1\n",
}


@pytest.mark.parametrize("ending", TEXT)
def test_own_text_with_usual_names(tmp_path, ending):
    assert pairs_of(reading_of(write(tmp_path / f"a{ending}", TEXT[ending])).interactions) == EXPECTED


def test_own_text_with_other_names_quotes_and_no_header(tmp_path):
    path = write(
        tmp_path / "a.csv",
        'who,"what, exactly",how much,note\n12,5,4,"x, ""y""\nand more"\n12,70,1,\n3,70,2.5,z\n',
    )
    reading = reading_of(path, user="who", item="what, exactly", rating="how much")
    assert pairs_of(reading.interactions) == EXPECTED
    path = write(tmp_path / "b.csv", "5,12,4\n70,12,1\n70,3,2.5\n")
    assert pairs_of(reading_of(path, user="1", item="0", rating="2").interactions) == EXPECTED
    reading = reading_of(path, user="1", item="0", rating="-")
    assert pairs_of(reading.interactions)[0] == (3, 70, 1.0), "without a rating every row counts"


@pytest.mark.parametrize(
    "user", ["12::SMALLINT", "12.0::DOUBLE", "'12'", "'12'::ENUM('12', '3')", "12.0::DECIMAL(9, 2)"]
)
def test_own_parquet(tmp_path, user):
    other = user.replace("12", "3", 1)
    rows = f"(1, {user}, 5, 4.0), (2, {user}, 70, 1.0), (3, {other}, 70, 2.5)"
    path = str(tmp_path / "a.parquet")
    duckdb.sql(f"SELECT * FROM (VALUES {rows}) rows(x, user_id, item_id, rating)").write_parquet(path)
    assert pairs_of(reading_of(path).interactions) == EXPECTED
    rows = "(12, 5.0, 4.0), (NULL, 70, 1), (3, 'nan'::DOUBLE, 2.0), (3, 70, NULL)"
    path = str(tmp_path / "b.parquet")
    duckdb.sql(f"SELECT * FROM (VALUES {rows}) rows(user, item, rating)").write_parquet(path)
    reading = reading_of(path)
    assert pairs_of(reading.interactions) == [(12, 5, 4.0)]
    assert reading.examples == [
        ("b.parquet", 2, "no user id"),
        ("b.parquet", 3, "no item id"),
        ("b.parquet", 4, "the rating is not a number"),
    ]


def test_bad_rows_have_the_lines_of_the_file(tmp_path):
    path = write(
        tmp_path / "a.csv",
        "user,item,rating\n12,5,4\n12,5\n\n,5,1\n12,70,1\n12,NaN,1\n12,70,inf\n\n3,70,2.5\n1,2,3,4\n3,7,\n",
    )
    reading = reading_of(path)
    assert [(line, what) for _, line, what in reading.examples] == [
        (3, "12,5"),
        (5, "no user id"),
        (7, "no item id"),
        (8, "the rating is not a number"),
        (11, "1,2,3,4"),
    ]
    assert pairs_of(reading.interactions) == EXPECTED and (reading.rows, reading.bad) == (9, 6)


@pytest.mark.parametrize("surplus", ["7", '"a, ""b"""'])
def test_many_surplus_fields_make_one_bad_row_in_no_time(tmp_path, surplus):
    rows = [f"{user},{item}" for user in range(5) for item in range(5)]
    wide = ",".join(["1,2", *60_000 * [surplus]])
    began = time.monotonic()
    reading = reading_of(write(tmp_path / "own.csv", "\n".join(["user,item", *rows, wide, *rows]) + "\n"))
    assert time.monotonic() - began < 5
    assert (reading.rows, reading.bad, reading.examples[0][1]) == (51, 1, 27)
    assert len(reading.interactions.user) == 50


@pytest.mark.parametrize("name", ["a*.csv", "a?.csv", "[a].csv", "[a]*.parquet", "?.json"])
def test_a_name_that_looks_like_a_pattern_is_that_of_one_file(tmp_path, name):
    for one, user in (("a.csv", 9), ("aa.csv", 9), (name, 1)):
        rows = pd.DataFrame({"user": [user, user], "item": [2, 3]})
        if one.endswith(".parquet"):
            with atomic(tmp_path / one) as file:
                write_parquet(file, rows)
        else:
            write(
                tmp_path / one, rows.to_json(orient="records") if "json" in one else rows.to_csv(index=False)
            )
    assert pairs_of(reading_of(tmp_path / name).interactions) == [(1, 2, 1.0), (1, 3, 1.0)]


def test_a_row_that_is_too_long_is_named(tmp_path):
    """DuckDB would leave it out, and not tell."""
    path = write(tmp_path / "own.csv", "user,item\n" + "1,2\n" * 9 + "3," + "4" * (2 * LONGEST_ROW) + "\n")
    with pytest.raises(UserError, match="^own.csv, line 11 is longer than 16,777,216 bytes. Remove it"):
        reading_of(path)


@pytest.mark.parametrize("room", [1, 20_000])
def test_a_disk_without_room_for_the_rows_is_one_line(tmp_path, room):
    path = write(tmp_path / "own.csv", "user,item\n" + "".join(f"{n},{n % 7}\n" for n in range(1000)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(UserError, match="the disk is full: --data_dir needs room"):
            reading_of(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_names_steer_no_terminal(tmp_path, capsys):
    path = write(tmp_path / "own\u202e.csv", "user,item\x1b[2J\n" + "1,2\n1,3\n1,4\n2,2\n2,3\n2,4\n" * 2)
    words = ["--name=own\u202e", "--user-col=0", "--item-col=1", "--min-count=1", "--min-item-count=1"]
    preprocess.main([f"--file={path}", f"--data_dir={tmp_path}", *words])
    assert all(line.isprintable() for line in capsys.readouterr().err.splitlines())


def test_more_bad_rows_than_allowed_stop(tmp_path, capsys):
    rows = "user,item,rating\n" + "".join(f"{u},{i},3\n" for u in range(5) for i in range(10)) + "1,2,x\n"
    arguments = [f"--file={write(tmp_path / 'a.csv', rows)}", "--name=mine", f"--data_dir={tmp_path}"]
    words = r"1 of 51 rows cannot be used \(a.csv, line 52: the rating is not a number\), more than "
    words += "--max-bad-share=0.01 allows"
    with pytest.raises(UserError, match=rf"^{words}.*with --max-bad-share=0\.02\.$"):
        preprocess.main(arguments)
    assert not (tmp_path / "mine").exists()
    preprocess.main([*arguments, "--max-bad-share=0.02"])
    assert (
        "1 of 51 rows cannot be used (a.csv, line 52: the rating is not a number): left out"
        in capsys.readouterr().err
    )
    assert data.load("mine", tmp_path).lengths.sum() == 50


REVIEWS = (
    'user,item,review,rating\n1,10,"one\ntwo, three, four\n",4\n1,11,,x\n2,10,"a ""b""\r\n\r\nc",5\n'
    ',12,"d\ne",3\n2,11,5" disc,1\n\n3,\n'
)


def test_quoted_line_breaks_are_kept_and_count_as_lines(tmp_path):
    reading = reading_of(write(tmp_path / "a.csv", REVIEWS))
    assert pairs_of(reading.interactions) == [(1, 10, 4.0), (2, 10, 5.0), (2, 11, 1.0)]
    assert (reading.rows, reading.bad) == (6, 3)
    assert [(line, what) for _, line, what in reading.examples] == [
        (5, "the rating is not a number"),
        (9, "no user id"),
        (13, "3,"),
    ]


ROWS = "".join(f"{u},{i},t{i},3\n" for u in range(2) for i in range(20))
STRAY = {  # what stands on line 3 -> what is shown of it; lines 3 to 7 are lost
    "to the end of the file": (
        '1,30,"t,3\n' + "1,31,t,3\n" * 4,
        "",
        '1,30,"t,3\\n1,31,t,3\\n1,31,t,3\\n1,31,t,3\\n1,31,t,3 (5 lines within quotes)',
    ),
    "in an id": (
        '1,"30,t,3\n' + "1,31,t,3\n" * 3 + '1,32",t,3\n',
        ROWS,
        "30,t,3\\n1,31,t,3\\n1,31,t,3\\n1,31,t,3\\n1,32 (5 lines within quotes)",
    ),
    "in a rating": (
        '1,30,t,"3\n' + "1,31,t,3\n" * 3 + '1,32,t,3"\n',
        ROWS,
        "3\\n1,31,t,3\\n1,31,t,3\\n1,31,t,3\\n1,32,t,3 (5 lines within quotes)",
    ),
    "in a column that is not read": (
        '1,30,"t,3\n' + "1,31,t,3\n" * 3 + '1,32,"t",3\n',
        ROWS,
        '1,30,"t,3\\n1,31,t,3\\n1,31,t,3\\n1,31,t,3\\n1,32,"t",3 (5 lines within quotes)',
    ),
    "in rows with spaces": (
        '1, 30,"t, 3\n' + "1, 31, t, 3\n" * 3 + '1, 32,"t", 3\n',
        ROWS,
        '1, 30,"t, 3\\n1, 31, t, 3\\n1, 31, t, 3\\n1, 31, t, 3\\n1, 32,"t", 3 (5 lines within quotes)',
    ),
    "that a later one closes": (
        '1,30,"t,3\n' + "1,31,t,3\n" * 3 + '1,32,t",3\n',
        ROWS,
        "t,3\\n1,31,t,3\\n1,31,t,3\\n1,31,t,3\\n1,32,t (5 lines within quotes)",
    ),
    "that makes too many fields": (
        '1,30,t,"3\n' + "1,31,t,3\n" * 3 + '1,32,"t,3\n',
        ROWS,
        '1,30,t,"3\\n1,31,t,3\\n1,31,t,3\\n1,31,t,3\\n1,32,"t,3 (5 lines within quotes)',
    ),
}


@pytest.mark.parametrize("kind", STRAY)
def test_a_stray_quote_counts_as_all_the_lines_it_swallows(tmp_path, kind):
    text, rest, words = STRAY[kind]
    path = write(
        tmp_path / "a.csv", "user,item,title,rating\n1,29,t,3\n" + text + rest + "7,,t,3\n" * bool(rest)
    )
    reading = reading_of(path)
    good = 1 + rest.count("\n")
    assert reading.examples[0] == ("a.csv", 3, words) and len(reading.interactions.user) == good
    assert [line for _, line, _ in reading.examples[1:]] == [8 + rest.count("\n")] * bool(rest), (
        "the lines behind it are counted right"
    )
    bad = 5 + bool(rest)
    assert (reading.bad, reading.rows) == (bad, good + bad)
    assert reading.interactions.item_ids.dtype == reading.interactions.user_ids.dtype == np.int64
    with pytest.raises(
        UserError, match=rf"^{bad} of {reading.rows} rows cannot be used \(a.csv, line 3: "
    ) as caught:
        preprocess.main([f"--file={path}", "--name=mine", f"--data_dir={tmp_path}"])
    assert "\n" not in str(caught.value)


def test_rows_without_ids_are_bad_and_empty_lines_are_none(tmp_path):
    reading = reading_of(
        write(tmp_path / "a.csv", "user,item,rating,when\n1,2,3,4\n,,5,\n\n,,,6\n,,,\n1,3,3,\n")
    )
    assert [line for _, line, _ in reading.examples] == [3, 5] and reading.rows == 4
    text = "5:\n\n1,3,2005-01-01\r\n\n,,2005-01-01\n,3,\n2,4,\n\n6:\n"
    reading = known("netflix", write(tmp_path / "some.txt", text))
    assert reading.examples == [("some.txt", 5, "no user id"), ("some.txt", 6, "no user id")]
    assert reading.rows == 4 and pairs_of(reading.interactions) == [(1, 5, 3.0), (2, 5, 4.0)]


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("a.csv", "\ufeffuser,item,rating\r\n1,2,3\r\n", [(1, 2, 3)]),
        ("a.csv", "user,item,rating\n a b , -2,3\n", [("a b", -2, 3)]),
        ("a.csv", "user,item,,\n10000000000,99999999999999999,,\n,,,\n", [(10**10, 99999999999999999, 1)]),
        ("a.inter", "user_id\titem_id:token\n1\t2\n", [(1, 2, 1)]),
        ("a.csv", "user,item,title\n1,2,\xe9\n".encode("latin-1"), [(1, 2, 1)]),
    ],
)
def test_files_that_are_a_little_unusual(tmp_path, name, content, expected):
    reading = reading_of(write(tmp_path / name, content))
    assert pairs_of(reading.interactions) == expected and not reading.bad


ids = strategies.one_of(
    strategies.integers(-(10**17), 10**17).map(str),
    strategies.text("abzß0 9_-", min_size=1).filter(lambda text: text == text.strip()),
    strategies.sampled_from(["007", "7", "-0", "1e3", "1000", "7.0", "18446744073709551617", "NaN", "null"]),
)


@hypothesis_settings(deadline=None, max_examples=80)
@given(
    strategies.one_of(
        strategies.lists(ids, min_size=1, max_size=40),
        strategies.lists(strategies.integers(-(10**17), 10**17).map(str), min_size=1),
        strategies.lists(strategies.integers(0, 99).map(lambda number: f"{number}.0"), min_size=1),
    )
)
def test_ids_of_any_kind_survive(texts):
    """Places lead back to the ids, sorted and distinct: numbers if all spell whole numbers, else texts."""
    ids, places = tables.canonical(texts)
    number = re.compile(r"(0|-?[1-9]\d*)(\.0*)?(e\d+)?")
    whole = all(number.fullmatch(one) and abs(float(one)) < 10**18 for one in texts)
    assert (ids.dtype == np.int64) == whole
    expected = (
        [int(one) if one.lstrip("-").isdigit() else int(float(one)) for one in texts] if whole else texts
    )
    assert ids[places].tolist() == expected and places.dtype == np.int32
    assert ids.tolist() == sorted(set(expected))


@pytest.mark.parametrize(
    "texts, expected, bad",
    [
        (["007", "7", "8"], ["007", "7", "8"], 0),
        (["1.0", "1", "2"], [1, 1, 2], 0),
        (["1e5", "100000", "3"], [100000, 100000, 3], 0),
        (["NaN", "1", "2"], [1, 2], 1),
        (["None", "NaN", "null", "NA", "x"], ["None", "NaN", "null", "NA", "x"], 0),
        (["", "nan", "x"], ["nan", "x"], 1),
    ],
)
def test_ids_that_look_like_something_else(tmp_path, texts, expected, bad):
    rows = "".join(f"u,{text},1\n" for text in texts)
    reading = reading_of(write(tmp_path / "a.csv", "user,item,rating\n" + rows))
    ids = reading.interactions.item_ids[reading.interactions.item]
    assert ids.tolist() == expected and reading.bad == bad


def test_a_long_id_costs_its_own_length(tmp_path):
    long = "x" * 20_000
    rows = "".join(f"user{number},{number % 7},1\n" for number in range(2000))
    reading = reading_of(write(tmp_path / "a.csv", f"user,item,rating\n{long},1,1\n{rows}"))
    ids = reading.interactions.user_ids
    assert ids.nbytes < 20_000 and long in ids and len(ids) == 2001


def test_of_a_pair_rated_twice_the_latest_counts_wherever_it_stands(tmp_path):
    """In all formats with times; a row without one is the earliest. Without times, the last row counts."""
    rows = [(1, 5, 4, 300), (1, 5, 1, 100), (1, 5, 2, 200), (2, 5, 3, 7), (2, 6, 5, ""), (2, 7, 1, 9)]
    late, last = [(1, 5, 4), (2, 5, 3), (2, 6, 5), (2, 7, 1)], [(1, 5, 2), (2, 5, 3), (2, 6, 5), (2, 7, 1)]
    lines = lambda separator, order=(0, 1, 2, 3): "".join(
        separator.join(str(row[place]) for place in order) + "\n" for row in rows
    )
    movies = {"movies.dat": "5::a::b\n", "movies.csv": "movieId,title,genres\n5,a,b\n", "u.item": "5|a\n"}
    own = "user,item,rating,{}\n" + lines(",")
    values = ", ".join(f"({u}, {i}, {r}, {t or 'NULL'})" for u, i, r, t in rows)
    table = f"FROM (VALUES {values}) rows(user, item, rating, timestamp)"
    duckdb.sql(f"SELECT * {table}").write_parquet(str(tmp_path / "n.parquet"))
    dates = "SELECT user, item, rating, make_timestamp(timestamp * 1000000) AS timestamp"
    duckdb.sql(f"{dates} {table}").write_parquet(str(tmp_path / "d.parquet"))
    zipped = {
        "ml-1m": {"ml-1m/ratings.dat": lines("::"), "ml-1m/movies.dat": movies["movies.dat"]},
        "ml-100k": {"ml-100k/u.data": lines("\t"), "ml-100k/u.item": movies["u.item"]},
        "ml-20m": {
            "ml-20m/ratings.csv": "userId,movieId,rating,timestamp\n" + lines(","),
            "ml-20m/movies.csv": movies["movies.csv"],
        },
    }
    read = {
        name: known(name, zip_of(tmp_path / f"{name}.zip", **members)) for name, members in zipped.items()
    }
    recbole = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    read |= {
        "magazine": known("magazine", write(tmp_path / "m.csv", lines(",", (1, 0, 2, 3)))),
        "douban": known("douban", write(tmp_path / "d.txt", lines("\t"))),
        "own": reading_of(write(tmp_path / "a.csv", own.format("Timestamp"))),
        "numbers": reading_of(tmp_path / "n.parquet"),
        "dates": reading_of(tmp_path / "d.parquet"),
        "recbole": reading_of(write(tmp_path / "a.inter", recbole + lines("\t"))),
    }
    left = lambda reading: filters.filter_interactions(
        reading.interactions, filters.Filters(None, None, 1, 1)
    )[0]
    for name, reading in read.items():
        assert not reading.bad, name
        assert pairs_of(left(reading)) == late, name
    for path, more in (
        (write(tmp_path / "b.csv", own.format("something")), {}),
        (write(tmp_path / "c.csv", lines(",")), {"rating": "2"}),
    ):
        assert pairs_of(left(reading_of(path, **more))) == last


@pytest.mark.parametrize(
    "column, words",
    [
        ("timestamp", "1 more rows of the same user and item: pairs count by the latest by time"),
        ("something", "1 more rows of the same user and item: pairs count by the last in the file"),
    ],
)
def test_prep_says_which_of_a_pair_counts(tmp_path, capsys, column, words):
    path = write(tmp_path / "a.csv", f"user,item,rating,{column}\n1,5,4,3\n1,6,1,9\n1,7,1,9\n1,5,2,1\n")
    preprocess.main(["--name=own", f"--file={path}", f"--data_dir={tmp_path}"])
    assert words in capsys.readouterr().err


def test_own_data_from_its_file_to_a_dataset(tmp_path, run_script):
    """Text ids, two spellings of the options, and a second call with other filters."""
    rng = np.random.default_rng(2)
    table = pd.DataFrame(
        {
            "customer": [f"c{k:02d}" for k in np.repeat(np.arange(20), 12)],
            "sku": np.concatenate([rng.choice(30, 12, False) for _ in range(20)]),
            "stars": rng.integers(1, 6, 240),
        }
    )
    table.to_csv(tmp_path / "sales.csv", index=False)
    command = [
        "prep.sh",
        f"--file={tmp_path / 'sales.csv'}",
        "--name=sales",
        "--user_col=customer",
        "--item-col=sku",
        "--rating-col=stars",
        f"--data_dir={tmp_path}",
    ]
    done = run_script(*command, "--min-rating=3", "--min_item_count=2")
    assert done.returncode == 0 and done.stdout == "sales\n", done.stderr
    liked = table[table.stars >= 3]
    liked = liked[liked.groupby("sku").sku.transform("size") >= 2]
    assert liked.groupby("customer").size().min() >= 3, "no user falls below the default of 3"
    dataset = data.load("sales", tmp_path)
    rows, columns = (dataset.train + dataset.validation + dataset.test).nonzero()
    loaded = set(zip(dataset.user_ids[rows], dataset.item_ids[columns]))
    assert loaded == set(zip(liked.customer, liked.sku))
    again = run_script(*command)
    assert again.returncode == 1 and len(again.stderr.splitlines()) == 1
    assert "was made from something else: --min-rating was 3.0, is none;" in again.stderr


def test_another_file_or_other_options_under_a_name_that_is_taken_are_refused(tmp_path, capsys):
    rows = "".join(f"{u},{i},{u + i}\n" for u in range(8) for i in range(9))
    path, other = write(tmp_path / "a.csv", rows), write(tmp_path / "b.csv", rows + "9,9,9\n")
    command = lambda file, *more: preprocess.main(
        [f"--file={file}", "--name=mine", f"--data-dir={tmp_path}", "--user-col=0", *more]
    )
    command(path, "--item-col=1")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").iterdir()}
    command(path, "--item-col=1")
    assert capsys.readouterr().err.endswith("mine exists already\n")
    for file, more, words in (
        (
            path,
            ["--item-col=2"],
            "made from something else: --item-col was 1, is 2. Delete it, or choose another --name.",
        ),
        (
            path,
            ["--item-col=1", "--min-item-count=2", "--seed=7"],
            "made from something else: --seed was 42, is 7; --min-item-count was 1, is 2. ",
        ),
        (other, ["--item-col=1"], f": file:{path} had another sha256 than {other} has. "),
        (other, ["--item-col=2"], f": --item-col was 1, is 2; file:{path} had another sha256 "),
    ):
        with pytest.raises(UserError) as refused:
            command(file, *more)
        assert words in str(refused.value) and "\n" not in str(refused.value)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").iterdir()}
