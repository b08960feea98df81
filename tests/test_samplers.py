"""rivals/samplers.py: which users or interactions each sampler picks, and how many."""

import json
import re
import tempfile
from typing import get_args

import jax
import numpy as np
import pytest
import scipy.sparse as sp

import data
from hyper_params import kinds
from lib.errors import UserError
from lib.files import ROOT
from lib.settings import resolve
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
    differ = rows.shape != other.shape or (rows != other).nnz > 0
    assert differ == (name != "head")


def test_the_sampler_that_the_docs_add_picks_the_shortest_histories(tiny):
    text = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    names = dict(vars(samplers))
    exec(
        next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "cache_dir" in block), names
    )
    rows = names["tail_users"](tiny, 10, 0, None)
    assert np.diff(rows.indptr).tolist() == sorted(tiny.lengths[data.TRAIN])[:10]


def test_every_sampler_can_be_asked_for():
    assert {*samplers.SAMPLERS, *samplers.VALUES} == set(get_args(kinds["sampler"]))


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_the_whole_budget_is_all_of_the_data(tiny, name):
    for budget in (-1, tiny.users):
        rows = sample(name, tiny, budget, seed=1)
        assert sorted(map(tuple, rows.toarray())) == sorted(map(tuple, tiny.train.toarray()))


def test_random_interactions_are_train_interactions(tiny):
    """Of more users than the budget, in the order of the data, each row a part of the user's own."""
    rows = samplers.random_interactions(tiny, 75, 3, None)
    assert 75 < rows.shape[0] <= tiny.users and np.unique(rows.data).tolist() == [1]
    histories = iter([set(row.indices) for row in tiny.train])
    for row in rows:
        assert any(set(row.indices) <= history for history in histories)


def test_head_users_are_the_longest(tiny):
    """Of equally long ones, the first in the data."""
    rows, lengths = samplers.head_users(tiny, 40, 0, None), tiny.lengths[data.TRAIN]
    expected = sorted(range(tiny.users), key=lambda user: (-lengths[user], user))[:40]
    assert lengths[expected[-1]] == sorted(lengths)[-41], "the budget cuts through users of one length"
    assert (rows != tiny.train[expected]).nnz == 0


def test_svp_cf_prefers_the_users_who_are_like_nobody():
    """Two clusters, and some users whose items are drawn at random."""
    rng = np.random.default_rng(0)
    rows = np.zeros((800, 60), np.int8)
    for user, row in enumerate(rows):
        row[
            rng.choice(30, 12, replace=False) + 30 * (user % 2)
            if user < 760
            else rng.choice(60, 12, replace=False)
        ] = 1
    hard = samplers.forgetting(sp.csr_matrix(rows), jax.random.key(0))
    assert 0 <= hard.min() and hard.max() <= 1
    assert (np.argsort(-hard)[:40] >= 760).mean() > 0.8  # of 800 users at random, 0.05 would be


def test_the_proxy_learns_once_for_all_budgets_of_the_same_data(tiny, tmp_path, monkeypatch):
    first, calls, forgetting = samplers.svp_cf_users(tiny, 5, 0, tmp_path), [], samplers.forgetting
    monkeypatch.setattr(samplers, "forgetting", lambda *inputs: calls.append(1) or forgetting(*inputs))
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


def settings_for(run, **changes):
    """Settings that ask for the synthetic users of a run, by its name."""
    asked = {"sampler": "distilled", "distilled": run.name, "results_dir": str(run.parent)}
    return {**asked, "user_support": -1, "seed": 3, **changes}


def test_distilled_users_are_those_of_the_run(distilled_run, titled_data):
    dataset, run = data.load("titled", titled_data), open_distilled(distilled_run)
    settings = samplers.resolve_users(settings_for(distilled_run), dataset)
    assert settings["user_support"] == 6 and shaping(settings)["distilled"] == distilled_run.name
    np.testing.assert_array_equal(samplers.sample(settings, dataset).toarray(), run.rows)
    hard = samplers.sample({**settings, "sampler": "distilled_hard"}, dataset)
    assert set(hard.data) == {1} and (hard != to_matrix(run, "hard", 3)).nnz == 0
    assert (hard != samplers.sample({**settings, "sampler": "distilled_hard", "seed": 4}, dataset)).nnz > 0


@pytest.mark.parametrize(
    "change, words",
    [
        ({"distilled": ""}, "needs --distilled=RUN"),
        ({"distilled": "nothing"}, "there is no run nothing"),
        ({"user_support": 7}, "has 6 synthetic users"),
        ({"sampler": "head"}, "has no effect with --sampler=head. Try --sampler=distilled"),
    ],
)
def test_distilled_users_that_cannot_be_had(distilled_run, titled_data, change, words):
    dataset = data.load("titled", titled_data)
    with pytest.raises(UserError, match=words):
        samplers.resolve_users(settings_for(distilled_run, **change), dataset)


def test_distilled_users_of_other_data(distilled_run, tiny):
    with pytest.raises(UserError, match="not made from this tiny.* Try --dataset=titled --data_dir="):
        samplers.resolve_users(settings_for(distilled_run), tiny)


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
    settings = settings_for(distilled_run, noise=asked[0], seed=asked[1])
    if fits:
        assert samplers.resolve_users(settings, dataset)["user_support"] == 6
    else:
        with pytest.raises(UserError) as caught:
            samplers.resolve_users(settings, dataset)
        words = [word[2:].split("=") for word in str(caught.value).split() if word.startswith("--")]
        advice = {key: json.loads(value) for key, value in words}
        samplers.resolve_users({**settings, **advice}, dataset)


@pytest.mark.parametrize(
    "script, learnt, typed, expected",
    [
        ("infinite_ae", {}, [], {"float64": False, "noise": 0}),
        ("infinite_ae", {"float64": True}, [], {"float64": True}),
        ("infinite_ae", {"float64": True}, ["--float64", "false"], {"float64": False}),
        ("infinite_ae", {"seed": 7}, [], {"seed": 42}),
        ("infinite_ae", {"noise": 0.1, "seed": 7}, [], {"noise": 0.1, "seed": 7}),
        ("infinite_ae", {"noise": 0.1, "seed": 7}, ["--seed=8"], {"noise": 0.1, "seed": 8}),
        ("infinite_ae", {"repeats": "drop"}, ["--dataset=tiny"], {"repeats": "drop", "dataset": "tiny"}),
        ("baselines", {"float64": True, "noise": 0.1}, [], {"noise": 0.1}),
    ],
)
def test_the_name_of_a_run_brings_its_data_and_precision(
    distilled_run, titled_data, monkeypatch, script, learnt, typed, expected
):
    """The run's values are in the place of those of hyper_params.py, and what is typed wins."""
    run = open_distilled(distilled_run)
    run = run._replace(settings={**run.settings, **learnt})
    monkeypatch.setattr(samplers, "open_distilled", lambda folder: run)
    arguments = ["--sampler=distilled", f"--distilled={distilled_run}", *typed]
    settings, _ = resolve(samplers.arguments_of_run(arguments, "", script), script=script)
    expected = {"dataset": "titled", "data_dir": str(titled_data), **expected}
    assert {key: settings[key] for key in expected} == expected


def test_without_a_distilled_sampler_or_with_a_config_the_words_stay(distilled_run, tmp_path):
    (tmp_path / "config.json").write_text('{"dataset": "other"}')
    for arguments in (
        [],
        ["--sampler=head"],
        ["--sampler=distilled", f"--distilled={distilled_run}", f"--config={tmp_path}"],
    ):
        assert samplers.arguments_of_run(arguments, "", "infinite_ae") == arguments
