"""Ways to pick users, from a Dataset and a budget to a matrix of users; and the users that distill.py has learnt.

The budget is a number of users, S. Random interactions are as many as S users have on average, spread over
more rows than S. What comes back is CSR (m, I), int8, without empty rows; the budget of all users is all of
the data, whichever way it is asked for.

    random         S users, drawn evenly: those that distill.py with the same seed starts from
    head           the S users with the most train interactions
    interactions   a share S/U of all train interactions, drawn evenly
    svp_cf         the S users whom a small proxy model finds hardest (Sachdeva et al., WSDM 2022)

What a run of distill.py has left is not picked but read: `distilled`, float32 weights from 0 to 1, or `distilled_hard`,
interactions drawn from its logits, about as many as a real user has.
"""

import hashlib
from pathlib import Path

import jax
import numpy as np
import optax
import scipy.sparse as sp

from data import TRAIN
from lib.errors import UserError
from lib.files import keep_arrays
from lib.random_streams import Stream, generator
from rivals import learners
from runs.synthetic_users import folder_of, open_distilled, to_matrix

PROXY = {"dimensions": 10, "dropout": 0.3, "l2": 0.0}  # matrix factorisation, as the paper's
PROXY_LEARNING_RATE, PROXY_EPOCHS, PROXY_BATCH = 0.006, 50, 4096
RIVALS = 10  # items that each interaction is compared with after an epoch of the proxy


def random_users(dataset, budget, seed):
    """Train rows of `budget` users, drawn evenly without replacement."""
    return dataset.train_rows(dataset.sample_users(budget, seed))


def head_users(dataset, budget, seed):
    """Train rows of the users with the most train interactions, the longest first; of equals, the first in the data."""
    return dataset.train_rows(np.argsort(-dataset.lengths[TRAIN], kind="stable")[:budget])


def random_interactions(dataset, budget, seed):
    """Random train interactions, as many as `budget` users have on average; the rows of all users who keep any."""
    train = dataset.train_rows(np.arange(dataset.users))
    count = round(train.nnz * budget / dataset.users)
    kept = generator(seed, Stream.SAMPLED_INTERACTIONS).choice(train.nnz, count, replace=False)
    user = np.repeat(np.arange(dataset.users), np.diff(train.indptr))[kept]
    rows = sp.csr_matrix((train.data[kept], (user, train.indices[kept])), train.shape)
    return rows[np.diff(rows.indptr) > 0]


def svp_cf_users(dataset, budget, seed, results_dir):
    """Train rows of the users who are hardest for a proxy, the hardest first.

    What the proxy makes of them, the same for every budget, is kept in results_dir.

    How hard a user is: the share of pairs, one of his interactions and one sampled item that he does not have,
    that the proxy ranks the wrong way round, in the mean over its epochs. What is learnt late, or forgotten on
    the way, counts as often as it is wrong. Users without train interactions come last.
    """
    train = dataset.train_rows(np.arange(dataset.users))
    proxy = repr((PROXY, PROXY_LEARNING_RATE, PROXY_EPOCHS, PROXY_BATCH, RIVALS))
    content = train.indptr.tobytes() + train.sorted_indices().indices.tobytes()
    key = hashlib.sha256(proxy.encode() + content).hexdigest()
    share = keep_arrays(
        Path(results_dir) / f".svp_cf-{dataset.name}-seed{seed}.npz",
        key,
        lambda: {"share": forgetting(train, jax.random.key(seed))},
        lambda arrays: "share" in arrays and arrays["share"].shape == (dataset.users,),
    )["share"]
    hard = np.where(np.diff(train.indptr) > 0, share, -1)
    return dataset.train_rows(np.argsort(-hard, kind="stable")[:budget])


def forgetting(train, key):
    """The mean share of wrong pairs of each user over the proxy's epochs, (U,) float; 0 for users without interactions."""
    users, items = train.shape
    histories = learners.histories_of(train)
    learner, optimizer = learners.mf(users, items, **PROXY), optax.adam(PROXY_LEARNING_RATE)
    epoch, steps = learners.make_epoch(learner, histories, optimizer, PROXY_BATCH)
    start_key, epoch_key, rival_key = jax.random.split(key, 3)
    params = learner.initialise(start_key)
    state = optimizer.init(params)

    @jax.jit
    def wrong(params, key):
        rivals = learners.draw_negatives(key, histories, histories.user, items, RIVALS)

        def of_entry(user, item, rivals):
            score = lambda item: params["item"][item] @ params["user"][user] + params["bias"][item]
            return ((rivals >= 0) & (score(rivals) >= score(item))).mean()  # -1 is no rival

        share = jax.lax.map(
            lambda each: of_entry(*each), (histories.user, histories.item, rivals), batch_size=65536
        )
        return jax.ops.segment_sum(share, histories.user, users)

    total = 0
    for number in range(PROXY_EPOCHS):
        params, state, _ = epoch(params, state, jax.random.fold_in(epoch_key, number), number * steps)
        total += wrong(params, jax.random.fold_in(rival_key, number))
    return np.asarray(total) / PROXY_EPOCHS / np.maximum(np.diff(train.indptr), 1)


SAMPLERS = {
    "random": random_users,
    "head": head_users,
    "interactions": random_interactions,
    "svp_cf": svp_cf_users,
}
VALUES = {"distilled": "soft", "distilled_hard": "hard"}  # what distilled.to_matrix calls them


def resolve_users(settings, dataset):
    """The settings, once it is sure that there are such users; the folder and the number of distilled ones filled in.

    Raises:
        UserError: there are not so many users; or the run of the distilled ones cannot be used, or is not of these data
            and their noise.
    """
    if settings["sampler"] not in VALUES:
        if settings["distilled"]:
            raise UserError(
                f"distilled={settings['distilled']} is of use with sampler=distilled or distilled_hard; it is {settings['sampler']}"
            )
        if settings["user_support"] != -1 and not 1 <= settings["user_support"] <= dataset.users:
            raise UserError(
                f"user_support is {settings['user_support']:,}, but {dataset.name} has {dataset.users:,} users; -1 is all of them"
            )
        return settings
    run = _open(settings)
    if run.config["data_fingerprint"] != dataset.fingerprint:
        raise UserError(
            f"{run.folder} was not made from this {dataset.name}, but from other interactions or another split"
        )
    # The fingerprint is that of the data before noise; other noise is other interactions, learnt from and fed.
    if (made := _noise(run.settings)) != _noise(settings):
        raise UserError(
            f"{run.folder} was made with other random interactions in train: "
            f"{' '.join(f'--{key}={value}' for key, value in made.items())} has the same"
        )
    if settings["user_support"] not in (-1, len(run.rows)):
        raise UserError(
            f"user_support is {settings['user_support']:,}, but {run.folder} has {len(run.rows):,} synthetic users"
        )
    return {**settings, "distilled": str(run.folder), "user_support": len(run.rows)}


def kernel_of_run(settings):
    """What the run of distilled users has for the keys of recipes.FULL_DATA; None for a sampler of real users."""
    if settings["sampler"] not in VALUES:
        return None
    run = _open(settings)
    return {
        **{key: run.settings[key] for key in ("depth", "normalize", "item_discount")},
        "lamda_grid": [run.lamda],
    }


def _noise(settings):
    """The settings that say which interactions of train are noise; the seed does only if some are."""
    return {key: settings[key] for key in ("noise", "seed")} if settings.get("noise") else {"noise": 0}


def _open(settings):
    if not settings["distilled"]:
        raise UserError(
            f"sampler={settings['sampler']} needs --distilled=RUN, a run of distill.py: its folder, or its name in {settings['results_dir']}"
        )
    return open_distilled(folder_of(settings["distilled"], settings["results_dir"]))


def sample(settings, dataset):
    """The matrix of users that a model is to be trained on.

    Args:
        settings: as `resolve_users` returns them: `sampler`, a key of SAMPLERS or of VALUES; `user_support`, S, or -1 for everyone;
            `seed`, of what is random (the head users are not); `distilled` and `results_dir`.
    """
    name, budget, seed = (settings[key] for key in ("sampler", "user_support", "seed"))
    if name in VALUES:
        return to_matrix(_open(settings), VALUES[name], seed)
    if budget == -1:
        return dataset.train_rows(np.arange(dataset.users))
    more = {"results_dir": settings["results_dir"]} if name == "svp_cf" else {}
    return SAMPLERS[name](dataset, budget, seed, **more)
