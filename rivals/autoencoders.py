"""The autoencoders that are trained by gradient descent: a user's row of items is encoded and decoded.

    mvae      variational autoencoder with multinomial likelihood, annealed KL (Liang et al., WWW 2018)
    recvae    deeper encoder, composite prior, encoder and decoder in turns (Shenbin et al., WSDM 2020)

Synthetic users have weights between 0 and 1, and the real users that are scored later have none. Training
therefore takes a weight as the probability of an interaction, and draws each step's input from it. U users,
I items, B users in a batch, d dimensions of the latent code.
"""

import math

import jax
import jax.numpy as jnp

from rivals.descent import Learner, Pass, dense_rows, params_as_tables

LAYERS = 5  # of RecVAE's encoder, before the one that gives mean and variance
LAYER_NORM_EPSILON = 0.1  # its authors'; the activations vary so little at first that it decides their scale
# Of RecVAE's prior: a standard normal, the posterior before this epoch, and a wide normal.
MIXTURE = (3 / 20, 3 / 4, 1 / 10)
WIDE_LOG_VARIANCE = 10.0


def _draw_rows(items):
    return lambda histories, users, key: dense_rows(histories, users, items)


def _scale(rows):
    """1 / sqrt(number of interactions), (B, 1): normalises rows of 0 and 1."""
    count = rows.sum(1, keepdims=True)
    return 1 / jnp.sqrt(jnp.where(count > 0, count, 1))


def _sample(mean, log_variance, key):
    return mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)


def mvae(users, items, hidden=600, dimensions=200, dropout=0.5, kl_weight=0.2, anneal_steps=1000):
    """Multi-VAE: I - hidden - d - hidden - I, tanh, multinomial likelihood.

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

    def loss(params, rows, histories, key, steps):
        drop_key, noise_key = jax.random.split(key)
        fed = jax.random.bernoulli(drop_key, (1 - dropout) * rows) / (1 - dropout)
        mean, log_variance = jnp.split(through(params[0], _scale(rows) * fed), 2, axis=1)
        code = _sample(mean, log_variance, noise_key)
        likelihood = (jax.nn.log_softmax(through(params[1], code)) * rows).sum(1)
        annealed = kl_weight * jnp.minimum(steps / anneal_steps, 1)
        return (annealed * gaussian_kl(mean, log_variance) - likelihood).mean()

    def scores(params, users, context):
        context = context.astype(jnp.float32)
        mean = jnp.split(through(params[0], _scale(context) * context), 2, axis=1)[0]
        return through(params[1], mean)

    return Learner(initialise, _draw_rows(items), loss, params_as_tables, scores, by_user=True)


def recvae(users, items, hidden=600, dimensions=200, dropout=0.5, gamma=0.005, encoder_passes=3):
    """RecVAE: a densely connected encoder I - hidden x LAYERS - d, a linear decoder d - I.

    An epoch is encoder_passes passes that train the encoder on inputs with dropout, then one that trains the
    decoder on whole inputs. The prior of the encoder's passes is `composite_prior`, whose middle part is the
    posterior of the encoder as it was when the epoch began. https://arxiv.org/abs/1912.11160

    Args:
        users, items, hidden, dimensions, dropout: as in `mvae`.
        gamma: weight of a user's KL divergence, times their number of interactions.
        encoder_passes: passes of the encoder in an epoch.

    Returns:
        Learner.
    """

    def initialise(key):
        first, *inner, out, decoder = jax.random.split(key, LAYERS + 2)
        sizes = (items, *[hidden] * LAYERS)
        encoder = {
            "layers": [
                {**_linear(layer_key, i, o), "gain": jnp.ones(o), "shift": jnp.zeros(o)}
                for layer_key, i, o in zip((first, *inner), sizes, sizes[1:])
            ],
            "out": _linear(out, hidden, 2 * dimensions),
        }
        return {"encoder": encoder, "previous": encoder, "decoder": _linear(decoder, dimensions, items)}

    def posterior(encoder, rows):
        """(mean, log variance), (B, d) each, of rows (B, I)."""
        output, total = rows, 0  # of the layers so far
        for layer in encoder["layers"]:
            active = jax.nn.swish(_apply(layer, output) + total)
            output = layer["gain"] * jax.nn.standardize(active, epsilon=LAYER_NORM_EPSILON) + layer["shift"]
            total += output
        return jnp.split(_apply(encoder["out"], output), 2, axis=1)

    def drawn(rows, key, shares):
        """Inputs (B, I) of histories drawn from the rows; one for each share, with that share of them."""
        uniform = jax.random.uniform(key, rows.shape)
        return [_scale(rows) * (uniform < share * rows) / share for share in shares]

    def log_likelihood(decoder, code, rows):
        return (jax.nn.log_softmax(_apply(decoder, code)) * rows).sum(1)

    def encoder_loss(params, rows, histories, key, steps):
        drop_key, noise_key = jax.random.split(key)
        fed, whole = drawn(rows, drop_key, (1 - dropout, 1))
        mean, log_variance = posterior(params["encoder"], fed)
        code = _sample(mean, log_variance, noise_key)
        previous = posterior(params["previous"], whole)
        divergence = normal_log_density(code, mean, log_variance) - composite_prior(code, *previous)
        weighted = gamma * rows.sum(1) * divergence.sum(1)
        return (weighted - log_likelihood(params["decoder"], code, rows)).mean()

    def decoder_loss(params, rows, histories, key, steps):
        """Without the divergence, on which the decoder has no influence."""
        draw_key, noise_key = jax.random.split(key)
        [whole] = drawn(rows, draw_key, (1,))
        code = _sample(*posterior(params["encoder"], whole), noise_key)
        return -log_likelihood(params["decoder"], code, rows).mean()

    def scores(params, users, context):
        context = context.astype(jnp.float32)
        return _apply(params["decoder"], posterior(params["encoder"], _scale(context) * context)[0])

    return Learner(
        initialise,
        _draw_rows(items),
        encoder_loss,
        params_as_tables,
        scores,
        by_user=True,
        passes=(Pass("encoder", encoder_loss),) * encoder_passes + (Pass("decoder", decoder_loss),),
        refresh=lambda params: {**params, "previous": params["encoder"]},
    )


def _linear(key, inputs, outputs):
    """A layer with weights between -1 and 1 over sqrt(inputs), as in the program of RecVAE's authors."""
    draw = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return {"weights": draw(key, (inputs, outputs)), "bias": jnp.zeros(outputs)}


def _apply(layer, rows):
    return rows @ layer["weights"] + layer["bias"]


def composite_prior(code, mean, log_variance):
    """The log density of RecVAE's prior, a mixture of three normals in each dimension.

    It is a mixture in each dimension, not one of whole codes, in the program of its authors, too.

    Args:
        code: (B, d).
        mean, log_variance: (B, d), of the earlier posterior.

    Returns:
        (B, d).
    """
    normals = (0.0, 0.0), (mean, log_variance), (0.0, WIDE_LOG_VARIANCE)
    densities = [jnp.log(share) + normal_log_density(code, *one) for share, one in zip(MIXTURE, normals)]
    return jax.nn.logsumexp(jnp.stack(densities), axis=0)


def normal_log_density(code, mean, log_variance):
    """log N(code; mean, variance), of every entry."""
    return -(math.log(2 * math.pi) + log_variance + (code - mean) ** 2 / jnp.exp(log_variance)) / 2


def gaussian_kl(mean, log_variance):
    """KL(N(mean, variance) || N(0, 1)), summed over the dimensions; (B, d), (B, d) -> (B,)."""
    return ((mean**2 + jnp.exp(log_variance) - 1 - log_variance) / 2).sum(1)
