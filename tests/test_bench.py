"""bench.py: a routine and its plain version give the same numbers; the command on small data."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import reading_of

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
from speed import generate, growth, ratios


def test_plain_validation_has_the_metrics_of_eval(tiny):
    view, weights = tiny.test_view(np.random.default_rng(0)), evaluation.inverse_propensity(tiny.frequency)
    kernel, lamdas = model.Kernel(1, True), [0.1, 5.0]
    rows = jnp.asarray(np.random.default_rng(1).random((20, tiny.items)) ** 3, jnp.float32)
    scores = evaluation.scores_of(kernel, rows, model.fit(kernel, rows, lamdas))
    ours = evaluation.evaluate(scores, len(lamdas), view, tiny.frequency, 64, devices.start(False))
    plain = ratios.plain_evaluate(kernel, rows, lamdas, view, weights)
    for metrics, expected in zip(map(evaluation.summarise, ours), plain, strict=True):
        assert expected == pytest.approx({name: metrics[name] for name in expected}, rel=1e-4)
    assert plain[0] != plain[1]


def test_plain_infinite_ae_has_the_metrics_of_infinite_ae(tiny):
    settings = ratios.settings_of_infinite_ae({"float64": False, "seed": 3}, tiny)
    ours = ratios.run_infinite_ae(settings, tiny, devices.start(False))
    plain = ratios.plain_infinite_ae(settings, tiny)
    assert ours["lamda"] == plain["lamda"] in ratios.LAMDAS
    for metrics, part in ((ours["val"], "val"), (evaluation.summarise(ours["test"]), "test")):
        expected = plain[part]
        assert expected == pytest.approx({name: metrics[name] for name in expected}, rel=1e-4)


def test_plain_loading_reads_the_same_interactions(tiny, tiny_data):
    parts = ratios.plain_load(tiny_data / "tiny")
    for items_of, matrix in zip(parts, (tiny.train, tiny.validation, tiny.test), strict=True):
        rows = {user: set(tiny.item_ids[matrix[user].indices].tolist()) for user in range(tiny.users)}
        assert items_of == {tiny.user_ids[user]: items for user, items in rows.items() if items}
    assert data.load("tiny", tiny_data).fingerprint == tiny.fingerprint


def test_the_plain_loss_is_that_of_distill(tiny, monkeypatch):
    """Value and derivative, with the same noise on both sides: it depends on the item alone."""

    def gumbel(key, shape, dtype=jnp.float32):
        noise = np.random.default_rng(3).gumbel(size=shape[-1])
        return jnp.broadcast_to(jnp.asarray(noise, dtype), shape)

    monkeypatch.setattr(jax.random, "gumbel", gumbel)
    small = "--dataset=tiny", "--user_support=12", "--num_per_user=30", "--batch_size=-1"
    settings, _ = resolve(
        [*small, "--noise_groups=-1", "--loss=softmax", "--gumbel_tau=2", "--score_scale=7"]
    )
    settings, _ = recipes.resolve_auto(settings, recipes.statistics_of(tiny))
    kernel = model.Kernel(settings["depth"], settings["normalize"])
    logits = jnp.asarray(3 * np.random.default_rng(4).random((12, tiny.items)), jnp.float32)
    params = distill.initial_params(settings, logits)
    *_, batches = distill.build(settings, tiny, kernel, model.cross_entropy, devices.start(False))
    [batch], key = batches(0), jax.random.key(0)

    def value_and_gradient(loss):
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params, None, key, batch)

    objective = distill.make_objective(settings, tiny, kernel, model.cross_entropy)
    (ours, lamda), gradient = value_and_gradient(objective)
    plain_loss = ratios.make_plain_loss(settings, kernel, tiny)
    (plain, plain_lamda), plain_gradient = value_and_gradient(plain_loss)
    np.testing.assert_allclose([ours, lamda], [plain, plain_lamda], rtol=1e-5)
    for leaf, expected in zip(gradient, plain_gradient, strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=1e-3 * float(jnp.abs(expected).max()))


def test_the_plain_sampling_has_the_mean_of_the_model_s():
    """Over many users with the same logits and independent noise."""
    logits = jnp.broadcast_to(jnp.asarray(4 * np.random.default_rng(5).random(60), jnp.float32), (2000, 60))
    ours = model.sample(jax.random.key(1), logits, 2.0, 12, 2000).mean(axis=0)
    plain = ratios.plain_sample(jax.random.key(2), logits, 2.0, 12).mean(axis=0)
    np.testing.assert_allclose(ours, plain, rtol=0.05)


def test_the_products_of_a_step_are_counted_apart_even_where_their_shapes_agree(tiny, monkeypatch):
    """As many draws as synthetic users: the GFLOP are those of the formula, whatever a product takes."""
    monkeypatch.setattr(ratios, "median_seconds", lambda function: 1e-3)
    seconds, rate = ratios.product_seconds({"user_support": 7, "num_per_user": 7}, tiny)
    users, items = tiny.users, tiny.items
    operations = 2 * (5 * users * items * 7 + 10 * 7 * 7 * items)
    assert rate * seconds * 1e9 == pytest.approx(operations) and seconds == pytest.approx(15e-3)


@pytest.mark.large
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ratios, "REPEATS", 1)
    small = {"USERS": (40, 80), "ROWS": (2000,), "NETFLIX_ITEMS": 90, "BATCH": 20, "STEPS": 1}
    small |= {"ITEMS": (90, 120), "WIDE_USERS": 40, "WIDE_SUPPORT": 8}
    for name, value in small.items():
        monkeypatch.setattr(growth, name, value)
    bench.main([f"--results_dir={tmp_path}", "--user_support=10", "--num_per_user=4"], (60, 90, 1200))
    report, printed = json.loads((tmp_path / "bench.json").read_text()), capsys.readouterr().out
    names = [figure["what"] for figure in report["figures"]]
    assert [name.partition(" (")[0] for name in names] == [
        "loading",
        "validation of 6 lamdas",
        "step, full batch, shared noise",
        "step, full batch, independent noise",
        "step beyond its matrix products",
        "∞-AE on all users, 6 lamdas and the test",
    ]
    for figure in report["figures"]:
        [line] = [line for line in printed.splitlines() if line.startswith(figure["what"])]
        assert line.endswith("   " + figure["plain_is"])
        ours, plain, ratio = line.removeprefix(figure["what"]).split()[:3]
        assert float(ours) == pytest.approx(figure["seconds"], abs=5.1e-4)
        assert float(plain) == pytest.approx(figure["plain_seconds"], abs=5.1e-4)
        assert float(ratio.rstrip("x")) == pytest.approx(figure["ratio"], abs=6e-3)
        assert figure["ratio"] == pytest.approx(figure["plain_seconds"] / figure["seconds"])
    assert [row["users"] for row in report["growth"]["steps"]] == [40, 80]
    assert [row["items"] for row in report["growth"]["wide"]] == [90, 120]
    assert report["growth"]["preprocessing"][0]["peak_rss_mb"] > 1
    assert all(f"{row['seconds']:8.2f}" in printed for row in report["growth"]["steps"])


def test_the_shop_is_distilled_and_some_of_its_users_are_tested(monkeypatch, capsys):
    monkeypatch.setitem(growth.SHOPS, "shop", (60, 80, 600))
    monkeypatch.setattr(growth, "SHOP_TESTED", 10)

    def measured(command):
        folder = next(word for word in command if word.startswith("--data_dir="))
        dataset = data.load("shop", folder.removeprefix("--data_dir="))
        assert (dataset.lengths[data.TEST] > 0).tolist() == [True] * 10 + [False] * 50
        return 3.0, 7.0, " ".join(command)

    monkeypatch.setattr(growth, "measured", measured)
    figures = growth.shop("shop")
    assert (
        "distill.py --dataset=shop" in figures["last_line"]
        and "shop: 3 s, 7 MiB; " in capsys.readouterr().out
    )


def test_an_unknown_benchmark_is_named():
    with pytest.raises(
        UserError, match="no benchmark 'all'; there are ratios, growth, netflix, shop, large-shop, gpu"
    ):
        bench.main(["all"])


def test_generated_interactions_are_distinct_and_near_the_given_number():
    user, item = generate.interactions(np.random.default_rng(0), 3000, 900, 200_000)
    assert len(set(zip(user.tolist(), item.tolist()))) == len(user) == pytest.approx(200_000, rel=0.1)
    assert (np.bincount(user, minlength=3000) > 0).all() and item.max() < 900 and (np.diff(user) >= 0).all()
    counts = np.sort(np.bincount(item))[::-1]
    assert counts[0] > 5 * counts[450], "some are far more popular"


def test_the_netflix_file_reads_back(tmp_path):
    user, item = generate.interactions(np.random.default_rng(0), 50, 40, 1000)
    generate.write_netflix(tmp_path / "combined_data_1.txt", user, item, np.random.default_rng(1))
    reading = reading_of(tmp_path, sources.read_netflix)
    read = reading.interactions
    pairs = zip(read.user_ids[read.user], read.item_ids[read.item])
    assert sorted(pairs) == sorted(zip(user, item + 1)) and not reading.bad
