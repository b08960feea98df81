"""The fast routines beside plain versions of the same work, timed one after the other in one process.

A plain version follows the equations word for word: noise for every synthetic user and every draw, in a scan
that is differentiated automatically; a kernel and a solve for every lamda; metrics user by user in Python;
interactions read one at a time.
"""

import io
import math
import tempfile
import time
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

import data
import distill
import infinite_ae
import model
from eval import inverse_propensity
from lib import devices
from lib.settings import resolve
from runs import recipes
from runs.batches import FED, HELD_OUT
from runs.evaluation import Evaluation
from runs.folder import open_run
from speed.generate import write_data_set

REPEATS = 5
CUTOFFS = 10, 100  # the paper's
LAMDAS = [0.2, 1.0, 5.0, 20.0, 50.0, 100.0]  # for the ∞-AE on all users, where 0 would not be validated


class Ratio(NamedTuple):
    """A routine's time and its plain version's."""

    what: str
    seconds: float
    plain_seconds: float
    plain_is: str  # what the plain version does

    @property
    def ratio(self):
        return self.plain_seconds / self.seconds


def measure(settings, mesh, size):
    """Yields a Ratio of every routine, on generated data.

    Args:
        settings: of distill.py, without an "auto"; the loss is the softmax.
        size: (users, items, interactions).
    """
    settings = {
        **settings,
        "batch_size": -1,
        "sampled_items": -1,
        "objective": "held_out",
        "learn_lamda": True,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "generated"
        write_data_set(folder, *size, settings["seed"])
        yield loading(folder)
        dataset = data.load(folder.name, folder.parent)
    distill.check_fits(settings, dataset, mesh)
    yield validation(settings, dataset, mesh)
    yield from steps(settings, dataset, mesh)
    yield infinite_ae_on_all_users(settings, dataset, mesh)


def median_seconds(function):
    """Median seconds of a call, after a first call, which compiles and is not counted."""
    seconds = [timed(function)[0] for _ in range(REPEATS + 1)]
    return float(np.median(seconds[1:]))


def timed(function):
    """(seconds of one call, its value)."""
    began = time.perf_counter()
    value = jax.block_until_ready(function())
    return time.perf_counter() - began, value


# ---- Loading -------------------------------------------------------------------------------------------


def loading(folder):
    ours = median_seconds(lambda: data.load(folder.name, folder.parent) and None)
    plain = median_seconds(lambda: plain_load(folder) and None)
    return Ratio("loading", ours, plain, "one interaction at a time")


def plain_load(folder):
    """({user: {item}} of train, of validation, of test), read one interaction at a time."""
    parts = ({}, {}, {})
    with h5py.File(folder / data.INTERACTIONS) as file, np.load(folder / data.INDEX) as index:
        columns = file["user"][:], file["item"][:], index["data"]
        for user, item, part in zip(*(column.tolist() for column in columns)):
            if part >= 0:
                parts[part].setdefault(user, set()).add(item)
    return parts


# ---- Validation ----------------------------------------------------------------------------------------


def validation(settings, dataset, mesh):
    kernel = model.Kernel(settings["depth"], settings["normalize"])
    rows = jnp.asarray(distill.initial_logits(settings, dataset))
    weights, lamdas = inverse_propensity(dataset.frequency), settings["lamda_grid"]
    evaluation = Evaluation(dataset, settings, mesh)
    view = evaluation.validation_view
    ours = median_seconds(lambda: evaluation.best_lamda(kernel, rows, lamdas) and None)
    compiled = jax.jit(kernel)
    plain_evaluate(compiled, rows, lamdas[:1], view, weights)  # compiles
    plain, _ = timed(lambda: plain_evaluate(compiled, rows, lamdas, view, weights))
    plain_is = "kernels and a solve for each, per-user Python metrics"
    return Ratio(f"validation of {len(lamdas)} lamdas", ours, plain, plain_is)


def plain_scores(kernel, rows, lamda, context):
    """K(context, rows) alpha, with alpha = (K + lamda tr(K)/m Id)^-1 rows: (B, I).

    Args:
        kernel: (m, I), (B, I) -> their kernel.
        rows: (m, I), to train on.
        context: (B, I), to score.
    """
    gram = kernel(rows)
    ridge = lamda * jnp.trace(gram) / len(rows) * jnp.eye(len(rows))
    alpha = jax.scipy.linalg.solve(gram + ridge, rows, assume_a="pos")
    return jnp.matmul(kernel(context, rows), alpha, precision=model.PRECISION)


def plain_evaluate(kernel, rows, lamdas, view, weights):
    """[{metric: mean over users}] of the ∞-AE on these rows, one for each lamda."""
    context = jnp.asarray(view.context.toarray(), rows.dtype)
    scores = (np.asarray(plain_scores(kernel, rows, lamda, context)) for lamda in lamdas)
    return [plain_metrics(matrix, view, weights) for matrix in scores]


def plain_metrics(scores, view, weights):
    """{metric: mean over users} of HR, nDCG and PSP, in percent, counted user by user.

    Args:
        scores: numpy (B, I).
        view: a data.View with targets and context, sparse (B, I) each.
        weights: (I,), from eval.inverse_propensity.
    """
    totals, counted = {}, 0
    for user in range(scores.shape[0]):
        targets = set(view.targets[user].indices.tolist())
        if not targets:
            continue
        counted += 1
        row = scores[user].copy()
        row[view.context[user].indices] = -np.inf
        ranking = np.argsort(-row)[: max(CUTOFFS)].tolist()
        for k in CUTOFFS:
            reachable = min(len(targets), k)
            hits = [(rank, item) for rank, item in enumerate(ranking[:k]) if item in targets]
            gain = sum(1 / math.log2(rank + 2) for rank, _ in hits)
            ideal_gain = sum(1 / math.log2(rank + 2) for rank in range(reachable))
            weight = sum(float(weights[item]) for _, item in hits)
            largest = sorted((float(weights[item]) for item in targets), reverse=True)[:reachable]
            values = len(hits) / reachable, gain / ideal_gain, weight / reachable / sum(largest)
            for name, value in zip(("HR", "NDCG", "PSP"), values):
                totals[f"{name}@{k}"] = totals.get(f"{name}@{k}", 0) + 100 * value
    return {name: total / counted for name, total in totals.items()}


# ---- A step of distill.py ------------------------------------------------------------------------------


def steps(settings, dataset, mesh):
    """Full-batch steps with shared and with independent noise, and the matrix products alone."""
    kernel = model.Kernel(settings["depth"], settings["normalize"])
    _, optimizer, _, batches = distill.build(settings, dataset, kernel, model.cross_entropy, mesh)
    state = distill.initial_state(settings, distill.initial_logits(settings, dataset), optimizer)
    batch = batches(0)
    no_stop = devices.spread(mesh, np.zeros(len(mesh.local_devices), np.int32))

    def seconds_of(loss):
        step = distill.make_step(loss, optimizer, mesh)
        return median_seconds(lambda: step(state, None, jax.random.key(0), batch, no_stop))

    with threadpool_limits(limits=1, user_api="blas"):  # as distill.py does
        objective = partial(distill.make_objective, dataset=dataset, kernel=kernel, error=model.cross_entropy)
        shared = seconds_of(objective(settings))
        independent = seconds_of(objective({**settings, "noise_groups": -1}))
    plain = seconds_of(make_plain_loss(settings, kernel, dataset))
    products, rate = product_seconds(settings, dataset)
    plain_is = "independent noise, scanned draw by draw"
    return [
        Ratio("step, full batch, shared noise", shared, plain, plain_is),
        Ratio("step, full batch, independent noise", independent, plain, "the same"),
        Ratio(
            f"step beyond its matrix products ({rate:.0f} GFLOP/s)", shared, products, "the products alone"
        ),
    ]


def plain_sample(key, logits, tau, draws):
    """Synthetic users with independent noise, summed draw by draw; (S, I)."""

    def add_draw(total, key):
        return total + jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape)) / tau), None

    total, _ = jax.lax.scan(add_draw, jnp.zeros_like(logits), jax.random.split(key, draws))
    return jnp.clip(total, 0, 1)


def make_plain_loss(settings, kernel, dataset):
    """distill.make_objective for held_out, softmax and learn_lamda, with independent noise."""
    interactions_per_user = dataset.train.nnz / dataset.users

    def loss(params, lamda, noise_key, batch):
        rows = plain_sample(noise_key, params.logits, settings["gumbel_tau"], settings["num_per_user"])
        lamda = jnp.exp(params.log_lamda)
        fed, targets = batch.entries == FED, batch.entries == HELD_OUT
        scores = plain_scores(kernel, rows, lamda, fed.astype(rows.dtype))
        logits = settings["score_scale"] * jnp.where(fed, -jnp.inf, scores)
        entropy = -jnp.sum(jnp.where(targets, jax.nn.log_softmax(logits), 0), axis=1)
        entropy = entropy / jnp.maximum(targets.sum(axis=1), 1) ** settings["history_discount"]
        length = rows.sum() / len(rows) / interactions_per_user
        return entropy.mean() + settings["cardinality_reg"] * length, lamda

    return loss


def product_seconds(settings, dataset):
    """(seconds, GFLOP/s) of the matrix products that a step needs, each timed at its own shape."""
    users, items = dataset.users, dataset.items
    support, draws = settings["user_support"], settings["num_per_user"]
    products = [  # (m, k, n, how many): (m, k) times (k, n)
        # The cross kernel of the batch T, its scores P, and their three derivatives.
        (users, items, support, 2),  # T X', P alpha'
        (users, support, items, 1),  # K alpha
        (support, users, items, 2),  # K' P, K' T
        # The synthetic users' kernel and solve, with their derivatives.
        (support, items, support, 2),
        (support, support, items, 4),
        # The sampling, with its derivative.
        (support, items, draws, 2),
        (support, draws, items, 2),
    ]
    rng, product = np.random.default_rng(0), jax.jit(lambda a, b: jnp.matmul(a, b, precision=model.PRECISION))
    seconds = operations = 0
    for m, k, n, count in products:
        a, b = (jnp.asarray(rng.random(shape, np.float32)) for shape in ((m, k), (k, n)))
        seconds += count * median_seconds(lambda: product(a, b))
        operations += count * 2 * m * k * n
    return seconds, operations / seconds / 1e9


# ---- ∞-AE on all users ---------------------------------------------------------------------------------


def infinite_ae_on_all_users(settings, dataset, mesh):
    """The lamda grid and the test, compilation included, once the data are loaded."""
    settings = settings_of_infinite_ae(settings, dataset)
    ours, _ = timed(lambda: run_infinite_ae(settings, dataset, mesh) and None)
    plain, _ = timed(lambda: plain_infinite_ae(settings, dataset) and None)
    plain_is = "a kernel, a solve and two products for each, per-user Python metrics"
    return Ratio(f"∞-AE on all users, {len(LAMDAS)} lamdas and the test", ours, plain, plain_is)


def settings_of_infinite_ae(settings, dataset):
    """The Settings of infinite_ae.py with the precision and seed of these."""
    own, _ = resolve([f"--lamda_grid={LAMDAS}"], script="infinite_ae")
    own |= {key: settings[key] for key in ("float64", "seed")}
    return recipes.resolve_auto(own, recipes.statistics_of(dataset))[0]


def run_infinite_ae(settings, dataset, mesh):
    """The result of infinite_ae.train_and_test, in a folder that goes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_run({**settings, "results_dir": folder}, "", "bench") as run,
        redirect_stdout(io.StringIO()),
    ):
        evaluation = Evaluation(dataset, settings, mesh)
        return infinite_ae.train_and_test(settings, run, evaluation, dataset, mesh)


def plain_infinite_ae(settings, dataset):
    """The ∞-AE on all users: {"lamda": the best, "val" and "test": its {metric: mean over users}}."""
    kernel = jax.jit(model.Kernel(settings["depth"], settings["normalize"]))
    weights, rng = inverse_propensity(dataset.frequency), np.random.default_rng(0)
    rows = jnp.asarray(dataset.train.toarray(), jnp.float32)
    lamdas = settings["lamda_grid"]
    validated = plain_evaluate(kernel, rows, lamdas, dataset.validation_view(rng), weights)
    best = max(range(len(lamdas)), key=lambda index: validated[index][settings["best_by"]])
    [test] = plain_evaluate(kernel, rows, [lamdas[best]], dataset.test_view(rng), weights)
    return {"lamda": lamdas[best], "val": validated[best], "test": test}
