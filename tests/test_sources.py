"""prep/sources.py, prep/tables.py and the filters: formats, faulty files, ids of any kind."""

import re
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings
from pyarrow import parquet
from test_preprocess import pairs

import data
from lib.errors import UserError
from prep import preprocess, sources, tables

EXPECTED = [(3, 70, 2.5), (12, 5, 4.0), (12, 70, 1.0)]


def zip_of(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_movielens_10m(tmp_path):
    path = zip_of(
        tmp_path / "a.zip",
        **{
            "ml-10M100K/ratings.dat": "12::5::4::9\n12::70::1::9\n3::70::2.5::9\n",
            "ml-10M100K/movies.dat": '5::Amélie: a, "b" (2001)::Drama\n70::Tab\there::Drama\n',
        },
    )
    interactions, titles = sources.SOURCES["ml-10m"][0].read(path)
    assert pairs(interactions) == EXPECTED and titles.title.tolist() == ['Amélie: a, "b" (2001)', "Tab here"]


@pytest.mark.parametrize("name", ["ml-20m", "ml-25m"])
def test_movielens_with_headers(tmp_path, name):
    ratings = "userId,movieId,rating,timestamp\n12,5,4.0,9\n12,70,1.0,9\n3,70,2.5,9\n"
    movies = 'movieId,title,genres\n5,"Seven, a film (1995)",Crime\n70,Heat (1995),Crime\n'
    members = {f"{name}/ratings.csv": ratings, f"{name}/movies.csv": movies}
    path = zip_of(tmp_path / "a.zip", **members)
    interactions, titles = sources.SOURCES[name][0].read(path)
    assert pairs(interactions) == EXPECTED and titles.to_numpy().tolist() == [
        [5, "Seven, a film (1995)"],
        [70, "Heat (1995)"],
    ]


def test_magazine_and_douban(tmp_path):
    path = write(
        tmp_path / "m.csv",
        "B00005N7P0,AH2IFH762VY5U,5.0,1005177600\nB00005N7P0,0AOSFI0JEYU4,4.0,1004486400\n",
    )
    assert pairs(sources.SOURCES["magazine"][0].read(path)[0]) == [
        ("0AOSFI0JEYU4", "B00005N7P0", 4.0),
        ("AH2IFH762VY5U", "B00005N7P0", 5.0),
    ]
    path = write(tmp_path / "douban.txt", "12\t5\t4\t9\n12\t70\t1\t9\n3\t70\t2.5\t9\n")
    assert pairs(sources.SOURCES["douban"][0].read(path)[0]) == EXPECTED


NETFLIX = {
    "combined_data_1.txt": "5:\n12,4,2005-09-06\n70:\n12,1,2005-09-06\n",
    "combined_data_2.txt": "70:\n3,2.5,2005-01-01\n71:\n",
    "movie_titles.csv": "5,2003,Cr\xe8me, la\n70,NULL,Heat\n".encode("latin-1"),
}


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_netflix(tmp_path, form, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 40)
    if form == "zip":
        path = zip_of(
            tmp_path / "n.zip", **{f"download/{name}": content for name, content in NETFLIX.items()}
        )
    else:
        path = tmp_path
        for name, content in NETFLIX.items():
            write(tmp_path / name, content)
    interactions, titles = sources.read_netflix(path)
    assert (
        pairs(interactions) == EXPECTED
        and titles.to_numpy().tolist() == [[5, "Crème, la"], [70, "Heat"]]
        and not interactions.bad
    )


def test_netflix_over_blocks_against_a_loop(tmp_path, monkeypatch):
    """Movies that go on over many blocks, one without ratings, and bad rows, which count as lines."""
    monkeypatch.setattr(tables, "BLOCK", 64)
    rng = np.random.default_rng(0)
    lines, expected, bad, movie = ["7,3,before any movie"], [], [1], None
    for _ in range(600):
        kind = rng.random()
        if kind < 0.03 or movie is None:
            movie = int(rng.integers(1, 50))
            lines.append(f"{movie}:")
        elif kind < 0.06:
            lines.append(
                ["x,y,z,1", ",3,2005-01-01", "5,good,2005-01-01", "nan,3,2005-01-01", "12:x"][rng.integers(5)]
            )
            bad.append(len(lines))
        else:
            expected.append((int(rng.integers(1, 30)), movie, float(rng.integers(1, 6))))
            lines.append(f"{expected[-1][0]},{expected[-1][2]:.0f},2005-01-01")
    interactions, _ = sources.read_netflix(write(tmp_path / "combined_data_1.txt", "\n".join(lines)))
    assert pairs(interactions) == sorted(expected)
    assert [line for _, line, _ in interactions.bad] == bad and interactions.rows == len(expected) + len(bad)


TEXT = {
    ".csv": "when,movieId,userId,rating\n1,5,12,4\n1,70,12,1\n1,70,3,2.5\n",
    ".tsv": "User ID\tITEM\tSTARS\n12\t5\t4\n12\t70\t1\n3\t70\t2.5\n",
    ".inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "12\t5\t4\t1\n12\t70\t1\t1\n3\t70\t2.5\t1\n",
}


@pytest.mark.parametrize("ending", TEXT)
def test_own_text_with_usual_names(tmp_path, ending):
    assert pairs(sources.read_table(write(tmp_path / f"a{ending}", TEXT[ending]))) == EXPECTED


def test_own_text_with_other_names_quotes_and_no_header(tmp_path):
    path = write(
        tmp_path / "a.csv",
        'who,"what, exactly",how much,note\n12,5,4,"x, ""y""\nand more"\n12,70,1,\n3,70,2.5,z\n',
    )
    assert pairs(sources.read_table(path, "who", "what, exactly", "how much")) == EXPECTED
    path = write(tmp_path / "b.csv", "5,12,4\n70,12,1\n70,3,2.5\n")
    assert pairs(sources.read_table(path, "1", "0", "2")) == EXPECTED
    assert pairs(sources.read_table(path, "1", "0"))[0] == (3, 70, 1.0), "without a rating every row counts"


@pytest.mark.parametrize(
    "user",
    [
        pa.array([12, 12, 3], pa.int16()),
        pa.array([12.0, 12.0, 3.0]),
        pa.array(["12", "12", "3"]),
        pa.array(["12", "12", "3"]).dictionary_encode(),
    ],
)
def test_own_parquet(tmp_path, user):
    table = pa.table({"x": [1, 2, 3], "user_id": user, "item_id": [5, 70, 70], "rating": [4.0, 1.0, 2.5]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert pairs(sources.read_table(tmp_path / "a.parquet")) == EXPECTED
    with_nulls = pa.table(
        {
            "user": pa.array([12, None, 3, 3]),
            "item": [5.0, 70.0, float("nan"), 70.0],
            "rating": pa.array([4.0, 1.0, 2.0, None]),
        }
    )
    parquet.write_table(with_nulls, tmp_path / "b.parquet")
    interactions = sources.read_table(tmp_path / "b.parquet")
    assert pairs(interactions) == [(12, 5, 4.0)] and [(line, what) for _, line, what in interactions.bad] == [
        (2, "no user id"),
        (3, "no item id"),
        (4, "the rating is not a number"),
    ]


def test_bad_rows_have_the_lines_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 30)
    path = write(
        tmp_path / "a.csv",
        "user,item,rating\n12,5,4\n12,5\n\n,5,1\n12,70,1\n12,NaN,1\n12,70,inf\n\n3,70,2.5\n1,2,3,4\n3,7,\n",
    )
    interactions = sources.read_table(path)
    assert [(line, what) for _, line, what in interactions.bad] == [
        (3, "12,5"),
        (5, "no user id"),
        (7, "no item id"),
        (8, "the rating is not a number"),
        (11, "1,2,3,4"),
        (12, "the rating is not a number"),
    ]
    assert pairs(interactions) == EXPECTED and interactions.rows == 9


def test_more_bad_rows_than_allowed_stop(tmp_path, capsys):
    rows = "user,item,rating\n" + "".join(f"{u},{i},3\n" for u in range(5) for i in range(10)) + "1,,3\n"
    arguments = [f"--file={write(tmp_path / 'a.csv', rows)}", "--name=mine", f"--data_dir={tmp_path}"]
    words = (
        r"1 of 51 rows cannot be used \(a.csv, line 52: no item id\), more than --max-bad-share=0.01 allows"
    )
    with pytest.raises(UserError, match=rf"^{words}.*with --max-bad-share=0\.02\.$"):
        preprocess.main(arguments)
    assert not (tmp_path / "mine").exists()
    preprocess.main([*arguments, "--max-bad-share=0.02"])
    assert "1 of 51 rows cannot be used (a.csv, line 52: no item id): left out" in capsys.readouterr().err
    assert data.load("mine", tmp_path).lengths.sum() == 50


REVIEWS = (
    'user,item,review,rating\n1,10,"one\ntwo, three, four\n",4\n1,11,,x\n2,10,"a ""b""\r\n\r\nc",5\n'
    ',12,"d\ne",3\n2,11,5" disc,1\n\n3,\n'
)


@pytest.mark.parametrize("block", [48, 2**20])
def test_quoted_line_breaks_are_kept_and_count_as_lines(tmp_path, monkeypatch, block):
    monkeypatch.setattr(tables, "BLOCK", block)
    interactions = sources.read_table(write(tmp_path / "a.csv", REVIEWS))
    assert pairs(interactions) == [(1, 10, 4.0), (2, 10, 5.0), (2, 11, 1.0)] and (
        interactions.rows,
        interactions.swallowed,
    ) == (6, 0)
    assert [(line, what) for _, line, what in interactions.bad] == [
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
        't,3\\n1,31,t,3\\n1,31,t,3\\n1,31,t,3\\n1,32,t" (5 lines within quotes)',
    ),
    "in rows with spaces": (
        '1, 30,"t, 3\n' + "1, 31, t, 3\n" * 3 + '1, 32,"t", 3\n',
        ROWS,
        't, 3\\n1, 31, t, 3\\n1, 31, t, 3\\n1, 31, t, 3\\n1, 32,t" (5 lines within quotes)',
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
    interactions = sources.read_table(path)
    good = 1 + rest.count("\n")
    assert (
        interactions.bad[0] == ("a.csv", 3, words)
        and len(interactions.user) == good
        and interactions.swallowed == 4
    )
    assert [line for _, line, _ in interactions.bad[1:]] == [8 + rest.count("\n")] * bool(rest), (
        "the lines behind it are counted right"
    )
    assert (
        interactions.rows == good + 4 + len(interactions.bad)
        and interactions.item_ids.dtype == interactions.user_ids.dtype == np.int64
    )
    with pytest.raises(
        UserError,
        match=rf"^{4 + len(interactions.bad)} of {interactions.rows} rows cannot be used \(a.csv, line 3: ",
    ) as caught:
        preprocess.main([f"--file={path}", "--name=mine", f"--data_dir={tmp_path}"])
    assert "\n" not in str(caught.value)


def test_a_quote_that_swallows_more_than_a_block_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 100)
    path = write(tmp_path / "a.csv", "user,item,title,rating\n" + ROWS[:90] + '1,30,"t\n' + ROWS)
    line = 2 + ROWS[:90].count("\n")
    words = f"a.csv, line {line}: a quote opens, and does not close within 100 bytes"
    with pytest.raises(UserError, match=words):
        sources.read_table(path)


def test_a_text_that_reads_like_rows_against_the_columns_around_it():
    reads = lambda value, place, width=4, rating=None: tables._reads_like_rows(
        value, place, rating, width, ","
    )
    assert reads("t,3\n1,2,t,3\n1,2,t", 2) and reads("t\n1,2,t", 2, 3) and reads("t,1,2\nu", 0, 3)
    assert (
        not reads("one\ntwo", 2)
        and not reads("one\ntwo, three, four\n", 2)
        and not reads("one\ntwo", 2, 3)
        and not reads("one\ntwo", 0, 3)
    )
    assert reads("t, 3\n1, 2, t, 3\n1, 2,t", 2, 4, 3) and not reads(
        "one, two, three\nfour, five, six, seven\n", 2, 4, 3
    )


def test_rows_without_ids_are_bad_and_empty_lines_are_none(tmp_path):
    interactions = sources.read_table(
        write(tmp_path / "a.csv", "user,item,rating,when\n1,2,3,4\n,,5,\n\n,,,6\n,,,\n1,3,3,\n")
    )
    assert [line for _, line, _ in interactions.bad] == [3, 5] and interactions.rows == 4
    path = write(tmp_path / "some.txt", "5:\n\n1,3,2005-01-01\r\n\n,,2005-01-01\n,3,\n2,4,\n\n6:\n")
    interactions, _ = sources.read_netflix(path)
    assert (
        interactions.bad == [("some.txt", 5, "no user id"), ("some.txt", 6, "no user id")]
        and interactions.rows == 4
        and pairs(interactions) == [(1, 5, 3.0), (2, 5, 4.0)]
    )
    parquet.write_table(
        pa.table({"user": pa.array([1, None]), "item": pa.array([2, None])}), tmp_path / "a.parquet"
    )
    assert sources.read_table(tmp_path / "a.parquet").bad == [("a.parquet", 2, "no user id")]


@pytest.mark.parametrize("first", ["0,1,2", "1,0,2", "3,4,1"])
def test_whole_numbers_are_places_and_no_line_is_a_header(tmp_path, first):
    path = write(tmp_path / "a.csv", f"{first}\n8,9,1\n")
    rows = [tuple(map(int, line.split(","))) for line in (first, "8,9,1")]
    for suffix, bom in (("", ""), ("with a byte order mark", "\ufeff")):
        write(path, f"{bom}{first}\n8,9,1\n")
        assert pairs(sources.read_table(path, "0", "1", "2")) == sorted(rows), suffix
        assert pairs(sources.read_table(path, "1", "0")) == sorted(
            (item, user, 1) for user, item, _ in rows
        ), suffix
    parquet.write_table(pa.table({"1": [5], "0": [6]}), tmp_path / "a.parquet")
    assert pairs(sources.read_table(tmp_path / "a.parquet", "0", "1")) == [(5, 6, 1)]


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
    interactions = sources.read_table(write(tmp_path / name, content))
    assert pairs(interactions) == expected and not interactions.bad


GOOD = "user,item,rating\n1,2,3\n"


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.csv", b"PK\3\4 something", "not what its ending says: it is not text"),
        ("a.csv", b"\x1f\x8b123", "not text"),
        ("a.csv", b"a,b\0c\n", "not text"),
        ("a.parquet", GOOD.encode(), "no Parquet file"),
        ("a.csv", b"PAR1 and so on", "it is a Parquet file"),
        ("a.parquet", b"PAR1 and so on", "cannot be read"),
        ("a.tsv", GOOD.encode(), "its first line has no tab"),
        ("a.inter", b"user_id:token item_id:token\n", "no tab"),
        ("a.csv", b"", "is empty"),
        ("a.txt", GOOD.encode(), "ending must be"),
        ("a.csv", b"who,item\n1,2\n", "has no column 'user', only who, item. Name it with --user-col=NAME"),
        ("a.csv", "user,item,rating\nJos\xe9,2,3\n".encode("latin-1"), "is not UTF-8"),
        ("a.csv", b"user,item,item\n1,2,3\n", "two columns of the same name"),
        ("a.csv", "user,item,rating\n".encode("utf-16"), "UTF-16"),
        ("a.csv", GOOD.replace(",", ";").encode(), "no comma: user;item;rating"),
        ("a.csv", b"user,item,rating\r1,2,3\r", "carriage returns"),
        ("a.csv", b'user,item,"rating\n1,2,3\n', "line 1: a quote opens"),
        ("a.csv", "user,item,rating,title\n1,2,3,a\n1,\xe9\n".encode("latin-1"), "is not UTF-8"),
        ("a.csv", b"\n\n", "begins with an empty line"),
        ("a.csv", GOOD.encode(), "nothing is left: of 1 interactions"),
        ("a.csv", b"user,item\n", "nothing is left: of 0 interactions"),
    ],
)
def test_files_that_are_no_such_table_are_refused(tmp_path, name, content, words):
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        preprocess.main(
            [f"--file={write(tmp_path / name, content)}", "--name=mine", f"--data_dir={tmp_path / 'data'}"]
        )
    assert "\n" not in str(caught.value) and not (tmp_path / "data" / "mine").exists()


def test_columns_that_do_not_exist_or_are_chosen_twice_are_named(tmp_path):
    path = write(tmp_path / "a.csv", GOOD)
    for columns, words in (
        (("user", "item", "stars"), "has no column 'stars', only user, item, rating"),
        (("user", "user", None), "cannot be two of"),
        (("0", "9", None), "has no column '9', only 0, 1, 2"),
        (("0", "item", None), "'item' is a column's name and 0 a column's number"),
        (("0", "1", None), "begins with a header, and .* Name them: --user-col=user --item-col=item"),
    ):
        with pytest.raises(UserError, match=words):
            sources.read_table(path, *columns)


ids = strategies.one_of(
    strategies.integers(-(10**17), 10**17).map(str),
    strategies.text("abzß0 9_-", min_size=1)
    .map(str.strip)
    .filter(lambda text: text and text.lower() not in tables.NO_IDS),
    strategies.sampled_from(["007", "7", "-0", "1e3", "18446744073709551617"]),
)


@hypothesis_settings(deadline=None, max_examples=80)
@given(
    strategies.one_of(
        strategies.lists(ids, min_size=1, max_size=40),
        strategies.lists(strategies.integers(-(10**17), 10**17).map(str), min_size=1),
    ),
    strategies.integers(1, 5),
)
def test_ids_of_any_kind_survive(text, chunk):
    """Codes lead back to the ids, sorted and distinct: numbers if all are whole numbers, else text."""
    chunks = [tables._encode(pa.array(text[start : start + chunk])) for start in range(0, len(text), chunk)]
    codes, joined, missing = tables._join_ids(chunks)
    assert [str(one) for one in joined[codes]] == text and not missing.any() and codes.dtype == np.int32
    assert joined.tolist() == sorted(set(joined.tolist()))
    whole = all(re.fullmatch(r"0|-?[1-9]\d*", one) and abs(int(one)) < 10**18 for one in text)
    assert (joined.dtype == np.int64) == whole


@hypothesis_settings(deadline=None, max_examples=80)
@given(
    strategies.lists(
        strategies.tuples(
            *(strategies.integers(0, 6),) * 2,
            strategies.integers(1, 5),
            strategies.sampled_from([-np.inf, 1, 2, 3]),
        ),
        min_size=1,
        max_size=60,
    ),
    strategies.integers(3, 4),
    strategies.integers(1, 4),
    strategies.sampled_from([None, 2.0, 4.0]),
    strategies.booleans(),
)
def test_filters_against_a_loop(rows, min_user, min_item, min_rating, timed):
    user, item, rating, time = (np.array(column) for column in zip(*rows))
    interactions = tables.Interactions(
        user.astype(np.int32),
        np.arange(100, 107),
        item.astype(np.int32),
        np.array(list("abcdefg")),
        rating.astype(np.float32),
        len(rows),
        [],
        time=time if timed else None,
    )
    rows = sorted(rows, key=lambda row: row[3]) if timed else rows
    # The latest row of a pair is kept; without times, or at the same time, the last.
    expected = {(u, i): r for u, i, r, _ in rows}
    unique = len(expected)
    expected = {pair: r for pair, r in expected.items() if min_rating is None or r >= min_rating}
    while True:
        kept = {
            (u, i): r
            for (u, i), r in expected.items()
            if sum(other == u for other, _ in expected) >= min_user
            and sum(other == i for _, other in expected) >= min_item
        }
        if len(kept) == len(expected):
            break
        expected = kept
    if not expected:
        with pytest.raises(UserError, match="nothing is left"):
            preprocess.filter_interactions(interactions, min_rating, min_user, min_item)
        return
    left, duplicates, filtered = preprocess.filter_interactions(interactions, min_rating, min_user, min_item)
    assert pairs(left) == sorted((100 + u, "abcdefg"[i], float(r)) for (u, i), r in expected.items())
    assert duplicates == len(rows) - unique and filtered == unique - len(expected)
    assert (np.diff(left.user.astype(int) * 100 + left.item) > 0).all()
    assert len(set(left.user)) == len(left.user_ids) and len(set(left.item)) == len(left.item_ids)


def test_of_a_pair_rated_twice_the_latest_counts_wherever_it_stands(tmp_path):
    """In all formats with times; a row without one is the earliest. Without times, the last row counts."""
    rows = [(1, 5, 4, 300), (1, 5, 1, 100), (1, 5, 2, 200), (2, 5, 3, 7), (2, 6, 5, ""), (2, 7, 1, 9)]
    late, last = [(1, 5, 4), (2, 5, 3), (2, 6, 5), (2, 7, 1)], [(1, 5, 2), (2, 5, 3), (2, 6, 5), (2, 7, 1)]
    lines = lambda separator, order=(0, 1, 2, 3): "".join(
        separator.join(str(row[place]) for place in order) + "\n" for row in rows
    )
    movies = {"movies.dat": "5::a::b\n", "movies.csv": "movieId,title,genres\n5,a,b\n", "u.item": "5|a\n"}
    own = "user,item,rating,{}\n" + lines(",")
    pd.DataFrame(
        [row[:3] + (row[3] or None,) for row in rows], columns=["user", "item", "rating", "timestamp"]
    ).to_parquet(tmp_path / "n.parquet")
    pd.read_parquet(tmp_path / "n.parquet").assign(
        timestamp=lambda table: pd.to_datetime(table.timestamp, unit="s")
    ).to_parquet(tmp_path / "d.parquet")
    zipped = {
        "ml-1m": {"ml-1m/ratings.dat": lines("::"), "ml-1m/movies.dat": movies["movies.dat"]},
        "ml-100k": {"ml-100k/u.data": lines("\t"), "ml-100k/u.item": movies["u.item"]},
        "ml-20m": {
            "ml-20m/ratings.csv": "userId,movieId,rating,timestamp\n" + lines(","),
            "ml-20m/movies.csv": movies["movies.csv"],
        },
    }
    read = {
        name: sources.SOURCES[name][0].read(zip_of(tmp_path / f"{name}.zip", **members))[0]
        for name, members in zipped.items()
    }
    read |= {
        "magazine": sources.read_magazine(write(tmp_path / "m.csv", lines(",", (1, 0, 2, 3))))[0],
        "douban": sources.read_douban(write(tmp_path / "d.txt", lines("\t")))[0],
        "own": sources.read_table(write(tmp_path / "a.csv", own.format("Timestamp"))),
        "numbers": sources.read_table(tmp_path / "n.parquet"),
        "dates": sources.read_table(tmp_path / "d.parquet"),
        "recbole": sources.read_table(
            write(
                tmp_path / "a.inter",
                "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + lines("\t"),
            )
        ),
    }
    for name, interactions in read.items():
        assert not interactions.bad, name
        assert pairs(preprocess.filter_interactions(interactions, None, 1, 1)[0]) == late, name
    for path, more in (
        (write(tmp_path / "b.csv", own.format("when")), ()),
        (write(tmp_path / "c.csv", lines(",")), ("0", "1", "2")),
    ):
        assert pairs(preprocess.filter_interactions(sources.read_table(path, *more), None, 1, 1)[0]) == last


@pytest.mark.parametrize(
    "column, words",
    [
        ("timestamp", "1 duplicates (of each pair the latest by time is kept)"),
        ("when", "1 duplicates (of each pair the last in the file is kept)"),
    ],
)
def test_prep_says_which_of_a_pair_counts(tmp_path, capsys, column, words):
    path = write(tmp_path / "a.csv", f"user,item,rating,{column}\n1,5,4,3\n1,6,1,9\n1,7,1,9\n1,5,2,1\n")
    preprocess.main(["--name=own", f"--file={path}", f"--data_dir={tmp_path}"])
    assert words in capsys.readouterr().err


def test_users_split_some_at_a_time_are_split_alike(monkeypatch):
    user = np.sort(np.random.default_rng(0).integers(0, 60, 1000))
    whole = preprocess.split_interactions(user, np.random.default_rng(1))
    monkeypatch.setattr(preprocess, "SPLIT_AT_ONCE", 70)
    assert (preprocess.split_sorted(user, np.random.default_rng(1)) == whole).all()


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


def test_another_file_or_other_options_under_a_name_that_is_taken_are_refused(tmp_path, run_script):
    rows = "".join(f"{u},{i},{u + i}\n" for u in range(8) for i in range(9))
    path, other = write(tmp_path / "a.csv", rows), write(tmp_path / "b.csv", rows + "9,9,9\n")
    command = lambda file, *more: run_script(
        "prep.sh", f"--file={file}", "--name=mine", f"--data_dir={tmp_path}", "--user-col=0", *more
    )
    assert command(path, "--item-col=1").returncode == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").iterdir()}
    again = command(path, "--item-col=1")
    assert again.returncode == 0 and again.stderr.endswith("mine exists already\n")
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
        refused = command(file, *more)
        assert refused.returncode == 1 and refused.stdout == ""
        assert refused.stderr.startswith("prep.sh: ") and words in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").iterdir()}
