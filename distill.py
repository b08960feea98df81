"""Distill-CF: learns synthetic users from real ones, then trains and evaluates the ∞-AE on them alone.

    python distill.py                          the settings of hyper_params.py
    python distill.py --dataset=ml-100k --user_support=100 --seed=7
    python distill.py --paper=true             every choice as in the paper
    CUDA_VISIBLE_DEVICES=0 python distill.py   on the first GPU

It can be killed at any moment. The same command goes on from the last checkpoint, and ends with the same
bits as an uninterrupted run. What a run leaves is described in runs/folder.py.
"""

if __name__ == "__main__":
    import lib.start  # noqa: F401

import json
import time
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from threadpoolctl import threadpool_limits

import data
import model
from eval import scores_of
from lib import devices, sparse
from lib.devices import GIB
from lib.errors import UserError
from lib.random_streams import Stream, generator
from lib.settings import defaults, to_arguments
from runs import recipes, reference_models, trials
from runs.batches import FED, HELD_OUT, batch_users, make_batches
from runs.evaluation import Evaluation, show
from runs.lifecycle import begin, dtype_of, execute, make_kernel, run_job
from runs.loop import Loop
from runs.rows import PROGRAMS, make_rows
from runs.synthetic_users import open_distilled, pack_ids

LAMDA_FACTOR = 3  # between the lamdas that are tried at the end, from the step's own upwards
OWN_SHARE = 0.2  # of a start by popularity
REHEARSAL_USERS = 2000  # validate a rehearsal, at most
REHEARSAL_SCORES = 5 * 10**7  # fewer users, but a quarter of these at least, where the items are many


class Params(NamedTuple):
    """What Distill-CF learns: logits L (S, I), and the logarithm of lamda (unless lamda is searched)."""

    logits: jax.Array
    log_lamda: jax.Array


class State(NamedTuple):
    """What a step changes, on the devices."""

    params: Params
    adam: optax.OptState


class Outcome(NamedTuple):
    """What a step reports, scalars on the devices."""

    loss: jax.Array
    lamda: jax.Array  # that it used
    stop_votes: jax.Array  # devices whose process is to stop


class Best(NamedTuple):
    """The synthetic users of the best validation: rows and logits, (S, I) each."""

    rows: jax.Array
    logits: jax.Array


# ---- The algorithm -------------------------------------------------------------------------------------


@lru_cache(PROGRAMS)
def make_loss(
    kernel, sample, error, users, real_length, held_out, history_discount, score_scale, cardinality_reg
):
    """The outer objective of Distill-CF (equation 4 of the paper).

    Args:
        kernel: from model.Kernel.
        sample: (key, logits (S, I)) -> X_syn (S, I).
        error: one of model.LOSSES.
        users: B, the real users of a batch; its further rows are empty.
        real_length: train interactions of a real user, in the mean.
        held_out: predict the interactions that were not fed; otherwise those that were (the paper).
        history_discount, score_scale: see model.cross_entropy.
        cardinality_reg: price of a synthetic user's length, relative to a real user's.

    Returns:
        loss(params, lamda or None for exp(params.log_lamda), noise_key, Batch) -> (loss, lamda), two scalars:
        the mean error over B real users of ∞-AE trained on sampled synthetic users, plus the price.
    """

    def errors(left, right, batch):
        """The error of each user, (B',), whose scores are left (B', S) times right (S, I)."""
        some = right if batch.items is None else right[:, batch.items]
        if batch.parts is not None:
            return model.squared_error_of_places(
                left, right, some, batch.parts, history_discount, score_scale
            )
        fed, others = batch.entries == FED, {}
        targets, hidden = (batch.entries == HELD_OUT, fed) if held_out else (fed, None)
        if batch.items is not None and error is model.squared_error:
            others = {"square": model.sum_of_squares(left, right)}  # a sample of squares is a bad estimate
        elif batch.items is not None:
            others = {"counts": batch.counts.astype(left.dtype)}
        scores = model.predict(left, some)
        return error(scores, targets, hidden, history_discount, score_scale, **others)

    def loss(params, lamda, noise_key, batch):
        rows = sample(noise_key, params.logits)
        lamda = jnp.exp(params.log_lamda) if lamda is None else lamda
        if batch.fed is not None:
            cross = kernel.of_places(batch.fed, rows)
        elif batch.items is None:
            cross = kernel((batch.entries == FED).astype(rows.dtype), rows)
        else:
            cross = kernel.of_part((batch.entries == FED).astype(rows.dtype), batch.items, rows)
        left, right = model.ridge_factors(kernel(rows), cross, rows, lamda)
        mean_error = errors(left, right, batch).sum() / users
        length = rows.sum() / len(rows) / real_length
        return mean_error + cardinality_reg * length, lamda

    return loss


@lru_cache(PROGRAMS)
def make_step(loss, optimizer, mesh):
    """One Adam update from one or more batches; the same noise serves all of them.

    Returns:
        step(state, lamda or None, key, batches, stop_votes) -> (State, Outcome), at once: devices go on.
    """
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    add = jax.jit(lambda total, part: jax.tree.map(jnp.add, total, part))

    @partial(jax.jit, static_argnums=2, out_shardings=devices.replicated(mesh))
    def update(state, total, batches, stop_votes):
        (value, lamda), gradients = jax.tree.map(lambda leaf: leaf / batches, total)
        changes, adam = optimizer.update(gradients, state.adam, state.params)
        params = optax.apply_updates(state.params, changes)
        return State(params, adam), Outcome(value, lamda, stop_votes.sum())

    def step(state, lamda, key, batches, stop_votes):
        total = None
        for batch in batches:
            part = gradient(state.params, lamda, key, batch)
            total = part if total is None else add(total, part)
        return update(state, total, len(batches), stop_votes)

    return step


def is_validated(step, settings):
    """Whether a step is validated: every log_freq-th and, with validate_early, a quarter and half of that."""
    frequency = settings["log_freq"]
    return step % frequency == 0 or settings["validate_early"] and step in (frequency // 2, frequency // 4)


def optimise(settings, run, evaluation, dataset, kernel, error, mesh):
    """Learns the synthetic users; the Loop, which has the best of them, or those of keep_step."""
    kind, optimizer, update, batches = build(settings, dataset, kernel, error, mesh)
    logits = initial_logits(settings, dataset)
    fixed = settings["keep_step"] != "best"
    steps = min(settings["train_steps"], settings["keep_step"]) if fixed else settings["train_steps"]
    loop = Loop(run, evaluation, mesh, (lambda line: line["step"]) if fixed else None)
    loop.state = devices.replicate(mesh, loop.restored("state", initial_state(settings, logits, optimizer)))
    loop.best = loop.restored("best", Best(logits, logits))
    step_key, validation_key = jax.random.split(jax.random.key(settings["seed"]))
    lamda = loop.history[-1]["lamda"] if loop.history else None
    for step in loop.steps(steps, "step", closing=True):
        over = lambda: step == steps or step - loop.best_step() >= settings["patience"]
        if (is_validated(step, settings) or over()) and not loop.validated:
            loss = loop.loss()
            logits = devices.localise(evaluation.mesh, loop.state.params.logits)
            rows = kind.finish(validation_key, step, logits)
            learned = [float(np.exp(loop.state.params.log_lamda))]
            lamdas = learned if settings["learn_lamda"] else settings["lamda_grid"]
            lamda, _, metrics = evaluation.best_lamda(kernel, rows, lamdas)
            line = {"step": step, "lamda": lamda, "loss": loss}
            loop.keep(f"step {step:4d}  lamda {lamda:<8.3g}", line, metrics, Best(rows, logits))
        if over():
            return loop
        searched = None if settings["learn_lamda"] else lamda
        key = jax.random.fold_in(step_key, step)
        loop.state, outcome = update(loop.state, searched, key, batches(step), loop.stop_votes())
        loop.watch(outcome)


def rehearse(settings, dataset, lamdas, mesh):
    """A run that leaves nothing, for runs.trials.choose."""
    evaluation, error = rehearsal_evaluation(settings, dataset, mesh), model.LOSSES[settings["loss"]]
    kernel = make_kernel(settings, dataset)
    kind, optimizer, update, batches = build(settings, dataset, kernel, error, mesh)
    state = initial_state(settings, initial_logits(settings, dataset), optimizer)
    state, no_votes = devices.replicate(mesh, state), np.zeros(1, np.int32)
    step_key, validation_key = jax.random.split(jax.random.key(settings["seed"]))
    steps, curve = settings["train_steps"], {}
    for step in range(steps + 1):
        if is_validated(step, settings) or step == steps:
            params = devices.localise(evaluation.mesh, state.params)
            rows = kind.finish(validation_key, step, params.logits)
            own = float(np.exp(params.log_lamda))
            if not settings["learn_lamda"]:
                own, _, _ = evaluation.best_lamda(kernel, rows, settings["lamda_grid"])
            tried = [own if lamda == "step" else lamda for lamda in lamdas]
            scores = scores_of(kernel, rows, model.fit(kernel, rows, tried))
            for lamda, metrics in zip(lamdas, evaluation.validate_users(scores, len(tried))):
                curve[step, lamda] = metrics["NDCG@10"]
        if step < steps:
            key = jax.random.fold_in(step_key, step)
            searched = None if settings["learn_lamda"] else own
            state, _ = update(state, searched, key, batches(step), no_votes)
    return curve


def rehearsal_evaluation(settings, dataset, mesh):
    """The Evaluation of a rehearsal."""
    users = min(REHEARSAL_USERS, max(REHEARSAL_USERS // 4, REHEARSAL_SCORES // dataset.items))
    return Evaluation(dataset, {**settings, "validation_users": users, "best_by": "NDCG@10"}, mesh)


def popularity_in_rehearsals(settings, dataset, mesh):
    """NDCG@10 of popularity, of every user that validates a rehearsal."""
    evaluation = rehearsal_evaluation(settings, dataset, mesh)
    [metrics] = evaluation.validate_users(reference_models.popularity(dataset, evaluation))
    return metrics["NDCG@10"]


def final_model(settings, evaluation, kernel, rows, chosen):
    """(lamda, alpha (S, I), its validation metrics) of ∞-AE on the kept rows, by keep_lamda.

    Args:
        chosen: the kept step's line of the history.
    """
    own, keep = chosen["lamda"], settings["keep_lamda"]
    if keep == "step":  # it was validated then
        return own, *model.fit(kernel, rows, [own]), chosen["validation"]
    if keep != "best":
        return evaluation.best_lamda(kernel, rows, [keep])
    # Not below the learned one: validation feeds the rows that it was learned on, so it likes a close fit.
    best, better = None, True
    while better:
        at = best[0] if best else own
        best = evaluation.best_lamda(kernel, rows, [at, at * LAMDA_FACTOR])
        better = best[0] != at
    return best


def test(settings, run, evaluation, dataset, kernel, loop):
    """Trains ∞-AE on the kept synthetic users, reads the test set once, writes distilled.npz; the result."""
    from lib import plots  # here: no step need wait for Matplotlib

    best, chosen = loop.best, loop.best_line()
    rows = devices.replicate(evaluation.mesh, best.rows)
    lamda, alpha, validation = final_model(settings, evaluation, kernel, rows, chosen)
    run.say(f"lamda {lamda:.3g}, of step {chosen['step']}  validation  {show(validation, evaluation.shown)}")
    metrics = evaluation.test(scores_of(kernel, rows, [alpha]))
    weights = data.item_weights(dataset, settings["item_discount"])
    kind = make_rows(settings, dataset)
    if size := kind.describe(best.rows):
        run.say(size)
    arrays = {
        **kind.arrays(*best),
        "item_weights": np.ones(dataset.items, np.float32) if weights is None else weights,
        "item_ids": pack_ids(dataset.item_ids),
        "lamda": np.float64(lamda),
        "real_length": dataset.lengths[data.TRAIN].mean(),
        "settings": np.array(json.dumps(settings)),
    }
    run.save_arrays("distilled.npz", arrays, compressed=kind.compressed)
    title = f"Distill-CF on {dataset.name}: {settings['user_support']} synthetic users"
    run.save("curve.png", plots.curve(loop.history, chosen["step"], title))
    return {
        "val": validation,
        "test": metrics,
        "lamda": lamda,
        "best_step": chosen["step"],
        "learnt": chosen["step"] > 0,
        "steps": loop.step,
        "step_seconds": float(np.median(loop.seconds)) if loop.seconds else None,
    }


# ---- Its parts, from the settings ----------------------------------------------------------------------


def scale_by_adam_of_users(decay=0.9, square_decay=0.999, epsilon=1e-8):
    """Adam (Kingma and Ba 2015) with one second moment for each synthetic user, a mean over its logits.

    Adam moves every logit equally far. Here, logits with small gradients, of items that few users have, move
    little. What has fewer than two dimensions gets plain Adam.
    """

    def size(gradient):
        return (gradient**2).mean(axis=1, keepdims=True) if gradient.ndim > 1 else gradient**2

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), zeros, jax.tree.map(size, zeros))

    def update(gradients, state, params=None):
        count = state.count + 1
        blend = lambda decay: lambda old, new: decay * old + (1 - decay) * new
        mean = jax.tree.map(blend(decay), state.mu, gradients)
        square = jax.tree.map(blend(square_decay), state.nu, jax.tree.map(size, gradients))
        unbiased = 1 - decay**count, 1 - square_decay**count
        scaled = lambda mean, square: mean / unbiased[0] / (jnp.sqrt(square / unbiased[1]) + epsilon)
        return jax.tree.map(scaled, mean, square), optax.ScaleByAdamState(count, mean, square)

    return optax.GradientTransformation(init, update)


@lru_cache(PROGRAMS)
def make_optimizer(rate, steps, cosine_decay, shared_moment, project):
    """Adam, whose learning rate may fall to 0 over the steps; then Rows.project."""
    rate = optax.cosine_decay_schedule(rate, steps) if cosine_decay else rate
    scale = scale_by_adam_of_users() if shared_moment else optax.scale_by_adam()
    return optax.chain(scale, optax.scale_by_learning_rate(rate), project)


def initial_logits(settings, dataset):
    """Where the synthetic users start, (S, I) float: the train rows of S random real users.

    Where start_users of them share in one, an interaction of theirs is taken with a probability of one over
    their number; where none is, all of the first are.
    With start=popularity, draws from softmax(L / tau) follow such a row in a share of OWN_SHARE, and else the
    popularity among all users. A large lamda then ranks by popularity, which so few rows cannot tell.
    """
    count, several, seed = (settings[key] for key in ("user_support", "start_users", "seed"))
    parts = [dataset.train_rows(dataset.sample_users(count, seed, place)) for place in range(several)]
    rows = first = parts[0].toarray().astype(dtype_of(settings))
    if several > 1:
        rows = np.zeros_like(first)
        for place, part in enumerate(parts):
            part.data = part.data * (generator(seed, Stream.SHARES, place).random(part.nnz) < 1 / several)
            rows = np.maximum(rows, part.toarray().astype(rows.dtype))
        rows = np.where(rows.any(axis=1, keepdims=True), rows, first)
    if settings["start"] == "users":
        return rows
    popularity = (dataset.train_frequency() + 0.5).astype(rows.dtype)  # logarithms need more than 0
    own = rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)
    share = (1 - OWN_SHARE) * popularity / popularity.sum() + OWN_SHARE * own
    return settings["gumbel_tau"] * np.log(share * dataset.items)


def initial_params(settings, logits):
    """The Params before the first step."""
    return Params(jnp.asarray(logits), jnp.log(jnp.asarray(settings["lamda"], logits.dtype)))


def initial_state(settings, logits, optimizer):
    """The State before the first step."""
    params = initial_params(settings, logits)
    return State(params, optimizer.init(params))


def make_objective(settings, dataset, kernel, error):
    """`make_loss` with the settings' values; error: one of model.LOSSES, or another function like them."""
    return make_loss(
        kernel,
        make_rows(settings, dataset).sample,
        error,
        batch_users(settings["batch_size"], dataset.users),
        float(dataset.lengths[data.TRAIN].sum() / dataset.users),
        settings["objective"] == "held_out",
        settings["history_discount"],
        settings["score_scale"],
        settings["cardinality_reg"],
    )


def build(settings, dataset, kernel, error, mesh):
    """(Rows, optimizer, step, batches) for the settings; see make_rows, make_step and make_batches."""
    kind = make_rows(settings, dataset)
    schedule = [settings[key] for key in ("learning_rate", "train_steps", "cosine_decay", "shared_moment")]
    optimizer = make_optimizer(*schedule, kind.project)
    step = make_step(make_objective(settings, dataset, kernel, error), optimizer, mesh)
    dense = "all"
    entries, shape = dataset.frequency.sum(), (dataset.users, dataset.items)
    if isinstance(kernel, model.Kernel) and sparse.suits(mesh, entries, shape):
        dense = "nothing" if error is model.squared_error else "targets"
    batches = make_batches(
        dataset,
        mesh,
        settings["seed"],
        settings["batch_size"],
        settings["keep_prob"] if settings["objective"] == "held_out" else 1,
        settings["sampled_items"],
        settings["accumulate_steps"],
        dense,
    )
    return kind, optimizer, step, batches


def check_fits(settings, dataset, mesh):
    """Raises UserError for settings that data or memory cannot serve. Nothing large is allocated yet."""
    s, n, items = settings["user_support"], settings["num_per_user"], dataset.items
    if not 1 <= s < max(dataset.users, 2):
        asked = "-1, all users" if s == -1 else f"{s:,}"
        why = "as many synthetic users distil nothing" if s in (-1, dataset.users) else "it must be fewer"
        raise UserError(
            f"user_support is {asked}, but {dataset.name} has {dataset.users:,} users: {why}. "
            "Try --user_support=auto"
        )
    if settings["max_overlap"] < 1 and jax.process_count() > 1:
        raise UserError("max_overlap needs all real users in one process. Leave out --distributed=true")
    if settings["noise_groups"] > s:
        raise UserError(f"noise_groups is {settings['noise_groups']}, more than user_support ({s})")
    number_bytes, free = np.dtype(dtype_of(settings)).itemsize, devices.free_bytes(mesh)
    # As XLA plans a step: bytes of the synthetic users, and of a real user of the batch.
    fixed = number_bytes * (s * (13 * items + 6 * s) + 2 * n * items)
    users = batch_users(settings["batch_size"], dataset.users)
    width = recipes.batch_items(users, settings["sampled_items"], recipes.statistics_of(dataset))
    for_user = number_bytes * (4 * width + 3 * s) + width
    share = -(-users // mesh.size)
    needed = fixed + share * for_user
    if needed > free:
        fits = int((free - fixed) // for_user) * mesh.size
        advice = (
            f"Try --batch_size={fits} (accumulate_steps makes one step of several batches)."
            if fits > 0
            else "Try a smaller user_support or num_per_user."
        )
        raise UserError(
            f"a step with {share:,} real users on each device needs {needed / GIB:,.1f} GiB there, and "
            f"{free / GIB:,.1f} GiB are free. {advice}"
        )


# ---- From the command line, and from Python ------------------------------------------------------------


def main(arguments, own_kernel=None, own_error=None, started=None):
    """Does the run of these command line words, with functions as for `distill`; the folder."""
    try_recipes = None
    if not (own_kernel or own_error):
        try_recipes = lambda settings, dataset, mesh: trials.choose(
            settings,
            dataset,
            partial(rehearse, mesh=mesh),
            partial(popularity_in_rehearsals, mesh=mesh),
            partial(check_fits, mesh=mesh),
        )
    settings, reasons, mesh, dataset = begin(arguments, __doc__, "distill", choose=try_recipes)
    if (own_kernel or own_error) and settings["sampled_items"] != -1:
        raise UserError("a kernel or a loss of your own ranks all items. Try sampled_items=-1")
    check_fits(settings, dataset, mesh)
    kernel = own_kernel or make_kernel(settings, dataset)
    error = own_error or model.LOSSES[settings["loss"]]

    def work(run, evaluation):
        # The solves of a step are small. On a CPU they run beside XLA's large products, where more than one
        # LAPACK thread is in the way.
        with threadpool_limits(limits=1, user_api="blas"):
            loop = optimise(settings, run, evaluation, dataset, kernel, error, mesh)
            return test(settings, run, evaluation, dataset, kernel, loop)

    names = [function.__name__ for function in (own_kernel, own_error) if function]
    kind, system = "-".join(["distill", *names]), None if names else "distill"
    return execute(work, settings, reasons, dataset, mesh, kind, "distilled.npz", system, started)


def distill(interactions, kernel=None, loss=None, split="random", **settings):
    """Learns synthetic users from interactions of your own: this script for Python.

    Args:
        interactions: a sparse matrix (U, I), or a DataFrame with the columns user and item, and time if split
            is "time" or "last".
        kernel: kernel(rows (m, I), columns (k, I) or None for the rows again) -> (m, k), in the place of
            model.Kernel's.
        loss: the name of a loss, or a function as model.cross_entropy.
        split: how prep.sh divides them: "random", "users", "time" or "last".
        settings: of hyper_params.py, such as user_support=50 and seed=1.

    Returns:
        runs.synthetic_users.SyntheticUsers; its folder is results_dir/<run>.
    """
    from prep.from_python import save  # for Python alone: the command line starts without prep/

    began, error = time.monotonic(), loss if callable(loss) else None
    if error is None and loss is not None:
        settings["loss"] = loss
    if kernel or error:
        settings["resume"] = False  # the folder's name has those of the functions, not what they do
        settings.setdefault("sampled_items", -1)
    data_dir = settings.setdefault("data_dir", defaults("distill")["data_dir"])
    settings["dataset"] = save(interactions, data_dir, split=split)
    return open_distilled(main(to_arguments(settings), kernel, error, began))


if __name__ == "__main__":
    run_job(main)
