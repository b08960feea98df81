"""rivals/samplers.py: what each of them picks, and how much."""

import json
import tempfile

import jax
import numpy as np
import pytest
import scipy.sparse as sp

import data
from lib.errors import UserError
from rivals import samplers
from runs.folder import shaping
from runs.synthetic_users import open_distilled, to_matrix


def sample(name, dataset, budget, seed):
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "sampler": name,
            "user_support": budget,
            "seed": seed,
            "results_dir": folder,
            "distilled": "",
        }
        return samplers.sample(samplers.resolve_users(settings, dataset), dataset)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_counts_and_seeds(tiny, name):
    rows = sample(name, tiny, 20, seed=1)
    again, other = sample(name, tiny, 20, seed=1), sample(name, tiny, 20, seed=2)
    assert (rows != again).nnz == 0 and np.diff(rows.indptr).min() > 0
    if name == "interactions":
        assert rows.nnz == round(tiny.train.nnz * 20 / tiny.users)
    else:
        assert rows.shape == (20, tiny.items)
        train = {tuple(row.indices) for row in tiny.train}
        assert all(tuple(row.indices) in train for row in rows)
    if name != "head":
        assert rows.shape != other.shape or (rows != other).nnz > 0


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_the_whole_budget_is_all_of_the_data(tiny, name):
    for budget in (-1, tiny.users):
        rows = sample(name, tiny, budget, seed=1)
        assert sorted(map(tuple, rows.toarray())) == sorted(map(tuple, tiny.train.toarray()))


def test_random_interactions_are_train_interactions(tiny):
    rows = samplers.random_interactions(tiny, 75, seed=3)
    assert np.all(np.asarray(rows.sum(0)) <= tiny.frequency) and rows.shape[0] > 75


def test_head_users_are_the_longest(tiny):
    rows = samplers.head_users(tiny, 10, seed=0)
    assert list(np.diff(rows.indptr)) == sorted(tiny.lengths[data.TRAIN])[::-1][:10]


def test_svp_cf_prefers_the_users_who_are_like_nobody():
    """Two clusters, and some users whose items are drawn at random."""
    rng = np.random.default_rng(0)
    rows = np.zeros((2000, 60), np.int8)
    for user, row in enumerate(rows):
        row[
            rng.choice(30, 12, replace=False) + 30 * (user % 2)
            if user < 1900
            else rng.choice(60, 12, replace=False)
        ] = 1
    hard = samplers.forgetting(sp.csr_matrix(rows), jax.random.key(0))
    assert 0 <= hard.min() and hard.max() <= 1
    assert (np.argsort(-hard)[:100] >= 1900).mean() > 0.8  # of 2,000 users at random, 0.05 would be


def test_the_proxy_learns_once_for_all_budgets_of_the_same_data(tiny, tmp_path, monkeypatch):
    first, calls, forgetting = samplers.svp_cf_users(tiny, 5, 0, tmp_path), [], samplers.forgetting
    monkeypatch.setattr(samplers, "forgetting", lambda *given: calls.append(1) or forgetting(*given))
    assert (samplers.svp_cf_users(tiny, 9, 0, tmp_path)[:5] != first).nnz == 0 and not calls
    samplers.svp_cf_users(data.add_noise(tiny, 0.1, 0), 9, 0, tmp_path)
    assert calls == [1]


@pytest.mark.parametrize(
    "name, value",
    [
        ("PROXY", {**samplers.PROXY, "dropout": 0.1}),
        ("PROXY_LEARNING_RATE", 0.01),
        ("PROXY_EPOCHS", 3),
        ("PROXY_BATCH", 64),
        ("RIVALS", 2),
    ],
)
def test_another_proxy_learns_anew(tiny, tmp_path, monkeypatch, name, value):
    calls = []
    monkeypatch.setattr(
        samplers, "forgetting", lambda train, key: calls.append(1) or np.zeros(train.shape[0])
    )
    samplers.svp_cf_users(tiny, 5, 0, tmp_path)
    monkeypatch.setattr(samplers, name, value)
    for _ in range(2):
        samplers.svp_cf_users(tiny, 5, 0, tmp_path)
    assert calls == [1, 1]


def test_more_users_than_there_are(tiny):
    with pytest.raises(UserError, match="151, but tiny has 150 users"):
        sample("head", tiny, 151, seed=0)


def test_distilled_users_are_those_of_the_run(distilled_run, titled_data):
    dataset, distilled = data.load("titled", titled_data), open_distilled(distilled_run)
    given = {
        "sampler": "distilled",
        "distilled": distilled_run.name,
        "results_dir": str(distilled_run.parent),
        "user_support": -1,
        "seed": 3,
    }
    settings = samplers.resolve_users(given, dataset)
    assert settings["user_support"] == 6 and shaping(settings)["distilled"] == distilled_run.name
    np.testing.assert_array_equal(samplers.sample(settings, dataset).toarray(), distilled.rows)
    hard = samplers.sample({**settings, "sampler": "distilled_hard"}, dataset)
    assert set(hard.data) == {1} and (hard != to_matrix(distilled, "hard", 3)).nnz == 0


@pytest.mark.parametrize(
    "change, words",
    [
        ({"distilled": ""}, "needs --distilled=RUN"),
        ({"distilled": "nothing"}, "there is no run nothing"),
        ({"user_support": 7}, "has 6 synthetic users"),
        ({"sampler": "head"}, "of use with sampler=distilled"),
    ],
)
def test_distilled_users_that_cannot_be_had(distilled_run, titled_data, change, words):
    dataset = data.load("titled", titled_data)
    given = {
        "sampler": "distilled",
        "distilled": distilled_run.name,
        "results_dir": str(distilled_run.parent),
        "user_support": -1,
        "seed": 3,
    }
    with pytest.raises(UserError, match=words):
        samplers.resolve_users({**given, **change}, dataset)


def test_distilled_users_of_other_data(distilled_run, tiny):
    given = {
        "sampler": "distilled",
        "distilled": str(distilled_run),
        "results_dir": "",
        "user_support": -1,
        "seed": 3,
    }
    with pytest.raises(UserError, match="not made from this tiny"):
        samplers.resolve_users(given, tiny)


@pytest.mark.parametrize(
    "learnt, asked, fits",
    [
        ((0, 42), (0, 1), True),
        ((0.1, 42), (0.1, 42), True),
        ((0, 42), (0.1, 42), False),
        ((0.1, 42), (0, 42), False),
        ((0.1, 42), (0.2, 42), False),
        ((0.1, 42), (0.1, 1), False),
    ],
)
def test_distilled_users_of_other_noise(distilled_run, titled_data, monkeypatch, learnt, asked, fits):
    """Refused, with what to type; the seed counts only where there is noise."""
    run, dataset = open_distilled(distilled_run), data.load("titled", titled_data)
    run = run._replace(settings={**run.settings, "noise": learnt[0], "seed": learnt[1]})
    monkeypatch.setattr(samplers, "open_distilled", lambda folder: run)
    given = {
        "sampler": "distilled",
        "distilled": str(distilled_run),
        "results_dir": "",
        "user_support": -1,
        "noise": asked[0],
        "seed": asked[1],
    }
    if fits:
        assert samplers.resolve_users(given, dataset)["user_support"] == 6
    else:
        with pytest.raises(UserError) as caught:
            samplers.resolve_users(given, dataset)
        advice = dict(word[2:].split("=") for word in str(caught.value).split() if word.startswith("--"))
        samplers.resolve_users(
            {**given, **{key: json.loads(value) for key, value in advice.items()}}, dataset
        )
