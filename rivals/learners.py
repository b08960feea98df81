"""The baselines that are trained by gradient descent, by the loop in rivals/descent.py.

    mf        matrix factorisation, BPR loss (Rendle et al., UAI 2009)
    neumf     generalised matrix factorisation beside a perceptron (He et al., WWW 2017)
    mvae      variational autoencoder, in rivals/autoencoders.py
    recvae    a later one, there, too
    lightgcn  embeddings averaged over the powers of the user-item graph, BPR loss (He et al., SIGIR 2020)

Each is a function from its hyper-parameters to a `Learner`. LEARNERS, at the end of this file, lists them and
says how to add one. U users, I items, B examples in a batch, d dimensions, n negatives.

MF and LightGCN have embeddings of the users they were trained on. Their `fold_in` does without: anybody's
embedding comes from the items of the context, and those of the items stay as they are.
"""

import jax
import jax.numpy as jnp
import optax

from rivals.autoencoders import mvae, recvae
from rivals.descent import Batch, Learner, dense_rows, draw_negatives, params_as_tables

USERS_AT_ONCE = 16  # scored by NeuMF, where each needs I hidden layers, and made dense by MF's fold-in
FOLD_IN_RIDGE = 0.1  # of MF, in parts of the mean eigenvalue; 0.001 to 1 differ little on ML-1M's validation


def _draw_pairs(items, negatives):
    def draw(histories, examples, key):
        user = histories.user[examples]
        return Batch(user, histories.item[examples], draw_negatives(key, histories, user, items, negatives))

    return draw


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

    The p of a user it was not trained on is a linear map of the mean q of the items of the context.

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

    def tables_of_others(params, histories):
        """Ridge regression of the known users' embeddings on the means of their items' embeddings."""

        def mean_item(user):
            return _shares(dense_rows(histories, user[None], items))[0] @ params["item"]

        known = jax.lax.map(mean_item, jnp.arange(users), batch_size=USERS_AT_ONCE)
        centre, user_centre = known.mean(0), params["user"].mean(0)
        gram = (known - centre).T @ (known - centre)
        gram += FOLD_IN_RIDGE * jnp.trace(gram) / dimensions * jnp.eye(dimensions)
        linear = jnp.linalg.solve(gram, (known - centre).T @ (params["user"] - user_centre))
        return {**params, "sent": params["item"] @ linear, "user": user_centre - centre @ linear}

    scores = lambda tables, users, context: tables["user"][users] @ tables["item"].T + tables["bias"]
    fold_in = tables_of_others, _scores_of_others
    draw = _draw_pairs(items, negatives)
    return Learner(initialise, draw, loss, params_as_tables, scores, by_user=False, fold_in=fold_in)


def _scores_of_others(tables, users, context):
    """Scores (B, I) for a context (B, I): an embedding is the mean of "sent" over its items, plus "user"."""
    return (_shares(context) @ tables["sent"] + tables["user"]) @ tables["item"].T + tables["bias"]


def _shares(rows):
    """Rows (B, I) divided by their sums: times a table of the items, its means; 0 for an empty row."""
    return rows / jnp.maximum(rows.sum(1, keepdims=True), 1)


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

    return Learner(initialise, _draw_pairs(items, negatives), loss, params_as_tables, scores, by_user=False)


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
    sizes = {name: len(table) for name, table in embeddings.items()}
    degree = {name: _degrees(histories, name, size) for name, size in sizes.items()}
    weight = histories.value / jnp.sqrt(degree["user"][histories.user] * degree["item"][histories.item])
    link = jnp.zeros((sizes["user"], sizes["item"])).at[histories.user, histories.item].add(weight)
    total, current = embeddings, embeddings
    for _ in range(layers):
        current = {"user": link @ current["item"], "item": link.T @ current["user"]}
        total = jax.tree.map(jnp.add, total, current)
    return jax.tree.map(lambda table: table / (layers + 1), total)


def _degrees(histories, name, size):
    """The sums of the rows ("user") or of the columns ("item") of the matrix, (size,), 1 at least."""
    return jnp.maximum(jax.ops.segment_sum(histories.value, getattr(histories, name), size), 1)


def lightgcn(users, items, dimensions=64, l2=1e-4, layers=3, negatives=1):
    """LightGCN: the product of two embeddings after `propagate`.

    A user it was not trained on has none before `propagate`, and afterwards the sum that comes from the items
    of the context: of their embeddings after all powers but the last, divided by the root of their degree.
    (What divides all scores of a user alike is left out.)

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

    def tables_of_others(params, histories):
        sent = propagate(histories, params, max(layers - 1, 0))["item"]
        sent /= jnp.sqrt(_degrees(histories, "item", items))[:, None]
        return {"item": propagate(histories, params, layers)["item"], "sent": sent, "user": 0.0, "bias": 0.0}

    return Learner(
        lambda key: _embeddings(key, users, items, dimensions, 0.1),
        _draw_pairs(items, negatives),
        loss,
        lambda params, histories: propagate(histories, params, layers),
        lambda tables, users, context: tables["user"][users] @ tables["item"].T,
        by_user=False,
        fold_in=(tables_of_others, _scores_of_others),
    )


# To add a baseline: write a function (users, items, **hyper-parameters) -> Learner and name it here. In
# hyper_params.py add its name to kinds["model"] and the settings to try to `grids`. A setting holds the
# function's own hyper-parameters, learning_rate and batch_size. docs/baselines.md has an example.
LEARNERS = {"mf": mf, "neumf": neumf, "mvae": mvae, "recvae": recvae, "lightgcn": lightgcn}
