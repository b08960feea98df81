"""What every run is measured against: popularity, and ∞-AE on as many random real users. Both are closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import model
from eval import evaluate, inverse_propensity, scores_of, search_lamda, summarise
from lib import devices
from runs.recipes import FULL_DATA

LAMDAS = (0.1, 1.0, 10.0)  # of a sample of users


@jax.jit
def rank_by_popularity(weights, context):
    """The same scores for every user of the context (B, I): (B, I)."""
    return jnp.broadcast_to(weights, context.shape)


def measure(settings, dataset, views, mesh):
    """Validation and test metrics of both, as {name: {"val", "test"}}, each a dict of means.

    Args:
        settings: `user_support`, how many random users, those that distill.py with the same seed starts from; -1 leaves them out.
        views: data.View, (of validation, of test).
        mesh: devices.local of the mesh.
    """
    weights, size = inverse_propensity(dataset.frequency), settings["eval_batch_size"]
    popular = devices.replicate(mesh, dataset.train_frequency().astype(np.float32)[None])
    rank = lambda users, context: (rank_by_popularity(popular, context),)
    metrics = [evaluate(rank, 1, view, weights, size, mesh)[0] for view in views]
    found = {"popularity": metrics}
    if 0 < settings["user_support"] < dataset.users:
        kernel = model.make_kernel(FULL_DATA["depth"], FULL_DATA["normalize"])
        sample = dataset.train_rows(dataset.sample_users(settings["user_support"], settings["seed"]))
        rows = devices.replicate(
            mesh, sample.toarray().astype(np.float64 if settings.get("float64") else np.float32)
        )
        tried = search_lamda(kernel, rows, LAMDAS, views[0], weights, size, mesh)
        by = lambda line: -math.inf if math.isnan(value := summarise(line[2])[settings["best_by"]]) else value
        _, alpha, validation = max(tried, key=by)
        [test] = evaluate(scores_of(kernel, rows, [alpha]), 1, views[1], weights, size, mesh)
        found[f"∞-AE on {settings['user_support']:,} random users"] = [validation, test]
    return {
        name: {"val": summarise(validation), "test": summarise(test)}
        for name, (validation, test) in found.items()
    }
