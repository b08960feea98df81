"""bench.py: both sides of a comparison do the same work; a small run through its main."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bench
import data
import distill
import eval as evaluation
import model
from lib import devices
from lib.errors import UserError
from lib.settings import resolve
from prep import sources
from runs import recipes
from runs.batches import make_batches
from speed import generate, growth


def test_plain_metrics_are_those_of_eval(tiny):
    view, weights = tiny.test_view(np.random.default_rng(0)), evaluation.inverse_propensity(tiny.frequency)
    kernel, rows = (
        model.make_kernel(1, True),
        jnp.asarray(np.random.default_rng(1).random((20, tiny.train.shape[1])) ** 3, jnp.float32),
    )
    alpha = model.ridge(kernel(rows), rows, 0.1)
    [found] = evaluation.evaluate(
        evaluation.scores_of(kernel, rows, [alpha]), 1, view, weights, 64, devices.start(False)
    )
    scores = np.asarray(model.predict(kernel(view.context.toarray().astype(np.float32), rows), alpha))
    means = evaluation.summarise(found)
    for name, value in bench.plain_metrics(scores, view, weights).items():
        assert means[name] == pytest.approx(value, rel=1e-4)


def test_plain_loading_finds_the_same_interactions(tiny, tiny_data):
    train, validation, test = bench.plain_load(tiny_data / "tiny")
    for parts, matrix in ((train, tiny.train), (validation, tiny.validation), (test, tiny.test)):
        assert sum(map(len, parts.values())) == matrix.nnz
    assert data.load("tiny", tiny_data).fingerprint == tiny.fingerprint


def test_both_sides_of_the_step_are_the_same_loss(tiny, monkeypatch):
    """Value and derivative, where both are given the same noise: it depends on the item alone."""
    monkeypatch.setattr(
        jax.random,
        "gumbel",
        lambda key, shape, dtype=jnp.float32: jnp.broadcast_to(
            jnp.asarray(np.random.default_rng(3).gumbel(size=shape[-1]), dtype), shape
        ),
    )
    settings, _ = resolve(
        [
            "--user_support=12",
            "--num_per_user=30",
            "--noise_groups=-1",
            "--loss=softmax",
            "--batch_size=-1",
            "--dataset=tiny",
            "--gumbel_tau=2",
            "--score_scale=7",
        ]
    )
    settings, _ = recipes.resolve_auto(settings, recipes.statistics_of(tiny))
    kernel = model.make_kernel(settings["depth"], settings["normalize"])
    logits = jnp.asarray(3 * np.random.default_rng(4).random((12, tiny.items)), jnp.float32)
    params = distill.initial_state(settings, logits, distill.make_optimizer(settings)).params
    [batch], key = make_batches(settings, tiny, devices.start(False))(0), jax.random.key(0)
    ((ours, lamda), gradient), ((plain, plain_lamda), plain_gradient) = (
        jax.jit(jax.value_and_grad(make(settings, kernel, tiny), has_aux=True))(params, 5.0, key, batch)
        for make in (distill.make_loss, bench.make_plain_loss)
    )
    np.testing.assert_allclose([ours, lamda], [plain, plain_lamda], rtol=1e-5)
    for found, expected in zip(gradient, plain_gradient):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * float(jnp.abs(expected).max()))


def test_both_sides_of_the_step_draw_alike():
    """The mean of many users with the same logits, who have independent noise on either side."""
    logits = jnp.broadcast_to(jnp.asarray(4 * np.random.default_rng(5).random(60), jnp.float32), (2000, 60))
    ours = model.sample(jax.random.key(1), logits, 2.0, 12, 2000).mean(axis=0)
    plain = bench.plain_sample(jax.random.key(2), logits, 2.0, 12).mean(axis=0)
    np.testing.assert_allclose(ours, plain, rtol=0.05)


def test_bench_once(tmp_path, monkeypatch, capsys):
    for module, name, value in (
        (bench, "USERS", 60),
        (bench, "ITEMS", 90),
        (bench, "INTERACTIONS", 1200),
        (bench, "REPEATS", 1),
        (growth, "USERS", (40, 80)),
        (growth, "ROWS", (2000,)),
        (growth, "NETFLIX_ITEMS", 90),
        (growth, "BATCH", 20),
        (growth, "STEPS", 1),
    ):
        monkeypatch.setattr(module, name, value)
    bench.main([f"--results_dir={tmp_path}", "--user_support=10", "--num_per_user=4"])
    found, said = json.loads((tmp_path / "bench.json").read_text()), capsys.readouterr().out
    names = [figure["what"] for figure in found["figures"]]
    assert [name.partition(" (")[0] for name in names] == [
        "loading",
        "validation of 6 lamdas",
        "step, full batch, shared noise",
        "step, full batch, independent noise",
        "step beyond its matrix products",
        "∞-AE on all users, 6 lamdas and the test",
    ]
    for figure in found["figures"]:
        assert (
            figure["ratio"] == pytest.approx(figure["plain_seconds"] / figure["seconds"])
            and figure["seconds"] < 60
        )
        [line] = [
            line
            for line in said.splitlines()
            if line.startswith(figure["what"]) and line.endswith("   " + figure["plain_is"])
        ]
        assert float(line.removeprefix(figure["what"]).split()[0]) == pytest.approx(
            figure["seconds"], abs=5.1e-4
        )
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
    assert (
        sorted(zip(found.user_ids[found.user], found.item_ids[found.item])) == sorted(zip(user, item + 1))
        and not found.bad
    )
