"""The autoencoders that are trained by gradient descent: a user's row of items is encoded and decoded.

    mvae      variational autoencoder with multinomial likelihood, annealed KL (Liang et al., WWW 2018)

U users, I items, B users in a batch, d dimensions of the latent code.
"""

import jax
import jax.numpy as jnp

from rivals.descent import Learner, dense_rows, params_as_tables


def mvae(users, items, hidden=600, dimensions=200, dropout=0.5, kl_weight=0.2, anneal_steps=1000):
    """Multi-VAE: I - hidden - d - hidden - I, tanh, multinomial likelihood.

    Synthetic users have weights between 0 and 1, and the real users that are scored later have none. Training
    therefore takes a weight as the probability of an interaction, and draws each step's input from it.

    Args:
        users, items: U, which it does not use, and I.
        hidden, dimensions: widths; d is that of the latent code.
        dropout: share of the (normalised) input that a step leaves out.
        kl_weight: weight of the KL divergence; it grows linearly to this over anneal_steps steps.

    Returns:
        Learner.
    """
    widths = (items, hidden, 2 * dimensions), (dimensions, hidden, items)

    def initialise(key):
        keys = iter(jax.random.split(key, 4))
        glorot = jax.nn.initializers.glorot_normal()
        return [
            [(glorot(next(keys), (i, o)), jnp.zeros(o)) for i, o in zip(sizes, sizes[1:])] for sizes in widths
        ]

    def through(layers, rows):
        (first, bias), (second, second_bias) = layers
        return jnp.tanh(rows @ first + bias) @ second + second_bias

    def scale(rows):
        """1 / sqrt(number of interactions), (B, 1): normalises rows of 0 and 1."""
        count = rows.sum(1, keepdims=True)
        return 1 / jnp.sqrt(jnp.where(count > 0, count, 1))

    def loss(params, rows, histories, key, steps):
        drop_key, noise_key = jax.random.split(key)
        fed = jax.random.bernoulli(drop_key, (1 - dropout) * rows) / (1 - dropout)
        mean, log_variance = jnp.split(through(params[0], scale(rows) * fed), 2, axis=1)
        latent = mean + jnp.exp(log_variance / 2) * jax.random.normal(noise_key, mean.shape)
        likelihood = (jax.nn.log_softmax(through(params[1], latent)) * rows).sum(1)
        annealed = kl_weight * jnp.minimum(steps / anneal_steps, 1)
        return (annealed * gaussian_kl(mean, log_variance) - likelihood).mean()

    def scores(params, users, context):
        context = context.astype(jnp.float32)
        mean = jnp.split(through(params[0], scale(context) * context), 2, axis=1)[0]
        return through(params[1], mean)

    return Learner(
        initialise,
        lambda histories, users, key: dense_rows(histories, users, items),
        loss,
        params_as_tables,
        scores,
        by_user=True,
    )


def gaussian_kl(mean, log_variance):
    """KL(N(mean, variance) || N(0, 1)), summed over the dimensions; (B, d), (B, d) -> (B,)."""
    return ((mean**2 + jnp.exp(log_variance) - 1 - log_variance) / 2).sum(1)
