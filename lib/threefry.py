"""The bits of jax.random's default generator, Threefry-2x32, in one pass over the numbers.

On a CPU JAX compiles the generator's rounds into a loop, each turn of which reads and writes all numbers.
Written out, XLA fuses them with each other and with what takes the bits: the same bits, several times faster.
Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl, threefry_prng_impl

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def one_pass(key):
    """A jax.random key that draws the same numbers as the given one, a key of the default generator."""
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_generator)


def _random_bits(key, bit_width, shape):
    if bit_width != 32 or math.prod(shape) >= 2**32 or not shape:
        return threefry_prng_impl.random_bits(key, bit_width, shape)
    strides = np.cumprod([1, *shape[:0:-1]], dtype=np.uint32)[::-1]  # a number's place is what is hashed
    places = [jax.lax.broadcasted_iota(np.uint32, shape, axis) for axis in range(len(shape))]
    place = sum(stride * along for stride, along in zip(strides, places))
    left, right = _hash(*key, jnp.zeros(shape, np.uint32), place)
    return left ^ right


def _hash(first, second, left, right):
    """Threefry-2x32 with 20 rounds, of counters (left, right) under the key (first, second)."""
    keys = first, second, first ^ second ^ PARITY
    left, right = left + keys[0], right + keys[1]
    for turn in range(5):
        for rotation in ROTATIONS[turn % 2]:
            left = left + right
            right = (right << rotation | right >> 32 - rotation) ^ left
        left = left + keys[(turn + 1) % 3]
        right = right + keys[(turn + 2) % 3] + np.uint32(turn + 1)
    return left, right


_generator = define_prng_impl(
    key_shape=threefry_prng_impl.key_shape,
    seed=threefry_prng_impl.seed,
    split=threefry_prng_impl.split,
    random_bits=_random_bits,
    fold_in=threefry_prng_impl.fold_in,
    name="threefry_in_one_pass",
    tag="fop",
)
