"""The baselines that are trained by gradient descent, and the one loop that trains them.

    mf        matrix factorisation, BPR loss (Rendle et al., UAI 2009)
    neumf     generalised matrix factorisation beside a perceptron (He et al., WWW 2017)
    mvae      variational autoencoder with multinomial likelihood, annealed KL (Liang et al., WWW 2018)
    lightgcn  embeddings averaged over the powers of the user-item graph, BPR loss (He et al., SIGIR 2020)

Each is a function from its hyper-parameters to a `Learner`, a handful of pure functions. LEARNERS, at the end
of this file, lists them and says how to add one. An epoch is one compiled scan over batches that are drawn on
the device. U users, I items, N interactions, B examples in a batch, d dimensions, n negatives.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

FEWEST_STEPS = 10  # in an epoch: on small data the batches shrink until there are this many
USERS_AT_ONCE = 16  # NeuMF scores this many users together: each needs I hidden layers


class Histories(NamedTuple):
    """A matrix of users, CSR (U, I), on the device, in the form from which batches are drawn."""

    starts: jax.Array  # (U + 1,) int32: user u owns the entries starts[u] to starts[u + 1]
    user: jax.Array  # (N,) int32, of each entry
    item: jax.Array  # (N,) int32, ascending for each user
    value: jax.Array  # (N,) float32
    absent_before: jax.Array  # (N,) int32: how many items below this one the user does not have


class Batch(NamedTuple):
    """B interactions, each with n items that its user does not have."""

    user: jax.Array  # (B,)
    item: jax.Array  # (B,)
    negatives: jax.Array  # (B, n); -1 for a user who has every item


class Learner(NamedTuple):
    """A model as pure functions. Params and tables are trees of arrays, of any form."""

    initialise: Callable  # key -> params
    draw: Callable  # (histories, examples (B,), key) -> batch, of any form; examples are numbers from 0
    loss: Callable  # (params, batch, histories, key, steps done) -> scalar
    tables: Callable  # (params, histories) -> tables, which `scores` uses for all users
    scores: Callable  # (tables, users (B,), context (B, I)) -> (B, I)
    by_user: bool  # whether examples number the users; else they number the interactions


def histories_of(matrix):
    """The Histories of a CSR matrix (U, I)."""
    matrix = matrix.sorted_indices()
    lengths = np.diff(matrix.indptr)
    user = np.repeat(np.arange(matrix.shape[0]), lengths)
    rank = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)  # within the user's history
    columns = matrix.indptr, user, matrix.indices, matrix.indices - rank
    starts, user, item, absent_before = (jnp.asarray(column, jnp.int32) for column in columns)
    return Histories(starts, user, item, jnp.asarray(matrix.data, jnp.float32), absent_before)


def draw_negatives(key, histories, user, items, count):
    """Items that a user does not have, drawn evenly and with replacement.

    Args:
        key: of jax.random.
        histories: Histories of (U, I).
        user: (B,) int32.
        items: I.
        count: n, for each user.

    Returns:
        (B, n) int32; -1 for a user who has every item.
    """
    first, last = histories.starts[user, None], histories.starts[user + 1, None]
    free = items - (last - first)
    drawn = jnp.minimum((jax.random.uniform(key, (len(user), count)) * free).astype(jnp.int32), free - 1)
    # The r-th absent item comes after every entry with at most r absent items before it. Binary search finds
    # the first entry with more.
    low, high = jnp.broadcast_to(first, drawn.shape), jnp.broadcast_to(last, drawn.shape)

    def halve(_, bounds):
        low, high = bounds
        middle, searching = (low + high) // 2, low < high
        after = searching & (histories.absent_before[middle] <= drawn)
        return jnp.where(after, middle + 1, low), jnp.where(searching & ~after, middle, high)

    low, _ = jax.lax.fori_loop(0, items.bit_length(), halve, (low, high))
    return drawn + low - first


def dense_rows(histories, users, items):
    """The users' rows of the matrix, without the matrix (U, I) itself.

    Args:
        histories: Histories of (U, I).
        users: (B,) int32.
        items: I.

    Returns:
        (B, I) float32.
    """
    first, length = histories.starts[users, None], jnp.diff(histories.starts)[users, None]
    rank = jnp.arange(items)  # a history has I entries at most; what lies beyond its end adds 0 to some item
    within = rank < length
    entry = jnp.where(within, first + rank, 0)
    value = jnp.where(within, histories.value[entry], 0)
    row = jnp.arange(len(users))[:, None]
    return jnp.zeros((len(users), items)).at[row, histories.item[entry]].add(value)


def _draw_pairs(items, negatives):
    def draw(histories, examples, key):
        user = histories.user[examples]
        return Batch(user, histories.item[examples], draw_negatives(key, histories, user, items, negatives))

    return draw


def _params(params, histories):
    return params


def _rows_of(table, items):
    """The items' rows of a table; for -1, zeros without a derivative (a plain -1 would be the last row)."""
    return table.at[items].get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _bpr(positive, negative, items):
    """-log sigmoid(positive (B,) - negative (B, n)), its mean; 0 where the negative item is -1."""
    return jnp.where(items >= 0, jax.nn.softplus(negative - positive[:, None]), 0).mean()


def _embeddings(key, users, items, dimensions, scale):
    user_key, item_key = jax.random.split(key)
    return {
        "user": scale * jax.random.normal(user_key, (users, dimensions)),
        "item": scale * jax.random.normal(item_key, (items, dimensions)),
    }


def _norm(*rows):
    """The squared norms of arrays (B, ...), summed, a mean over the batch."""
    return sum((array**2).sum() / len(array) for array in rows)


def mf(users, items, dimensions=64, l2=1e-4, dropout=0.0, negatives=1):
    """Matrix factorisation: <p_u, q_i> + b_i.

    Args:
        users, items: U, I.
        dimensions: d.
        l2: weight of the squared norms of p and q, counted as often as the batch has them.
        dropout: share of the dimensions of p_u that a step leaves out.
        negatives: n, items that each interaction is compared with.

    Returns:
        Learner.
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
    """Neural matrix factorisation: a linear layer over [p_u * q_i, perceptron(p'_u, q'_i)].

    The loss is binary cross entropy.

    Args:
        users, items, l2: as in `mf`.
        dimensions: d of both embeddings; the perceptron has layers of 2d, d and d/2.
        dropout: share of each layer of the perceptron that a step leaves out.
        negatives: n, items with label 0 for each interaction.

    Returns:
        Learner.
    """
    widths = 2 * dimensions, dimensions, dimensions // 2

    def initialise(key):
        product, perceptron, *layer_keys, out = jax.random.split(key, 3 + len(widths))
        layers = zip(layer_keys, (2 * dimensions, *widths[:-1]), widths)
        glorot = jax.nn.initializers.glorot_uniform()
        return {
            "product": _embeddings(product, users, items, dimensions, 0.1),
            "perceptron": _embeddings(perceptron, users, items, dimensions, 0.1),
            "layers": [(glorot(layer_key, (i, o)), jnp.zeros(o)) for layer_key, i, o in layers],
            "out": (glorot(out, (dimensions + widths[-1], 1))[:, 0], jnp.zeros(())),
        }

    def forward(params, product, first, keys):
        """Logits (...) from p_u * q_i (..., d) and the first layer before its bias (..., 2d)."""
        hidden = first
        for depth, (weights, bias) in enumerate(params["layers"]):
            hidden = jax.nn.relu((hidden if depth == 0 else hidden @ weights) + bias)
            if keys is not None:
                hidden *= jax.random.bernoulli(keys[depth], 1 - dropout, hidden.shape) / (1 - dropout)
        weights, bias = params["out"]
        return jnp.concatenate([product, hidden], -1) @ weights + bias

    def halves(params):
        """The first layer's weights of the user and of the item: the layer of a pair is the sum of two."""
        weights = params["layers"][0][0]
        return weights[:dimensions], weights[dimensions:]

    def loss(params, batch, histories, key, steps):
        item = jnp.concatenate([batch.item[:, None], batch.negatives], 1)
        user_weights, item_weights = halves(params)
        gmf, mlp = params["product"], params["perceptron"]
        p, q = gmf["user"][batch.user][:, None], _rows_of(gmf["item"], item)
        r, s = mlp["user"][batch.user][:, None], _rows_of(mlp["item"], item)
        keys = jax.random.split(key, len(widths)) if dropout else None
        logits = forward(params, p * q, r @ user_weights + s @ item_weights, keys)
        labels = jnp.arange(item.shape[1]) == 0
        error = jnp.where(item >= 0, optax.sigmoid_binary_cross_entropy(logits, labels), 0)
        return error.mean() + l2 * _norm(p, q, r, s)

    def scores(params, users, context):
        user_weights, item_weights = halves(params)
        gmf, mlp = params["product"], params["perceptron"]
        first = mlp["item"] @ item_weights  # (I, 2d)

        def score(user):
            return forward(
                params, gmf["user"][user] * gmf["item"], mlp["user"][user] @ user_weights + first, None
            )

        return jax.lax.map(score, users, batch_size=USERS_AT_ONCE)

    return Learner(initialise, _draw_pairs(items, negatives), loss, _params, scores, by_user=False)


def propagate(histories, embeddings, layers):
    """The mean of E, A E, ..., A^layers E, A being the user-item graph with weights 1 / sqrt(both degrees).

    The graph is a dense (U, I) matrix: on a CPU its products are several times faster than sums over edges.

    Args:
        histories: Histories of (U, I).
        embeddings: E, {"user": (U, d), "item": (I, d)}.
        layers: the highest power.

    Returns:
        {"user": (U, d), "item": (I, d)}.
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
    return jax.tree.map(lambda table: table / (layers + 1), total)


def lightgcn(users, items, dimensions=64, l2=1e-4, layers=3, negatives=1):
    """LightGCN: the product of two embeddings after `propagate`.

    Args:
        users, items, dimensions, negatives: as in `mf`.
        l2: weight of the squared norms of the embeddings before `propagate`.
        layers: the highest power of the graph in the average.

    Returns:
        Learner.
    """

    def rows(tables, batch):
        item, negatives = tables["item"][batch.item], _rows_of(tables["item"], batch.negatives)
        return tables["user"][batch.user], item, negatives

    def loss(params, batch, histories, key, steps):
        user, item, others = rows(propagate(histories, params, layers), batch)
        negative = jnp.einsum("bd,bnd->bn", user, others)
        return _bpr((user * item).sum(1), negative, batch.negatives) + l2 * _norm(*rows(params, batch))

    return Learner(
        lambda key: _embeddings(key, users, items, dimensions, 0.1),
        _draw_pairs(items, negatives),
        loss,
        lambda params, histories: propagate(histories, params, layers),
        lambda tables, users, context: tables["user"][users] @ tables["item"].T,
        by_user=False,
    )


def mvae(users, items, hidden=600, dimensions=200, dropout=0.5, kl_weight=0.2, anneal_steps=1000):
    """Multi-VAE: I - hidden - d - hidden - I, tanh, multinomial likelihood.

    Synthetic users have weights between 0 and 1, and the real users that are scored later have none. Training
    therefore takes a weight as the probability of an interaction, and draws each step's input from it.

    Args:
        users, items: U, which it does not use, and I.
        hidden, dimensions: widths; d is that of the latent code.
        dropout: share of the (normalised) input that a step leaves out.
        kl_weight: weight of the KL divergence; it grows linearly to this over anneal_steps steps.

    Returns:
        Learner.
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
        """1 / sqrt(number of interactions), (B, 1): normalises rows of 0 and 1."""
        count = rows.sum(1, keepdims=True)
        return 1 / jnp.sqrt(jnp.where(count > 0, count, 1))

    def loss(params, rows, histories, key, steps):
        drop_key, noise_key = jax.random.split(key)
        fed = jax.random.bernoulli(drop_key, (1 - dropout) * rows) / (1 - dropout)
        mean, log_variance = jnp.split(through(params[0], scale(rows) * fed), 2, axis=1)
        latent = mean + jnp.exp(log_variance / 2) * jax.random.normal(noise_key, mean.shape)
        likelihood = (jax.nn.log_softmax(through(params[1], latent)) * rows).sum(1)
        annealed = kl_weight * jnp.minimum(steps / anneal_steps, 1)
        return (annealed * gaussian_kl(mean, log_variance) - likelihood).mean()

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


def step_bytes(learner, users, interactions, batch_size):
    """Bytes that a step of training needs at least; nothing is allocated.

    Args:
        learner: Learner.
        users, interactions: U, N.
        batch_size: as for `make_epoch`.
    """
    abstract = lambda size, dtype=jnp.int32: jax.ShapeDtypeStruct((size,), dtype)
    entries = abstract(interactions)
    histories = Histories(abstract(users + 1), entries, entries, abstract(interactions, jnp.float32), entries)

    def step(key, histories, examples):
        params = learner.initialise(key)
        batch = learner.draw(histories, examples, key)
        return params, jax.value_and_grad(learner.loss)(params, batch, histories, key, 0)

    examples = abstract(_batch_size(learner, users, interactions, batch_size))
    key = jax.eval_shape(jax.random.key, 0)
    bytes_of = lambda array: math.prod(array.shape) * array.dtype.itemsize
    traced, (params, _) = jax.make_jaxpr(step, return_shape=True)(key, histories, examples)
    largest = max(bytes_of(value.aval) for equation in traced.eqns for value in equation.outvars)
    # Parameters, their gradient, Adam's moments and the best ones; the largest array and its derivative.
    return 5 * sum(map(bytes_of, jax.tree.leaves(params))) + 2 * largest


def _batch_size(learner, users, interactions, most):
    """B: `most`, or a tenth of the examples, if that is fewer."""
    return min(most, -(-(users if learner.by_user else interactions) // FEWEST_STEPS))


def make_epoch(learner, histories, optimizer, batch_size):
    """The compiled training of one epoch: every example once, in random batches.

    The examples that do not fill a last batch are left out, different ones in each epoch.

    Args:
        learner: Learner.
        histories: Histories of (U, I).
        optimizer: of optax.
        batch_size: B; a tenth of the examples, if that is fewer.

    Returns:
        (epoch(params, optimizer's state, key, steps done) -> (params, state, mean loss); steps in an epoch).
    """
    users, interactions = len(histories.starts) - 1, len(histories.user)
    examples = users if learner.by_user else interactions
    batch_size = _batch_size(learner, users, interactions, batch_size)
    count = examples // batch_size

    @jax.jit
    def epoch(histories, params, state, key, steps):
        order_key, scan_key = jax.random.split(key)
        order = jax.random.permutation(order_key, examples)[: count * batch_size].reshape(count, batch_size)

        def step(carry, inputs):
            params, state = carry
            chosen, key, steps_done = inputs
            draw_key, loss_key = jax.random.split(key)
            batch = learner.draw(histories, chosen, draw_key)
            value, gradients = jax.value_and_grad(learner.loss)(
                params, batch, histories, loss_key, steps_done
            )
            changes, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, changes), state), value

        inputs = order, jax.random.split(scan_key, count), steps + jnp.arange(count)
        (params, state), losses = jax.lax.scan(step, (params, state), inputs)
        return params, state, losses.mean()

    return partial(epoch, histories), count  # histories as an argument: constants would be compiled in


# To add a baseline: write a function (users, items, **hyper-parameters) -> Learner and name it here. In
# hyper_params.py add its name to kinds["model"] and the settings to try to `grids`. A setting holds the
# function's own hyper-parameters, learning_rate and batch_size. docs/baselines.md has an example.
LEARNERS = {"mf": mf, "neumf": neumf, "mvae": mvae, "lightgcn": lightgcn}
