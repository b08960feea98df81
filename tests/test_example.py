"""The blocks of Python in docs/example.md and in the README do what their pages say."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import shorten_rehearsals

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
PNG = b"\x89PNG"


def run_blocks(page, namespace):
    """Executes every block of a page; a traceback names the page and its line."""
    text = page.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    for block in blocks:
        lines_above = text.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_above + block[1], page.name, "exec"), namespace)
    return len(blocks)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The names that the page has defined, after all of it has run in an empty folder."""
    namespace = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("example"))
        shorten_rehearsals(patch)
        assert run_blocks(ROOT / "docs" / "example.md", namespace) > 8
        yield namespace


def popularity(users):
    return users.result["yardsticks"]["popularity"]["test"]["NDCG@10"]


def test_the_synthetic_users_are_better_than_popularity(example):
    users = example["users"]
    assert users.rows.shape == (20, 90) and 0 <= users.rows.min() < users.rows.max() <= 1
    assert users.result["test"]["NDCG@10"] > 2 * popularity(users)


def test_the_recommendations_are_five_other_crime_novels(example):
    for ids in (example["ids"][0], example["own_ids"][0]):
        assert len(set(ids)) == 5
        assert all(title.startswith("crime ") for title in ids)
        assert not set(ids) & {"crime 1", "crime 2", "crime 3"}


def test_the_similar_books_are_crime_novels_and_the_poems_are_poems(example):
    similar = example["users"].item_ids[example["columns"]]
    assert similar.shape == (3, 5)
    assert np.mean([title.startswith("crime ") for title in similar.ravel()]) > 0.9
    poems = example["poems"][0].compressed()
    assert len(poems) == 5 and all(title.startswith("poetry ") for title in poems)


def test_the_plots_are_there(example):
    for path in (example["users"].folder / "curve.png", Path("synthetic-users.png")):
        assert path.read_bytes().startswith(PNG)


@pytest.mark.parametrize("name", ["with_own_loss", "with_own_kernel"])
def test_an_own_loss_and_an_own_kernel_learn_other_users_which_are_good(example, name):
    users, own = example["users"], example[name]
    assert own.folder != users.folder
    assert not np.allclose(own.logits, users.logits)
    assert own.result["best_step"] > 0
    assert own.result["test"]["NDCG@10"] > 2 * popularity(own)


def test_the_own_sampler_picks_users_of_unpopular_items(example):
    books, sample = example["books"], example["sample"]
    assert sample.shape == (60, 90)
    popularity_in = lambda rows: (rows @ books.frequency).sum() / rows.sum()
    assert popularity_in(sample) < 0.95 * popularity_in(books.train)


def test_the_own_baseline_is_better_than_popularity(example):
    books, evaluation = example["books"], example["eval"]
    by_popularity = lambda users, context: [np.broadcast_to(books.frequency * 1.0, context.shape)]
    [popular] = evaluation.evaluate(
        by_popularity, 1, example["view"], example["books"].frequency, 256, example["mesh"]
    )
    own = evaluation.summarise(example["metrics"])["NDCG@10"]
    assert own > 2 * evaluation.summarise(popular)["NDCG@10"]


def test_the_block_of_the_readme_runs(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shorten_rehearsals(monkeypatch)
    example["table"].to_csv("ratings.csv", index=False)
    namespace = {"histories": example["history"]}
    assert run_blocks(ROOT / "README.md", namespace) == 1
    assert namespace["users"].rows.shape == (100, 90)
    assert namespace["ids"].shape == (1, 10)
