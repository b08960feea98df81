"""The models that ∞-AE is compared with: each is tuned on validation, by best_by, and tested once.

    python baselines.py --model=ease                       EASE, its strength from a grid
    python baselines.py --model=mvae --dataset=magazine    MF, NeuMF, MVAE, LightGCN: see rivals/learners.py
    python baselines.py --model=mf '--grid=[{"dimensions": 128, "l2": 0.001, "learning_rate": 0.005, "batch_size": 8192}]'
    python baselines.py --model=ease --sampler=head --user_support=500     trained on some users, evaluated on all
    python baselines.py --model=ease --sampler=distilled --distilled=results/<run>

What is tried stands in hyper_params.py. The models trained by gradient descent stop early: every log_freq epochs
they are validated, and after `patience` epochs without a better one the next setting begins. The same
command goes on after the last checkpoint. What a run leaves is described in runs/folder.py.
"""

import inspect
import math
import signal
import sys
import time
from functools import partial

import jax
import numpy as np
import optax
import psutil
from scipy.linalg import lapack
from tqdm import tqdm

from eval import evaluate, inverse_propensity, number, summarise
from hyper_params import grid_kinds, grids
from lib import devices
from lib.errors import UserError
from lib.random_streams import Stream, generator
from lib.settings import checked
from model import predict
from rivals import learners, samplers
from runs.folder import START_AGAIN, Stop
from runs.lifecycle import begin, best_of, carry_out, from_arrays, run_job, show, to_arrays
from runs.reference_models import rank_by_popularity

CHECKPOINT_SECONDS = 60
DENSE = 0.05  # share of entries from which a product of dense matrices is the faster one; synthetic users have nearly all
OWN_USERS = ("mf", "neumf", "lightgcn")  # know no users but those they were trained on


def popularity(rows):
    """Every item's weight in all rows, (1, I)."""
    return np.asarray(rows.sum(axis=0), np.float32)


def ease(rows, l2):
    """EASE (Steck, WWW 2019): B = Id - P diag(P)^-1 with P = (X'X + l2 Id)^-1, so that its diagonal is 0; (I, I) float32.

    Args:
        rows: X, CSR (m, I).
        l2: > 0.

    Returns:
        NaN everywhere if X'X + l2 Id is not positive definite in double precision.
    """
    users, items = rows.shape
    rows = rows.astype(np.float64)
    if rows.nnz > DENSE * users * items:
        rows = rows.toarray()
        gram = rows.T @ rows
    else:
        gram = (rows.T @ rows).toarray()
    gram[np.diag_indices(items)] += l2
    # By Cholesky, in place, upper triangle: the fastest inverse of a symmetric matrix.
    factor, failed = lapack.dpotrf(gram, overwrite_a=True)
    inverse, singular = lapack.dpotri(factor, overwrite_c=True)
    if failed or singular:
        return np.full(gram.shape, np.nan, np.float32)
    inverse = np.triu(inverse) + np.triu(inverse, 1).T
    weights = inverse / -np.diag(inverse)
    weights[np.diag_indices(items)] = 0
    return weights.astype(np.float32)


@jax.jit
def _rank_by_items(weights, context):
    return predict(context.astype(weights.dtype), weights)


CLOSED_FORMS = {"pop": (popularity, rank_by_popularity), "ease": (ease, _rank_by_items)}


def make_learner(name, rows, setting):
    """The learners.Learner of this name for a matrix (m, I), from the part of the setting that is its own."""
    make = (
        partial(learners.mvae, rows.shape[1])
        if name == "mvae"
        else partial(getattr(learners, name), *rows.shape)
    )
    return make(
        **{key: value for key, value in setting.items() if key not in ("learning_rate", "batch_size")}
    )


def check_grid(name, grid):
    """Raises UserError for a setting that the model does not have."""
    make = CLOSED_FORMS[name][0] if name in CLOSED_FORMS else getattr(learners, name)
    known = [key for key in inspect.signature(make).parameters if key not in ("rows", "users", "items")]
    known += ["learning_rate", "batch_size"] if name not in CLOSED_FORMS else []
    for setting in grid:
        for key, value in setting.items():
            if key not in known:
                raise UserError(f"grid: {name} has no '{key}'; it has {', '.join(known) or 'nothing to set'}")
            checked(f"grid: {key}", value, grid_kinds.get(key, grid_kinds["others"]))
        if missing := [
            key
            for key in ("l2", "learning_rate", "batch_size")
            if key in known and not setting.get(key, key == "l2" and name != "ease")
        ]:
            raise UserError(f"grid: {name} needs a positive {missing[0]} in every setting")


class Tuning:
    """A run's progress through its grid: what has been validated, and the best of it."""

    def __init__(self, settings, run, dataset, mesh):
        self.settings, self.run, self.dataset, self.mesh = settings, run, dataset, mesh
        self.weights = inverse_propensity(dataset.frequency)
        self.view = dataset.validation_view(
            generator(settings["seed"], Stream.VALIDATION), settings["validation_users"]
        )
        self.history = []  # a dict a validation, as in metrics.jsonl

    def measure(self, scores, view):
        [metrics] = evaluate(
            lambda users, context: (scores(users, context),),
            1,
            view,
            self.weights,
            self.settings["eval_batch_size"],
            self.mesh,
        )
        return metrics

    def validate(self, scores, number, **about):
        """Validates, says so and keeps the line; whether it is the best so far."""
        metrics = summarise(self.measure(scores, self.view))
        if not math.isfinite(metrics["HR@100"]):
            self.run.say(f"{describe(self.settings['grid'][number])}: left out, its scores are not finite")
            return False
        line = {"setting": number, **about, "validation": metrics}
        self.history.append(line)
        self.run.save_metrics(self.history)
        self.run.say(
            f"{describe(self.settings['grid'][number]):<40}  "
            + "".join(f"{key} {value:<5g} " for key, value in about.items())
            + f" validation  {show(metrics)}"
        )
        return best_of(self.history, self.settings["best_by"]) is line

    def test(self, scores):
        return self.measure(scores, self.dataset.test_view(generator(self.settings["seed"], Stream.TEST)))


def describe(setting):
    return ", ".join(f"{key} {number(value)}" for key, value in setting.items()) or "nothing to set"


def fit_closed_form(settings, run, dataset, mesh, rows):
    """Tries the grid; (best line, its test metrics)."""
    fit, rank = CLOSED_FORMS[settings["model"]]
    tuning = Tuning(settings, run, dataset, mesh)
    scores_with = lambda weights: lambda users, context: rank(weights, context)
    best = None
    for place, setting in enumerate(tqdm(settings["grid"], unit="setting", disable=None)):
        weights = devices.replicate(mesh, fit(rows, **setting))
        best = weights if tuning.validate(scores_with(weights), place) else best
    if best is None:
        raise UserError(f"{settings['model']}: no setting of the grid gives finite scores; a larger l2 helps")
    return best_of(tuning.history, settings["best_by"]), tuning.test(scores_with(best)), {}


class Descent:
    """The state of one setting's training, and the best parameters of all settings so far."""

    def __init__(self, tuning, rows):
        self.tuning, self.rows, self.histories = tuning, rows, learners.histories_of(rows)
        self.key = jax.random.key(tuning.settings["seed"])
        self.best, self.number, self.done, self.seconds = None, 0, 0, []
        self.begin(0)
        self._saved_at = time.monotonic()
        self._restore()

    def begin(self, number):
        """Fresh parameters for the setting of this number."""
        setting = self.tuning.settings["grid"][number]
        self.number, self.done, self.diverged = number, 0, False
        self.learner = make_learner(self.tuning.settings["model"], self.rows, setting)
        self.optimizer = optax.adam(setting["learning_rate"])
        self.epoch, self.steps = learners.make_epoch(
            self.learner, self.histories, self.optimizer, setting["batch_size"]
        )
        self.setting_key, start_key = jax.random.split(jax.random.fold_in(self.key, number))
        self.params = self.learner.initialise(start_key)
        self.state = self.optimizer.init(self.params)
        self._scores = jax.jit(self.learner.scores)

    def over(self):
        """Whether this setting has been trained as long as it is to be."""
        settings, best = (
            self.tuning.settings,
            best_of(
                [line for line in self.tuning.history if line["setting"] == self.number],
                self.tuning.settings["best_by"],
            ),
        )
        return (
            self.diverged
            or self.done >= settings["epochs"]
            or self.done - (best["epoch"] if best else 0) >= settings["patience"]
        )

    def advance(self):
        """One epoch, and the validation that is due after it; its mean loss."""
        settings, began = self.tuning.settings, time.perf_counter()
        self.params, self.state, loss = self.epoch(
            self.params, self.state, jax.random.fold_in(self.setting_key, self.done), self.done * self.steps
        )
        loss = float(loss)
        self.seconds.append(time.perf_counter() - began)
        self.done += 1
        self.diverged = not math.isfinite(loss)
        if self.diverged:
            self.tuning.run.say(
                f"{describe(settings['grid'][self.number])}: diverged in epoch {self.done}, its loss is {loss}; a smaller "
                "learning_rate may help"
            )
        elif self.done % settings["log_freq"] == 0 or self.done == settings["epochs"]:
            if self.tuning.validate(self.scores(self.params), self.number, epoch=self.done, loss=loss):
                self.best = jax.tree.map(np.asarray, self.params)
        return loss

    def scores(self, params):
        tables = devices.replicate(self.tuning.mesh, jax.jit(self.learner.tables)(params, self.histories))
        return lambda users, context: self._scores(tables, users, context)

    def test(self):
        """Tests the best parameters of the best setting."""
        line = best_of(self.tuning.history, self.tuning.settings["best_by"])
        self.begin(line["setting"])
        return line, self.tuning.test(
            self.scores(jax.tree.unflatten(jax.tree.structure(self.params), jax.tree.leaves(self.best)))
        )

    def stale(self):
        return time.monotonic() - self._saved_at > CHECKPOINT_SECONDS

    def save(self):
        arrays, run = {}, self.tuning.run
        for name in ("params", "state", "best"):
            arrays |= to_arrays(name, getattr(self, name))
        run.save_checkpoint(
            arrays,
            {
                "number": self.number,
                "done": self.done,
                "seconds": self.seconds,
                "history": self.tuning.history,
                "wall_seconds": run.wall_seconds(),
            },
        )
        self._saved_at = time.monotonic()

    def _restore(self):
        saved = self.tuning.run.load_checkpoint()
        if saved is None:
            return
        arrays, progress = saved
        try:
            self.begin(progress["number"])
            self.params, self.state = (
                from_arrays(name, getattr(self, name), arrays) for name in ("params", "state")
            )
            self.done, self.seconds, self.tuning.history = (
                progress["done"],
                progress["seconds"],
                progress["history"],
            )
            best = {int(key[5:]): value for key, value in arrays.items() if key.startswith("best_")}
            self.best = [best[i] for i in sorted(best)] or None
            self.tuning.run.earlier_seconds = progress["wall_seconds"]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.tuning.run.folder}/checkpoint.npz does not fit these settings ({error}); {START_AGAIN}"
            ) from error
        self.tuning.run.say(
            f"going on after epoch {self.done} of setting {self.number + 1} of {len(self.tuning.settings['grid'])}"
        )


def fit_by_descent(settings, run, dataset, mesh, rows):
    """Tries the grid, each setting until it stops getting better; (best line, its test metrics, how long it took).

    SIGINT and SIGTERM end it after a checkpoint, with the exit code shells expect.
    """
    work = Descent(Tuning(settings, run, dataset, mesh), rows)
    with Stop() as stop:
        for number in range(work.number, len(settings["grid"])):
            if number > work.number:
                work.begin(number)
            train(work, stop, f"setting {number + 1} of {len(settings['grid'])}")
    if work.best is None:
        raise UserError(
            f"{settings['model']} diverged with every setting of the grid; a smaller learning_rate may help"
        )
    line, metrics = work.test()
    return (
        line,
        metrics,
        {
            "best_step": line["epoch"],
            "steps": len(work.seconds),
            "step_seconds": float(np.median(work.seconds)),
        },
    )


def train(work, stop, label):
    """Trains one setting, with a progress bar and checkpoints."""
    with tqdm(
        total=work.tuning.settings["epochs"],
        initial=work.done,
        unit="epoch",
        dynamic_ncols=True,
        disable=None,
        desc=label,
    ) as bar:
        while not work.over():
            loss = work.advance()
            bar.update()
            bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            if work.stale() or stop.signal is not None:
                work.save()
            if stop.signal is not None:
                name = signal.Signals(stop.signal)
                work.tuning.run.say(
                    f"{name.name}: stopped after epoch {work.done}; the same command goes on from there"
                )
                sys.exit(128 + name)
    work.save()


def check(settings, dataset):
    """Raises UserError for what the model cannot do, or memory cannot hold."""
    name = settings["model"]
    check_grid(name, settings["grid"])
    if name in OWN_USERS and settings["user_support"] != -1:
        raise UserError(f"{name} recommends only to users it was trained on: leave user_support at -1")
    # EASE: X'X, its inverse and the result in double precision; LightGCN: the graph, and a copy to make it in.
    needed = {"ease": 3 * 8 * dataset.items**2, "lightgcn": 2 * 4 * dataset.users * dataset.items}.get(
        name, 0
    )
    if needed > (free := psutil.virtual_memory().available):
        raise UserError(
            f"{name} needs {needed / 2**30:,.1f} GiB for {dataset.users:,} users and {dataset.items:,} items, and {free / 2**30:,.1f} GiB "
            "are free; --min-item-count and --min-user-count of prep.sh leave rare ones out"
        )


def train_and_test(settings, run, dataset, mesh):
    """All of a run; its result."""
    rows = samplers.sample(settings, dataset)
    fit = fit_closed_form if settings["model"] in CLOSED_FORMS else fit_by_descent
    line, metrics, speed = fit(settings, run, dataset, mesh, rows)
    return {
        "val": line["validation"],
        "test": metrics,
        "choice": settings["grid"][line["setting"]],
        "best_step": None,
        "steps": None,
        "step_seconds": None,
        **speed,
    }


def main(arguments):
    settings, reasons, mesh, dataset = begin(arguments, __doc__, "baselines")
    settings = samplers.resolve_users(
        {**settings, "grid": settings["grid"] or grids[settings["model"]]}, dataset
    )
    check(settings, dataset)
    carry_out(
        lambda run: train_and_test(settings, run, dataset, mesh),
        settings,
        reasons,
        dataset,
        mesh,
        settings["model"],
        None,
        settings["model"],
    )


if __name__ == "__main__":
    run_job(main)
