"""eval.py against a loop over users, and against scikit-learn."""

import json
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings
from sklearn.metrics import average_precision_score, ndcg_score, precision_score, recall_score, roc_auc_score

import eval as evaluation
import model
import runs.evaluation
from data import View, sample_negatives
from hyper_params import hyper_params as SETTINGS
from lib import devices
from lib.errors import UserError
from lib.metric_names import ALL_METRICS, CUTOFFS, METRICS, PER_USER_METRICS
from lib.settings import check
from runs.evaluation import show
from runs.lifecycle import format_number

USERS, ITEMS = 23, 140


@pytest.fixture(scope="module")
def case():
    """A view with users without targets, users with more than 10, and scores without ties."""
    rng = np.random.default_rng(0)
    context = rng.random((USERS, ITEMS)) < 0.1
    targets = (rng.random((USERS, ITEMS)) < rng.choice([0, 0.02, 0.3], USERS)[:, None]) & ~context
    targets[:2] = False
    context, targets = (sp.csr_matrix(each.astype(np.int8)) for each in (context, targets))
    view = View(np.arange(USERS), context, targets, sample_negatives(rng, context + targets, 50))
    rows = rng.random((9, ITEMS), dtype=np.float32) ** 3
    return view, rows, context.getnnz(axis=0)


def solve(rows, lamda):
    kernel = model.Kernel(1, normalize=False)
    alpha = model.ridge(kernel(rows), rows, lamda)
    return (
        kernel,
        alpha,
        lambda context: np.asarray(model.predict(kernel(context.toarray().astype(np.float32), rows), alpha)),
    )


def loop_metrics(scores, view, frequency):
    """The definitions by the letter: one user, one rank at a time."""
    users, items = scores.shape
    weights = evaluation.inverse_propensity(frequency)
    place = np.argsort(evaluation.tie_order(items))
    metrics = {name: np.full(users, np.nan) for name in PER_USER_METRICS}
    lists = {k: [] for k in CUTOFFS}
    positive, negative = [], []
    for user in range(users):
        targets, hidden = set(view.targets[user].indices), set(view.context[user].indices)
        if not targets:
            continue
        ranking = sorted(set(range(items)) - hidden, key=lambda item: (-scores[user][item], place[item]))
        positive += [scores[user][item] for item in targets]
        negative += [scores[user][item] for item in view.negatives[user] if item >= 0]
        for k in CUTOFFS:
            lists[k] += ranking[:k]
            found = min(len(targets), k)
            hits = [(rank, item) for rank, item in enumerate(ranking[:k], 1) if item in targets]
            gain = sum(1 / math.log2(rank + 1) for rank, _ in hits)
            best = sum(1 / math.log2(rank + 1) for rank in range(1, found + 1))
            largest = sum(sorted((weights[item] for item in targets), reverse=True)[:found])
            precisions = [number / rank for number, (rank, _) in enumerate(hits, 1)]
            metrics[f"HR@{k}"][user] = 100 * len(hits) / found
            metrics[f"NDCG@{k}"][user] = 100 * gain / best
            metrics[f"PSP@{k}"][user] = 100 * sum(weights[item] for _, item in hits) / found / largest
            metrics[f"PSP_textbook@{k}"][user] = 100 * sum(weights[item] for _, item in hits) / largest
            metrics[f"Recall@{k}"][user] = 100 * len(hits) / len(targets)
            metrics[f"Precision@{k}"][user] = 100 * len(hits) / k
            metrics[f"HitRate@{k}"][user] = 100 if hits else 0
            metrics[f"MRR@{k}"][user] = 100 / hits[0][0] if hits else 0
            metrics[f"MAP@{k}"][user] = 100 * sum(precisions) / found
    for k, listed in lists.items():
        metrics |= {f"{name}@{k}": value for name, value in loop_of_lists(listed, frequency).items()}
    return metrics, positive, negative


def loop_of_lists(listed, frequency):
    """The metrics of all lists, from the items in them; Gini by the mean difference of two items."""
    if not listed:
        return dict.fromkeys(("Coverage", "Gini", "Popularity", "Novelty"), math.nan)
    items, total = len(frequency), sum(frequency)
    counts = [listed.count(item) for item in range(items)]
    differences = sum(abs(one - other) for one in counts for other in counts)
    return {
        "Coverage": 100 * len(set(listed)) / items,
        "Gini": differences / (2 * items * sum(counts)),
        "Popularity": sum(frequency[item] for item in listed) / len(listed),
        "Novelty": sum(-math.log2((frequency[item] + 1) / (total + items)) for item in listed) / len(listed),
    }


@pytest.mark.parametrize("batch_size", [1, 5, 23, 1000])
def test_metrics_against_a_loop_in_batches_of_any_size(case, batch_size):
    view, rows, frequency = case
    kernel, alpha, score = solve(rows, 0.1)
    [found] = evaluation.evaluate(
        evaluation.scores_of(kernel, jnp.asarray(rows), [alpha]),
        1,
        view,
        frequency,
        batch_size,
        devices.start(False),
    )
    expected, positive, negative = loop_metrics(score(view.context), view, frequency)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    assert found["AUC"] == pytest.approx(roc_auc_score(labels, positive + negative), abs=1e-4)
    means = evaluation.summarise(found)
    assert (
        means["HR@10"] == pytest.approx(np.nanmean(expected["HR@10"])) and np.isnan(expected["HR@10"]).any()
    )


def test_ndcg_against_scikit_learn(case):
    view, rows, frequency = case
    kernel, alpha, score = solve(rows, 1.0)
    [found] = evaluation.evaluate(
        evaluation.scores_of(kernel, jnp.asarray(rows), [alpha]), 1, view, frequency, 8, devices.start(False)
    )
    scores = np.where(view.context.toarray() > 0, -1e9, score(view.context))
    for user in np.flatnonzero(view.targets.getnnz(axis=1)):
        for k in (10, 100):
            expected = ndcg_score(view.targets[user].toarray().astype(float), scores[user : user + 1], k=k)
            assert found[f"NDCG@{k}"][user] == pytest.approx(100 * expected, rel=1e-5)


WIDTH, BATCH = 14, 4  # of all random cases, so that a number of items has one program


@hypothesis_settings(deadline=None, max_examples=40)
@given(strategies.integers(0, 2**32 - 1), strategies.sampled_from([1, 12, 130]))
def test_metrics_against_the_loop_with_ties_and_short_lists(seed, items):
    """Few distinct scores; users without targets, with targets they have seen, with hardly an item left."""
    rng = np.random.default_rng(seed)
    numbers = np.minimum([WIDTH, 0, 1, *rng.integers(0, WIDTH + 1, 4)], items)
    targets, users = np.zeros((7, items), np.int8), rng.permutation(7)
    for user, number in zip(users, numbers):
        targets[user, rng.choice(items, number, replace=False)] = 1
    context = rng.random((7, items)) < rng.choice([0, 0.3, 0.95, 1], 7)[:, None]
    context, targets = sp.csr_matrix(context.astype(np.int8)), sp.csr_matrix(targets)
    negatives = rng.integers(-1, items, (7, 5)).astype(np.int32)
    scores = rng.integers(0, rng.choice([1, 3, 50]), (7, items)).astype(np.float32)
    view = View(np.arange(7), context, targets, negatives)
    frequency = rng.integers(0, 9, items) + 1
    [found] = evaluation.evaluate(
        lambda users, context: [jnp.asarray(scores)[users]], 1, view, frequency, BATCH, devices.start(False)
    )
    expected, positive, negative = loop_metrics(scores, view, frequency)
    assert tuple(found) == ALL_METRICS and found.keys() == {*expected, "AUC"}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-9, err_msg=name)
    assert found["AUC"] == pytest.approx(evaluation.pooled_auc(positive, negative), nan_ok=True)


def test_recall_precision_and_map_against_scikit_learn():
    """MAP@100 is the average precision of the whole ranking where no more than 100 items can be ranked."""
    rng = np.random.default_rng(5)
    context = rng.random((8, 60)) < 0.2
    targets = (rng.random((8, 60)) < 0.3) & ~context
    scores = rng.random((8, 60)).astype(np.float32)
    sparse = [sp.csr_matrix(each.astype(np.int8)) for each in (context, targets)]
    view = View(np.arange(8), *sparse, np.zeros((8, 1), np.int32))
    [found] = evaluation.evaluate(
        lambda users, context: [jnp.asarray(scores)], 1, view, np.full(60, 3), 8, devices.start(False)
    )
    for user in range(8):
        wanted, ranked = targets[user][~context[user]], scores[user][~context[user]]
        top = ranked >= np.sort(ranked)[-20]
        assert found["Recall@20"][user] == pytest.approx(100 * recall_score(wanted, top), rel=1e-5)
        assert found["Precision@20"][user] == pytest.approx(100 * precision_score(wanted, top), rel=1e-5)
        expected = 100 * average_precision_score(wanted, ranked)
        assert found["MAP@100"][user] == pytest.approx(expected, rel=1e-5)


def test_ties_favour_neither_low_nor_high_item_numbers():
    """Users who want one half of the items: either half has about half of a list whose scores all tie."""
    halves = np.repeat(np.eye(2, dtype=np.int8), 1000, axis=1)
    context, targets = sp.csr_matrix((2, 2000), dtype=np.int8), sp.csr_matrix(halves)
    view = View(np.arange(2), context, targets, np.zeros((2, 1), np.int32))
    [found] = evaluation.evaluate(
        lambda users, context: [jnp.zeros(context.shape)], 1, view, np.ones(2000), 2, devices.start(False)
    )
    assert found["Precision@100"].sum() == 100
    assert (abs(found["Precision@100"] - 50) < 15).all(), "three standard deviations"
    assert found["Coverage@100"] == 5, "the same list for everybody"


def test_a_perfectly_even_and_a_perfectly_uneven_catalogue():
    """Gini is 0 and (I - 1) / I, the novelty of equally popular items log2 of their number."""
    even = evaluation.list_metrics(np.full(8, 3), np.full(8, 5))
    assert even == pytest.approx({"Coverage": 100, "Gini": 0, "Popularity": 5, "Novelty": 3})
    one = evaluation.list_metrics(np.eye(8, dtype=int)[2] * 7, np.arange(8))
    share = 3 / (28 + 8)
    expected = {"Coverage": 12.5, "Gini": 7 / 8, "Popularity": 2, "Novelty": -math.log2(share)}
    assert one == pytest.approx(expected)


def test_the_setting_takes_every_metric_and_no_other_name():
    assert list(METRICS) == SETTINGS["metrics"]
    assert check({"metrics": list(ALL_METRICS)})
    for wrong in ("HR@11", "HR", "AUC@10", "xHR@10", "HR@100x"):
        with pytest.raises(UserError, match="metrics must be a list of one or more metrics of eval.py"):
            check({"metrics": [wrong]})


def test_what_is_shown_has_the_order_that_was_asked_for():
    metrics = {"AUC": 0.91234, "HR@10": 12.345, "MRR@20": None, "Gini@10": 0.5}
    names = ["MRR@20", "HR@10", "AUC", "Gini@10", "MAP@50"]
    assert show(metrics, names) == "MRR@20 none  HR@10 12.35  AUC 0.9123  Gini@10 0.5000  MAP@50 none"


@pytest.mark.parametrize(
    "value, text",
    [
        (1400, "1400"),
        (1400.0, "1400"),
        (0.00142, "0.00142"),
        (5, "5"),
        (5.0, "5"),
        (0.5, "0.5"),
        (100, "100"),
        (0, "0"),
        (0.0, "0"),
        (1e-4, "0.0001"),
        (65536, "65536"),
        (1234.56, "1235"),
        (12.345, "12.3"),
        (-0.0025, "-0.0025"),
        (9_999_999, "9999999"),
        (1e7, "1e+07"),
        (1e-30, "1e-30"),
        (2.5e-5, "2.5e-05"),
        (0.1 + 0.2, "0.3"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (np.float32(0.1), "0.1"),
    ],
)
def test_numbers_are_readable(value, text):
    assert format_number(value) == text


@hypothesis_settings(deadline=None)
@given(strategies.floats(1e-4, 1e7, exclude_max=True))
def test_numbers_have_three_digits_and_no_exponent(value):
    text = format_number(value)
    assert (
        float(text) == pytest.approx(value, rel=5e-3)
        and not set(text) - set("0123456789.")
        and not text.endswith(".")
    )


def test_pooled_auc_counts_ties_half():
    rng = np.random.default_rng(1)
    positive, negative = rng.integers(0, 5, 40).astype(float), rng.integers(0, 4, 60).astype(float)
    expected = roc_auc_score(np.repeat([1, 0], [40, 60]), np.concatenate([positive, negative]))
    assert evaluation.pooled_auc(positive, negative) == pytest.approx(expected)
    assert math.isnan(evaluation.pooled_auc(positive[:0], negative))


def test_inverse_propensity_by_its_formula():
    train = sp.csr_matrix(np.array([[1, 1, 0], [1, 0, 0]], np.int8))
    c = (math.log(3) - 1) * 2.5**0.55
    expected = [1 + c * (f + 1.5) ** -0.55 for f in (2, 1, 0)]
    np.testing.assert_allclose(evaluation.inverse_propensity(train.getnnz(axis=0)), expected, rtol=1e-6)


def test_no_targets_at_all_gives_nan_not_an_error(case):
    view, rows, frequency = case
    kernel, alpha, _ = solve(rows, 1.0)
    empty = view._replace(targets=sp.csr_matrix((USERS, ITEMS), dtype=np.int8))
    [found] = evaluation.evaluate(
        evaluation.scores_of(kernel, jnp.asarray(rows), [alpha]), 1, empty, frequency, 8, devices.start(False)
    )
    assert all(math.isnan(value) for value in evaluation.summarise(found).values())


def fit_and_evaluate(kernel, rows, lamdas, view, frequency, batch_size):
    """[(lamda, alpha, metrics)] of ∞-AE trained on rows with every lamda."""
    alphas = model.fit(kernel, rows, lamdas)
    scores = evaluation.scores_of(kernel, rows, alphas)
    mesh = devices.start(False)
    metrics = evaluation.evaluate(scores, len(alphas), view, frequency, batch_size, mesh)
    return list(zip(lamdas, alphas, metrics))


def test_fewer_items_than_the_cutoff():
    rng = np.random.default_rng(2)
    context = sp.csr_matrix((rng.random((6, 12)) < 0.2).astype(np.int8))
    targets = sp.csr_matrix(((rng.random((6, 12)) < 0.5) & ~(context.toarray() > 0)).astype(np.int8))
    view = View(np.arange(6), context, targets, sample_negatives(rng, context + targets))
    rows = jnp.asarray(rng.random((3, 12)), jnp.float32)
    kernel = model.Kernel(1, normalize=True)
    [(_, _, found)] = fit_and_evaluate(kernel, rows, [0.1], view, context.getnnz(axis=0), 4)
    np.testing.assert_allclose(found["HR@100"][targets.getnnz(axis=1) > 0], 100)


def test_a_target_in_the_context_counts_and_is_never_hit():
    """Nor where so few items are left that hidden ones fill the list."""
    context, targets = (sp.csr_matrix(np.array([row], np.int8)) for row in ([1, 1, 0, 0], [0, 1, 1, 0]))
    view = View(np.arange(1), context, targets, np.zeros((1, 50), np.int32))
    [found] = evaluation.evaluate(
        lambda users, context: [jnp.zeros(context.shape)],
        1,
        view,
        np.ones(4, np.float32),
        4,
        devices.start(False),
    )
    assert found["HR@10"].tolist() == [50]


def test_scores_of_the_users_it_was_trained_on_need_no_product():
    """X - lamda tr(K)/m alpha is K alpha, whichever users are asked about."""
    rng = np.random.default_rng(3)
    train, kernel = (
        sp.csr_matrix((rng.random((30, 40)) < 0.2).astype(np.int8)),
        model.Kernel(2, normalize=False),
    )
    rows = jnp.asarray(train.toarray(), jnp.float32)
    gram = kernel(rows)
    alpha = model.ridge(gram, rows, 0.5)
    users = np.array([4, 5, 7])
    scores = evaluation.scores_of_trained(alpha, 0.5 * jnp.trace(gram) / 30, 2)
    np.testing.assert_allclose(
        scores(users, train[users + 2].toarray())[0], (gram @ alpha)[users + 2], atol=1e-4
    )


def test_lamda_grid_solves_each_and_builds_the_cross_kernel_once_a_batch(case):
    view, rows, frequency = case
    plain, calls = model.Kernel(1, normalize=False), []

    def kernel(*arguments):  # called while traced: once a shape, however many lamdas share the program
        calls.append(len(arguments))
        return plain(*arguments)

    found = fit_and_evaluate(kernel, jnp.asarray(rows), [0.01, 1.0, 50.0], view, frequency, 8)
    assert sorted(calls) == [1, 2]
    for lamda, alpha, metrics in found:
        _, expected, score = solve(rows, lamda)
        np.testing.assert_allclose(alpha, expected, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(
            metrics["NDCG@100"], loop_metrics(score(view.context), view, frequency)[0]["NDCG@100"], rtol=1e-4
        )


def test_a_kernel_that_is_not_positive_definite_gives_nan(case):
    view, rows, frequency = case
    kernel = lambda first, second=None: -model.Kernel(1, normalize=False)(first, second)
    [(_, _, found)] = fit_and_evaluate(kernel, jnp.asarray(rows), [0.1], view, frequency, 8)
    assert math.isnan(evaluation.summarise(found)["HR@100"]) and math.isnan(found["AUC"])


def test_a_user_who_has_every_item_has_no_negatives():
    """Their -1 stands for nothing, though as an index it is the last item, which scores highest here."""
    known = np.ones((2, 60), np.int8)
    known[1, 20:] = 0
    targets = sp.csr_matrix(known * (np.arange(60) % 4 == 0))
    view = View(
        np.arange(2),
        sp.csr_matrix(known) - targets,
        targets,
        sample_negatives(np.random.default_rng(0), sp.csr_matrix(known)),
    )
    scores = np.random.default_rng(1).random((2, 60)).astype(np.float32)
    scores[:, -1] = 9
    [found] = evaluation.evaluate(
        lambda users, context: [jnp.asarray(scores)],
        1,
        view,
        np.ones(60, np.float32),
        2,
        devices.start(False),
    )
    positive, negative = scores[targets.nonzero()], scores[1, view.negatives[1]]
    assert (view.negatives[0] == -1).all() and (view.negatives[1] >= 20).all()
    assert found["AUC"] == pytest.approx(
        roc_auc_score(np.repeat([1, 0], [len(positive), len(negative)]), [*positive, *negative])
    )
    alone = View(*(each[:1] for each in view))
    [found] = evaluation.evaluate(
        lambda users, context: [jnp.asarray(scores[:1])],
        1,
        alone,
        np.ones(60, np.float32),
        1,
        devices.start(False),
    )
    assert math.isnan(found["AUC"]) and found["HR@100"].tolist() == [100], "nobody to be told apart from"


def test_where_items_are_many_fewer_users_are_scored_at_once(tiny, monkeypatch):
    settings = {**SETTINGS, "seed": 1, "validation_users": -1, "eval_batch_size": 50}
    sizes, metrics = [], []
    for entries in (10**8, 10 * tiny.items + 3):
        monkeypatch.setattr(runs.evaluation, "SCORES", entries)
        own = runs.evaluation.Evaluation(tiny, settings, devices.start(False))

        def scores(users, context):
            sizes.append(len(users))
            return (jnp.sin(jnp.arange(tiny.items) * (users[:, None] + 1.0)),)

        metrics += own.validate(scores)
    users = int((tiny.lengths[1] > 0).sum())
    assert sizes == [-(-users // 3)] * 3 + [10] * 15
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-5)


def test_the_best_lamda_does_not_depend_on_how_many_are_held_at_once(tiny, monkeypatch):
    settings = {**SETTINGS, "seed": 1, "validation_users": -1, "eval_batch_size": 50}
    own = runs.evaluation.Evaluation(tiny, settings, devices.start(False))
    kernel, rows = model.Kernel(1, True), jnp.asarray(tiny.train[:30].toarray(), jnp.float32)
    lamdas, found = [0.01, 30.0, 0.3, 3.0, 1.0], []
    for numbers in (10**8, 2 * rows.size, 1):
        monkeypatch.setattr(runs.evaluation, "SOLVED", numbers)
        found.append(own.best_lamda(kernel, rows, lamdas))
    alone = {lamda: own.best_lamda(kernel, rows, [lamda])[2]["NDCG@10"] for lamda in lamdas}
    for lamda, alpha, metrics in found:
        assert lamda == max(alone, key=alone.get) and alpha.shape == rows.shape
        assert metrics["NDCG@10"] == pytest.approx(alone[lamda], rel=1e-6)


def test_the_metrics_asked_for_are_printed_and_all_are_kept(tiny_data, tmp_path, run_script):
    """Other metrics make no other run: the second command finds the first one's."""
    command = ["baselines.py", "--model=pop", "--dataset=tiny", f"--data_dir={tiny_data}"]
    command += [f"--results_dir={tmp_path}"]
    lines = run_script(*command, '--metrics=["Recall@20", "Gini@100"]').stdout.splitlines()
    assert re.fullmatch(r"test  Recall@20 \d+\.\d\d  Gini@100 0\.\d{4}", lines[-1]), lines[-1]
    assert sum("validation  Recall@20" in line for line in lines) == 1
    [path] = tmp_path.glob("*/result.json")
    result = json.loads(path.read_text())
    for part in (result, result["yardsticks"]["popularity"]):
        assert tuple(part["val"]) == tuple(part["test"]) == ALL_METRICS
    again = run_script(*command).stdout
    assert "was finished before" in again and again.splitlines()[-1].startswith("test  HR@10 ")
