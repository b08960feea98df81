"""The models of the comparison that are trained by gradient descent, and the one loop that trains them.

    MF        matrix factorisation, BPR loss (Rendle et al., UAI 2009)
    NeuMF     generalised matrix factorisation beside a perceptron (He et al., WWW 2017)
    MVAE      variational autoencoder with multinomial likelihood, annealed KL (Liang et al., WWW 2018)
    LightGCN  embeddings averaged over the powers of the user-item graph, BPR loss (He et al., SIGIR 2020)

Each is a function from its hyper-parameters to a `Learner`, four pure functions. An epoch is one compiled scan over
batches that are drawn on the device. U users, I items, B examples in a batch, d dimensions, n negatives.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

FEWEST_STEPS = 10  # of an epoch: batches are smaller on small data
USERS_AT_ONCE = 16  # that NeuMF scores: each needs I hidden layers


class Histories(NamedTuple):
    """A matrix of users, CSR (U, I), on the device, with what drawing from it needs."""

    starts: jax.Array  # (U + 1,) int32
    user: jax.Array  # (N,) int32, of each entry
    item: jax.Array  # (N,) int32, ascending for each user
    value: jax.Array  # (N,) float32
    before: jax.Array  # (N,) int32: items that the user does not have, of smaller number than this one


class Batch(NamedTuple):
    """B interactions for a pairwise learner."""

    user: jax.Array  # (B,)
    item: jax.Array  # (B,)
    negatives: jax.Array  # (B, n), none of them in the user's history; -1 for a user who has every item


class Learner(NamedTuple):
    """A model. Params is any tree of arrays."""

    initialise: Callable  # key -> params
    draw: Callable  # (histories, examples (B,), key) -> batch; examples count entries, or users
    loss: Callable  # (params, batch, histories, key, steps done) -> scalar
    tables: Callable  # (params, histories) -> what `scores` needs, calculated once
    scores: Callable  # (tables, users (B,), context (B, I)) -> (B, I)
    by_user: bool  # an example is a user, not an interaction


def histories_of(matrix):
    """Puts a CSR matrix (U, I) on the device."""
    matrix = matrix.sorted_indices()
    count = np.diff(matrix.indptr)
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], count)
    columns = matrix.indptr, np.repeat(np.arange(matrix.shape[0]), count), matrix.indices
    starts, user, item = (jnp.asarray(column, jnp.int32) for column in columns)
    return Histories(
        starts,
        user,
        item,
        jnp.asarray(matrix.data, jnp.float32),
        jnp.asarray(matrix.indices - place, jnp.int32),
    )


def draw_negatives(key, histories, user, items, count):
    """Items drawn evenly, with replacement, from those a user does not have.

    Args:
        user: (B,).
        items: I.
        count: n.

    Returns:
        (B, n) int32; -1 for users who have every item.
    """
    first, last = histories.starts[user, None], histories.starts[user + 1, None]
    free = items - (last - first)
    drawn = jnp.minimum((jax.random.uniform(key, (len(user), count)) * free).astype(jnp.int32), free - 1)
    # The r-th item that is not the user's lies behind all of his with at most r free items before them: a binary search.
    low, high = jnp.broadcast_to(first, drawn.shape), jnp.broadcast_to(last, drawn.shape)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        behind = (low < high) & (histories.before[middle] <= drawn)
        return jnp.where(behind, middle + 1, low), jnp.where(
            behind, high, jnp.where(low < high, middle, high)
        )

    low, _ = jax.lax.fori_loop(0, items.bit_length(), halve, (low, high))
    return drawn + low - first


def dense_rows(histories, users, items):
    """The rows of some users, (B, I) float32. No product of U and I is ever held."""
    first, count = histories.starts[users], histories.starts[users + 1] - histories.starts[users]
    # Entry e of the batch belongs to the user in whose stretch of the running count it falls.
    place = jnp.arange(items)
    entry = first[:, None] + place
    there = place < count[:, None]
    entry = jnp.where(there, entry, 0)
    value = jnp.where(there, histories.value[entry], 0)
    return (
        jnp.zeros((len(users), items)).at[jnp.arange(len(users))[:, None], histories.item[entry]].add(value)
    )


def _draw_pairs(items, negatives):
    def draw(histories, examples, key):
        user = histories.user[examples]
        return Batch(user, histories.item[examples], draw_negatives(key, histories, user, items, negatives))

    return draw


def _params(params, histories):
    return params


def _rows_of(table, items):
    """The table's rows of these items; 0, without a derivative, of -1: a plain index takes the last row."""
    return table.at[items].get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _bpr(positive, negative, items):
    """- mean log sigmoid(positive - negative), of (B,) against (B, n); 0 where the item (B, n) is -1."""
    return jnp.where(items >= 0, jax.nn.softplus(negative - positive[:, None]), 0).mean()


def _embeddings(key, users, items, dimensions, scale):
    user_key, item_key = jax.random.split(key)
    return {
        "user": scale * jax.random.normal(user_key, (users, dimensions)),
        "item": scale * jax.random.normal(item_key, (items, dimensions)),
    }


def _norm(*rows):
    """Mean over the batch of the squared norms, summed."""
    return sum((each**2).sum() / len(each) for each in rows)


def mf(users, items, dimensions=64, l2=1e-4, dropout=0.0, negatives=1):
    """Matrix factorisation: <p_u, q_i> + b_i.

    Args:
        dimensions: d.
        l2: weight of the squared norms of what a batch touches, each as often as it does.
        dropout: share of the dimensions of p_u that a step leaves out.
        negatives: n, items that each interaction is compared with.
    """

    def initialise(key):
        return {**_embeddings(key, users, items, dimensions, 0.1), "bias": jnp.zeros(items)}

    def loss(params, batch, histories, key, steps):
        user, item = params["user"][batch.user], params["item"][batch.item]
        others = _rows_of(params["item"], batch.negatives)
        kept = jax.random.bernoulli(key, 1 - dropout, user.shape) / (1 - dropout)
        positive = (user * kept * item).sum(1) + params["bias"][batch.item]
        negative = jnp.einsum("bd,bnd->bn", user * kept, others) + params["bias"][batch.negatives]
        return _bpr(positive, negative, batch.negatives) + l2 * _norm(user, item, others)

    scores = lambda tables, users, context: tables["user"][users] @ tables["item"].T + tables["bias"]
    return Learner(initialise, _draw_pairs(items, negatives), loss, _params, scores, by_user=False)


def neumf(users, items, dimensions=32, l2=1e-5, dropout=0.0, negatives=4):
    """Neural matrix factorisation: a linear layer over p_u * q_i and a perceptron of [p'_u, q'_i], binary cross entropy.

    Args:
        dimensions: d of both embeddings; the perceptron has layers of 2d, d and d/2.
        l2, dropout: as in `mf`; dropout after each layer of the perceptron.
        negatives: n, for each interaction.
    """
    widths = 2 * dimensions, dimensions, dimensions // 2

    def initialise(key):
        product, perceptron, *layers, out = jax.random.split(key, 3 + len(widths))
        inputs = 2 * dimensions, *widths[:-1]
        glorot = jax.nn.initializers.glorot_uniform()
        return {
            "product": _embeddings(product, users, items, dimensions, 0.1),
            "perceptron": _embeddings(perceptron, users, items, dimensions, 0.1),
            "layers": [(glorot(each, (i, o)), jnp.zeros(o)) for each, i, o in zip(layers, inputs, widths)],
            "out": (glorot(out, (dimensions + widths[-1], 1))[:, 0], jnp.zeros(())),
        }

    def forward(params, product, first, keys):
        """Logits from p_u * q_i (..., d) and the first layer before its bias (..., 2d)."""
        hidden = first
        for depth, (weights, bias) in enumerate(params["layers"]):
            hidden = jax.nn.relu((hidden if depth == 0 else hidden @ weights) + bias)
            if keys is not None:
                hidden *= jax.random.bernoulli(keys[depth], 1 - dropout, hidden.shape) / (1 - dropout)
        weights, bias = params["out"]
        return jnp.concatenate([product, hidden], -1) @ weights + bias

    def halves(params):
        """The first layer's weights, of user and item: of the pair it is the sum of both."""
        weights = params["layers"][0][0]
        return weights[:dimensions], weights[dimensions:]

    def loss(params, batch, histories, key, steps):
        item = jnp.concatenate([batch.item[:, None], batch.negatives], 1)
        of_user, of_item = halves(params)
        gmf, mlp = params["product"], params["perceptron"]
        p, q = gmf["user"][batch.user][:, None], _rows_of(gmf["item"], item)
        r, s = mlp["user"][batch.user][:, None], _rows_of(mlp["item"], item)
        logits = forward(
            params, p * q, r @ of_user + s @ of_item, jax.random.split(key, len(widths)) if dropout else None
        )
        labels = jnp.arange(item.shape[1]) == 0
        error = jnp.where(item >= 0, optax.sigmoid_binary_cross_entropy(logits, labels), 0)
        return error.mean() + l2 * _norm(p, q, r, s)

    def scores(params, users, context):
        of_user, of_item = halves(params)
        first = params["perceptron"]["item"] @ of_item  # (I, 2d)

        def score(user):
            product = params["product"]["user"][user] * params["product"]["item"]
            return forward(params, product, params["perceptron"]["user"][user] @ of_user + first, None)

        return jax.lax.map(score, users, batch_size=USERS_AT_ONCE)

    return Learner(initialise, _draw_pairs(items, negatives), loss, _params, scores, by_user=False)


def propagate(histories, embeddings, layers):
    """LightGCN's: the mean of E, A E, ..., A^layers E, where A links user and item by 1 / sqrt(their two degrees).

    The graph is a dense (U, I) matrix: on a CPU its products are several times faster than sums over edges.

    Args:
        embeddings: {"user": (U, d), "item": (I, d)}.

    Returns:
        The same tree.
    """
    shapes = {name: len(table) for name, table in embeddings.items()}
    degree = {
        name: jnp.maximum(jax.ops.segment_sum(histories.value, getattr(histories, name), shapes[name]), 1)
        for name in embeddings
    }
    weight = histories.value / jnp.sqrt(degree["user"][histories.user] * degree["item"][histories.item])
    link = jnp.zeros((shapes["user"], shapes["item"])).at[histories.user, histories.item].add(weight)
    total, current = embeddings, embeddings
    for _ in range(layers):
        current = {"user": link @ current["item"], "item": link.T @ current["user"]}
        total = jax.tree.map(jnp.add, total, current)
    return jax.tree.map(lambda each: each / (layers + 1), total)


def lightgcn(users, items, dimensions=64, l2=1e-4, layers=3, negatives=1):
    """LightGCN: the product of two embeddings after `propagate`; the squared norms are those before it.

    Args:
        dimensions, l2, negatives: as in `mf`.
        layers: powers of the graph that are averaged, besides 0.
    """

    def loss(params, batch, histories, key, steps):
        tables = propagate(histories, params, layers)
        rows = lambda tree: (
            tree["user"][batch.user],
            tree["item"][batch.item],
            _rows_of(tree["item"], batch.negatives),
        )
        (user, item, others), norm = rows(tables), _norm(*rows(params))
        return _bpr((user * item).sum(1), jnp.einsum("bd,bnd->bn", user, others), batch.negatives) + l2 * norm

    return Learner(
        lambda key: _embeddings(key, users, items, dimensions, 0.1),
        _draw_pairs(items, negatives),
        loss,
        lambda params, histories: propagate(histories, params, layers),
        lambda tables, users, context: tables["user"][users] @ tables["item"].T,
        by_user=False,
    )


def mvae(items, hidden=600, dimensions=200, dropout=0.5, kl_weight=0.2, anneal_steps=1000):
    """Multi-VAE: I - hidden - d - hidden - I, tanh, multinomial likelihood.

    Users may have weights between 0 and 1, as synthetic ones do. A weight is taken for the chance that the interaction is
    there, and what a step is fed is drawn from it: real users, who are asked about later, have interactions, no weights.

    Args:
        dropout: share of the (normalised) input that a step leaves out.
        kl_weight: of the KL divergence, reached by a straight line over anneal_steps steps.
    """
    widths = (items, hidden, 2 * dimensions), (dimensions, hidden, items)

    def initialise(key):
        keys = iter(jax.random.split(key, 4))
        glorot = jax.nn.initializers.glorot_normal()
        return [
            [(glorot(next(keys), (i, o)), jnp.zeros(o)) for i, o in zip(sizes, sizes[1:])] for sizes in widths
        ]

    def through(layers, rows):
        (first, bias), (second, second_bias) = layers
        return jnp.tanh(rows @ first + bias) @ second + second_bias

    def scale(rows):
        """1 / the root of the number of interactions: of zeros and ones that normalises; (B, 1)."""
        count = rows.sum(1, keepdims=True)
        return 1 / jnp.sqrt(jnp.where(count > 0, count, 1))

    def loss(params, rows, histories, key, steps):
        drop_key, noise_key = jax.random.split(key)
        fed = jax.random.bernoulli(drop_key, (1 - dropout) * rows) / (1 - dropout)
        mean, log_variance = jnp.split(through(params[0], scale(rows) * fed), 2, axis=1)
        latent = mean + jnp.exp(log_variance / 2) * jax.random.normal(noise_key, mean.shape)
        likelihood = (jax.nn.log_softmax(through(params[1], latent)) * rows).sum(1)
        return (
            kl_weight * jnp.minimum(steps / anneal_steps, 1) * gaussian_kl(mean, log_variance) - likelihood
        ).mean()

    def scores(params, users, context):
        context = context.astype(jnp.float32)
        mean = jnp.split(through(params[0], scale(context) * context), 2, axis=1)[0]
        return through(params[1], mean)

    return Learner(
        initialise,
        lambda histories, users, key: dense_rows(histories, users, items),
        loss,
        _params,
        scores,
        by_user=True,
    )


def gaussian_kl(mean, log_variance):
    """KL(N(mean, variance) || N(0, 1)), summed over the dimensions; (B, d), (B, d) -> (B,)."""
    return ((mean**2 + jnp.exp(log_variance) - 1 - log_variance) / 2).sum(1)


def make_epoch(learner, histories, optimizer, batch_size):
    """An epoch: every example once, in random batches. What does not fill a batch is left out, other examples each time.

    Args:
        batch_size: B, or a tenth of the examples if that is less.

    Returns:
        (epoch(params, optimizer's state, key, steps done) -> (params, state, mean loss); its number of steps).
    """
    examples = len(histories.starts) - 1 if learner.by_user else len(histories.user)
    batch_size = min(batch_size, -(-examples // FEWEST_STEPS))
    count = examples // batch_size

    @jax.jit
    def epoch(histories, params, state, key, steps):
        order_key, scan_key = jax.random.split(key)
        order = jax.random.permutation(order_key, examples)[: count * batch_size].reshape(count, batch_size)

        def step(carry, each):
            params, state = carry
            chosen, key, number = each
            draw_key, loss_key = jax.random.split(key)
            value, gradients = jax.value_and_grad(learner.loss)(
                params, learner.draw(histories, chosen, draw_key), histories, loss_key, number
            )
            changes, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, changes), state), value

        (params, state), losses = jax.lax.scan(
            step, (params, state), (order, jax.random.split(scan_key, count), steps + jnp.arange(count))
        )
        return params, state, losses.mean()

    return partial(epoch, histories), count  # as an argument: a constant would be compiled in
