"""lib/random_streams.py: no two random streams of a run coincide. lib/threefry.py: jax.random's numbers."""

import itertools
import re

import jax
import numpy as np
import pytest
from conftest import ROOT

from lib.random_streams import Stream, generator
from lib.threefry import one_pass


def test_streams_differ_by_seed_name_and_position_alone():
    """Positions of several lengths, zeros among them."""
    begin = lambda *stream: tuple(generator(*stream).integers(2**62, size=2))
    positions = [position for length in range(4) for position in itertools.product((0, 1, 4), repeat=length)]
    streams = [(seed, name, *position) for seed in (0, 1, 42) for name in Stream for position in positions]
    assert len({begin(*stream) for stream in streams}) == len(streams)
    assert begin(42, Stream.TEST, 3) == begin(42, Stream.TEST, 3)


def test_no_other_file_seeds_a_generator_with_several_numbers():
    """Such seeds could coincide: [seed, 4] and [seed, 4, 0] are one stream of numbers."""
    folders = {path.parent for path in ROOT.glob("*/__init__.py")}
    assert {"lib", "prep", "runs"} <= {folder.name for folder in folders}
    seeding = re.compile(r"SeedSequence\(|default_rng\(\s*[\[(]|np\.random\.seed\(|RandomState\(")
    files = [path for folder in (ROOT, *folders) for path in folder.glob("*.py")]
    seeds = [str(path.relative_to(ROOT)) for path in files if seeding.search(path.read_text())]
    assert seeds == ["lib/random_streams.py"]


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 4), (40, 1001)])
@pytest.mark.parametrize("draw", [jax.random.bits, jax.random.gumbel])
def test_one_pass_draws_what_the_default_generator_draws(draw, shape):
    key = jax.random.fold_in(jax.random.key(3), 5)
    np.testing.assert_array_equal(draw(one_pass(key), shape), draw(key, shape))
    keys = jax.random.split(key, 3)
    in_turn = jax.lax.map(lambda key: draw(one_pass(key), shape), keys)
    np.testing.assert_array_equal(in_turn, [draw(key, shape) for key in keys])
    one, two = jax.random.split(one_pass(key))
    other, another = jax.random.split(key)
    np.testing.assert_array_equal(draw(one, shape), draw(other, shape))
    np.testing.assert_array_equal(draw(two, shape), draw(another, shape))
