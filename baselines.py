"""The models that ∞-AE is compared with: each is tuned on validation, by best_by, and tested once.

    python baselines.py --model=ease                       EASE, its strength from a grid
    python baselines.py --model=mvae --dataset=magazine    or mf, neumf, recvae, lightgcn: rivals/learners.py
    python baselines.py --model=ease '--grid=[{"l2": 300}, {"l2": 500}]'
    python baselines.py --model=ease --sampler=head --user_support=500     trained on the 500 longest users
    python baselines.py --model=ease --sampler=distilled --distilled=results/<run>

The settings to try are in hyper_params.py. Where the best of them lies at an end, further ones are tried.
With a --grid of your own, the run says what to type instead. Models trained by gradient descent stop early:
they are validated every log_freq epochs, and after `patience` epochs without a better validation the next
setting begins. The same command goes on after the last checkpoint. What a run leaves is described in
runs/folder.py.
"""

if __name__ == "__main__":
    import lib.start  # noqa: F401

import inspect
import json
import math
import time
from functools import partial

import jax
import numpy as np
import optax
import psutil

from data import TRAIN
from hyper_params import grid_kinds
from hyper_params import grids as default_grids
from lib import devices
from lib.checks import checked
from lib.devices import GIB
from lib.errors import UserError
from rivals import descent, learners, samplers
from rivals.closed_forms import CLOSED_FORMS, has_few_users
from runs import grids
from runs.lifecycle import begin, execute, format_number, run_job
from runs.loop import Loop

FURTHER_TRAININGS = 4  # at most, of a model that learns by gradient descent, or iALS: each can take minutes
POSITIVE = {"ease": ["l2"], "edlae": ["l2"], "ials": ["l2"], "rp3beta": ["alpha"]}  # their keys above 0
KNOWN_USERS_ONLY = ("neumf",)  # recommend to nobody but the users they were trained on
BY_PAIRS = ("mf", "lightgcn")  # learn from pairs of an item that a user has and one that he lacks


def describe(setting):
    """A setting of the grid, in words."""
    words = [f"{key} {format_number(value)}" for key, value in setting.items()]
    return ", ".join(words) or "nothing to set"


def qualities_of(evaluation, loop, tried):
    """[quality, for runs.grids, of each of the first `tried` settings]."""
    lines = [loop.best_line(lambda line: line["setting"] == place) for place in range(tried)]
    return [line and evaluation.quality(line["validation"]) for line in lines]


def grow(settings, qualities, at_most):
    """runs.grids.grow of the model's own grid; a grid that the user gave stays as it is."""
    grid = settings["grid"]
    return grids.grow(grid, qualities, at_most if grid == default_grids[settings["model"]] else 0)


def say_growth(settings, run, setting, place):
    """Says that this setting of the grown grid was not in the grid, if so."""
    if place >= len(settings["grid"]):
        run.say(f"the best setting lies at an end of the grid, so {describe(setting)} is tried, too")


# ---- Closed forms --------------------------------------------------------------------------------------


def fit_closed_form(settings, evaluation, loop, rows):
    """Tries every setting of the grid; (the test metrics of the best, the settings tried)."""
    fit, rank = CLOSED_FORMS[settings["model"]]
    iterative = settings["model"] == "ials"
    if iterative:
        fit = partial(fit, seed=settings["seed"])

    def scores_with(setting):
        weights = devices.replicate(evaluation.mesh, fit(rows, **setting))
        return lambda users, context: (rank(weights, context),)

    def grid():
        qualities = qualities_of(evaluation, loop, len(loop.history))
        return grow(settings, qualities, FURTHER_TRAININGS if iterative else grids.AT_MOST)

    best = None
    for place in loop.steps(lambda: len(grid()), "setting"):
        setting = grid()[place]
        say_growth(settings, loop.run, setting, place)
        scores = scores_with(setting)
        [metrics] = evaluation.validate(scores)
        if loop.keep(f"{describe(setting):<40}", {"setting": place}, metrics):
            best = scores
    line = loop.best_line()
    if line is None:
        raise UserError(f"{settings['model']}: no setting of the grid gives finite scores. Try a larger l2.")
    return evaluation.test(best or scores_with(grid()[line["setting"]])), grid()


# ---- Gradient descent ----------------------------------------------------------------------------------


def make_learner(name, shape, setting, known=True):
    """The rivals.descent.Learner of this name for a matrix of a shape, with its own part of the setting.

    known: whether those who are asked about are the users it is trained on; else its `fold_in` scores them.
    """
    shared = ("learning_rate", "batch_size")
    own = {key: value for key, value in setting.items() if key not in shared}
    learner = learners.LEARNERS[name](*shape, **own)
    if learner.fold_in and not known:
        tables, scores = learner.fold_in
        learner = learner._replace(tables=tables, scores=scores)
    return learner


def make_scores(learner, params, histories, mesh):
    """The scores of a learner with these parameters, for eval.evaluate."""
    tables = devices.replicate(mesh, jax.jit(learner.tables)(params, histories))
    scores = jax.jit(learner.scores)
    return lambda users, context: (scores(tables, users, context),)


def fit_by_descent(settings, evaluation, loop, rows, known):
    """Trains every setting of the grid until it stops getting better; as fit_closed_form.

    known: as for make_learner.
    """
    histories = descent.histories_of(rows)

    def grid(tried):
        return grow(settings, qualities_of(evaluation, loop, tried), FURTHER_TRAININGS)

    learner_of = lambda stage: make_learner(settings["model"], rows.shape, grid(stage)[stage], known)
    if line := loop.best_line():
        loop.best = loop.restored("best", learner_of(line["setting"]).initialise(jax.random.key(0)))
    train(settings, evaluation, loop, learner_of(loop.stage), histories, grid(loop.stage))
    while loop.stage + 1 < len(grid(loop.stage + 1)):
        loop.next_stage()
        train(settings, evaluation, loop, learner_of(loop.stage), histories, grid(loop.stage))
    line = loop.best_line()
    if line is None:
        raise UserError(
            f"{settings['model']} diverged with every setting of the grid. Try a smaller learning_rate."
        )
    scores = make_scores(learner_of(line["setting"]), loop.best, histories, evaluation.mesh)
    return evaluation.test(scores), grid(loop.stage + 1)


def train(settings, evaluation, loop, learner, histories, grid):
    """Trains the setting of the grid at the loop's stage, and validates it every log_freq epochs."""
    stage, epochs = loop.stage, settings["epochs"]
    setting, words = grid[stage], describe(grid[stage])
    optimizer = optax.adam(setting["learning_rate"])
    run_epoch, steps = descent.make_epoch(learner, histories, optimizer, setting["batch_size"])
    setting_key, start_key = jax.random.split(jax.random.fold_in(jax.random.key(settings["seed"]), stage))
    params = learner.initialise(start_key)
    state = descent.start_optimizer(learner, optimizer, params)
    loop.state = loop.restored("state", (params, state, np.zeros(())))
    say_growth(settings, loop.run, setting, stage)
    label = f"setting {stage + 1} of {len(grid)}"
    for epoch in loop.steps(epochs, "epoch", closing=True, label=label):
        params, adam, loss = loop.state
        if epoch and (epoch % settings["log_freq"] == 0 or epoch == epochs) and not loop.validated:
            scores = make_scores(learner, params, histories, evaluation.mesh)
            line = {"setting": stage, "epoch": epoch, "loss": float(loss)}
            text = f"{words:<40}  epoch {epoch:<5g} loss {float(loss):<5g}"
            # Not saved: a validation takes little, and a checkpoint has all parameters and Adam's moments.
            loop.keep(text, line, evaluation.validate(scores)[0], params, saved=False)
        best = loop.best_line(lambda line: line["setting"] == stage)
        if epoch == epochs or epoch - (best["epoch"] if best else 0) >= settings["patience"]:
            break
        began = time.perf_counter()
        key = jax.random.fold_in(setting_key, epoch)
        loop.state = run_epoch(params, adam, key, epoch * steps)
        loss = float(loop.state[2])
        loop.seconds.append(time.perf_counter() - began)
        if not math.isfinite(loss):
            loop.run.say(
                f"{words}: diverged in epoch {epoch + 1}, its loss is {loss}. Try a smaller learning_rate."
            )
            break
    loop.save()


# ---- The command line ----------------------------------------------------------------------------------


def check_grid(name, grid):
    """Raises UserError for a setting that the model does not have."""
    make = CLOSED_FORMS[name][0] if name in CLOSED_FORMS else learners.LEARNERS[name]
    trained = [] if name in CLOSED_FORMS else ["learning_rate", "batch_size"]
    parameters = inspect.signature(make).parameters
    known = [key for key in parameters if key not in ("rows", "users", "items", "seed")] + trained
    needed = POSITIVE.get(name, []) + trained
    for setting in grid:
        for key, value in setting.items():
            if key not in known:
                names = ", ".join(known) or "nothing to set"
                raise UserError(f"grid: {name} has no '{key}'; it has {names}")
            checked(f"grid: {key}", value, grid_kinds.get(key, grid_kinds["others"]))
        if missing := [key for key in needed if not setting.get(key)]:
            raise UserError(
                f"grid: {name} needs a positive {' and '.join(missing)} in every setting, such as "
                + json.dumps(default_grids[name][0])
            )


def check(settings, dataset):
    """Raises UserError for what the model cannot do, or memory cannot hold."""
    name, users, items = settings["model"], dataset.users, dataset.items
    check_grid(name, settings["grid"])
    if name in KNOWN_USERS_ONLY and settings["user_support"] != -1:
        raise UserError(f"{name} recommends only to users it was trained on: leave user_support at -1")
    if name in KNOWN_USERS_ONLY and dataset.new_users:
        raise UserError(
            f"{name} recommends only to users it was trained on, and {dataset.name} asks about others: try "
            "another model, such as ease, mf or mvae"
        )
    if name in BY_PAIRS and settings["sampler"] == "distilled":
        raise UserError(f"{name} learns from interactions, not from weights: try --sampler=distilled_hard")
    rows = users if settings["user_support"] == -1 else settings["user_support"]
    if settings["sampler"] == "interactions":  # they spread over more users
        rows = users
    free = psutil.virtual_memory().available
    shape = rows, items, int(dataset.lengths[TRAIN].sum()) if name in learners.LEARNERS else 0
    shapes = {
        tuple(value for value in one.values() if isinstance(value, int)): one for one in settings["grid"]
    }
    for setting in shapes.values():  # real numbers decide no array's shape
        if (needed := least_bytes(name, *shape, setting)) <= free:
            continue
        smaller = (setting.get("batch_size", 0) >> halvings for halvings in range(1, 20))
        smaller = ({**setting, "batch_size": size} for size in smaller if size)
        fits = next((one for one in smaller if least_bytes(name, *shape, one) <= free), None)
        advice = "prep.sh leaves rare users and items out with --min-user-count and --min-item-count."
        if fits:
            advice = f"A batch_size of {fits['batch_size']:,} would fit."
        raise UserError(
            f"{name} needs {needed / GIB:,.1f} GiB for {rows:,} users and {items:,} items with "
            f"{describe(setting)}, and {free / GIB:,.1f} GiB are free. {advice}"
        )


def least_bytes(name, users, items, interactions, setting):
    """Bytes of memory that training on users x items needs at least; 0 where it does not matter."""
    if name in ("ease", "edlae"):
        # A matrix in double precision, its inverse or a product on the way, and the result.
        return 3 * 8 * (users if has_few_users(users, items) else items) ** 2
    if name in CLOSED_FORMS:
        return 0
    learner = make_learner(name, (users, items), setting)
    return descent.step_bytes(learner, users, interactions, setting["batch_size"])


def train_and_test(settings, run, evaluation, dataset, mesh):
    """All of a run; its result."""
    loop, rows = Loop(run, evaluation, mesh), samplers.sample(settings, dataset)
    if settings["model"] in CLOSED_FORMS:
        metrics, grid = fit_closed_form(settings, evaluation, loop, rows)
    else:
        known = settings["user_support"] == -1 and not dataset.new_users
        metrics, grid = fit_by_descent(settings, evaluation, loop, rows, known)
    line = loop.best_line()
    if note := grids.note(grid, qualities_of(evaluation, loop, len(grid)), "grid"):
        run.say(note)
    return {
        "val": line["validation"],
        "test": metrics,
        "choice": grid[line["setting"]],
        "best_step": line.get("epoch"),
        "steps": len(loop.seconds) or None,
        "step_seconds": float(np.median(loop.seconds)) if loop.seconds else None,
    }


def main(arguments):
    arguments = samplers.arguments_of_run(arguments, __doc__, "baselines")
    settings, reasons, mesh, dataset = begin(arguments, __doc__, "baselines")
    grid = settings["grid"] or default_grids[settings["model"]]
    settings = samplers.resolve_users({**settings, "grid": grid}, dataset)
    check(settings, dataset)
    work = partial(train_and_test, settings, dataset=dataset, mesh=mesh)
    execute(work, settings, reasons, dataset, mesh, settings["model"], system=settings["model"])


if __name__ == "__main__":
    run_job(main)
