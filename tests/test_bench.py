"""bench.py: both sides of a comparison do the same work; a small run through its main."""
import json

import jax.numpy as jnp
import numpy as np
import pytest

import bench
import bench_size
import data
import devices
import eval as evaluation
import generate
import model
import sources
from settings import UserError


def test_plain_metrics_are_those_of_eval(tiny):
    view, weights = tiny.test_view(np.random.default_rng(0)), evaluation.inverse_propensity(tiny.frequency)
    kernel, rows = model.make_kernel(1, True), jnp.asarray(np.random.default_rng(1).random((20, tiny.train.shape[1])) ** 3, jnp.float32)
    alpha = model.ridge(kernel(rows), rows, 0.1)
    [found] = evaluation.evaluate(evaluation.scores_of(kernel, rows, [alpha]), 1, view, weights, 64, devices.start(False))
    scores = np.asarray(model.predict(kernel(view.context.toarray().astype(np.float32), rows), alpha))
    means = evaluation.summarise(found)
    for name, value in bench.plain_metrics(scores, view, weights).items():
        assert means[name] == pytest.approx(value, rel=1e-4)


def test_plain_loading_finds_the_same_interactions(tiny, tiny_data):
    train, validation, test = bench.plain_load(tiny_data / "tiny")
    for parts, matrix in ((train, tiny.train), (validation, tiny.validation), (test, tiny.test)):
        assert sum(map(len, parts.values())) == matrix.nnz
    assert data.load("tiny", tiny_data).fingerprint == tiny.fingerprint


def test_bench_once(tmp_path, monkeypatch, capsys):
    for module, name, value in ((bench, "USERS", 60), (bench, "ITEMS", 90), (bench, "INTERACTIONS", 1200), (bench, "REPEATS", 1),
                                (bench_size, "USERS", (40, 80)), (bench_size, "ROWS", (2000,)), (bench_size, "NETFLIX_ITEMS", 90),
                                (bench_size, "BATCH", 20), (bench_size, "STEPS", 1)):
        monkeypatch.setattr(module, name, value)
    bench.main([f"--results_dir={tmp_path}", "--user_support=10", "--num_per_user=4"])
    found, said = json.loads((tmp_path / "bench.json").read_text()), capsys.readouterr().out
    assert all(figure["ratio"] > 0 and figure["what"] in said for figure in found["figures"]) and len(found["figures"]) == 7
    assert [line["users"] for line in found["growth"]["steps"]] == [40, 80]
    assert found["growth"]["preprocessing"][0]["peak_rss_mb"] > 1
    with pytest.raises(UserError, match="no benchmark 'all'"):
        bench.main(["all"])


def test_generated_interactions_are_distinct_and_as_many_as_asked_for():
    user, item = generate.interactions(np.random.default_rng(0), 3000, 900, 200_000)
    assert len(set(zip(user.tolist(), item.tolist()))) == len(user) == pytest.approx(200_000, rel=0.1)
    assert (np.bincount(user, minlength=3000) > 0).all() and item.max() < 900 and (np.diff(user) >= 0).all()
    counts = np.sort(np.bincount(item))[::-1]
    assert counts[0] > 5 * counts[450], "some are far more popular"


def test_the_netflix_file_reads_back(tmp_path):
    user, item = generate.interactions(np.random.default_rng(0), 50, 40, 1000)
    generate.write_netflix(tmp_path / "combined_data_1.txt", user, item, np.random.default_rng(1))
    found, _ = sources.read_netflix(tmp_path)
    assert sorted(zip(found.user_ids[found.user], found.item_ids[found.item])) == sorted(zip(user, item + 1)) and not found.bad
