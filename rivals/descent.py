"""The one loop that trains baselines by gradient descent, and what a model is to it.

A model is a `Learner`, a handful of pure functions; rivals/learners.py lists the models. An epoch is one
compiled scan over batches that are drawn on the device. U users, I items, N interactions, B examples in a
batch, n negatives.
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


class Pass(NamedTuple):
    """A pass over all examples. It trains one entry of the params, a dict, and leaves the others alone."""

    entry: str | None  # None: all params, of any form
    loss: Callable  # of all params, as that of a Learner


class Learner(NamedTuple):
    """A model as pure functions. Params and tables are trees of arrays, of any form."""

    initialise: Callable  # key -> params
    draw: Callable  # (histories, examples (B,), key) -> batch, of any form; examples are numbers from 0
    loss: Callable  # (params, batch, histories, key, steps done) -> scalar
    tables: Callable  # (params, histories) -> tables, which `scores` uses for all users
    scores: Callable  # (tables, users (B,), context (B, I)) -> (B, I)
    by_user: bool  # whether examples number the users; else they number the interactions
    # `tables` and `scores` that need no user of training; None: those above need none, or know no others
    fold_in: tuple[Callable, Callable] | None = None
    passes: tuple[Pass, ...] = ()  # that make an epoch; (): one, which trains all params by `loss`
    refresh: Callable = lambda params: params  # params -> params, before each epoch


def params_as_tables(params, histories):
    """The `tables` of a Learner whose scores need its params alone."""
    return params


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
    trained = {one.entry: params[one.entry] for one in learner.passes} or params
    size, trained_size = (sum(map(bytes_of, jax.tree.leaves(tree))) for tree in (params, trained))
    # Parameters and the best ones, a gradient and Adam's moments; the largest array and its derivative.
    return 2 * size + 3 * trained_size + 2 * largest


def _batch_size(learner, users, interactions, most):
    """B: `most`, or a tenth of the examples, if that is fewer."""
    return min(most, -(-(users if learner.by_user else interactions) // FEWEST_STEPS))


def start_optimizer(learner, optimizer, params):
    """The optimizer's state at first: of all params, or of each entry that a pass trains."""
    return {one.entry: optimizer.init(params[one.entry]) for one in learner.passes} or optimizer.init(params)


def _update_by(one, optimizer):
    """A Pass as (params, state, *other arguments of its loss) -> (params, state, loss)."""
    pick = lambda tree: tree if one.entry is None else tree[one.entry]
    put = lambda tree, part: part if one.entry is None else {**tree, one.entry: part}

    def update(params, state, *rest):
        loss = lambda part: one.loss(put(params, part), *rest)
        value, gradients = jax.value_and_grad(loss)(pick(params))
        changes, part_state = optimizer.update(gradients, pick(state), pick(params))
        return put(params, optax.apply_updates(pick(params), changes)), put(state, part_state), value

    return update


def make_epoch(learner, histories, optimizer, batch_size):
    """The compiled training of one epoch: every example once in each pass, in random batches.

    The examples that do not fill a last batch are left out, different ones in each pass.

    Args:
        learner: Learner.
        histories: Histories of (U, I).
        optimizer: of optax.
        batch_size: B; a tenth of the examples, if that is fewer.

    Returns:
        (epoch(params, state after start_optimizer, key, steps done) -> (params, state, mean loss); steps in
        an epoch).
    """
    users, interactions = len(histories.starts) - 1, len(histories.user)
    examples = users if learner.by_user else interactions
    batch_size = _batch_size(learner, users, interactions, batch_size)
    count = examples // batch_size
    passes = learner.passes or (Pass(None, learner.loss),)
    kinds = list(dict.fromkeys(passes))  # equal ones are compiled once
    updates = [_update_by(kind, optimizer) for kind in kinds]
    kind_of_pass, steps_in_all = jnp.array([kinds.index(one) for one in passes]), len(passes) * count

    @jax.jit
    def epoch(histories, params, state, key, steps):
        order_key, scan_key = jax.random.split(key)
        rows = jnp.broadcast_to(jnp.arange(examples), (len(passes), examples))
        order = jax.random.permutation(order_key, rows, axis=1, independent=True)[:, : count * batch_size]

        def step(carry, inputs):
            chosen, key, steps_done, kind = inputs
            draw_key, loss_key = jax.random.split(key)
            batch = learner.draw(histories, chosen, draw_key)
            *carry, value = jax.lax.switch(kind, updates, *carry, batch, histories, loss_key, steps_done)
            return tuple(carry), value

        inputs = (
            order.reshape(steps_in_all, batch_size),
            jax.random.split(scan_key, steps_in_all),
            steps + jnp.arange(steps_in_all),
            jnp.repeat(kind_of_pass, count),
        )
        (params, state), losses = jax.lax.scan(step, (learner.refresh(params), state), inputs)
        return params, state, losses.mean()

    # Histories as an argument: constants would be compiled in.
    return partial(epoch, histories), steps_in_all
