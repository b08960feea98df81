"""prep/preprocess.py and prep/download.py: the split, archives, and a local server that misbehaves."""

import hashlib
import http.server
import io
import json
import threading
import zipfile

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import clustered_interactions, pairs_of, reading_of, write, write_layout

import data
from lib.errors import UserError
from prep import download, preprocess, sources


def archive(ratings, movies=b'5::Seven::Crime\n7::M\xfcnchen: a, "b" (1999)::Drama\n', name="ml-1m"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{name}/ratings.dat", ratings)
        file.writestr(f"{name}/movies.dat", movies)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def ml_1m_zip():
    user, item = clustered_interactions(30, 40, 3, np.random.default_rng(0))
    order = np.random.default_rng(1).permutation(len(user))
    return archive(
        "".join(f"{u + 1}::{i + 5}::4::978300760\n" for u, i in zip(user[order], item[order])).encode()
    )


@pytest.fixture
def server(ml_1m_zip):
    """A local HTTP server; its `answers` are popped one a request, the last one stays."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.requests += 1
            answer = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
            self.send_response(404 if answer == "missing" else 200)
            self.send_header("Content-Length", str(len(ml_1m_zip)))
            self.end_headers()
            content = ml_1m_zip if answer != "damaged" else ml_1m_zip[:-1] + b"!"
            self.wfile.write(content[: len(content) // 2] if answer == "dropped" else content)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.answers, running.requests = ["good"], 0
        running.url = f"http://127.0.0.1:{running.server_address[1]}/ml-1m.zip"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def prepare(tmp_path, ml_1m_zip, *arguments):
    preprocess.main(
        ["ml-1m", f"--data_dir={tmp_path}", f"--sha256={hashlib.sha256(ml_1m_zip).hexdigest()}", *arguments]
    )


def test_download_makes_a_data_set_that_loads(server, ml_1m_zip, tmp_path, capsys):
    prepare(tmp_path, ml_1m_zip, f"--url={server.url}")
    assert capsys.readouterr().out == "ml-1m\n"
    dataset = data.load("ml-1m", tmp_path)
    user, item = clustered_interactions(30, 40, 3, np.random.default_rng(0))
    rows, columns = (dataset.train + dataset.validation + dataset.test).nonzero()
    loaded = set(zip(dataset.user_ids[rows] - 1, dataset.item_ids[columns] - 5))
    assert loaded == set(zip(user, item))
    assert dict(zip(dataset.item_ids, dataset.titles))[7] == 'München: a, "b" (1999)'
    manifest = json.loads((tmp_path / "ml-1m" / "manifest.json").read_text())
    assert manifest["source"] == server.url and manifest["counts"]["train"] == dataset.train.nnz
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "ml-1m").iterdir()}
    server.answers = ["missing"]
    prepare(tmp_path, ml_1m_zip, f"--url={server.url}")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "ml-1m").iterdir()} == before, (
        "the second call does nothing"
    )
    assert server.requests == 1
    with pytest.raises(UserError, match="--seed was 42, is 7"):
        prepare(tmp_path, ml_1m_zip, "--seed=7")


def test_a_dropped_connection_is_tried_again(server, ml_1m_zip, tmp_path):
    server.answers = ["dropped", "good"]
    prepare(tmp_path, ml_1m_zip, f"--url={server.url}")
    assert server.requests == 2 and data.load("ml-1m", tmp_path).train.nnz


@pytest.mark.parametrize(
    "answer, words",
    [
        ("dropped", "the connection broke"),
        ("damaged", "wrong checksum"),
        ("missing", "the server answers 404"),
    ],
)
def test_a_failed_download_leaves_nothing(server, ml_1m_zip, tmp_path, monkeypatch, answer, words):
    monkeypatch.setattr(download, "RETRIES", 0)
    server.answers = [answer]
    with pytest.raises(UserError, match=words) as caught:
        prepare(tmp_path, ml_1m_zip, f"--url={server.url}")
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size], (
        "not even a part of a file"
    )


def test_no_network_goes_on_with_the_next_data_set_and_says_so(ml_1m_zip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "RETRIES", 0)
    (tmp_path / "ml-1m.zip").write_bytes(ml_1m_zip)
    closed = "http://127.0.0.1:9/"
    read = sources.SOURCES["ml-1m"][0].read
    monkeypatch.setattr(preprocess, "MOVIELENS", closed)
    monkeypatch.setattr(
        download,
        "SOURCES",
        {
            "ml-1m": [sources.Origin(closed + "ml-1m.zip", "", read)],
            "ml-100k": [
                sources.Origin(closed + "ml-100k.zip", "", None),
                sources.Origin("pip:not-asked", "", read),
            ],
        },
    )
    monkeypatch.setattr(download, "_download_wheel", lambda origin, downloads: tmp_path / "ml-1m.zip")
    preprocess.main(["ml-1m", "ml-100k", f"--data_dir={tmp_path}"])
    out, err = capsys.readouterr()
    assert out == "ml-100k\n"
    assert "the host cannot be reached): going on with ml-100k instead of ml-1m" in err.splitlines()[0]
    assert data.load("ml-100k", tmp_path).train.nnz and not (tmp_path / "ml-1m").exists()
    with pytest.raises(UserError, match="--url=MIRROR or --file=FILE"):
        preprocess.main(["ml-1m", f"--data_dir={tmp_path}"])


@pytest.mark.parametrize(
    "content, words",
    [
        (b"not a zip", r"1 of 1 rows cannot be used \(given.zip, line 1: not a zip\)"),
        (archive(b"1::5::4::9\n", name="other"), "has no member ml-1m/ratings.dat"),
        (archive(b"1::5::4::9\n1::6\n"), "1 of 2 rows cannot be used \\(ml-1m/ratings.dat, line 2: "),
        (archive(b"1::5::4::9\n1::6::good::9\n"), "ratings.dat, line 2: the rating is not a number"),
        (archive(b"1::5::4::9\n1::6::4::9\n"), "nothing is left: of 2 interactions"),
        (archive(b"1::5::4::9\n", movies=b"1::a::b\n2::c::d::e\n"), "movies.dat"),
        (archive(b"1::5::4::9\n", name="../ml-1m"), "has no member ml-1m/ratings.dat"),
    ],
)
def test_wrong_archives_are_refused(tmp_path, content, words):
    (tmp_path / "given.zip").write_bytes(content)
    with pytest.raises(UserError, match=words):
        prepare(tmp_path, content, f"--file={tmp_path / 'given.zip'}")
    assert not (tmp_path / "ml-1m").exists()


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("magazine", archive(b"1"), r"3 of 3 rows cannot be used \(ml-1m/ratings.dat, line 1: 1; "),
        ("douban", b"\x89PNG\r\n\x1a\n\0", "a.txt is not text"),
        ("magazine", bytes(range(1, 256)) * 9, "neither UTF-8 nor Windows-1252"),
        ("netflix", b"\x1f\x8b...", "a.txt is damaged or truncated: "),
        ("netflix", archive(b"1"), "holds no combined_data"),
        ("magazine", b"", "is empty"),
        ("netflix", "5:\n1,3,x\n\xe9\n".encode("latin-1"), "1 of 2 rows cannot be used"),
        ("ml-25m", archive(b"", name="ml-25m"), "has no member ml-25m/ratings.csv"),
        ("douban", b"12,5,4,9\n", "1 of 1 rows cannot be used \\(a.txt, line 1: 12,5,4,9\\)"),
    ],
)
def test_wrong_files_of_a_known_data_set_are_refused(tmp_path, run_script, name, content, words):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        preprocess.main([name, f"--file={tmp_path / 'a.txt'}", f"--data_dir={tmp_path}"])


def test_archives_with_another_table_or_damage_inside_are_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("ml-25m/ratings.csv", "movieId,userId,rating,timestamp\n5,1,3,9\n")
        file.writestr("ml-25m/movies.csv", "movieId,title,genres\n5,a,b\n")
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    with pytest.raises(
        UserError, match="ml-25m/ratings.csv begins with movieId, userId, rating, timestamp, not with userId"
    ):
        reading_of(tmp_path / "a.zip", sources.SOURCES["ml-25m"][0].read)
    content = bytearray(archive("".join(f"{u}::{u * u}::4::9\n" for u in range(9999)).encode()))
    content[2000:2050] = bytes(50)
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(UserError, match="b.zip is damaged or truncated: "):
        reading_of(tmp_path / "b.zip", sources.SOURCES["ml-1m"][0].read)


def test_a_known_data_set_is_not_made_again_and_not_from_another_file(tmp_path):
    rows = "".join(f"{u}\t{i}\t3\t9\n" for u in range(5) for i in range(6))
    for name, content in (("a.txt", rows), ("b.txt", rows + "9\t9\t3\t9\n")):
        (tmp_path / name).write_text(content)
    preprocess.main(["douban", f"--file={tmp_path / 'a.txt'}", f"--data_dir={tmp_path}"])
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "douban").iterdir()}
    preprocess.main(["douban", f"--file={tmp_path / 'a.txt'}", f"--data_dir={tmp_path}"])
    preprocess.main(["douban", f"--data_dir={tmp_path}"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "douban").iterdir()} == made
    with pytest.raises(
        UserError, match="a.txt had another sha256 than .*b.txt has. .*choose another --data_dir"
    ):
        preprocess.main(["douban", f"--file={tmp_path / 'b.txt'}", f"--data_dir={tmp_path}"])


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--bogus=1", "unrecognized arguments: --bogus=1"),
        ("--seed=x", "argument --seed: invalid int value: 'x'"),
        ("ml-9", "there is no known data set 'ml-9', only ml-1m, "),
    ],
)
def test_wrong_options_are_one_line_of_prep_sh(run_script, argument, words):
    done = run_script("prep.sh", argument)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith(f"prep.sh: {words}") and len(done.stderr.splitlines()) == 1


def test_a_local_file_needs_the_right_checksum(tmp_path, ml_1m_zip):
    (tmp_path / "ml-1m.zip").write_bytes(ml_1m_zip)
    with pytest.raises(UserError, match="wrong checksum"):
        preprocess.main(["ml-1m", f"--data_dir={tmp_path}", f"--file={tmp_path / 'ml-1m.zip'}"])
    prepare(tmp_path, ml_1m_zip, f"--file={tmp_path / 'ml-1m.zip'}")
    assert data.load("ml-1m", tmp_path).name == "ml-1m"


def test_both_sources_of_ml_100k_read_alike(tmp_path):
    release, wheel = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(release, "w") as file:
        file.writestr("ml-100k/u.data", "196\t242\t3\t881250949\n22\t1\t1\t878887116\n")
        file.writestr(
            "ml-100k/u.item",
            "1|Toy Story (1995)|x||url|0\n242|Kolya, Les Mis\xe9rables (1996)|x||url|1\n".encode("latin-1"),
        )
    with zipfile.ZipFile(wheel, "w") as file:
        folder = "recbole/dataset_example/ml-100k/ml-100k"
        file.writestr(
            f"{folder}.inter",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n22\t1\t1\t878887116\n196\t242\t3\t881250949\n",
        )
        file.writestr(
            f"{folder}.item",
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
            "1\tToy Story\t1995\tComedy\n242\tKolya, Les Misérables\t1996\tComedy\n",
        )
    for name, content, origin in zip(("a.zip", "b.whl"), (release, wheel), sources.SOURCES["ml-100k"]):
        (tmp_path / name).write_bytes(content.getvalue())
        reading = reading_of(tmp_path / name, origin.read)
        assert pairs_of(reading.interactions) == [(22, 1, 1), (196, 242, 3)]
        titles = reading.titles[["item", "title"]].to_numpy().tolist()
        assert titles == [["1", "Toy Story (1995)"], ["242", "Kolya, Les Misérables (1996)"]]


def test_a_table_out_of_a_known_archive_is_read(tmp_path):
    (tmp_path / "u.data").write_text("".join(f"{u}\t{i}\t3\t881250949\n" for u in range(4) for i in range(5)))
    preprocess.main(["ml-100k", f"--file={tmp_path / 'u.data'}", f"--data_dir={tmp_path}"])
    assert data.load("ml-100k", tmp_path).lengths.sum() == 20


def test_titles_may_be_edited_and_added_by_hand_and_ids_may_not(tmp_path, ml_1m_zip):
    prepare(tmp_path, ml_1m_zip, f"--file={write(tmp_path / 'a.zip', ml_1m_zip)}")
    path = tmp_path / "ml-1m" / "items.csv"
    table = pd.read_csv(path, dtype=str)
    table.assign(title="new").to_csv(path, index=False)
    assert set(data.load("ml-1m", tmp_path).titles) == {"new"}
    table[["index", "id"]].to_csv(path, index=False)
    assert data.load("ml-1m", tmp_path).titles is None
    table.assign(id=table.id.replace("5", "9999")).to_csv(path, index=False)
    with pytest.raises(UserError, match="items.csv is damaged"):
        data.load("ml-1m", tmp_path)


OWN = "user,item,rating,time\n" + "".join(
    f"{u},{i},{(u + i) % 6 - 1},{2018 + i % 3}-05-17\n" for u in range(9) for i in range(12)
)


@pytest.mark.parametrize(
    "options, kept, words",
    [
        ([], 72, "left out: 36 pairs with too low a rating"),
        (["--min-rating=-1"], 108, ""),
        (["--min-rating=3"], 36, "left out: 72 pairs with too low a rating"),
        (["--since=2019-01-01"], 48, "left out: 36 rows outside of --since and --until"),
        (["--since=2019-05-17", "--until=2019-05-17", "--min-rating=-1"], 36, "left out: 72 rows outside of"),
        (["--rating-col=-", "--min-count=1"], 108, "rating=-"),
    ],
)
def test_own_data_with_what_each_option_leaves(tmp_path, capsys, options, kept, words):
    preprocess.main(
        [f"--file={write(tmp_path / 'a.csv', OWN)}", "--name=mine", f"--data_dir={tmp_path}", *options]
    )
    said = capsys.readouterr().err
    dataset = data.load("mine", tmp_path)
    assert dataset.lengths.sum() == kept and words in said
    manifest = json.loads((tmp_path / "mine" / "manifest.json").read_text())
    assert manifest["notes"][0] in said and manifest["counts"]["interactions"] == kept
    assert (dataset.lengths[data.VALIDATION] > 0).all(), "every user has something to validate on"


def test_counts_are_summed_and_returns_subtract(tmp_path, capsys):
    rows = "".join(f"{u},{i},1\n" for u in range(4) for i in range(6)) + "0,0,2\n1,0,-1\n2,9,-3\n"
    path = write(tmp_path / "a.csv", "customer,sku,quantity\n" + rows)
    preprocess.main([f"--file={path}", "--name=shop", f"--data_dir={tmp_path}"])
    assert data.load("shop", tmp_path).lengths.sum() == 23
    assert "left out: 2 more rows of the same user and item: pairs are summed" in capsys.readouterr().err
    with h5py.File(tmp_path / "shop" / "total_data.hdf5") as file:
        assert sorted(file["rating"][:].tolist()) == [1] * 22 + [3]
    with pytest.raises(UserError, match="--min-count is for counts, and the values were read as ratings"):
        path = write(tmp_path / "b.csv", "user,item,stars\n" + rows)
        preprocess.main([f"--file={path}", "--name=stars", f"--data_dir={tmp_path}", "--min-count=3"])


def test_titles_of_own_items(tmp_path, capsys):
    rows = "".join(f"{u},{i}.0,4,9\n" for u in range(4) for i in range(6))
    path = write(tmp_path / "a.csv", "user,item,rating,time\n" + rows)
    titles = write(tmp_path / "t.csv", 'Name;Item ID\nZero;0\n"One; or so";1\nSeven;7\n')
    preprocess.main([f"--file={path}", "--name=own", f"--data_dir={tmp_path}", f"--titles={titles}"])
    assert data.load("own", tmp_path).titles.tolist() == ["Zero", "One; or so", "", "", "", ""]
    assert "2 of 6 items have a title; 1 titles are of items without interactions" in capsys.readouterr().err
    with pytest.raises(UserError, match="t.csv must have a column of items and one of titles"):
        write(tmp_path / "t.csv", "Item ID;x\n0;1\n")
        preprocess.main([f"--file={path}", "--name=two", f"--data_dir={tmp_path}", f"--titles={titles}"])


@pytest.mark.parametrize("name", ["total_data.hdf5", "index.npz", "items.csv"])
def test_a_flipped_bit_in_what_was_prepared_is_found(tmp_path, ml_1m_zip, name):
    (tmp_path / "ml-1m.zip").write_bytes(ml_1m_zip)
    prepare(tmp_path, ml_1m_zip, f"--file={tmp_path / 'ml-1m.zip'}")
    content = bytearray((tmp_path / "ml-1m" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "ml-1m" / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        data.load("ml-1m", tmp_path)


def test_a_full_disk_leaves_no_folder_and_the_next_call_succeeds(tmp_path, ml_1m_zip, run_script):
    (tmp_path / "ml-1m.zip").write_bytes(ml_1m_zip)
    command = [
        "prep.sh",
        "ml-1m",
        f"--data_dir={tmp_path / 'data'}",
        f"--file={tmp_path / 'ml-1m.zip'}",
        f"--sha256={hashlib.sha256(ml_1m_zip).hexdigest()}",
    ]
    full = run_script(*command, largest_file=2)
    assert full.returncode == 1 and len(full.stderr.splitlines()) == 1 and "Traceback" not in full.stderr
    assert not any(path.is_dir() for path in (tmp_path / "data").iterdir())
    done = run_script(*command)
    assert done.returncode == 0 and done.stdout == "ml-1m\n"
    assert data.load("ml-1m", tmp_path / "data").train.nnz


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["ml-9"], "there is no known data set 'ml-9', only .* --name=ml-9"),
        (["ml-1m", "ml-100k", "--url=x"], "go with one data set"),
        (["ml-1m", "--file=/nowhere.zip"], "there is no file '/nowhere.zip'"),
        (["douban"], "douban has no public download. Give --file=PATH: a text file of user, item"),
        (["--file=a.csv"], "--name=NAME"),
        (["--name=a"], "--name is for a table of your own. Type ./prep.sh --file=TABLE --name=NAME."),
        (["--name=../a", "--file=b.csv"], "the name of a folder"),
        (["--name=ml-1m", "--file=b.csv"], "ml-1m is a data set that prep.sh knows"),
        (["ml-1m", "--user-col=a"], "--user-col is for a table of your own"),
        (["ml-1m", "--min-user-count=2"], "at least 3"),
        (["ml-1m", "--max_bad_share=2"], "between 0 and 1"),
        (["--name=a", "--file=/nowhere.csv"], "nowhere.csv"),
        (["ml-1m", "--file="], "there is no file"),
        (["ml-1m", "--seed=-1"], "--seed must be"),
        (["ml-1m", "--min-rating=nan"], "--min-rating must be a number, not nan"),
        (["ml-1m", "--min-rating=inf"], "not inf"),
    ],
)
def test_wrong_options_are_named(tmp_path, arguments, words):
    with pytest.raises(UserError, match=words):
        preprocess.main([*arguments, f"--data_dir={tmp_path}"])


def test_a_folder_that_somebody_else_made_is_left_alone(tmp_path, capsys):
    write_layout(tmp_path / "ml-1m", [0, 0, 0], [0, 1, 2], [0, 1, 2])
    before = sorted((tmp_path / "ml-1m").iterdir())
    preprocess.main(["ml-1m", f"--data_dir={tmp_path}"])
    assert "exists already, not made by prep.sh" in capsys.readouterr().err
    assert sorted((tmp_path / "ml-1m").iterdir()) == before
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(UserError, match="was not made by prep.sh, so it cannot be compared with .*a.zip"):
        preprocess.main(["ml-1m", f"--data_dir={tmp_path}", f"--file={tmp_path / 'a.zip'}"])
    (tmp_path / "ml-1m" / "index.npz").unlink()
    with pytest.raises(UserError, match="holds no data set"):
        preprocess.main(["ml-1m", f"--data_dir={tmp_path}"])
