"""Validation and test of a run's models: the same users, targets and negatives for every model."""

import math
from functools import cached_property

import model
from eval import evaluate, scores_of, summarise
from lib import devices
from lib.errors import UserError
from lib.random_streams import Stream, generator

SCORES = 8 * 10**6  # at once: fewer users than eval_batch_size where the items are many
SOLVED = 10**8  # numbers of the solutions (m, I) that are held, of a longer list of lamdas


class Evaluation:
    """The validation and the test of one data set.

    Args:
        dataset: data.Dataset.
        settings: `seed` (of the validation users and of the AUC's negatives), `validation_users`,
            `eval_batch_size`, `best_by`, and `metrics`, those that are printed.
        mesh: from devices.start.
    """

    def __init__(self, dataset, settings, mesh):
        self.mesh = devices.local(mesh)
        self.best_by, self.shown = settings["best_by"], settings["metrics"]
        self._dataset, self._seed, self._users = dataset, settings["seed"], settings["validation_users"]
        self._batch_size = min(settings["eval_batch_size"], max(1, SCORES // dataset.items))

    @cached_property
    def validation_view(self):
        return self._dataset.validation_view(generator(self._seed, Stream.VALIDATION), self._users)

    @cached_property
    def test_view(self):
        return self._dataset.test_view(generator(self._seed, Stream.TEST))

    def validate(self, scores, models=1):
        """[{metric: mean over users}] of several models, whose scores are given as for eval.evaluate."""
        return [summarise(metrics) for metrics in self.validate_users(scores, models)]

    def validate_users(self, scores, models=1):
        """[{metric: value of every validation user}] of several models."""
        return self._evaluate(scores, models, self.validation_view)

    def test(self, scores):
        """{metric: value of every user} of one model, on the test set; as eval.evaluate."""
        [metrics] = self._evaluate(scores, 1, self.test_view)
        return metrics

    def _evaluate(self, scores, models, view):
        return evaluate(scores, models, view, self._dataset.frequency, self._batch_size, self.mesh)

    def quality(self, metrics):
        """What a model is chosen by: `best_by`, and nDCG@10 where that is the same."""
        return metrics[self.best_by], metrics["NDCG@10"]

    def best_lamda(self, kernel, rows, lamdas):
        """Trains ∞-AE on rows (m, I) with every lamda, and validates each.

        Returns:
            (lamda, alpha (m, I), {metric: mean}) of the best.

        Raises:
            UserError: no lamda makes the kernel positive definite.
        """
        best, at_once = None, max(1, SOLVED // rows.size)
        for start in range(0, len(lamdas), at_once):
            part = lamdas[start : start + at_once]
            alphas = model.fit(kernel, rows, part)
            tried = [*zip(part, alphas, self.validate(scores_of(kernel, rows, alphas), len(alphas)))]
            usable = [line for line in [best, *tried] if line and is_finite(line[2])]
            best = max(usable, key=lambda line: self.quality(line[2]), default=None)
        if best is None:
            values = ", ".join(f"{lamda:.3g}" for lamda in lamdas)
            raise UserError(
                f"the kernel is not positive definite in {rows.dtype} at lamda {values}. "
                "Try a larger lamda, or --float64=true."
            )
        return best


def is_finite(metrics):
    """Whether a model's scores were finite, by its metrics."""
    return math.isfinite(metrics["HR@100"])


def show(metrics, names):
    """The metrics of these names in one line; "none" for one that has no value."""
    return "  ".join(f"{name} {_format(name, metrics.get(name))}" for name in names)


def _format(name, value):
    if value is None:  # not finite, or the run was made before there was such a metric
        return "none"
    return f"{value:.4f}" if name.startswith(("AUC", "Gini")) else f"{value:.2f}"
