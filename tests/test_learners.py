"""rivals/: what is trained by gradient descent, its losses and draws, against slow, obvious ones."""

import inspect
import re
from functools import cache, partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse as sp
from hypothesis import given, settings, strategies
from scipy.stats import norm
from sklearn.linear_model import Ridge

from hyper_params import grids, kinds
from lib.files import ROOT
from rivals import autoencoders, descent, learners


def compiled(learner):
    """The Learner with its functions compiled: one operation at a time, compiling them takes seconds."""
    names = "initialise", "draw", "loss", "tables", "scores"
    return learner._replace(**{name: jax.jit(getattr(learner, name)) for name in names})


def some_matrix(rng, users=30, items=40, share=0.2):
    return sp.csr_matrix((rng.random((users, items)) < share).astype(np.int8))


@given(strategies.integers(0, 2**31), strategies.floats(0, 0.95))
@settings(max_examples=20, deadline=None)
def test_negatives_are_never_positive(seed, share):
    rng = np.random.default_rng(seed)
    matrix = some_matrix(rng, 12, 9, share)
    matrix = matrix[np.diff(matrix.indptr) < 9]
    if matrix.nnz:
        user = jnp.asarray(rng.integers(matrix.shape[0], size=50))
        draw = jax.jit(partial(descent.draw_negatives, items=9, count=6))
        negatives = np.asarray(draw(jax.random.key(seed), descent.histories_of(matrix), user))
        assert negatives.min() >= 0 and negatives.max() < 9
        assert not matrix.toarray()[np.asarray(user)[:, None], negatives].any()


def test_negatives_are_drawn_evenly():
    matrix = sp.csr_matrix(np.array([[1, 0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0]], np.int8))
    drawn = np.asarray(
        descent.draw_negatives(jax.random.key(0), descent.histories_of(matrix), jnp.array([0, 1]), 7, 40_000)
    )
    share = np.stack([np.bincount(row, minlength=7) / 40_000 for row in drawn])
    expected = np.array([[0, 1 / 4, 1 / 4, 0, 1 / 4, 0, 1 / 4], [1 / 7] * 7])
    assert share == pytest.approx(expected, abs=0.01)


def test_dense_rows_are_the_matrix(rng=np.random.default_rng(0)):
    matrix = some_matrix(rng).astype(np.float32)
    matrix.data[:] = rng.random(matrix.nnz)  # weights, as synthetic users have
    users = np.array([5, 0, 29, 5])
    assert np.array_equal(
        descent.dense_rows(descent.histories_of(matrix), jnp.asarray(users), 40), matrix[users].toarray()
    )


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_propagation_is_the_mean_of_the_powers_of_a_dense_graph(layers):
    rng = np.random.default_rng(1)
    matrix = some_matrix(rng)
    embeddings = rng.normal(size=(70, 5))
    dense = np.zeros((70, 70))
    dense[:30, 30:] = matrix.toarray()
    dense += dense.T
    degree = np.maximum(dense.sum(1), 1)
    graph = dense / np.sqrt(np.outer(degree, degree))
    expected = np.mean(
        [np.linalg.matrix_power(graph, power) @ embeddings for power in range(layers + 1)], axis=0
    )
    found = learners.propagate(
        descent.histories_of(matrix),
        {
            "user": jnp.asarray(embeddings[:30], jnp.float32),
            "item": jnp.asarray(embeddings[30:], jnp.float32),
        },
        layers,
    )
    assert np.concatenate([found["user"], found["item"]]) == pytest.approx(expected, abs=1e-5)


def test_the_loss_of_mvae_in_numpy():
    """Without dropout; the latent noise is repeated with the same key."""
    learner = autoencoders.mvae(6, 40, hidden=7, dimensions=3, dropout=0.0, kl_weight=0.3, anneal_steps=10)
    learner = compiled(learner)
    params = learner.initialise(jax.random.key(1))
    rows = some_matrix(np.random.default_rng(2), 6).toarray().astype(np.float64)
    double = jax.tree.map(lambda array: np.asarray(array, np.float64), params)
    [[(w1, b1), (w2, b2)], [(w3, b3), (w4, b4)]] = double
    key = jax.random.key(3)
    total = 0
    noise = np.asarray(jax.random.normal(jax.random.split(key)[1], (6, 3)))
    for row, epsilon in zip(rows, noise):
        code = np.tanh(row / np.sqrt((row**2).sum()) @ w1 + b1) @ w2 + b2
        mean, log_variance = code[:3], code[3:]
        logits = np.tanh((mean + np.exp(log_variance / 2) * epsilon) @ w3 + b3) @ w4 + b4
        divergence = 0.5 * sum(np.exp(v) + m**2 - 1 - v for m, v in zip(mean, log_variance))
        total += -(row * (logits - np.log(np.exp(logits).sum()))).sum() + 0.3 * min(5 / 10, 1) * divergence
    assert float(learner.loss(params, jnp.asarray(rows, jnp.float32), None, key, 5)) == pytest.approx(
        total / 6, rel=1e-4
    )


def normal_density(value, mean, log_variance):
    return norm.pdf(value, mean, np.exp(log_variance / 2))


def test_the_composite_prior_in_a_loop():
    rng = np.random.default_rng(0)
    code, mean, log_variance = rng.normal(size=(3, 4, 5)) * np.array([3, 2, 1])[:, None, None]
    expected = np.zeros((4, 5))
    for place in np.ndindex(4, 5):
        standard, wide = normal_density(code[place], 0, 0), normal_density(code[place], 0, 10)
        earlier = normal_density(code[place], mean[place], log_variance[place])
        expected[place] = np.log(0.15 * standard + 0.75 * earlier + 0.1 * wide)
    found = jax.jit(autoencoders.composite_prior)(*(jnp.asarray(each) for each in (code, mean, log_variance)))
    assert found == pytest.approx(expected, rel=1e-5)


def slow_posterior(encoder, row):
    """(mean, log variance), (d,) each, of RecVAE's encoder for one input (I,)."""
    outputs = []
    for layer in encoder["layers"]:
        before = outputs[-1] if outputs else row
        total = before @ layer["weights"] + layer["bias"] + sum(outputs)
        active = total / (1 + np.exp(-total))
        normal = (active - active.mean()) / np.sqrt(active.var() + 0.1)
        outputs.append(layer["gain"] * normal + layer["shift"])
    assert len(outputs) == 5
    return np.split(outputs[-1] @ encoder["out"]["weights"] + encoder["out"]["bias"], 2)


def test_the_losses_and_scores_of_recvae_in_numpy():
    """The losses of both passes, with the latent noise and the dropout of the same key."""
    learner = autoencoders.recvae(6, 40, hidden=7, dimensions=3, dropout=0.3, gamma=0.02)
    keys = iter(jax.random.split(jax.random.key(1), 100))
    shaken = lambda array: array + 0.3 * jax.random.normal(next(keys), array.shape)
    params = jax.tree.map(shaken, learner.initialise(jax.random.key(0)))
    double = jax.tree.map(lambda array: np.asarray(array, np.float64), params)
    rows = some_matrix(np.random.default_rng(2), 6).toarray().astype(np.float64)
    key = jax.random.key(3)
    drop_key, noise_key = jax.random.split(key)
    noise = np.asarray(jax.random.normal(noise_key, (6, 3)))
    kept = np.asarray(jax.random.uniform(drop_key, (6, 40))) < 0.7

    def score(code):
        return code @ double["decoder"]["weights"] + double["decoder"]["bias"]

    def log_likelihood(code, row):
        logits = score(code)
        return (row * (logits - np.log(np.exp(logits).sum()))).sum()

    of_encoder, of_decoder = 0, 0
    for row, epsilon, keep in zip(rows, noise, kept):
        whole = row / np.sqrt(row.sum())
        mean, log_variance = slow_posterior(double["encoder"], whole * keep / 0.7)
        code = mean + np.exp(log_variance / 2) * epsilon
        divergence = np.log(normal_density(code, mean, log_variance)).sum()
        earlier = normal_density(code, *slow_posterior(double["previous"], whole))
        standard, wide = normal_density(code, 0, 0), normal_density(code, 0, 10)
        divergence -= np.log(0.15 * standard + 0.75 * earlier + 0.1 * wide).sum()
        of_encoder += (0.02 * row.sum() * divergence - log_likelihood(code, row)) / 6
        mean, log_variance = slow_posterior(double["encoder"], whole)
        of_decoder -= log_likelihood(mean + np.exp(log_variance / 2) * epsilon, row) / 6
    single = jnp.asarray(rows, jnp.float32)
    found = [float(one.loss(params, single, None, key, 0)) for one in learner.passes]
    assert found == pytest.approx([of_encoder] * 3 + [of_decoder], rel=1e-4)
    expected = [score(slow_posterior(double["encoder"], row / np.sqrt(row.sum()))[0]) for row in rows]
    assert np.asarray(learner.scores(params, None, single)) == pytest.approx(np.array(expected), abs=1e-4)


def test_each_pass_of_recvae_trains_its_own_part():
    """Also once Adam's moments would move the other; the previous encoder is that before the epoch."""
    learner = autoencoders.recvae(30, 40, hidden=6, dimensions=3)
    encoder, decoder = learner.passes[0], learner.passes[-1]
    assert [one.entry for one in learner.passes] == ["encoder"] * 3 + ["decoder"]
    histories, optimizer = descent.histories_of(some_matrix(np.random.default_rng(0))), optax.adam(0.01)
    params = learner.initialise(jax.random.key(0))
    state = descent.start_optimizer(learner, optimizer, params)
    epoch_of = cache(
        lambda *passes: descent.make_epoch(learner._replace(passes=passes), histories, optimizer, 10)[0]
    )
    for number, passes in enumerate([(encoder, decoder), (encoder,), (decoder,), (encoder,)]):
        before, before_state = params, state
        params, state, _ = epoch_of(*passes)(params, state, jax.random.key(number), 0)
        for entry in ("encoder", "decoder"):
            trained = entry in [one.entry for one in passes]
            assert is_same(params[entry], before[entry]) != trained
            assert is_same(state[entry], before_state[entry]) != trained
        assert is_same(params["previous"], before["encoder"])


def is_same(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def test_passes_take_turns_as_a_plain_loop_does():
    """Two passes train x, then one trains y, which sees the new x."""
    examples = lambda histories, examples, key: examples
    learner = descent.Learner(
        None,
        examples,
        None,
        None,
        None,
        by_user=True,
        passes=(
            *[descent.Pass("x", lambda params, batch, *_: 0.1 * params["x"] * params["y"] * len(batch))] * 2,
            descent.Pass("y", lambda params, batch, *_: -params["x"] * params["y"]),
        ),
        refresh=lambda params: {**params, "start": params["x"]},
    )
    optimizer = optax.sgd(1.0)
    params = {"x": jnp.array(3.0), "y": jnp.array(0.2), "start": jnp.array(0.0)}
    epoch, steps = descent.make_epoch(
        learner, descent.histories_of(some_matrix(np.random.default_rng(0), 30)), optimizer, 3
    )
    found, _, _ = epoch(params, descent.start_optimizer(learner, optimizer, params), jax.random.key(0), 0)
    x, y = 3.0, 0.2
    for _ in range(20):
        x -= 0.3 * y
    for _ in range(10):
        y += x
    assert steps == 30
    assert found == pytest.approx({"x": x, "y": y, "start": 3.0}, rel=1e-5)


def test_neumf_scores_every_pair_as_its_loss_does():
    """The scores of all items, whose first layer is split in two, against the loss of one pair at a time."""
    learner = compiled(learners.neumf(5, 40, dimensions=4, l2=0.0))
    params = jax.tree.map(lambda array: array + 0.1, learner.initialise(jax.random.key(0)))
    scores = np.asarray(learner.scores(params, jnp.arange(5), None), np.float64)
    for user, item, other in [(0, 3, 7), (4, 39, 0), (2, 11, 12)]:
        batch = descent.Batch(jnp.array([user]), jnp.array([item]), jnp.array([[other]]))
        expected = (np.log1p(np.exp(-scores[user, item])) + np.log1p(np.exp(scores[user, other]))) / 2
        assert float(learner.loss(params, batch, None, jax.random.key(0), 0)) == pytest.approx(
            expected, rel=1e-4
        )


def test_bpr_of_mf_in_numpy():
    learner = compiled(learners.mf(6, 9, dimensions=4, l2=0.01))
    params = {**learner.initialise(jax.random.key(0)), "bias": jax.random.normal(jax.random.key(2), (9,))}
    p, q, b = (np.asarray(params[name], np.float64) for name in ("user", "item", "bias"))
    pairs = [(0, 3, 4), (5, 8, 0)]
    expected = 0
    for u, i, j in pairs:
        margin = p[u] @ q[i] + b[i] - p[u] @ q[j] - b[j]
        expected += np.log1p(np.exp(-margin)) + 0.01 * (p[u] @ p[u] + q[i] @ q[i] + q[j] @ q[j])
    batch = descent.Batch(jnp.array([0, 5]), jnp.array([3, 8]), jnp.array([[4], [0]]))
    loss = float(learner.loss(params, batch, None, jax.random.key(1), 0))
    assert loss == pytest.approx(expected / 2, rel=1e-4)
    scores = learner.scores(params, jnp.array([5, 0]), None)
    assert np.asarray(scores) == pytest.approx((p @ q.T + b)[[5, 0]], abs=1e-5)


def test_bpr_of_lightgcn_in_numpy():
    """Scores are of the propagated embeddings, the squared norms of those before."""
    matrix = some_matrix(np.random.default_rng(4), 6, 9, 0.4)
    histories = descent.histories_of(matrix)
    learner = compiled(learners.lightgcn(6, 9, dimensions=4, l2=0.3, layers=2))
    params = learner.initialise(jax.random.key(0))
    far = learners.propagate(histories, params, 2)
    (p, q), (x, y) = (
        [np.asarray(tree[name], np.float64) for name in ("user", "item")] for tree in (params, far)
    )
    expected = 0
    for u, i, j in [(0, 3, 4), (5, 8, 0)]:
        norms = p[u] @ p[u] + q[i] @ q[i] + q[j] @ q[j]
        expected += np.log1p(np.exp(x[u] @ y[j] - x[u] @ y[i])) + 0.3 * norms
    batch = descent.Batch(jnp.array([0, 5]), jnp.array([3, 8]), jnp.array([[4], [0]]))
    loss = float(learner.loss(params, batch, histories, jax.random.key(1), 0))
    assert loss == pytest.approx(expected / 2, rel=1e-4)
    scores = learner.scores(learner.tables(params, histories), jnp.array([5, 0]), None)
    assert np.asarray(scores) == pytest.approx((x @ y.T)[[5, 0]], abs=1e-6)


def test_mf_folds_users_in_by_ridge_regression_of_the_known_ones():
    """From the mean embedding of a user's items to that of the user, with an intercept."""
    rng = np.random.default_rng(5)
    matrix = some_matrix(rng, 30, 9, 0.4)
    learner = compiled(learners.mf(30, 9, dimensions=4))
    params = {**learner.initialise(jax.random.key(0)), "bias": jax.random.normal(jax.random.key(2), (9,))}
    tables, scores = map(jax.jit, learner.fold_in)
    context = (rng.random((6, 9)) < 0.4).astype(np.int8)
    context[2] = 0
    found = scores(tables(params, descent.histories_of(matrix)), jnp.arange(6), jnp.asarray(context))
    p, q, b = (np.asarray(params[name], float) for name in ("user", "item", "bias"))
    mean_of = lambda rows: np.array([q[row > 0].mean(0) if row.any() else np.zeros(4) for row in rows])
    known = mean_of(matrix.toarray())
    strength = learners.FOLD_IN_RIDGE * np.square(known - known.mean(0)).sum() / 4
    expected = Ridge(strength).fit(known, p).predict(mean_of(context)) @ q.T + b
    assert np.asarray(found) == pytest.approx(expected, abs=1e-4)


def test_lightgcn_folds_users_in_by_the_sum_over_their_items():
    """Their embedding is 0 before the first layer; the items' own stay as they were trained."""
    matrix = some_matrix(np.random.default_rng(4), 6, 9, 0.4)
    histories = descent.histories_of(matrix)
    learner = learners.lightgcn(6, 9, dimensions=4, l2=0.3, layers=3)
    params = learner.initialise(jax.random.key(0))
    context = np.zeros((2, 9), np.float32)
    context[0, [1, 4, 5]] = 1
    tables, scores = map(jax.jit, learner.fold_in)
    scores = np.asarray(scores(tables(params, histories), None, jnp.asarray(context)))
    dense = matrix.toarray().astype(float)
    degree_user, degree_item = np.maximum(dense.sum(1), 1), np.maximum(dense.sum(0), 1)
    link = dense / np.sqrt(np.outer(degree_user, degree_item))
    user, item = np.asarray(params["user"], float), np.asarray(params["item"], float)
    items, new = [item], [np.zeros(4)]
    for _ in range(3):
        new.append(sum(items[-1][i] / np.sqrt(3 * degree_item[i]) for i in (1, 4, 5)))
        user, item = link @ item, link.T @ user
        items.append(item)
    expected = np.mean(new, 0) @ np.mean(items, 0).T
    assert scores[0] / np.linalg.norm(scores[0]) == pytest.approx(
        expected / np.linalg.norm(expected), abs=1e-5
    )
    assert not scores[1].any()


@pytest.mark.parametrize("name", learners.LEARNERS)
def test_every_learner_is_made_and_trained_in_the_same_way(name):
    """From users, items and a setting of its grid; its loss falls, and it scores every item."""
    make = learners.LEARNERS[name]
    assert list(inspect.signature(make).parameters)[:2] == ["users", "items"]
    small = {key: 8 for key in ("dimensions", "hidden") if key in grids[name][0]}
    setting = {**grids[name][0], **small}
    own = {key: value for key, value in setting.items() if key not in ("learning_rate", "batch_size")}
    matrix = some_matrix(np.random.default_rng(0))
    histories, learner = descent.histories_of(matrix), make(30, 40, **own)
    optimizer = optax.adam(0.02)
    params = learner.initialise(jax.random.key(0))
    state, losses = descent.start_optimizer(learner, optimizer, params), []
    epoch, steps = descent.make_epoch(learner, histories, optimizer, 64)
    for i in range(20):
        params, state, loss = epoch(params, state, jax.random.fold_in(jax.random.key(1), i), i * steps)
        losses.append(float(loss))
    assert losses[-1] < 0.95 * losses[0]
    users, context = jnp.arange(5), jnp.asarray(matrix[:5].toarray())
    scores = np.asarray(learner.scores(learner.tables(params, histories), users, context))
    assert scores.shape == (5, 40) and np.isfinite(scores).all()
    liked = np.asarray(context) > 0
    assert scores[liked].mean() > scores[~liked].mean(), "what was trained on scores higher"


def test_the_baseline_that_the_docs_add_learns_popularity():
    text = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    names = dict(vars(learners))
    exec(
        next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "Learner(" in block), names
    )
    matrix = sp.csr_matrix((np.random.default_rng(0).random((60, 8)) < np.arange(1, 9) / 10).astype(np.int8))
    histories, learner, optimizer = descent.histories_of(matrix), names["biases"](60, 8), optax.adam(0.05)
    params = learner.initialise(jax.random.key(0))
    epoch, steps = descent.make_epoch(learner, histories, optimizer, 32)
    state = optimizer.init(params)
    for i in range(10):
        params, state, _ = epoch(params, state, jax.random.key(i), i * steps)
    scores = learner.scores(learner.tables(params, histories), jnp.arange(2), jnp.zeros((2, 8)))
    popularity = np.asarray(matrix.sum(axis=0))[0]
    assert (np.argsort(np.asarray(scores), axis=1)[:, [0, -1]] == np.argsort(popularity)[[0, -1]]).all()


def test_every_learner_is_a_model_that_can_be_asked_for():
    assert learners.LEARNERS.keys() < set(get_args(kinds["model"])) == grids.keys()


@pytest.mark.parametrize(
    "make, weights_of",
    [
        (autoencoders.mvae, lambda params: params[0][0][0]),
        (autoencoders.recvae, lambda params: params["encoder"]["layers"][0]["weights"]),
    ],
)
def test_what_an_autoencoder_is_fed_is_drawn_from_the_weights(make, weights_of):
    """An item of weight 0.5 is fed whole in half of the steps, as the first layer's gradient shows."""
    learner = make(1, 4, hidden=5, dimensions=3, dropout=0.0)
    params = learner.initialise(jax.random.key(1))
    rows = jnp.array([[0.5, 0.0, 1.0, 1.0]])

    @jax.jit
    def first_layer(key):
        return weights_of(jax.grad(learner.loss)(params, rows, None, key, 0))  # (I, hidden)

    times = 0
    for key in jax.random.split(jax.random.key(0), 200):
        half, none, whole, _ = np.asarray(first_layer(key))
        assert whole.any() and not none.any()
        assert not half.any() or half == pytest.approx(whole)
        times += half.any()
    assert 70 < times < 130


def test_an_epoch_sees_every_example_once_and_leaves_out_what_fills_no_batch():
    matrix = some_matrix(np.random.default_rng(3), 43, 6, 0.5)
    seen = descent.Learner(
        None,
        lambda histories, examples, key: examples,
        lambda params, examples, histories, key, steps: (params[examples]).sum() * 1.0,
        None,
        None,
        by_user=True,
    )
    optimizer = optax.sgd(1.0)
    epoch, steps = descent.make_epoch(seen, descent.histories_of(matrix), optimizer, 4)
    params = jnp.zeros(43)
    params, _, _ = epoch(params, optimizer.init(params), jax.random.key(0), 0)
    assert steps == 10 and sorted(np.asarray(params)) == [-1.0] * 40 + [0.0] * 3
    assert (
        descent.make_epoch(seen, descent.histories_of(matrix), optimizer, 1000)[1] == 8
    )  # of 5, with 3 left out


@pytest.mark.parametrize("make", [learners.mf, learners.neumf, partial(learners.lightgcn, layers=0)])
def test_a_user_who_has_every_item_is_compared_with_none(make):
    """The last item, which an index of -1 would be, changes nothing."""
    histories = descent.histories_of(sp.csr_matrix(np.array([[1, 1, 1, 1], [1, 0, 0, 1]], np.int8)))
    learner = compiled(make(2, 4, dimensions=8, l2=0.1, negatives=3))
    batch = learner.draw(histories, jnp.array([0, 4]), jax.random.key(0))
    assert (
        batch.user.tolist() == [0, 1]
        and (batch.negatives[0] == -1).all()
        and set(batch.negatives[1].tolist()) <= {1, 2}
    )
    params = learner.initialise(jax.random.key(1))
    gradient = jax.jit(jax.grad(learner.loss))(params, batch, histories, jax.random.key(2), 0)
    of_items = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if "item" in str(path) or "bias" in str(path)
    ]
    assert of_items and all((leaf[3] == 0).all() and leaf.any() for leaf in of_items)
