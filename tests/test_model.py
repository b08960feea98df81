"""model.py against slow, obvious NumPy, finite differences and the definition of the NTK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import arc_cosine_ntk
from jax.test_util import check_grads

import model
from lib import sparse


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64():
        yield


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_kernel_is_the_ntk_of_the_paper_s_network(depth):
    rng = np.random.default_rng(depth)
    x, y = ((rng.random((m, 30)) < 0.3).astype(float) for m in (5, 4))
    kernel = jax.jit(model.Kernel(depth, normalize=False))
    np.testing.assert_allclose(kernel(x, y), arc_cosine_ntk(x, y, depth), rtol=1e-6)
    np.testing.assert_allclose(kernel(x), arc_cosine_ntk(x, x, depth), rtol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
def test_kernel_of_rows_that_are_nearly_the_same_in_single_precision(depth, normalize):
    """As where synthetic users start, a few of them twice: it is right, can be solved, and differentiated."""
    rng = np.random.default_rng(3)
    rows = 0.06 * (1 + 0.1 * (rng.random((40, 3000)) < 0.001))
    rows[3] = rows[4] = rows[5]
    scaled = rows * (np.sqrt(3000) / np.linalg.norm(rows, axis=1, keepdims=True) if normalize else 1)
    with jax.enable_x64(False):
        kernel, single = jax.jit(model.Kernel(depth, normalize)), jnp.asarray(rows, jnp.float32)
        np.testing.assert_allclose(kernel(single), arc_cosine_ntk(scaled, scaled, depth), rtol=1e-5)
        size = lambda rows: (model.ridge(kernel(rows), rows, 1e-4) ** 2).sum()
        value, gradient = jax.jit(jax.value_and_grad(size))(single)
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_kernel_is_the_limit_of_a_wide_network():
    """The tangent kernel of a finite network with one hidden layer, its derivatives multiplied out."""
    rng = np.random.default_rng(0)
    items, width = 12, 200_000
    x = (rng.random((4, items)) < 0.4).astype(float)
    first, bias, last = (rng.standard_normal(shape) for shape in ((items, width), width, width))
    hidden = x @ first * np.sqrt(2 / items) + 0.1 * bias
    back = (hidden > 0) * last * np.sqrt(2 / width)
    active = np.maximum(hidden, 0)
    empirical = active @ active.T * 2 / width + 0.01 + (back @ back.T) * (x @ x.T * 2 / items + 0.01)
    np.testing.assert_allclose(model.Kernel(1, normalize=False)(x), empirical, rtol=0.02)


def test_normalized_kernel_sees_only_directions():
    rng = np.random.default_rng(1)
    x, y = rng.random((4, 9)), rng.random((3, 9))
    scaled = [rows / np.linalg.norm(rows, axis=1, keepdims=True) * 3 for rows in (x, y)]
    kernel, plain = (jax.jit(model.Kernel(1, normalize)) for normalize in (True, False))
    np.testing.assert_allclose(kernel(7 * x, y), plain(*scaled), rtol=1e-6)
    assert np.isfinite(kernel(np.zeros((1, 9)), y)).all(), "an empty history"
    assert np.isfinite(jax.jit(jax.grad(lambda rows: kernel(rows).sum()))(jnp.zeros((2, 9)))).all()


@pytest.mark.parametrize("block", [model.BLOCK, 2])
def test_ridge_solves_its_equation(monkeypatch, block):
    monkeypatch.setattr(model, "BLOCK", block)
    rng = np.random.default_rng(2)
    root = rng.standard_normal((6, 6))
    gram, labels = root @ root.T, rng.standard_normal((6, 4))
    expected = np.linalg.inv(gram + 0.3 * np.trace(gram) / 6 * np.eye(6)) @ labels
    solve = jax.jit(lambda gram, lamda: model.ridge(gram, labels, lamda))
    np.testing.assert_allclose(solve(gram, 0.3), expected, rtol=1e-8)
    check_grads(jax.jit(lambda gram: solve(gram + gram.T, 0.3)), (gram,), order=1)
    for place in (0, 5):
        gram[place, place] = -9
        assert np.isnan(solve(gram, 0.0)).all(), "not positive definite"


def plain_sample(key, logits, tau, draws, noise_groups):
    """A synthetic user at a time, a draw at a time: softmax by its definition."""
    users, items = logits.shape
    size = -(-users // noise_groups)
    keys = jax.random.split(key, -(-users // size))
    noise = [np.asarray(jax.random.gumbel(each, (draws, items), logits.dtype)) for each in keys]
    total = np.zeros((users, items))
    for user in range(users):
        for draw in range(draws):
            logit = (logits[user] + noise[user // size][draw]) / tau
            exponent = np.exp(logit - logit.max())
            total[user] += exponent / exponent.sum()
    return np.clip(total, 0, 1)


@pytest.mark.parametrize("tau", [10.0, 0.5, 0.3, 0.02])
@pytest.mark.parametrize("noise_groups", [1, 3, 7])
def test_sample_is_the_sum_of_its_draws(tau, noise_groups):
    logits = 2 * np.random.default_rng(3).standard_normal((7, 11))
    key = jax.random.key(4)
    rows = jax.jit(lambda logits: model.sample(key, logits, tau, 5, noise_groups))(logits)
    np.testing.assert_allclose(rows, plain_sample(key, logits, tau, 5, noise_groups), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("noise_groups", [1, 2, 5])
def test_products_have_the_derivative_of_the_plain_sampler(noise_groups):
    """Forward and backward, against automatic differentiation of the softmaxes themselves."""
    logits = jnp.asarray(np.random.default_rng(5).standard_normal((5, 9)))
    key, weights = jax.random.key(6), np.random.default_rng(7).standard_normal((5, 9))
    size = -(-5 // noise_groups)

    @jax.jit
    def plain(logits):
        keys = jax.random.split(key, -(-5 // size))
        noise = jnp.stack([jax.random.gumbel(keys[user // size], (3, 9), logits.dtype) for user in range(5)])
        return jnp.clip(jax.nn.softmax((logits[:, None] + noise) / 2.0, axis=-1).sum(1), 0, 1)

    shared = jax.jit(lambda logits: model.sample(key, logits, 2.0, 3, noise_groups))
    np.testing.assert_allclose(shared(logits), plain(logits), rtol=1e-10)
    slope_of = lambda form: jax.jit(jax.grad(lambda logits: (weights * form(logits)).sum()))(logits)
    np.testing.assert_allclose(slope_of(shared), slope_of(plain), rtol=1e-8, atol=1e-14)


def test_both_forms_of_the_draws_agree_in_float32_where_they_meet():
    """At the smallest temperature that the products serve, with the largest noise there is."""
    rng = np.random.default_rng(8)
    logits = jnp.asarray(4 * rng.standard_normal((4, 2000)), jnp.float32)
    gumbels = jnp.asarray(rng.gumbel(size=(20, 2000)), jnp.float32).at[3, 5].set(15.9)
    tau = model.SMALLEST_TAU_FOR_PRODUCTS
    assert 15.9 / tau + np.log(2000) < np.log(np.finfo(np.float32).max)
    products, softmax = (
        form(gumbels, logits, tau)
        for form in (model._sum_of_draws_by_products, model._sum_of_draws_by_softmax)
    )
    np.testing.assert_allclose(products, softmax, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("users", [5, 8, 11])
def test_the_factors_of_ridge_are_ridge_then_predict_on_either_side(users):
    rng = np.random.default_rng(4)
    kernel, rows = jax.jit(model.Kernel(1, True)), jnp.asarray(rng.random((6, 8)))
    gram, cross = kernel(rows), kernel(jnp.asarray(rng.random((users, 8))), rows)
    expected = model.predict(cross, model.ridge(gram, rows, 0.1))
    np.testing.assert_allclose(
        model.predict(*model.ridge_factors(gram, cross, rows, 0.1)), expected, rtol=1e-9
    )


@pytest.mark.parametrize("tau", [3.0, 0.2])
@pytest.mark.parametrize("normalize", [True, False])
def test_gradient_through_sampling_kernel_and_solve(tau, normalize):
    """Against finite differences, all the way from the logits to the loss."""
    rng = np.random.default_rng(9)
    logits, targets = jnp.asarray(rng.standard_normal((4, 8))), jnp.asarray(rng.random((5, 8)) < 0.5)
    kernel = model.Kernel(1, normalize)

    @jax.jit
    def loss(logits, log_lamda):
        rows = model.sample(jax.random.key(1), logits, tau, 3, 2)
        cross = kernel(targets.astype(rows.dtype), rows)
        scores = model.predict(*model.ridge_factors(kernel(rows), cross, rows, jnp.exp(log_lamda)))
        return model.cross_entropy(scores, targets, None, 0.5).mean()

    check_grads(loss, (logits, jnp.asarray(-1.0)), order=1, modes=["rev"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", model.LOSSES)
def test_derivative_of_every_loss_with_hidden_items_and_item_weights_by_finite_differences(name):
    """Through sampling, a kernel with item weights, ridge and prediction, as in a step of distill.py."""
    rng = np.random.default_rng(12)
    logits, weights = rng.standard_normal((4, 7)), 0.5 + rng.random(7)
    part = rng.integers(3, size=(5, 7))
    fed, targets = jnp.asarray(part == 1), jnp.asarray(part == 2)
    kernel = model.Kernel(1, True, weights)

    @jax.jit
    def loss(logits, log_lamda):
        rows = model.sample(jax.random.key(1), logits, 2.0, 3, 1)
        alpha = model.ridge(kernel(rows), rows, jnp.exp(log_lamda))
        scores = model.predict(kernel(fed.astype(rows.dtype), rows), alpha)
        return model.LOSSES[name](scores, targets, fed, 0.5, 2.0).mean()

    check_grads(loss, (logits, jnp.asarray(-1.0)), order=1, modes=["rev"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_row_with_itself_is_exact_and_has_a_sound_gradient(depth, normalize):
    """In float32 the closed form is off by 1e-4 there; in float64 it tells what is right."""
    rows = np.random.default_rng(12).random((20, 300)) * (np.random.default_rng(13).random((20, 300)) < 0.1)
    kernel = jax.jit(model.Kernel(depth, normalize))
    with jax.enable_x64():
        expected = np.diag(kernel(jnp.asarray(rows), jnp.asarray(rows)))
    np.testing.assert_allclose(np.diag(kernel(jnp.asarray(rows, jnp.float32))), expected, rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda rows: jnp.trace(kernel(rows))))(jnp.asarray(rows, jnp.float32))
    slope = 0 if normalize else 2 * (depth + 1) * 2 * rows / 300
    np.testing.assert_allclose(gradient, np.broadcast_to(slope, rows.shape), atol=2e-6)


@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
def test_cross_entropy_against_a_loop(discount):
    rng = np.random.default_rng(11)
    scores = rng.standard_normal((6, 10))
    hidden = rng.random((6, 10)) < 0.3
    targets = (rng.random((6, 10)) < 0.3) & ~hidden
    targets[2] = False
    expected = []
    for user in range(6):
        total = np.log(sum(np.exp(scores[user, item]) for item in range(10) if not hidden[user, item]))
        lost = sum(total - scores[user, item] for item in range(10) if targets[user, item])
        expected.append(lost / max(targets[user].sum(), 1) ** discount)
    np.testing.assert_allclose(model.cross_entropy(scores / 3, targets, hidden, discount, 3.0), expected)


@pytest.mark.parametrize("power", [0.5, 0.9])
def test_generalized_cross_entropy_against_a_loop(power):
    rng = np.random.default_rng(16)
    scores, hidden = rng.standard_normal((6, 10)), rng.random((6, 10)) < 0.3
    targets = (rng.random((6, 10)) < 0.3) & ~hidden
    targets[2] = False
    for mask in (hidden, None):
        expected = []
        for user in range(6):
            total = sum(
                np.exp(3 * scores[user, item]) for item in range(10) if mask is None or not mask[user, item]
            )
            gained = sum(
                (np.exp(3 * scores[user, item]) / total) ** power for item in range(10) if targets[user, item]
            )
            expected.append(-gained / power / max(targets[user].sum(), 1) ** 0.5)
        np.testing.assert_allclose(
            model.generalized_cross_entropy(scores, targets, mask, 0.5, 3.0, power), expected
        )


def test_generalized_cross_entropy_pulls_as_the_cross_entropy_does_where_the_power_is_small():
    rng = np.random.default_rng(17)
    scores, targets = rng.standard_normal((3, 8)), rng.random((3, 8)) < 0.4
    slope = lambda loss: jax.jit(jax.grad(lambda scores: loss(scores).sum()))(scores)
    np.testing.assert_allclose(
        slope(lambda scores: model.generalized_cross_entropy(scores, targets, None, 1.0, 2.0, 1e-6)),
        slope(lambda scores: model.cross_entropy(scores, targets, None, 1.0, 2.0)),
        rtol=1e-4,
    )


def test_squared_error_against_a_loop():
    rng = np.random.default_rng(14)
    scores, hidden = rng.standard_normal((6, 10)), rng.random((6, 10)) < 0.3
    targets = (rng.random((6, 10)) < 0.3) & ~hidden
    targets[2] = False
    for mask in (hidden, None):
        ranked = lambda user: (item for item in range(10) if mask is None or not mask[user, item])
        expected = [
            sum((3 * scores[user, item] - targets[user, item]) ** 2 for item in ranked(user))
            / max(targets[user].sum(), 1) ** 0.5
            if targets[user].any()
            else 0
            for user in range(6)
        ]
        np.testing.assert_allclose(model.squared_error(scores, targets, mask, 0.5, 3.0), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [model.cross_entropy, model.generalized_cross_entropy])
def test_a_column_that_stands_for_several_items_counts_as_often(loss):
    rng = np.random.default_rng(18)
    scores, part = rng.standard_normal((6, 10)), rng.integers(3, size=(6, 10))
    counts = np.where((part > 0).any(axis=0), 1, rng.integers(1, 5, 10))
    counts[7:], part[:, 7:] = rng.integers(2, 5, 3), 0
    every = np.repeat(np.arange(10), counts)
    expected = loss(scores[:, every], part[:, every] == 2, part[:, every] == 1, 0.5, 3.0)
    given = loss(scores, part == 2, part == 1, 0.5, 3.0, counts=counts)
    np.testing.assert_allclose(given, expected, rtol=1e-9)


@pytest.mark.parametrize("masked", [True, False])
def test_the_squared_error_of_some_items_and_the_squares_of_all_is_that_of_all(masked):
    rng = np.random.default_rng(20)
    weights, rows, part = rng.random((6, 3)), rng.random((3, 10)), rng.integers(3, size=(6, 10))
    part[:, 7:] = 0
    scores, hidden = weights @ rows, part == 1 if masked else None
    some = scores[:, :8], part[:, :8] == 2, hidden[:, :8] if masked else None
    given = model.squared_error(*some, 0.5, 3.0, square=model.sum_of_squares(weights, rows))
    np.testing.assert_allclose(given, model.squared_error(scores, part == 2, hidden, 0.5, 3.0), rtol=1e-9)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_kernel_of_rows_given_at_some_items_is_that_of_the_whole_rows(normalize, weighted):
    """With its derivative, also where the rest of a column is empty."""
    rng = np.random.default_rng(19)
    items, columns = np.array([1, 4, 5, 8]), rng.random((6, 10))
    columns[2, np.setdiff1d(np.arange(10), items)] = 0
    part, change = rng.random((5, 4)) < 0.6, rng.standard_normal((5, 6))
    part[3] = False
    whole = np.zeros((5, 10))
    whole[:, items] = part
    kernel = model.Kernel(2, normalize, 0.5 + rng.random(10) if weighted else None)
    places = sparse.places(sp.csr_matrix(whole))
    forms = [
        lambda columns: kernel(whole, columns),
        lambda columns: kernel.of_part(part.astype(float), items, columns),
        lambda columns: kernel.of_places(places, columns),
    ]

    def value_and_slope(form):
        total = lambda columns: ((form(columns) * change).sum(), form(columns))
        slope, values = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(columns))
        return values, slope

    (expected, expected_slope), *given = map(value_and_slope, forms)
    for values, slope in given:
        np.testing.assert_allclose(values, expected, rtol=1e-9)
        np.testing.assert_allclose(slope, expected_slope, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("normalize", [True, False])
def test_items_are_weighted_before_all_else(normalize):
    rng = np.random.default_rng(15)
    x, y, weights = rng.random((4, 9)), rng.random((3, 9)), rng.random(9) + 0.5
    plain, weighted = (jax.jit(model.Kernel(1, normalize, each)) for each in (None, weights))
    np.testing.assert_allclose(weighted(x, y), plain(x * weights, y * weights), rtol=1e-6)
    np.testing.assert_allclose(weighted(x), plain(x * weights), rtol=1e-6)


@pytest.mark.parametrize("loss", [model.cross_entropy, model.generalized_cross_entropy, model.squared_error])
def test_the_loss_of_a_user_whose_every_item_is_hidden_is_zero_with_a_finite_gradient(loss):
    hidden = jnp.ones((1, 4), bool)
    of = jax.jit(jax.value_and_grad(lambda scores: loss(scores, ~hidden, hidden, 0.5).sum()))
    value, gradient = of(jnp.ones((1, 4)))
    assert value == 0 and np.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [model.cross_entropy, model.generalized_cross_entropy])
def test_a_hidden_item_changes_no_softmax_however_high_its_score(loss):
    rng = np.random.default_rng(18)
    scores, hidden = (
        jnp.asarray(rng.standard_normal((4, 9)), jnp.float32),
        jnp.zeros((4, 9), bool).at[:, 5].set(True),
    )
    targets = (rng.random((4, 9)) < 0.5) & ~np.asarray(hidden)
    of = jax.jit(jax.value_and_grad(lambda scores: loss(scores, targets, hidden, 0.5).sum()))
    (value, slope), (expected, expected_slope) = (of(scores.at[:, 5].set(high)) for high in (1e4, 0.0))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 7, 30, 60, 100])
def test_the_largest_weights_are_kept(count):
    """As a stable sort finds them: of equal ones, and of those above 1, the first."""
    rng = np.random.default_rng(count)
    weights = rng.permuted(np.append(rng.integers(-100, 300, 50) / 200, np.repeat(0.25, 10)))
    clipped = np.clip(weights, 0, 1).astype(np.float32)
    kept = np.asarray(model.keep_largest(jnp.asarray(weights.reshape(6, 10), jnp.float32), count))
    expected = np.zeros(60, np.float32)
    best = np.argsort(-clipped, kind="stable")[:count]
    expected[best] = clipped[best]
    assert (
        (kept.ravel() == expected).all() and 3 < (clipped == 1).sum() < 30 and 5 < (clipped == 0).sum() < 30
    )


def test_almost_as_many_weights_as_asked_for_are_kept_where_all_are_the_same():
    kept = model.keep_largest(jnp.full((500, 1000), 0.25), 200_000)
    assert 199_500 < (kept > 0).sum() <= 200_000


def test_bytes_hold_256_weights():
    weights = jnp.asarray(np.random.default_rng(0).random((40, 50)), jnp.float32)
    rounded = np.asarray(model.to_bytes(weights)) * 255
    np.testing.assert_allclose(rounded, rounded.round(), atol=1e-4)
    assert (
        np.abs(rounded / 255 - weights).max() <= 0.5 / 255 + 1e-6 and len(np.unique(rounded.round())) == 256
    )
