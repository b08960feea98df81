"""Distill-CF: learns synthetic users from real ones, then trains and evaluates the ∞-AE on them alone.

    python distill.py                          the settings of hyper_params.py
    python distill.py --dataset=ml-100k --user_support=100 --seed=7
    python distill.py --paper=true             every choice as in the paper
    CUDA_VISIBLE_DEVICES=0 python distill.py   on the first GPU

It can be killed at any moment: the same command goes on where the last checkpoint was, and ends with
the same bits as if nothing had happened. What it makes is described in runs/folder.py.
"""

import json
import math
import signal
import sys
import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import data
import model
from eval import inverse_propensity, search_lamda, summarise
from lib import devices, plots
from lib.errors import UserError
from lib.random_streams import Stream, generator
from runs.batches import FED, HELD_OUT, batch_users, make_batches
from runs.folder import START_AGAIN, Stop
from runs.lifecycle import begin, carry_out, from_arrays, make_kernel, quality, run_job, show, to_arrays

CHECKPOINT_SECONDS = 60  # a checkpoint is written at every validation, and when the last is this old
LOSSES = {
    "softmax": model.cross_entropy,
    "generalized": model.generalized_cross_entropy,
    "squared": model.squared_error,
}


class State(NamedTuple):
    """What a step changes, on the devices."""

    params: model.Params
    adam: optax.OptState


class Outcome(NamedTuple):
    """What is to be known of a step, on the devices."""

    loss: jax.Array
    lamda: jax.Array  # that it used
    wishes: jax.Array  # how many devices' processes were told to stop


class Best(NamedTuple):
    """The synthetic users of the best validation, (S, I) each, on the host."""

    rows: np.ndarray
    logits: np.ndarray


class Progress(NamedTuple):
    """What else is needed to go on: plain numbers, kept in the checkpoint as JSON."""

    step: int
    best_step: int
    lamda: float  # of the last validation
    history: list  # a dict a validation, as in metrics.jsonl
    step_seconds: list  # of each step that was timed: not the first ones, which compile
    wall_seconds: float  # of the run in all its processes


def initial_logits(settings, dataset):
    """Where the synthetic users start: the train rows of S random real users, (S, I) float."""
    users = dataset.sample_users(settings["user_support"], settings["seed"])
    return dataset.train_rows(users).toarray().astype(np.float64 if settings["float64"] else np.float32)


def initial_state(settings, logits, optimizer):
    params = model.Params(jnp.asarray(logits), jnp.log(jnp.asarray(settings["lamda"], logits.dtype)))
    return State(params, optimizer.init(params))


def make_sampler(settings):
    """sample(key, logits (S, I)) -> X_syn (S, I), jitted."""
    groups = settings["noise_groups"] if settings["noise_groups"] > 0 else settings["user_support"]
    return jax.jit(
        lambda key, logits: model.sample(
            key, logits, settings["gumbel_tau"], settings["num_per_user"], groups
        )
    )


def make_loss(settings, kernel, dataset):
    """The outer objective of Distill-CF (equation 4 of the paper).

    Returns:
        loss(params, lamda, noise_key, batch (B', I)) -> (scalar, the lamda it used): the mean loss (one of
        LOSSES) of B real users under the ∞-AE trained on sampled synthetic users, plus
        cardinality_reg times the mean length of a synthetic user relative to a real one.
    """
    sample = make_sampler(settings)
    users = batch_users(settings, dataset)
    error_of = LOSSES[settings["loss"]]
    interactions_per_user = dataset.lengths[data.TRAIN].sum() / dataset.users

    def loss(params, lamda, noise_key, batch):
        rows = sample(noise_key, params.logits)
        lamda = jnp.exp(params.log_lamda) if settings["learn_lamda"] else lamda
        alpha = model.ridge(kernel(rows), rows, lamda)
        fed = batch == FED
        targets, hidden = (batch == HELD_OUT, fed) if settings["objective"] == "held_out" else (fed, None)
        scores = model.predict(kernel(fed.astype(rows.dtype), rows), alpha)
        error = error_of(scores, targets, hidden, settings["history_discount"], settings["score_scale"])
        length = rows.sum() / len(rows) / interactions_per_user
        return error.sum() / users + settings["cardinality_reg"] * length, lamda

    return loss


def make_optimizer(settings):
    rate = settings["learning_rate"]
    return optax.adam(
        optax.cosine_decay_schedule(rate, settings["train_steps"]) if settings["cosine_decay"] else rate
    )


def make_step(settings, loss, optimizer, mesh):
    """One Adam update from one or more batches; the same noise serves all of them.

    Returns:
        step(state, lamda, key, batches, wish) -> (state, Outcome), without waiting for the devices.
    """
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    add = jax.jit(lambda total, part: jax.tree.map(jnp.add, total, part))
    parts = settings["accumulate_steps"]

    @partial(jax.jit, out_shardings=devices.replicated(mesh))
    def update(state, total, wish):
        mean = jax.tree.map(lambda each: each / parts, total)
        (value, lamda), gradients = mean
        changes, adam = optimizer.update(gradients, state.adam, state.params)
        return State(optax.apply_updates(state.params, changes), adam), Outcome(value, lamda, wish.sum())

    def step(state, lamda, key, batches, wish):
        total = None
        for batch in batches:
            part = gradient(state.params, lamda, key, batch)
            total = part if total is None else add(total, part)
        return update(state, total, wish)

    return step


def validates(step, settings):
    """Whether a validation follows this many steps: 0, 25, ..., 200, each log_freq after, and the last."""
    return step % (25 if step <= 200 else settings["log_freq"]) == 0 or step == settings["train_steps"]


class Distillation:
    """The optimisation of one run: its state on the devices, and what is kept of it on the disk.

    Every random choice is a function of the seed and the step, so going on from a checkpoint repeats
    exactly what would have come.
    """

    def __init__(self, settings, run, dataset, mesh):
        self.settings, self.run, self.mesh = settings, run, mesh
        self.weights = inverse_propensity(dataset.frequency)
        self.view = dataset.validation_view(
            generator(settings["seed"], Stream.VALIDATION), settings["validation_users"]
        )
        self.kernel = make_kernel(settings, dataset)
        self.sample, optimizer = make_sampler(settings), make_optimizer(settings)
        self.update = make_step(settings, make_loss(settings, self.kernel, dataset), optimizer, mesh)
        self.batches = make_batches(settings, dataset, mesh)
        self.step_key, self.validation_key = jax.random.split(jax.random.key(settings["seed"]))

        logits = initial_logits(settings, dataset)
        self.state, self.best = initial_state(settings, logits, optimizer), Best(logits, logits)
        self.progress = Progress(0, 0, math.nan, [], [], 0.0)
        self._restore()
        self.state = devices.replicate(mesh, self.state)
        self._saved_at, self._step_began, self._pending = time.monotonic(), None, None
        self.stop_at = math.inf  # the step after which all processes stop because one of them was told to

    def due(self):
        """Whether the synthetic users, as they are, are still to be validated."""
        step, history = self.progress.step, self.progress.history
        return (validates(step, self.settings) or self.finished()) and (
            not history or history[-1]["step"] < step
        )

    def finished(self):
        step = self.progress.step
        return (
            step >= self.settings["train_steps"]
            or step - self.progress.best_step >= self.settings["patience"]
        )

    def stale(self):
        return time.monotonic() - self._saved_at > CHECKPOINT_SECONDS

    def step(self, wish):
        """Sends one step to the devices; returns the loss of the one before, or None where there is none.

        That one is ready by now, so looking at it leaves the devices with work.

        Args:
            wish: whether this process was told to stop. It travels with the step, so that all processes learn
                of it after the same one.
        """
        step, previous = self.progress.step, self._pending
        key = jax.random.fold_in(self.step_key, step)
        wish = devices.spread(self.mesh, np.full(len(self.mesh.local_devices), wish, np.int32))
        self.state, self._pending = self.update(
            self.state, self.progress.lamda, key, self.batches(step), wish
        )
        loss = self._take_loss(previous, step)
        now = time.perf_counter()
        if previous is not None and self._step_began is not None:
            self.progress.step_seconds.append(now - self._step_began)
        self._step_began = now if previous is not None else None
        self.progress = self.progress._replace(step=step + 1)
        return loss

    def validate(self):
        """Measures the synthetic users, keeps them if they are the best, and says so; returns HR@100."""
        settings, step = self.settings, self.progress.step
        loss = self._settle()
        mesh = devices.local(self.mesh)
        logits = devices.localise(mesh, self.state.params.logits)
        # Before the first step they are real users, and measured as such; so is the first lamda of the paper's
        # search chosen, and with it the next steps.
        rows = self.sample(jax.random.fold_in(self.validation_key, step), logits) if step else logits
        lamdas = (
            [float(np.exp(self.state.params.log_lamda))]
            if settings["learn_lamda"]
            else settings["lamda_grid"]
        )
        found = search_lamda(
            self.kernel, rows, lamdas, self.view, self.weights, settings["eval_batch_size"], mesh
        )
        found = [
            (lamda, metrics)
            for lamda, metrics in ((lamda, summarise(each)) for lamda, _, each in found)
            if math.isfinite(metrics["HR@100"])
        ]
        if not found:
            raise UserError(
                f"step {step}: the kernel of the synthetic users is not positive definite in {rows.dtype} "
                f"at lamda {', '.join(f'{each:.3g}' for each in lamdas)}; a larger lamda or --float64=true helps"
            )
        lamda, metrics = max(found, key=lambda each: quality(each[1], settings["best_by"]))
        before = [quality(line["validation"], settings["best_by"]) for line in self.progress.history]
        if quality(metrics, settings["best_by"]) > max(before, default=(-1,)):
            self.best = Best(np.asarray(rows), np.asarray(logits))
            self.progress = self.progress._replace(best_step=step)
        self.progress.history.append({"step": step, "lamda": lamda, "loss": loss, "validation": metrics})
        self.progress = self.progress._replace(lamda=lamda)
        self.run.say(f"step {step:4d}  lamda {lamda:<8.3g}  validation  {show(metrics)}")
        self.run.save_metrics(self.progress.history)
        return metrics["HR@100"]

    def save(self):
        """Writes the checkpoint: everything `__init__` cannot make again from settings and data."""
        self._settle()
        self.progress = self.progress._replace(wall_seconds=self.run.wall_seconds())
        self.run.save_checkpoint(
            {**to_arrays("state", self.state), **self.best._asdict()}, self.progress._asdict()
        )
        self._saved_at = time.monotonic()

    def _restore(self):
        saved = devices.share(self.run.load_checkpoint())
        if saved is None:
            return
        arrays, progress = saved
        try:
            best = Best(arrays["rows"], arrays["logits"])
            if [each.shape for each in best] != [each.shape for each in self.best]:
                raise ValueError("shapes differ")
            self.state, self.best, self.progress = (
                from_arrays("state", self.state, arrays),
                best,
                Progress(**progress),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.run.folder}/checkpoint.npz does not fit these settings ({error}); {START_AGAIN}"
            ) from error
        self.run.earlier_seconds = self.progress.wall_seconds
        self.run.say(f"going on from step {self.progress.step}")

    def _settle(self):
        """Waits for the devices; the last loss, None before the first step. What may be kept now is sound."""
        pending, self._pending, self._step_began = self._pending, None, None
        loss = self._take_loss(pending, self.progress.step)
        if pending is not None and not all(np.isfinite(leaf).all() for leaf in self.state.params):
            self._fail("what it made of the synthetic users is not finite", pending, self.progress.step)
        return loss

    def _take_loss(self, pending, step):
        """The loss of this step (counted from 1); one that is not finite stops the run."""
        if pending is None:
            return None
        loss = float(pending.loss)
        if pending.wishes:
            # Not at once: the others may learn of it only while they take the next step.
            self.stop_at = min(self.stop_at, step + 1)
        if not math.isfinite(loss):
            self._fail(f"its loss is {loss}", pending, step)
        return loss

    def _fail(self, what, pending, step):
        raise UserError(
            f"step {step} failed at lamda {float(pending.lamda):.3g}: {what}; either the kernel of the synthetic users is "
            f"not positive definite there in {self.state.params.logits.dtype}, or the step before was too long. The "
            f"last good state is kept in {self.run.folder}/checkpoint.npz; a larger lamda, a smaller learning_rate "
            "or --float64=true may help"
        )


def optimise(settings, run, dataset, mesh):
    """Runs the steps, validations and checkpoints that are still to do; (Best, Progress).

    SIGINT and SIGTERM, to any process, end all of them, after a checkpoint, with the exit code shells expect.
    """
    work = Distillation(settings, run, dataset, mesh)
    reached = work.progress.history[-1]["validation"]["HR@100"] if work.progress.history else math.nan
    with (
        Stop() as stop,
        tqdm(
            total=settings["train_steps"],
            initial=work.progress.step,
            unit="step",
            dynamic_ncols=True,
            disable=None if jax.process_index() == 0 else True,
        ) as bar,
    ):
        while True:
            stopping = stop.signal if jax.process_count() == 1 else work.progress.step >= work.stop_at
            if work.due():
                reached = work.validate()
                work.save()
                bar.set_postfix_str(f"validation HR@100 {reached:.2f}")
            elif stopping or work.stale():
                work.save()
            if work.finished():
                return work.best, work.progress
            if stopping:
                name = signal.Signals(stop.signal or signal.SIGTERM)
                run.say(
                    f"{name.name}: stopped after step {work.progress.step}; the same command"
                    f"{'' if settings['resume'] else ', with --resume=true,'} goes on from there"
                )
                sys.exit(128 + name)
            loss = work.step(stop.signal is not None)
            bar.update()
            if loss is not None:
                bar.set_postfix_str(f"loss {loss:.2f}, validation HR@100 {reached:.2f}", refresh=False)


def finish(settings, run, dataset, mesh, best, progress):
    """Trains the ∞-AE on the best synthetic users, reads the test set once, writes what remains; the result."""
    chosen = next(line for line in progress.history if line["step"] == progress.best_step)
    kernel, mesh = make_kernel(settings, dataset), devices.local(mesh)
    view = dataset.test_view(generator(settings["seed"], Stream.TEST))
    [(_, _, metrics)] = search_lamda(
        kernel,
        devices.replicate(mesh, best.rows),
        [chosen["lamda"]],
        view,
        inverse_propensity(dataset.frequency),
        settings["eval_batch_size"],
        mesh,
    )
    weights = data.item_weights(dataset, settings["item_discount"])
    run.save_arrays(
        "distilled.npz",
        {
            "item_weights": np.ones(dataset.items, np.float32) if weights is None else weights,
            "data": best.rows.astype(np.float32),
            "logits": best.logits.astype(np.float32),
            "item_ids": dataset.item_ids,
            "lamda": np.float64(chosen["lamda"]),
            "real_length": dataset.lengths[data.TRAIN].mean(),
            "settings": np.array(json.dumps(settings)),
        },
    )
    run.save(
        "curve.png",
        plots.curve(
            progress.history,
            progress.best_step,
            f"Distill-CF on {dataset.name}: {settings['user_support']} synthetic users",
        ),
    )
    return {
        "val": chosen["validation"],
        "test": metrics,
        "lamda": chosen["lamda"],
        "best_step": progress.best_step,
        "learnt": progress.best_step > 0,
        "steps": progress.step,
        "step_seconds": float(np.median(progress.step_seconds)) if progress.step_seconds else None,
    }


def check_fits(settings, dataset, mesh):
    """Raises UserError for settings that the data set, or the memory, cannot serve; nothing large has been allocated yet."""
    if not 1 <= settings["user_support"] <= dataset.users:
        raise UserError(
            f"user_support is {settings['user_support']:,}, but {dataset.name} has {dataset.users:,} users to start from"
        )
    if settings["noise_groups"] > settings["user_support"]:
        raise UserError(
            f"noise_groups is {settings['noise_groups']}, more than user_support ({settings['user_support']})"
        )
    number, free = 8 if settings["float64"] else 4, devices.free_bytes(mesh)
    s, n, items = settings["user_support"], settings["num_per_user"], dataset.items
    # In numbers, as XLA plans a step: for each synthetic user, and for each real one of a batch.
    fixed, each = number * (s * (15 * items + 6 * s) + 2 * n * items), number * (4 * items + 3 * s) + items
    share = -(-batch_users(settings, dataset) // mesh.size)
    if fixed + share * each > free:
        fits = int((free - fixed) // each) * mesh.size
        raise UserError(
            f"a step with {share:,} real users on each device needs {(fixed + share * each) / 2**30:,.1f} GiB there, and "
            f"{free / 2**30:,.1f} GiB are free; "
            + (
                f"--batch_size={fits} would fit, and accumulate_steps makes one step of several batches"
                if fits > 0
                else "a smaller user_support or num_per_user needs less"
            )
        )


def main(arguments):
    settings, reasons, mesh, dataset = begin(arguments, __doc__, "distill")
    check_fits(settings, dataset, mesh)

    def work(run):
        # The solves of a step are small, and on a CPU they run beside XLA's large products: more than one
        # thread of LAPACK's own gets in the way of those.
        with threadpool_limits(limits=1, user_api="blas"):
            return finish(settings, run, dataset, mesh, *optimise(settings, run, dataset, mesh))

    carry_out(work, settings, reasons, dataset, mesh, "distill", "distilled.npz", "distill")


if __name__ == "__main__":
    run_job(main)
