"""What every run is measured against: popularity, and ∞-AE on equally many random real users."""

import jax
import jax.numpy as jnp
import numpy as np

import model
from eval import scores_of, summarise
from lib import devices
from runs.recipes import FULL_DATA

LAMDAS = (0.1, 1.0, 10.0)  # for a sample of users


@jax.jit
def rank_by_popularity(weights, context):
    """The same scores (1, I) for every user of the context (B, I): (B, I)."""
    return jnp.broadcast_to(weights, context.shape)


def popularity(dataset, evaluation):
    """The scores of popularity, for eval.evaluate."""
    weights = devices.replicate(evaluation.mesh, dataset.train_frequency().astype(np.float32)[None])
    return lambda users, context: (rank_by_popularity(weights, context),)


def measure(dataset, evaluation, user_support, seed, dtype):
    """Validation and test metrics of both models: {name: {"val": means, "test": means}}.

    Args:
        evaluation: runs.evaluation.Evaluation of the dataset.
        user_support: how many random users; those that distill.py starts from with the same seed. -1 leaves
            ∞-AE on random users out.
    """
    rank = popularity(dataset, evaluation)
    [validation] = evaluation.validate(rank)
    metrics = {"popularity": {"val": validation, "test": summarise(evaluation.test(rank))}}
    if 0 < user_support < dataset.users:
        kernel = model.Kernel(FULL_DATA["depth"], FULL_DATA["normalize"])
        sample = dataset.train_rows(dataset.sample_users(user_support, seed))
        rows = devices.replicate(evaluation.mesh, sample.toarray().astype(dtype))
        _, alpha, validation = evaluation.best_lamda(kernel, rows, LAMDAS)
        test = summarise(evaluation.test(scores_of(kernel, rows, [alpha])))
        metrics[f"∞-AE on {user_support:,} random users"] = {"val": validation, "test": test}
    return metrics
