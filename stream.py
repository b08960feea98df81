"""A stream: users arrive in parts, and what is kept of those before is a memory of fixed size, or everything.

    python stream.py                        memory=distilled: synthetic users carry the past
    python stream.py --memory=random        as many real users, a random sample of all so far
    python stream.py --memory=all           everyone so far: what no memory can be expected to pass
    python stream.py --user_support=100 --parts=5

After each part the ∞-AE is trained on the memory, validated on the users who have come, and tested on everyone, those to
come included: so all parts are measured by the same targets. The distilled memory begins as real users of the first part.
Each part improves it by train_steps of Distill-CF on that part's users alone, which are forgotten then; the learning rate
falls as 1 / the number of the part, so that what a part brings weighs as much as each before it. lamda is learned with
them. For real users it is chosen from lamda_grid on validation, by best_by.

The same command goes on after the last part that was finished. What a run leaves is described in runs/folder.py.
"""

import dataclasses
import math

import jax
import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import distill
import model
from eval import evaluate, inverse_propensity, scores_of, search_lamda, summarise
from lib import devices
from lib.errors import UserError
from lib.random_streams import Stream, generator
from runs.batches import make_batches
from runs.folder import START_AGAIN
from runs.lifecycle import begin, carry_out, from_arrays, quality, run_job, show, to_arrays


def take(dataset, users):
    """The Dataset of these users alone, in their order; the items are all that there were."""
    return dataclasses.replace(
        dataset,
        train=dataset.train[users],
        validation=dataset.validation[users],
        test=dataset.test[users],
        user_ids=dataset.user_ids[users],
        lengths=dataset.lengths[:, users],
    )


def arrive(dataset, parts, seed):
    """The users of each part, in random order: a list of arrays of about the same length."""
    return np.array_split(generator(seed, Stream.ARRIVALS).permutation(dataset.users), parts)


class Learnt:
    """The synthetic users, and how a part changes them."""

    def __init__(self, settings, mesh):
        self.settings, self.mesh = settings, mesh
        self.kernel = model.make_kernel(settings["depth"], settings["normalize"])
        self.sample = distill.make_sampler(settings)
        self.key = jax.random.key(settings["seed"])

    def begin(self, logits):
        """Fresh parameters from (S, I) real users."""
        return distill.initial_state(self.settings, logits, distill.make_optimizer(self.settings)).params

    def improve(self, params, dataset, number):
        """The parameters after train_steps on the users of one part, the number-th from 0."""
        settings = {**self.settings, "learning_rate": self.settings["learning_rate"] / (number + 1)}
        optimizer = distill.make_optimizer(settings)
        step = distill.make_step(
            settings, distill.make_loss(settings, self.kernel, dataset), optimizer, self.mesh
        )
        batches = make_batches(
            {**settings, "seed": int(generator(settings["seed"], Stream.PART_SEED, number).integers(2**31))},
            dataset,
            self.mesh,
        )
        state = devices.replicate(self.mesh, distill.State(params, optimizer.init(params)))
        part_key = jax.random.fold_in(self.key, number)
        for count in tqdm(
            range(settings["train_steps"]), unit="step", desc=f"part {number + 1}", leave=False, disable=None
        ):
            state, outcome = step(
                state, math.nan, jax.random.fold_in(part_key, count), batches(count), np.zeros(1, np.int32)
            )
        if not math.isfinite(float(outcome.loss)) or not all(
            np.isfinite(leaf).all() for leaf in state.params
        ):
            raise UserError(
                f"part {number + 1} made of the synthetic users what is not finite; a smaller learning_rate or a larger lamda may help"
            )
        return state.params

    def rows(self, params, number):
        """The synthetic users after a part, (S, I), and their lamda."""
        return self.sample(
            jax.random.fold_in(jax.random.fold_in(self.key, number), self.settings["train_steps"]),
            params.logits,
        ), float(np.exp(params.log_lamda))


def remember(settings, dataset, arrived, learnt, params, newest):
    """The rows to train on after a part, (m, I), the lamdas to choose from, and the synthetic users' parameters.

    Args:
        arrived: the parts so far, as from `arrive`.
        params: of the synthetic users after the part before; None before the first, and for a memory of real users.
        newest: the Dataset of the newest part.
    """
    everyone, size = np.concatenate(arrived), settings["user_support"]
    dtype = np.float64 if settings["float64"] else np.float32
    if settings["memory"] == "all":
        return dataset.train_rows(everyone).toarray().astype(dtype), settings["lamda_grid"], None
    if settings["memory"] == "random":
        # Users with the smallest of random numbers that each keeps: an even sample of those so far, whatever their number.
        priority = generator(settings["seed"], Stream.MEMORY).permutation(dataset.users)
        kept = everyone[np.argsort(priority[everyone])[:size]]
        return dataset.train_rows(kept).toarray().astype(dtype), settings["lamda_grid"], None
    number = len(arrived) - 1
    params = learnt.improve(
        params or learnt.begin(newest.train[:size].toarray().astype(dtype)), newest, number
    )
    rows, lamda = learnt.rows(params, number)
    return rows, [lamda], params


def restore(settings, run, dataset, learnt):
    """What is known of the parts a checkpoint has, and the synthetic users' parameters after them; [] and None without one.

    Raises:
        UserError: it is of other settings, or of something else.
    """
    if (saved := run.load_checkpoint()) is None:
        return [], None
    arrays, progress = saved
    try:
        empty = np.zeros(
            (settings["user_support"], dataset.items), np.float64 if settings["float64"] else np.float32
        )
        params = (
            from_arrays("params", learnt.begin(empty), arrays) if settings["memory"] == "distilled" else None
        )
        parts, run.earlier_seconds = progress["parts"], progress["wall_seconds"]
        run.say(f"going on after part {len(parts)} of {settings['parts']}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{run.folder}/checkpoint.npz does not fit these settings ({error}); {START_AGAIN}"
        ) from error
    return parts, params


def train_and_test(settings, run, dataset, mesh):
    """All of a run; its result. `parts` has a dict a part."""
    weights, here = inverse_propensity(dataset.frequency), devices.local(mesh)
    learnt = Learnt(settings, mesh)
    kernel = learnt.kernel
    test_view = dataset.test_view(generator(settings["seed"], Stream.TEST))
    arrivals, metrics = arrive(dataset, settings["parts"], settings["seed"]), None
    parts, params = restore(settings, run, dataset, learnt)
    # The last part is not in the checkpoint: its metrics are needed user by user.
    for number in range(len(parts), settings["parts"]):
        arrived = arrivals[: number + 1]
        rows, lamdas, params = remember(
            settings, dataset, arrived, learnt, params, take(dataset, arrivals[number])
        )
        so_far = take(dataset, np.sort(np.concatenate(arrived)))
        view = so_far.validation_view(
            generator(settings["seed"], Stream.VALIDATION), settings["validation_users"]
        )
        rows = devices.replicate(mesh, rows)
        found = search_lamda(kernel, rows, lamdas, view, weights, settings["eval_batch_size"], here)
        found = [(lamda, alpha, summarise(each)) for lamda, alpha, each in found]
        found = [each for each in found if math.isfinite(each[2]["HR@100"])]
        if not found:
            raise UserError(f"part {number + 1}: no lamda of {lamdas} can be used; a larger one helps")
        lamda, alpha, validation = max(found, key=lambda each: quality(each[2], settings["best_by"]))
        [metrics] = evaluate(
            scores_of(kernel, rows, [alpha]), 1, test_view, weights, settings["eval_batch_size"], here
        )
        parts.append(
            {
                "part": number + 1,
                "users": so_far.users,
                "remembered": len(rows),
                "lamda": lamda,
                "validation": validation,
                "test": summarise(metrics),
            }
        )
        run.say(
            f"part {number + 1:2d}, {so_far.users:,} users so far, {len(rows):,} remembered, lamda {lamda:<8.3g}  validation  {show(validation)}"
        )
        run.save_metrics(parts)
        if number + 1 < settings["parts"]:
            run.save_checkpoint(
                to_arrays("params", params), {"parts": parts, "wall_seconds": run.wall_seconds()}
            )
    return {
        "val": parts[-1]["validation"],
        "test": metrics,
        "lamda": parts[-1]["lamda"],
        "best_step": None,
        "steps": None,
        "step_seconds": None,
        "parts": parts,
    }


def check(settings, dataset):
    """Raises UserError for parts, or a memory, that the users cannot fill."""
    smallest = dataset.users // settings["parts"]
    if smallest == 0:
        raise UserError(f"parts is {settings['parts']:,}, but {dataset.name} has {dataset.users:,} users")
    if settings["memory"] == "distilled" and not 1 <= settings["user_support"] <= smallest:
        raise UserError(
            f"user_support is {settings['user_support']:,}, but the first part, which synthetic users begin as, has {smallest:,} users"
        )
    if settings["memory"] == "random" and not 1 <= settings["user_support"] <= dataset.users:
        raise UserError(
            f"user_support is {settings['user_support']:,}, but {dataset.name} has {dataset.users:,} users"
        )


def main(arguments):
    settings, reasons, mesh, dataset = begin(arguments, __doc__, "stream")
    check(settings, dataset)
    work = {**settings, "learn_lamda": True, "cosine_decay": True, "accumulate_steps": 1}
    with threadpool_limits(
        limits=1 if settings["memory"] == "distilled" else None, user_api="blas"
    ):  # as in distill.py
        carry_out(
            lambda run: train_and_test(work, run, dataset, mesh),
            settings,
            reasons,
            dataset,
            mesh,
            f"stream-{settings['memory']}",
            None,
            None,
        )


if __name__ == "__main__":
    run_job(main)
