"""The users that a model is trained on: sampled from a Dataset, or the synthetic users of a run.

A sampler's budget is a number of users, S. Random interactions are as many as S users have on average, spread
over more rows than S. A sample is CSR (m, I), int8, without empty rows. With the budget of all users, every
sampler gives all of the data.

    random          S users, drawn evenly: with the same seed, those that distill.py starts from
    head            the S users with the most train interactions
    interactions    a share S/U of all train interactions, drawn evenly
    svp_cf          the S users whom a small proxy model finds hardest (Sachdeva et al., WSDM 2022)
    distilled       the synthetic users of a run, float32 weights from 0 to 1
    distilled_hard  interactions drawn from that run's logits, about as many as a real user has; of a run with
                    sparse rows, the items of the rows, without their weights

SAMPLERS, below, lists the first four and says how to add one. U users, I items, m rows of a sample.
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
from lib.settings import resolve, split, to_argument
from rivals import descent, learners
from runs.synthetic_users import folder_of, open_distilled, to_matrix

PROXY = {"dimensions": 10, "dropout": 0.3, "l2": 0.0}  # matrix factorisation, as in the paper
PROXY_LEARNING_RATE, PROXY_EPOCHS, PROXY_BATCH = 0.006, 50, 4096
RIVALS = 10  # sampled items that each interaction is compared with, after every epoch of the proxy
OF_RUN = ("dataset", "data_dir", "repeats", "noise", "float64")  # what a run decides for models trained on it


def random_users(dataset, budget, seed, cache_dir):
    """Train rows of `budget` users, drawn evenly without replacement, CSR (S, I)."""
    return dataset.train_rows(dataset.sample_users(budget, seed))


def head_users(dataset, budget, seed, cache_dir):
    """Train rows of the users with the most train interactions, CSR (S, I), the longest first.

    Users with equally many stand in the order of the data.
    """
    return dataset.train_rows(np.argsort(-dataset.lengths[TRAIN], kind="stable")[:budget])


def random_interactions(dataset, budget, seed, cache_dir):
    """As many random train interactions as `budget` users have on average, CSR (m, I).

    Users who keep no interaction have no row.
    """
    train = dataset.train_rows(np.arange(dataset.users))
    count = round(train.nnz * budget / dataset.users)
    kept = generator(seed, Stream.SAMPLED_INTERACTIONS).choice(train.nnz, count, replace=False)
    user = np.repeat(np.arange(dataset.users), np.diff(train.indptr))[kept]
    rows = sp.csr_matrix((train.data[kept], (user, train.indices[kept])), train.shape)
    return rows[np.diff(rows.indptr) > 0]


def svp_cf_users(dataset, budget, seed, cache_dir):
    """Train rows of the users who are hardest for a proxy model, CSR (S, I), the hardest first.

    Users without train interactions come last. How hard every user is, `forgetting`, does not depend on the
    budget and is kept in cache_dir.
    """
    train = dataset.train_rows(np.arange(dataset.users))
    proxy = repr((PROXY, PROXY_LEARNING_RATE, PROXY_EPOCHS, PROXY_BATCH, RIVALS))
    content = train.indptr.tobytes() + train.sorted_indices().indices.tobytes()
    key = hashlib.sha256(proxy.encode() + content).hexdigest()
    share = keep_arrays(
        Path(cache_dir) / f".svp_cf-{dataset.name}-seed{seed}.npz",
        key,
        lambda: {"share": forgetting(train, jax.random.key(seed))},
        lambda arrays: "share" in arrays and arrays["share"].shape == (dataset.users,),
    )["share"]
    hardness = np.where(np.diff(train.indptr) > 0, share, -1)
    return dataset.train_rows(np.argsort(-hardness, kind="stable")[:budget])


def forgetting(train, key):
    """How hard each user is for the proxy: the share of pairs that it ranks wrongly, a mean over epochs.

    A pair is an interaction and a sampled item that the user does not have. An interaction that is learnt
    late, or forgotten on the way, counts for every epoch in which it is wrong.

    Args:
        train: CSR (U, I).
        key: of jax.random.

    Returns:
        (U,) float from 0 to 1; 0 for users without interactions.
    """
    users, items = train.shape
    histories = descent.histories_of(train)
    learner, optimizer = learners.mf(users, items, **PROXY), optax.adam(PROXY_LEARNING_RATE)
    epoch, steps = descent.make_epoch(learner, histories, optimizer, PROXY_BATCH)
    start_key, epoch_key, rival_key = jax.random.split(key, 3)
    params = learner.initialise(start_key)
    state = optimizer.init(params)

    @jax.jit
    def wrong_pairs(params, key):
        rivals = descent.draw_negatives(key, histories, histories.user, items, RIVALS)

        def share_of_entry(entry):
            user, item, rivals = entry
            score = lambda item: params["item"][item] @ params["user"][user] + params["bias"][item]
            return ((rivals >= 0) & (score(rivals) >= score(item))).mean()  # a rival of -1 is none

        entries = histories.user, histories.item, rivals
        share = jax.lax.map(share_of_entry, entries, batch_size=65536)
        return jax.ops.segment_sum(share, histories.user, users)

    total = 0
    for i in range(PROXY_EPOCHS):
        params, state, _ = epoch(params, state, jax.random.fold_in(epoch_key, i), i * steps)
        total += wrong_pairs(params, jax.random.fold_in(rival_key, i))
    return np.asarray(total) / PROXY_EPOCHS / np.maximum(np.diff(train.indptr), 1)


# To add a sampler: write a function (dataset, budget, seed, cache_dir) -> CSR (m, I), name it here, and in
# hyper_params.py add its name to kinds["sampler"]. The budget is a number of users from 1 to U. What is
# slow to calculate can be kept in cache_dir, the folder of results. docs/baselines.md has an example.
SAMPLERS = {
    "random": random_users,
    "head": head_users,
    "interactions": random_interactions,
    "svp_cf": svp_cf_users,
}
VALUES = {"distilled": "soft", "distilled_hard": "hard"}  # sampler -> values of synthetic_users.to_matrix


def sample(settings, dataset):
    """The matrix of users that a model is to be trained on.

    Args:
        settings: as from `resolve_users`. Read of them: `sampler`, a key of SAMPLERS or of VALUES;
            `user_support`, S, or -1 for all users; `seed`; `results_dir`; `distilled`, the folder of a run.
        dataset: data.Dataset.

    Returns:
        CSR (m, I): int8 for real users, float32 for synthetic ones.
    """
    name, budget, seed = (settings[key] for key in ("sampler", "user_support", "seed"))
    if name in VALUES:
        return to_matrix(_open(settings), VALUES[name], seed)
    if budget == -1:
        return dataset.train_rows(np.arange(dataset.users))
    return SAMPLERS[name](dataset, budget, seed, settings.get("results_dir"))


def arguments_of_run(arguments, description, script):
    """The words of a command line, led by the settings that the run of a distilled sampler decides.

    Those are the run's data (OF_RUN, and with noise the seed that drew it) and its precision. Words that the
    user typed come later and win. Without a distilled sampler, or with a --config, which holds all settings,
    the words stay as they are.

    Args:
        arguments, description, script: as for settings.resolve.

    Raises:
        UserError: a setting is wrong, or the run cannot be used.
    """
    settings, _ = resolve(arguments, description, script)
    if settings["sampler"] not in VALUES or "config" in dict(split(arguments)):
        return arguments
    run = _open(settings).settings
    keys = (*OF_RUN, "seed") if run.get("noise") else OF_RUN
    differing = [key for key in keys if key in run and key in settings and run[key] != settings[key]]
    return [*(to_argument(key, run[key]) for key in differing), *arguments]


def kernel_of_run(settings):
    """The run's values for the keys of recipes.FULL_DATA, a dict; None without a distilled sampler."""
    if settings["sampler"] not in VALUES:
        return None
    run = _open(settings)
    kernel = {key: run.settings[key] for key in ("depth", "normalize", "item_discount")}
    return {**kernel, "lamda_grid": [run.lamda]}


def resolve_users(settings, dataset):
    """The settings, checked; for a distilled sampler `distilled` and `user_support` are the run's own.

    Args:
        settings: read are `sampler`, `user_support`, `distilled`, `results_dir`, `noise` and `seed`.
        dataset: data.Dataset.

    Raises:
        UserError: the data have fewer users; or the run cannot be used, or is of other data or other noise.
    """
    name, budget = settings["sampler"], settings["user_support"]
    if name not in VALUES:
        if settings["distilled"]:
            raise UserError(
                f"--distilled={settings['distilled']} has no effect with --sampler={name}. "
                "Try --sampler=distilled or --sampler=distilled_hard"
            )
        if budget != -1 and not 1 <= budget <= dataset.users:
            raise UserError(
                f"user_support is {budget:,}, but {dataset.name} has {dataset.users:,} users. "
                "Try --user_support=-1, which is all of them"
            )
        return settings
    run = _open(settings)
    if run.config["data_fingerprint"] != dataset.fingerprint:
        raise UserError(
            f"{run.folder} was not made from this {dataset.name}: its interactions or split were others. "
            f"Try {_in_words(run.settings, ('dataset', 'data_dir', 'repeats'))}"
        )
    # The fingerprint is that of the data before noise. Other noise means other interactions.
    if (noise := _noise(run.settings)) != _noise(settings):
        raise UserError(
            f"{run.folder} was made with other random interactions in train. Try {_in_words(noise, noise)}"
        )
    if budget not in (-1, len(run.rows)):
        raise UserError(
            f"user_support is {budget:,}, but {run.folder} has {len(run.rows):,} synthetic users. "
            "Try --user_support=-1, which is all of them"
        )
    return {**settings, "distilled": str(run.folder), "user_support": len(run.rows)}


def _noise(settings):
    """The settings that decide which train interactions are noise: the seed only if there is noise."""
    return {key: settings[key] for key in ("noise", "seed")} if settings.get("noise") else {"noise": 0}


def _in_words(settings, keys):
    return " ".join(to_argument(key, settings[key]) for key in keys)


def _open(settings):
    """The SyntheticUsers of the run that the settings name."""
    if not settings["distilled"]:
        raise UserError(
            f"--sampler={settings['sampler']} needs --distilled=RUN, a finished run of distill.py: its "
            f"folder, or its name in {settings['results_dir']}"
        )
    return open_distilled(folder_of(settings["distilled"], settings["results_dir"]))
