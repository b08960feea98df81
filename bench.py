"""The speed figures: each fast routine against an honest plain version of the same work, in one run.

    python bench.py                      ratios and growth, and results/bench.json; about four minutes on 2 cores
    python bench.py ratios --user_support=100   the ratios alone, with other settings, as for distill.py
    python bench.py gpu                  the check of a machine with an NVIDIA GPU (speed/gpu.py), ten minutes at most
    python bench.py netflix              generated data of Netflix's size from a text file to test metrics; a quarter of
                                         an hour and 4 GB of disk

The data are generated, those of the ratios of the size of MovieLens-1M: speed does not depend on who liked what. What is
plain is what the equations say, word for word: noise drawn for each synthetic user and each draw by a
scan that is differentiated automatically; a kernel and a solve for each lamda; metrics computed
user by user in Python; interactions read one at a time. Ratios are to be trusted more than seconds:
both sides of one were measured in the same process, one after the other.
"""

import io
import itertools
import json
import math
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

import data
import distill
import infinite_ae
import model
from eval import CUTOFFS, inverse_propensity, search_lamda
from lib import devices
from lib.errors import UserError, run_script
from lib.files import atomic
from lib.settings import resolve
from runs import recipes
from runs.batches import FED, HELD_OUT, make_batches
from runs.folder import open_run, peak_rss_mb
from speed import gpu
from speed.generate import write_data_set
from speed.growth import growth, netflix

USERS, ITEMS, INTERACTIONS = 6040, 3706, 1_000_000  # MovieLens-1M's
REPEATS = 5


def seconds(function):
    """Median seconds of a call, after one that is not counted, which compiles."""
    spent = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        jax.block_until_ready(function())
        spent.append(time.perf_counter() - began)
    return float(np.median(spent[1:]))


def plain_sample(key, logits, tau, draws):
    """Independent noise, draw by draw; (S, I)."""
    add = lambda total, key: (
        total + jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape)) / tau),
        None,
    )
    return jnp.clip(jax.lax.scan(add, jnp.zeros_like(logits), jax.random.split(key, draws))[0], 0, 1)


def make_plain_loss(settings, kernel, dataset):
    """distill.make_loss with independent noise, by the letter of the equations."""

    def loss(params, lamda, noise_key, batch):
        rows = plain_sample(noise_key, params.logits, settings["gumbel_tau"], settings["num_per_user"])
        gram = kernel(rows, rows)
        lamda = jnp.exp(params.log_lamda)
        alpha = jax.scipy.linalg.solve(
            gram + lamda * jnp.trace(gram) / len(rows) * jnp.eye(len(rows)), rows, assume_a="pos"
        )
        fed, targets = (batch == part for part in (FED, HELD_OUT))
        scores = jnp.where(fed > 0, -jnp.inf, kernel(fed.astype(rows.dtype), rows) @ alpha)
        entropy = -jnp.sum(
            jnp.where(targets > 0, jax.nn.log_softmax(settings["score_scale"] * scores), 0), axis=1
        )
        entropy = entropy / jnp.maximum(targets.sum(axis=1), 1) ** settings["history_discount"]
        return entropy.mean() + settings["cardinality_reg"] * rows.sum() / len(rows) / (
            dataset.train.nnz / dataset.users
        ), lamda

    return loss


def plain_metrics(scores, view, weights):
    """HR, nDCG and PSP of one user after another; the mean of each."""
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
            found = min(len(targets), k)
            hits = [(rank, item) for rank, item in enumerate(ranking[:k]) if item in targets]
            best = sum(1 / math.log2(rank + 2) for rank in range(found))
            largest = sum(sorted((float(weights[item]) for item in targets), reverse=True)[:found])
            for name, value in (
                ("HR", len(hits) / found),
                ("NDCG", sum(1 / math.log2(rank + 2) for rank, _ in hits) / best),
                ("PSP", sum(float(weights[item]) for _, item in hits) / found / largest),
            ):
                totals[f"{name}@{k}"] = totals.get(f"{name}@{k}", 0) + 100 * value
    return {name: total / counted for name, total in totals.items()}


def plain_load(folder):
    """The interactions of a data set as a set of items for each user and part."""
    parts = ({}, {}, {})
    with h5py.File(folder / data.INTERACTIONS) as file, np.load(folder / data.INDEX) as index:
        for user, item, part in zip(
            file["user"][:].tolist(), file["item"][:].tolist(), index["data"].tolist()
        ):
            if part >= 0:
                parts[part].setdefault(user, set()).add(item)
    return parts


def product_seconds(settings):
    """(seconds, GFLOP/s) of the matrix products of one step alone, each at its own shape.

    What a step cannot do without: the cross kernel and the scores of the batch with their three
    derivatives, the synthetic users' kernel and solve with theirs, the four products of the sampling.
    """
    s, n = settings["user_support"], settings["num_per_user"]
    shapes = {
        (USERS, ITEMS, s): 2,
        (USERS, s, ITEMS): 1,
        (s, USERS, ITEMS): 2,  # T X', P alpha'; K alpha; K' P, K' T
        (s, ITEMS, s): 2,
        (s, s, ITEMS): 4,  # X X' and the solve's; solves, X's derivative
        (s, ITEMS, n): 2,
        (s, n, ITEMS): 2,
    }  # the sampling
    rng = np.random.default_rng(0)
    total = operations = 0
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=model.PRECISION))
    for (m, k, n), count in shapes.items():
        a, b = (jnp.asarray(rng.random(shape, np.float32)) for shape in ((m, k), (k, n)))
        total += count * seconds(lambda: product(a, b))
        operations += count * 2 * m * k * n
    return total, operations / total / 1e9


def bench_step(settings, dataset, mesh):
    """Full-batch steps: ours, ours with independent noise, and the plain one; against the products alone."""
    kernel = model.make_kernel(settings["depth"], settings["normalize"])
    optimizer = distill.make_optimizer(settings)
    logits = jnp.asarray(distill.initial_logits(settings, dataset))
    state = distill.initial_state(settings, logits, optimizer)
    batch, wish = (
        make_batches(settings, dataset, mesh)(0),
        devices.spread(mesh, np.zeros(len(mesh.local_devices), np.int32)),
    )

    def make(loss):
        step = distill.make_step(settings, loss, optimizer, mesh)
        return lambda: step(state, settings["lamda"], jax.random.key(0), batch, wish)

    independent = distill.make_loss({**settings, "noise_groups": -1}, kernel, dataset)
    plain = make_plain_loss(settings, kernel, dataset)
    with threadpool_limits(limits=1, user_api="blas"):  # as distill.py does
        ours, alone = seconds(make(distill.make_loss(settings, kernel, dataset))), seconds(make(independent))
    scanned = seconds(make(plain))
    products, rate = product_seconds(settings)
    return [
        ("step, full batch, shared noise", ours, scanned, "independent noise, scanned draw by draw"),
        ("step, full batch, independent noise", alone, scanned, "the same"),
        (f"step beyond its matrix products ({rate:.0f} GFLOP/s)", ours, products, "the products alone"),
    ]


def bench_validation(settings, dataset, mesh):
    """The lamda grid, metrics included."""
    kernel = model.make_kernel(settings["depth"], settings["normalize"])
    rows = jnp.asarray(distill.initial_logits(settings, dataset))
    weights = inverse_propensity(dataset.frequency)
    view = dataset.validation_view(np.random.default_rng(0))
    grid, size = settings["lamda_grid"], settings["eval_batch_size"]
    ours = seconds(lambda: search_lamda(kernel, rows, grid, view, weights, size, mesh) and None)
    context, compiled = view.context.toarray().astype(np.float32), jax.jit(kernel)

    def plain(lamdas):
        for lamda in lamdas:
            alpha = model.ridge(compiled(rows), rows, lamda)
            plain_metrics(np.asarray(model.predict(compiled(context, rows), alpha)), view, weights)

    plain(grid[:1])  # compiles
    began = time.perf_counter()
    plain(grid)
    return [
        (
            f"validation of {len(grid)} lamdas",
            ours,
            time.perf_counter() - began,
            "kernels and a solve for each, per-user Python metrics",
        )
    ]


def bench_infinite_ae(settings, dataset, mesh):
    """∞-AE on all users, its lamda grid and the test: all that infinite_ae.py does once the data are loaded, compilation too."""
    own = resolve(["--lamda_grid=[0.2, 1, 5, 20, 50, 100]"], script="infinite_ae")[
        0
    ]  # six that are all validated, which 0 is not
    settings, _ = recipes.resolve_auto(
        {**own, "float64": settings["float64"], "seed": settings["seed"]}, recipes.statistics_of(dataset)
    )
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        open_run({**settings, "results_dir": folder}, "", "bench") as run,
        redirect_stdout(io.StringIO()),
    ):
        infinite_ae.train_and_test(settings, run, dataset, mesh)
    ours, began = time.perf_counter() - began, time.perf_counter()
    kernel, weights = jax.jit(model.make_kernel(1, False)), inverse_propensity(dataset.frequency)
    rows = jnp.asarray(dataset.train.toarray(), jnp.float32)
    views = [dataset.validation_view(np.random.default_rng(0))] * len(settings["lamda_grid"]) + [
        dataset.test_view(np.random.default_rng(0))
    ]
    for lamda, view in zip([*settings["lamda_grid"], 5], views):
        gram = kernel(rows)
        alpha = jax.scipy.linalg.solve(
            gram + lamda * jnp.trace(gram) / len(rows) * jnp.eye(len(rows)), rows, assume_a="pos"
        )
        context = jnp.asarray(view.context.toarray(), jnp.float32)
        plain_metrics(np.asarray(kernel(context, rows) @ alpha), view, weights)
    return [
        (
            "∞-AE on all users, 6 lamdas and the test",
            ours,
            time.perf_counter() - began,
            "a kernel, a solve and two products for each, per-user Python metrics",
        )
    ]


def bench_loading(folder):
    ours, plain = (
        seconds(lambda: data.load(folder.name, folder.parent) and None),
        seconds(lambda: plain_load(folder) and None),
    )
    return [("loading", ours, plain, "one interaction at a time")]


def ratios(settings, mesh):
    """[(what, seconds, plain seconds, what is plain)]."""
    settings = {**settings, "batch_size": -1, "objective": "held_out", "learn_lamda": True}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "generated"
        count = write_data_set(folder, USERS, ITEMS, INTERACTIONS, settings["seed"])
        figures = bench_loading(folder)
        dataset = data.load(folder.name, folder.parent)
    distill.check_fits(settings, dataset, mesh)
    print(
        f"{dataset.users:,} users, {dataset.items:,} items, {count:,} interactions, generated; {devices.describe(mesh)}; "
        f"medians of {REPEATS}",
        flush=True,
    )
    figures += (
        bench_validation(settings, dataset, mesh)
        + bench_step(settings, dataset, mesh)
        + bench_infinite_ae(settings, dataset, mesh)
    )
    print(f"\n{'':50s} {'seconds':>8s} {'plain':>8s} {'ratio':>7s}   plain is")
    for name, ours, plain, words in figures:
        print(f"{name:50s} {ours:8.3f} {plain:8.3f} {plain / ours:6.2f}x   {words}", flush=True)
    return [
        {"what": name, "seconds": ours, "plain_seconds": plain, "ratio": plain / ours, "plain_is": words}
        for name, ours, plain, words in figures
    ]


def main(arguments):
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    settings, changed = resolve(arguments[len(words) :], __doc__)
    words = words or ["ratios", "growth"]
    if unknown := set(words) - {"ratios", "growth", "gpu", "netflix"}:
        raise UserError(f"there is no benchmark '{min(unknown)}'; there are ratios, growth, gpu and netflix")
    if "gpu" in words:
        if len(words) > 1:
            raise UserError("gpu is run alone: it leaves the devices to processes of its own")
        return gpu.gpu(settings, changed)
    # The plain step has the softmax.
    settings, _ = recipes.resolve_auto(
        {**settings, "dataset": "generated", "loss": "softmax"},
        recipes.Statistics(USERS, ITEMS, INTERACTIONS),
    )
    mesh = devices.start(settings["float64"])
    out = Path(settings["results_dir"]) / "bench.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {"device": devices.describe(mesh), "settings": settings}
    if "ratios" in words:
        about["figures"] = ratios(settings, mesh)
    if "growth" in words:
        about["growth"] = growth(settings, mesh)
    if "netflix" in words:
        about["netflix"] = netflix()
    with atomic(out) as file:
        file.write(json.dumps({**about, "peak_rss_mb": peak_rss_mb()}, indent=2).encode())
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    run_script(main)
