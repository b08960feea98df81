"""A stream: users arrive in parts; a memory of fixed size, or everything, is kept of the parts before.

    python stream.py                        memory=distilled: synthetic users carry the past
    python stream.py --memory=random        equally many real users, a random sample of all so far
    python stream.py --memory=all           everyone so far: the bound for any memory
    python stream.py --user_support=100 --parts=5

After each part the ∞-AE is trained on the memory, validated on the users who have come, and tested on all
users, those to come included: the targets of all parts are the same. The distilled memory begins as real
users of the first part. Each part improves it by train_steps of Distill-CF on that part's users alone, which
are forgotten then. The learning rate falls as 1 / (the number of the part), so that every part weighs the
same. lamda is learned with the memory; for real users, validation chooses it from lamda_grid, by best_by.

The same command goes on after the last finished part. What a run leaves is described in runs/folder.py.
"""

if __name__ == "__main__":
    import lib.start  # noqa: F401

import dataclasses
from functools import partial

import jax
import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import distill
import model
from eval import scores_of, summarise
from lib import devices
from lib.errors import UserError
from lib.random_streams import Stream, generator
from runs.evaluation import Evaluation
from runs.lifecycle import begin, dtype_of, execute, run_job
from runs.loop import Loop
from runs.rows import make_rows


def take(dataset, users):
    """The Dataset of these users alone, in their order; all items stay."""
    parts = {name: getattr(dataset, name)[users] for name in ("train", "validation", "test", "user_ids")}
    return dataclasses.replace(dataset, lengths=dataset.lengths[:, users], **parts)


def arrive(dataset, parts, seed):
    """The users of each part, in random order: a list of arrays of about the same length."""
    return np.array_split(generator(seed, Stream.ARRIVALS).permutation(dataset.users), parts)


def random_memory(dataset, arrived, size, seed):
    """Numbers of `size` users, an even sample of those in `arrived`; only new users push old ones out.

    Args:
        arrived: (users so far,), numbers.
    """
    # Every user keeps one random number; those with the smallest are the sample.
    priority = generator(seed, Stream.MEMORY).permutation(dataset.users)
    return arrived[np.argsort(priority[arrived])[:size]]


def improve(settings, params, part_data, part, key, kernel, mesh):
    """The distill.Params of the synthetic users after train_steps on the users of one part.

    Args:
        params: distill.Params before this part.
        part_data: the Dataset of the part's users.
        part: its place, from 0.
        key: a jax.random key, of which the steps fold in their place.
    """
    part_seed = int(generator(settings["seed"], Stream.PART_SEED, part).integers(2**31))
    settings = {**settings, "learning_rate": settings["learning_rate"] / (part + 1)}
    error = model.LOSSES[settings["loss"]]
    seeded = {**settings, "seed": part_seed}
    _, optimizer, step, batches = distill.build(seeded, part_data, kernel, error, mesh)
    state = devices.replicate(mesh, distill.State(params, optimizer.init(params)))
    steps, no_votes = range(settings["train_steps"]), np.zeros(1, np.int32)
    for place in tqdm(steps, unit="step", desc=f"part {part + 1}", leave=False, disable=None):
        state, outcome = step(state, None, jax.random.fold_in(key, place), batches(place), no_votes)
    if not all(np.isfinite(leaf).all() for leaf in (outcome.loss, *state.params)):
        raise UserError(
            f"part {part + 1}: the parameters of the synthetic users are not finite. Try a smaller "
            "learning_rate or a larger lamda."
        )
    return state.params


def train_and_test(settings, run, evaluation, dataset, mesh):
    """All parts of a run; its result. "parts" has a dict for every part."""
    kernel = model.Kernel(settings["depth"], settings["normalize"])
    arrivals = arrive(dataset, settings["parts"], settings["seed"])
    distilled, size, dtype = settings["memory"] == "distilled", settings["user_support"], dtype_of(settings)
    loop = Loop(run, evaluation, mesh)
    if distilled:
        sample = make_rows(settings, dataset).sample
        start = dataset.train_rows(arrivals[0][:size]).toarray().astype(dtype)
        loop.state = loop.restored("state", distill.initial_params(settings, start))
    for part in loop.steps(settings["parts"], "part"):
        arrived = np.concatenate(arrivals[: part + 1])
        if distilled:
            key = jax.random.fold_in(jax.random.key(settings["seed"]), part)
            part_data = take(dataset, arrivals[part])
            loop.state = improve(settings, loop.state, part_data, part, key, kernel, mesh)
            rows = sample(jax.random.fold_in(key, settings["train_steps"]), loop.state.logits)
            lamdas = [float(np.exp(loop.state.log_lamda))]
        else:
            everyone = settings["memory"] == "all"
            users = arrived if everyone else random_memory(dataset, arrived, size, settings["seed"])
            rows, lamdas = dataset.train_rows(users).toarray().astype(dtype), settings["lamda_grid"]
        so_far = Evaluation(take(dataset, np.sort(arrived)), settings, mesh)
        rows = devices.replicate(mesh, rows)
        lamda, alpha, validation = so_far.best_lamda(kernel, rows, lamdas)
        metrics = evaluation.test(scores_of(kernel, rows, [alpha]))
        line = {"part": part + 1, "users": len(arrived), "remembered": len(rows), "lamda": lamda}
        text = f"part {part + 1:2d}, {len(arrived):,} users so far, {len(rows):,} remembered"
        last = part + 1 == settings["parts"]  # not saved: its metrics are needed user by user
        line["test"] = summarise(metrics)
        loop.keep(f"{text}, lamda {lamda:<8.3g}", line, validation, saved=not last)
    lines = loop.history
    return {
        "val": lines[-1]["validation"],
        "test": metrics,
        "lamda": lines[-1]["lamda"],
        "best_step": None,
        "steps": None,
        "step_seconds": None,
        "parts": lines,
    }


def check(settings, dataset):
    """Raises UserError for parts, or a memory, that the users cannot fill."""
    smallest, size = dataset.users // settings["parts"], settings["user_support"]
    if smallest == 0:
        raise UserError(f"parts is {settings['parts']:,}, but {dataset.name} has {dataset.users:,} users")
    if settings["memory"] == "distilled" and not 1 <= size <= smallest:
        raise UserError(
            f"user_support is {size:,}, but the first part, with which synthetic users begin, has "
            f"{smallest:,} users"
        )
    if settings["memory"] == "random" and not 1 <= size <= dataset.users:
        raise UserError(f"user_support is {size:,}, but {dataset.name} has {dataset.users:,} users")


def main(arguments):
    settings, reasons, mesh, dataset = begin(arguments, __doc__, "stream")
    check(settings, dataset)
    as_always = {
        "rows": "soft",
        "start": "users",
        "learn_lamda": True,
        "cosine_decay": True,
        "accumulate_steps": 1,
    }
    work = partial(train_and_test, {**settings, **as_always}, dataset=dataset, mesh=mesh)
    threads = 1 if settings["memory"] == "distilled" else None  # as in distill.py
    with threadpool_limits(limits=threads, user_api="blas"):
        execute(work, settings, reasons, dataset, mesh, f"stream-{settings['memory']}")


if __name__ == "__main__":
    run_job(main)
