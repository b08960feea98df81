"""bench.py: both sides of a comparison do the same work; a small run through its main."""
import json

import jax.numpy as jnp
import numpy as np
import pytest

import bench
import data
import devices
import eval as evaluation
import model


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
    for name, value in (("USERS", 60), ("ITEMS", 90), ("INTERACTIONS", 1200), ("REPEATS", 1)):
        monkeypatch.setattr(bench, name, value)
    bench.main([f"--results_dir={tmp_path}", "--user_support=10", "--num_per_user=4"])
    figures = json.loads((tmp_path / "bench.json").read_text())["figures"]
    assert all(figure["ratio"] > 0 and figure["what"] in capsys.readouterr().out for figure in figures[:1]) and len(figures) == 6
