"""eval.py against a loop over users, and against scikit-learn."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings
from sklearn.metrics import ndcg_score, roc_auc_score

import eval as evaluation
import model
import runs.evaluation
from data import View, sample_negatives
from lib import devices
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
    return view, rows, evaluation.inverse_propensity(context.getnnz(axis=0))


def solve(rows, lamda):
    kernel = model.Kernel(1, normalize=False)
    alpha = model.ridge(kernel(rows), rows, lamda)
    return (
        kernel,
        alpha,
        lambda context: np.asarray(model.predict(kernel(context.toarray().astype(np.float32), rows), alpha)),
    )


def loop_metrics(scores, view, weights):
    """METHOD by the letter: one user, one rank at a time."""
    metrics = {name: np.full(USERS, np.nan) for name in evaluation.PER_USER_METRICS}
    positive, negative = [], []
    for user in range(USERS):
        targets = set(view.targets[user].indices)
        if not targets:
            continue
        ranking = [
            item
            for item in np.argsort(-scores[user], kind="stable")
            if item not in set(view.context[user].indices)
        ]
        positive += [scores[user][item] for item in targets]
        negative += [scores[user][item] for item in view.negatives[user]]
        for k in (10, 100):
            found = min(len(targets), k)
            hits = [(rank, item) for rank, item in enumerate(ranking[:k]) if item in targets]
            gain = sum(1 / math.log2(rank + 2) for rank, _ in hits)
            best = sum(1 / math.log2(rank + 2) for rank in range(found))
            largest = sum(sorted((weights[item] for item in targets), reverse=True)[:found])
            metrics[f"HR@{k}"][user] = 100 * len(hits) / found
            metrics[f"NDCG@{k}"][user] = 100 * gain / best
            metrics[f"PSP@{k}"][user] = 100 * sum(weights[item] for _, item in hits) / found / largest
            metrics[f"PSP_textbook@{k}"][user] = 100 * sum(weights[item] for _, item in hits) / largest
    return metrics, positive, negative


@pytest.mark.parametrize("batch_size", [1, 5, 23, 1000])
def test_metrics_against_a_loop_in_batches_of_any_size(case, batch_size):
    view, rows, weights = case
    kernel, alpha, score = solve(rows, 0.1)
    [found] = evaluation.evaluate(
        evaluation.scores_of(kernel, jnp.asarray(rows), [alpha]),
        1,
        view,
        weights,
        batch_size,
        devices.start(False),
    )
    expected, positive, negative = loop_metrics(score(view.context), view, weights)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    assert found["AUC"] == pytest.approx(roc_auc_score(labels, positive + negative), abs=1e-4)
    means = evaluation.summarise(found)
    assert (
        means["HR@10"] == pytest.approx(np.nanmean(expected["HR@10"])) and np.isnan(expected["HR@10"]).any()
    )


def test_ndcg_against_scikit_learn(case):
    view, rows, weights = case
    kernel, alpha, score = solve(rows, 1.0)
    [found] = evaluation.evaluate(
        evaluation.scores_of(kernel, jnp.asarray(rows), [alpha]), 1, view, weights, 8, devices.start(False)
    )
    scores = np.where(view.context.toarray() > 0, -1e9, score(view.context))
    for user in np.flatnonzero(view.targets.getnnz(axis=1)):
        for k in (10, 100):
            expected = ndcg_score(view.targets[user].toarray().astype(float), scores[user : user + 1], k=k)
            assert found[f"NDCG@{k}"][user] == pytest.approx(100 * expected, rel=1e-5)


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
    view, rows, weights = case
    kernel, alpha, _ = solve(rows, 1.0)
    empty = view._replace(targets=sp.csr_matrix((USERS, ITEMS), dtype=np.int8))
    [found] = evaluation.evaluate(
        evaluation.scores_of(kernel, jnp.asarray(rows), [alpha]), 1, empty, weights, 8, devices.start(False)
    )
    assert all(math.isnan(value) for value in evaluation.summarise(found).values())


def fit_and_evaluate(kernel, rows, lamdas, view, weights, batch_size):
    """[(lamda, alpha, metrics)] of ∞-AE trained on rows with every lamda."""
    alphas = model.fit(kernel, rows, lamdas)
    scores = evaluation.scores_of(kernel, rows, alphas)
    mesh = devices.start(False)
    metrics = evaluation.evaluate(scores, len(alphas), view, weights, batch_size, mesh)
    return list(zip(lamdas, alphas, metrics))


def test_fewer_items_than_the_cutoff():
    rng = np.random.default_rng(2)
    context = sp.csr_matrix((rng.random((6, 12)) < 0.2).astype(np.int8))
    targets = sp.csr_matrix(((rng.random((6, 12)) < 0.5) & ~(context.toarray() > 0)).astype(np.int8))
    view = View(np.arange(6), context, targets, sample_negatives(rng, context + targets))
    rows = jnp.asarray(rng.random((3, 12)), jnp.float32)
    kernel = model.Kernel(1, normalize=True)
    weights = evaluation.inverse_propensity(context.getnnz(axis=0))
    [(_, _, found)] = fit_and_evaluate(kernel, rows, [0.1], view, weights, 4)
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
    view, rows, weights = case
    plain, calls = model.Kernel(1, normalize=False), []

    def kernel(*arguments):  # called while traced: once a shape, however many lamdas share the program
        calls.append(len(arguments))
        return plain(*arguments)

    found = fit_and_evaluate(kernel, jnp.asarray(rows), [0.01, 1.0, 50.0], view, weights, 8)
    assert sorted(calls) == [1, 2]
    for lamda, alpha, metrics in found:
        _, expected, score = solve(rows, lamda)
        np.testing.assert_allclose(alpha, expected, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(
            metrics["NDCG@100"], loop_metrics(score(view.context), view, weights)[0]["NDCG@100"], rtol=1e-4
        )


def test_a_kernel_that_is_not_positive_definite_gives_nan(case):
    view, rows, weights = case
    kernel = lambda first, second=None: -model.Kernel(1, normalize=False)(first, second)
    [(_, _, found)] = fit_and_evaluate(kernel, jnp.asarray(rows), [0.1], view, weights, 8)
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
    settings = {"seed": 1, "validation_users": -1, "eval_batch_size": 50, "best_by": "NDCG@10"}
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
    settings = {"seed": 1, "validation_users": -1, "eval_batch_size": 50, "best_by": "NDCG@10"}
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
