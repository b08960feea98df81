"""runs/trials.py: which recipe rehearsals choose, on generated data of five shapes and on invented curves."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import clustered_interactions, write_layout

import data
import distill
from lib import devices
from lib.settings import resolve
from prep.filters import split_interactions
from runs import recipes, trials

pytestmark = pytest.mark.usefixtures("no_pictures")


def settings_of(results, *words):
    return resolve([f"--results_dir={results}", *words], "", "distill")[0]


def thinned(dataset):
    """The data set, of whose users but a few have validation items."""
    validation = dataset.validation.tolil()
    validation[10:] = 0
    validation = sp.csr_matrix(validation)
    lengths = dataset.lengths.copy()
    lengths[data.VALIDATION] = np.diff(validation.indptr)
    return dataclasses.replace(dataset, validation=validation, lengths=lengths)


class Invented:
    """rehearse(settings, dataset, lamdas) with invented NDCG@10, and what it was called with."""

    def __init__(self, quality, noise=0.0, popularity=1.0):
        self.quality, self.noise, self.popularity, self.calls = quality, noise, popularity, []

    def __call__(self, settings, dataset, lamdas):
        self.calls.append((settings, dataset, lamdas))
        rng = np.random.default_rng(len(self.calls))
        curve = {
            (step, lamda): self.quality(settings, step, lamda) + self.noise * rng.normal(size=200)
            for step in (0, 10, 20)
            for lamda in lamdas
        }
        return curve

    def popular(self, settings, dataset):
        return np.full(200, self.popularity)


def choose(settings, dataset, rehearse, popularity=None):
    popularity = popularity or rehearse.popular
    return trials.choose(settings, dataset, rehearse, popularity, lambda settings, dataset: None)


def by_recipe(**qualities):
    """The quality of a recipe at its last step, by its loss or learning rate."""

    def quality(settings, step, lamda):
        name = "gentle" if settings["shared_moment"] else {0.02: "sparse"}.get(settings["learning_rate"])
        return qualities.get(name or settings["loss"], 0.0) + step / 100 - (lamda != "step")

    return quality


def test_full_validation_chooses_the_recipe_and_leaves_the_step_to_the_run(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "FULL_TARGETS", 10)
    many = recipes.Statistics(10, 10, 1500)
    monkeypatch.setattr(recipes, "statistics_of", lambda dataset: many)
    rehearse = Invented(by_recipe(softmax=5.0, squared=6.0))
    choice = choose(settings_of(tmp_path, "--user_support=60"), tiny, rehearse)
    assert (choice.recipe, choice.keep_step, choice.keep_lamda) == ("squared", "best", "best")
    assert [call[0]["loss"] for call in rehearse.calls] == ["squared", "softmax"]
    assert all(call[1] is tiny and call[2] == ("step",) for call in rehearse.calls)
    assert choice.reason.startswith("NDCG@10 6.20 in a rehearsal; against it, where both were ")
    assert "rehearsed, plain -1.00 ± " in choice.reason and "likeliest" not in choice.reason
    named = settings_of(tmp_path, "--user_support=60", "--recipe=plain")
    assert choose(named, tiny, rehearse) is None and len(rehearse.calls) == 2


def test_thin_validation_is_redrawn_and_chooses_step_and_lamda_too(tiny, tmp_path):
    rehearse = Invented(by_recipe(sparse=5.0, gentle=6.0, softmax=4.0), noise=1.0, popularity=7.0)
    choice = choose(settings_of(tmp_path), tiny, rehearse)
    assert (choice.recipe, choice.keep_step, choice.keep_lamda) == ("gentle", 20, "step")
    divisions = {id(call[1]): call[1] for call in rehearse.calls}
    assert 1 < len(divisions) <= trials.MOST_DRAWS and all(
        one.test is tiny.test for one in divisions.values()
    )
    assert [call[0]["seed"] for call in rehearse.calls] == [0] * len(rehearse.calls)
    assert choice.popularity == 7 > choice.quality and choice.reason.endswith("popularity 7.00")
    found = recipes.resolve_auto(settings_of(tmp_path), recipes.statistics_of(tiny), choice=choice)
    assert found[0]["recipe"] == "gentle" and found[0]["keep_step"] == 20
    assert found[1]["keep_step"] == choice.reason and found[0]["shared_moment"] is True


@pytest.mark.parametrize("name, said", [("sparse", True), ("gentle", False)])
def test_a_recipe_that_another_leads_by_chance_alone_says_why_it_stays(name, said):
    noise = np.random.default_rng(0).normal(size=(2, 200))
    noise -= noise.mean(axis=1, keepdims=True)
    found = {"sparse": [{(0, "step"): 5 + noise[0]}], "gentle": [{(0, "step"): 5.05 + noise[1]}]}
    reason = trials._conclude(found, name, [np.ones(200)], thin=True).reason
    error = (noise[0] - noise[1]).std(ddof=1) / np.sqrt(200)
    other, lead = ("gentle", "+0.05") if said else ("sparse", "-0.05")
    assert f"{other} {lead} ± {error:.2f}" in reason
    assert ("; sparse is the likeliest here, and stays unless" in reason) == said


def test_two_recipes_that_differ_by_chance_are_both_tried_again(tiny, tmp_path):
    alike = Invented(by_recipe(sparse=5.0, gentle=5.001), noise=1.0)
    choose(settings_of(tmp_path / "alike"), tiny, alike)
    clear = Invented(by_recipe(sparse=5.0, gentle=6.0), noise=1.0)
    choose(settings_of(tmp_path / "clear"), tiny, clear)
    assert len(alike.calls) > len(clear.calls)


def test_what_is_set_stays_and_scores_that_are_not_finite_are_left_out(tiny, tmp_path):
    broken = Invented(lambda settings, step, lamda: np.nan if settings["normalize"] else 3.0 + step)
    choice = choose(settings_of(tmp_path, "--learning_rate=0.5"), tiny, broken)
    assert choice.recipe in ("sparse", "gentle") and choice.keep_step == 20
    assert all(call[0]["learning_rate"] == 0.5 for call in broken.calls)


def test_the_choice_is_kept_for_the_data_whatever_their_name_and_the_seed(tiny, tmp_path):
    rehearse = Invented(by_recipe(sparse=5.0))
    first = choose(settings_of(tmp_path), tiny, rehearse)
    count = len(rehearse.calls)
    renamed = dataclasses.replace(tiny, name="other")
    assert choose(settings_of(tmp_path, "--dataset=other", "--seed=7"), renamed, rehearse) == first
    assert len(rehearse.calls) == count
    [path] = tmp_path.glob(".rehearsals-*.json")
    path.write_text("{")
    assert choose(settings_of(tmp_path), tiny, rehearse) == first and len(rehearse.calls) == 2 * count
    assert json.loads(path.read_text())["recipe"] == "sparse"
    changed = dataclasses.replace(tiny, fingerprint="other")
    choose(settings_of(tmp_path), changed, rehearse)
    assert len(list(tmp_path.glob(".rehearsals-*.json"))) == 2


def test_killed_rehearsals_go_on_behind_the_last(tiny, tmp_path):
    rehearse = Invented(by_recipe(sparse=5.0, gentle=6.0), noise=1.0)
    whole = choose(settings_of(tmp_path / "whole"), tiny, rehearse)
    again = Invented(rehearse.quality, rehearse.noise)

    def killed(*arguments):
        if len(again.calls) == 4:
            raise KeyboardInterrupt
        return again(*arguments)

    with pytest.raises(KeyboardInterrupt):
        choose(settings_of(tmp_path / "killed"), tiny, killed, again.popular)
    assert choose(settings_of(tmp_path / "killed"), tiny, again) == whole
    assert len(again.calls) == len(rehearse.calls) > 4
    [left] = (tmp_path / "killed").iterdir()
    assert left.name.endswith(".json")


def test_rehearsals_cost_no_more_than_they_may(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "FREE", 0)
    rehearse = Invented(by_recipe(sparse=5.0))
    choose(settings_of(tmp_path), tiny, rehearse)
    tried = [call[0]["recipe"] for call in rehearse.calls]
    assert tried == ["sparse", "popular"], "of four candidates and six divisions, as much as 1.5 runs"


def test_one_recipe_that_is_alone_affordable_is_not_rehearsed_without_a_need(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "FULL_TARGETS", 10)
    monkeypatch.setattr(trials, "_affordable", lambda costs, budget: [*costs][:1])
    monkeypatch.setattr(recipes, "statistics_of", lambda dataset: recipes.Statistics(10, 10, 1500))
    rehearse = Invented(by_recipe(softmax=5.0, squared=6.0))
    assert choose(settings_of(tmp_path, "--user_support=60"), tiny, rehearse) is None and not rehearse.calls


def test_a_cheap_recipe_is_rehearsed_where_a_dearer_one_before_it_is_not():
    costs = {"sparse": 10, "gentle": 9, "popular": 2, "plain": 3}
    assert trials._affordable(costs, 15) == ["sparse", "popular", "plain"]
    assert trials._affordable(costs, 12) == ["sparse", "popular"]
    assert trials._affordable(costs, 1) == ["sparse"] and trials._affordable(costs, 99) == [*costs]


# ---- Five shapes ---------------------------------------------------------------------------------------


def short(users, items, rng):
    """(user, item) of users with few interactions: popular items, or items of their own cluster."""
    popularity = 1 / np.arange(1, items + 1) ** 0.8
    user, item = [], []
    for one in range(users):
        weight = popularity * np.where(rng.integers(4) == np.arange(items) % 4, 8.0, 1.0)
        count = min(items, 3 + rng.geometric(0.4))
        user += [one] * count
        item += rng.choice(items, count, replace=False, p=weight / weight.sum()).tolist()
    return np.array(user), np.array(item)


SHAPES = {
    "dense": lambda rng: clustered_interactions(300, 80, 4, rng),
    "sparse": lambda rng: short(500, 200, rng),
    "wide": lambda rng: clustered_interactions(120, 900, 4, rng),
    "tiny": lambda rng: short(60, 60, rng),
    "60 items": lambda rng: clustered_interactions(400, 60, 3, rng),
}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """made(shape) -> (words of a run of distill.py on generated data of the shape, the results folder)."""
    monkeypatch.setattr(trials, "MOST_DRAWS", 1)
    monkeypatch.setattr(recipes, "SPARSE", 10)  # small data have short histories

    def make(shape):
        rng = np.random.default_rng(3)
        user, item = SHAPES[shape](rng)
        write_layout(tmp_path / "made", user, item, split_interactions(user, rng))
        results = tmp_path / "results"
        words = "--dataset=made", f"--data_dir={tmp_path}", f"--results_dir={results}", "--train_steps=6"
        return words, results

    return make


@pytest.mark.parametrize("shape", ["dense", "sparse", "wide", "60 items"])
def test_the_choice_is_not_below_popularity(shape, made, tmp_path):
    """By more than chance: two standard errors over users."""
    words, _ = made(shape)
    dataset, mesh, of_users = data.load("made", tmp_path), devices.start(False), {}

    def rehearse(settings, dataset, lamdas):
        of_users[settings["recipe"]] = curve = distill.rehearse(settings, dataset, lamdas, mesh)
        return curve

    def popularity(settings, dataset):
        of_users["popularity"] = users = distill.popularity_in_rehearsals(settings, dataset, mesh)
        return users

    choice = choose(resolve(words, "", "distill")[0], dataset, rehearse, popularity)
    users = of_users[choice.recipe][choice.keep_step, choice.keep_lamda]
    lead = users - of_users["popularity"]
    assert np.nanmean(lead) > -2 * np.nanstd(lead) / np.sqrt(np.isfinite(lead).sum())
    assert choice.quality == pytest.approx(np.nanmean(users))
    assert len(of_users) > 1


def test_a_run_on_tiny_data_says_what_it_chose_and_goes_on_with_it(made, run_script):
    words, results = made("tiny")
    done = run_script("distill.py", *words)
    assert done.returncode == 0, done.stderr
    [kept] = results.glob(".rehearsals-*.json")
    [folder] = (path.parent for path in results.glob("*/config.json"))
    config, result = (json.loads((folder / name).read_text()) for name in ("config.json", "result.json"))
    choice, settings = json.loads(kept.read_text()), config["settings"]
    assert settings["recipe"] == choice["recipe"] and config["auto"]["recipe"] == choice["reason"]
    assert choice["reason"] in done.stdout and result["best_step"] == settings["keep_step"]
    users = np.load(folder / "users.npz")["NDCG@10"]
    error = np.nanstd(users) / np.sqrt(np.isfinite(users).sum())
    assert result["test"]["NDCG@10"] > result["yardsticks"]["popularity"]["test"]["NDCG@10"] - 2 * error
    (folder / "result.json").unlink()  # as if it had been killed before its end
    before = kept.stat().st_mtime_ns
    again = run_script("distill.py", *words)
    assert again.returncode == 0 and kept.stat().st_mtime_ns == before, again.stderr
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]


# ---- Its parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("learn_lamda", ["true", "false"])
def test_a_rehearsal_learns_as_a_run_does(learn_lamda, tiny, tiny_data, tmp_path, run_script):
    """The same steps: NDCG@10 of validation is that of distill.py with the same settings."""
    words = "--dataset=tiny", "--recipe=plain", "--user_support=8", "--train_steps=12", "--batch_size=100"
    words += f"--learn_lamda={learn_lamda}", "--lamda_grid=[0.01, 3]", "--best_by=NDCG@10"
    kept = "--keep_step=best", "--keep_lamda=step", "--seed=0"
    settings = settings_of(tmp_path, *words, *kept)
    ready = trials.concrete(settings, recipes.statistics_of(tiny), "plain")
    assert ready["batch_size"] == 100
    curve = distill.rehearse(ready, tiny, ("step", 1.0), devices.start(False))
    done = run_script("distill.py", *words, *kept, f"--data_dir={tiny_data}", f"--results_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    [folder] = (path.parent for path in Path(tmp_path).glob("*/metrics.jsonl"))
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in history] == sorted({step for step, _ in curve}) == [0, 2, 5, 10, 12]
    for line in history:
        assert np.nanmean(curve[line["step"], "step"]) == pytest.approx(
            line["validation"]["NDCG@10"], abs=1e-4
        )
    assert all(values.shape == (150,) for values in curve.values()) and (12, 1.0) in curve


@pytest.mark.parametrize("draw", [0, 1])
def test_redraw_divides_train_and_validation_anew(tiny, draw):
    thin = thinned(tiny)
    divided = data.redraw(thin, draw)
    assert divided.test is thin.test and (divided.lengths[data.TEST] == thin.lengths[data.TEST]).all()
    for user in range(thin.users):
        row = lambda matrix: set(matrix[user].indices)
        known = row(thin.train) | row(thin.validation)
        assert row(divided.train) | row(divided.validation) == known
        assert not row(divided.train) & row(divided.validation)
        assert len(row(divided.validation)) == (max(1, len(known) // 10) if len(known) > 1 else 0)
    assert (divided.frequency == divided.train.sum(axis=0).A1).all()
    assert (divided.lengths[data.TRAIN] == np.diff(divided.train.indptr)).all()
    assert (data.redraw(thin, draw).train != divided.train).nnz == 0
    assert (data.redraw(thin, draw + 1).train != divided.train).nnz > 0


def test_redraw_does_not_depend_on_the_number_of_processes(tiny, tiny_data):
    parts = []
    whole = data.redraw(tiny, 0)

    for process in range(2):
        shard = data.load("tiny", tiny_data, "keep", process, 2)
        everyone = np.diff((tiny.train + tiny.validation).indptr)
        half = dataclasses.replace(
            shard, lengths=tiny.lengths, gather=partial(_gathered, whole, tiny, everyone)
        )
        parts.append(data.redraw(half, 0))
    assert (sp.vstack([part.train for part in parts]) != whole.train).nnz == 0


def _gathered(whole, tiny, everyone, local):
    """What two processes would gather, by the shape of a process's share."""
    if local.ndim == 1:
        return everyone
    return whole.lengths[:2].T if local.shape[1] == 2 else whole.frequency[None]


def test_few_users_or_few_targets_are_thin(tiny, monkeypatch):
    assert trials.is_thin(tiny), "150 users have few targets"
    monkeypatch.setattr(trials, "FULL_TARGETS", 100)
    assert not trials.is_thin(tiny) and trials.is_thin(thinned(tiny))
