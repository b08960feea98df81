"""prep/sources.py: the files of the known data sets."""

import zipfile

import numpy as np
import pytest
from conftest import pairs_of, reading_of, write

from prep import sources

EXPECTED = [(3, 70, 2.5), (12, 5, 4.0), (12, 70, 1.0)]


def zip_of(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def known(name, path):
    return reading_of(path, sources.SOURCES[name][0].read)


def test_movielens_10m(tmp_path):
    path = zip_of(
        tmp_path / "a.zip",
        **{
            "ml-10M100K/ratings.dat": "12::5::4::9\n12::70::1::9\n3::70::2.5::9\n",
            "ml-10M100K/movies.dat": '5::Amélie: a, "b" (2001)::Drama\n70::Tab\there::Drama\n',
        },
    )
    reading = known("ml-10m", path)
    assert pairs_of(reading.interactions) == EXPECTED
    assert reading.titles.title.tolist() == ['Amélie: a, "b" (2001)', "Tab\there"]


@pytest.mark.parametrize("name", ["ml-20m", "ml-25m"])
def test_movielens_with_headers(tmp_path, name):
    ratings = "userId,movieId,rating,timestamp\n12,5,4.0,9\n12,70,1.0,9\n3,70,2.5,9\n"
    movies = 'movieId,title,genres\n5,"Seven, a film (1995)",Crime\n70,Heat (1995),Crime\n'
    members = {f"{name}/ratings.csv": ratings, f"{name}/movies.csv": movies}
    path = zip_of(tmp_path / "a.zip", **members)
    reading = known(name, path)
    assert pairs_of(reading.interactions) == EXPECTED
    assert reading.titles.to_numpy().tolist() == [["5", "Seven, a film (1995)"], ["70", "Heat (1995)"]]


def test_magazine_and_douban(tmp_path):
    path = write(
        tmp_path / "m.csv",
        "B00005N7P0,AH2IFH762VY5U,5.0,1005177600\nB00005N7P0,0AOSFI0JEYU4,4.0,1004486400\n",
    )
    assert pairs_of(known("magazine", path).interactions) == [
        ("0AOSFI0JEYU4", "B00005N7P0", 4.0),
        ("AH2IFH762VY5U", "B00005N7P0", 5.0),
    ]
    path = write(tmp_path / "douban.txt", "12\t5\t4\t9\n12\t70\t1\t9\n3\t70\t2.5\t9\n")
    assert pairs_of(known("douban", path).interactions) == EXPECTED


NETFLIX = {
    "combined_data_1.txt": "5:\n12,4,2005-09-06\n70:\n12,1,2005-09-06\n",
    "combined_data_2.txt": "70:\n3,2.5,2005-01-01\n71:\n",
    "movie_titles.csv": "5,2003,Cr\xe8me, la\n70,NULL,Heat\n".encode("latin-1"),
}


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_netflix(tmp_path, form):
    if form == "zip":
        path = zip_of(
            tmp_path / "n.zip", **{f"download/{name}": content for name, content in NETFLIX.items()}
        )
    else:
        path = tmp_path
        for name, content in NETFLIX.items():
            write(tmp_path / name, content)
    reading = known("netflix", path)
    assert pairs_of(reading.interactions) == EXPECTED and not reading.bad
    assert reading.titles.to_numpy().tolist() == [["5", "Crème, la"], ["70", "Heat"]]


def test_netflix_against_a_loop(tmp_path):
    """Movies with and without ratings, one movie in two places, and bad rows, which count as lines."""
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
    reading = known("netflix", write(tmp_path / "combined_data_1.txt", "\n".join(lines)))
    assert pairs_of(reading.interactions) == sorted(expected)
    assert [line for _, line, _ in reading.examples] == bad[: len(reading.examples)]
    assert len(reading.examples) == 5 and reading.bad == len(bad) and reading.rows == len(expected) + len(bad)
