"""The speed figures: each fast routine against an honest plain version of the same work, in one run.

    python bench.py                      a table, and results/bench.json; about a minute on 2 cores
    python bench.py --user_support=100   other settings, as for distill.py

The data are generated, of the size of MovieLens-1M: speed does not depend on who liked what. What is
plain is what the equations say, word for word: noise drawn for each synthetic user and each draw by a
scan that is differentiated automatically; a kernel and a solve for each lamda; metrics computed
user by user in Python; interactions read one at a time. Ratios are to be trusted more than seconds:
both sides of one were measured in the same process, one after the other.
"""
import json
import math
import tempfile
import time
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

import data
import devices
import distill
import model
from eval import CUTOFFS, inverse_propensity, search_lamda
from preprocess import split_interactions, write_layout
from runs import atomic, peak_rss_mb
from settings import resolve, run_script

USERS, ITEMS, INTERACTIONS = 6040, 3706, 1_000_000  # MovieLens-1M's
REPEATS = 5


def generate(rng):
    """Power-law data: (user, item) of about INTERACTIONS distinct pairs."""
    share = rng.lognormal(0, 1, USERS)
    length = np.clip(share / share.sum() * INTERACTIONS * 1.03, 20, ITEMS // 3).astype(int)
    popularity = 1 / np.arange(1, ITEMS + 1) ** 0.8
    score = np.log(popularity) + rng.gumbel(size=(USERS, ITEMS))
    return np.nonzero(np.argsort(np.argsort(-score, axis=1), axis=1) < length[:, None])


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
    add = lambda total, key: (total + jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape)) / tau), None)
    return jnp.clip(jax.lax.scan(add, jnp.zeros_like(logits), jax.random.split(key, draws))[0], 0, 1)


def make_plain_loss(settings, kernel, dataset):
    """distill.make_loss, by the letter of the equations."""
    def loss(params, lamda, noise_key, batch):
        rows = plain_sample(noise_key, params.logits, settings["gumbel_tau"], settings["num_per_user"])
        gram = kernel(rows, rows)
        lamda = jnp.exp(params.log_lamda)
        alpha = jax.scipy.linalg.solve(gram + lamda * jnp.trace(gram) / len(rows) * jnp.eye(len(rows)), rows, assume_a="pos")
        fed, targets = (batch == part for part in (distill.FED, distill.HELD_OUT))
        scores = jnp.where(fed > 0, -jnp.inf, kernel(fed.astype(rows.dtype), rows) @ alpha)
        entropy = -jnp.sum(jnp.where(targets > 0, jax.nn.log_softmax(scores), 0), axis=1)
        entropy = entropy / jnp.maximum(targets.sum(axis=1), 1) ** settings["history_discount"]
        return entropy.mean() + settings["cardinality_reg"] * rows.sum() / len(rows) / (dataset.train.nnz / dataset.users), lamda
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
        ranking = np.argsort(-row)[:max(CUTOFFS)].tolist()
        for k in CUTOFFS:
            found = min(len(targets), k)
            hits = [(rank, item) for rank, item in enumerate(ranking[:k]) if item in targets]
            best = sum(1 / math.log2(rank + 2) for rank in range(found))
            largest = sum(sorted((float(weights[item]) for item in targets), reverse=True)[:found])
            for name, value in (("HR", len(hits) / found), ("NDCG", sum(1 / math.log2(rank + 2) for rank, _ in hits) / best),
                                ("PSP", sum(float(weights[item]) for _, item in hits) / found / largest)):
                totals[f"{name}@{k}"] = totals.get(f"{name}@{k}", 0) + 100 * value
    return {name: total / counted for name, total in totals.items()}


def plain_load(folder):
    """The interactions of a data set as a set of items for each user and part."""
    parts = ({}, {}, {})
    with h5py.File(folder / data.INTERACTIONS) as file, np.load(folder / data.INDEX) as index:
        for user, item, part in zip(file["user"][:].tolist(), file["item"][:].tolist(), index["data"].tolist()):
            if part >= 0:
                parts[part].setdefault(user, set()).add(item)
    return parts


def product_seconds(settings):
    """(seconds, GFLOP/s) of the matrix products of one step alone, each at its own shape.

    What a step cannot do without: the cross kernel and the scores of the batch with their three
    derivatives, the synthetic users' kernel and solve with theirs, the four products of the sampling.
    """
    s, n = settings["user_support"], settings["num_per_user"]
    shapes = {(USERS, ITEMS, s): 2, (USERS, s, ITEMS): 1, (s, USERS, ITEMS): 2,  # T X', P alpha'; K alpha; K' P, K' T
              (s, ITEMS, s): 2, (s, s, ITEMS): 4,                                # X X' and the solve's; solves, X's derivative
              (s, ITEMS, n): 2, (s, n, ITEMS): 2}                                # the sampling
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
    batch, wish = distill.make_batches(settings, dataset, mesh)(0), devices.spread(mesh, np.zeros(len(mesh.local_devices), np.int32))
    fast, default = jax.random.key(0, impl="rbg"), jax.random.key(0)

    def make(loss, key):
        step = distill.make_step(settings, loss, optimizer, mesh)
        return lambda: step(state, settings["lamda"], key, batch, wish)

    independent = distill.make_loss({**settings, "noise_groups": -1}, kernel, dataset)
    plain = make_plain_loss(settings, kernel, dataset)
    with threadpool_limits(limits=1, user_api="blas"):  # as distill.py does
        ours, alone = seconds(make(distill.make_loss(settings, kernel, dataset), fast)), seconds(make(independent, fast))
    scanned, scanned_fast = seconds(make(plain, default)), seconds(make(plain, fast))
    products, rate = product_seconds(settings)
    return [("step, full batch, shared noise", ours, scanned, "independent noise, scanned draw by draw"),
            ("step, full batch, independent noise", alone, scanned, "the same"),
            ("step, full batch, shared noise", ours, scanned_fast, "the same, with our random generator"),
            (f"step beyond its matrix products ({rate:.0f} GFLOP/s)", ours, products, "the products alone")]


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
    return [(f"validation of {len(grid)} lamdas", ours, time.perf_counter() - began, "kernels and a solve for each, per-user Python metrics")]


def bench_loading(folder):
    ours, plain = seconds(lambda: data.load(folder.name, folder.parent) and None), seconds(lambda: plain_load(folder) and None)
    return [("loading", ours, plain, "one interaction at a time")]


def main(arguments):
    settings, _ = resolve(arguments, __doc__)
    settings = {**settings, "dataset": "generated", "batch_size": -1, "objective": "held_out", "learn_lamda": True}
    mesh = devices.start(settings["float64"])
    rng = np.random.default_rng(settings["seed"])
    with tempfile.TemporaryDirectory() as temporary:
        user, item = generate(rng)
        folder = Path(temporary) / "generated"
        folder.mkdir()
        write_layout(folder, user, item, np.ones(len(user)), split_interactions(user, rng))
        figures = bench_loading(folder)
        dataset = data.load(folder.name, folder.parent)
    distill.check_fits(settings, dataset)
    print(f"{dataset.train.shape[0]:,} users, {dataset.train.shape[1]:,} items, {len(user):,} interactions, generated; "
          f"{devices.describe(mesh)}; medians of {REPEATS}", flush=True)
    figures += bench_validation(settings, dataset, mesh) + bench_step(settings, dataset, mesh)
    print(f"\n{'':50s} {'seconds':>8s} {'plain':>8s} {'ratio':>7s}   plain is")
    for name, ours, plain, words in figures:
        print(f"{name:50s} {ours:8.3f} {plain:8.3f} {plain / ours:6.2f}x   {words}")
    out = Path(settings["results_dir"]) / "bench.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as file:
        file.write(json.dumps({"device": devices.describe(mesh), "peak_rss_mb": peak_rss_mb(), "settings": settings, "figures": [
            {"what": name, "seconds": ours, "plain_seconds": plain, "ratio": plain / ours, "plain_is": words}
            for name, ours, plain, words in figures]}, indent=2).encode())
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    run_script(main)
