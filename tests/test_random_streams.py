"""lib/random_streams.py: no two random streams of a run are one, and none is made elsewhere."""

import itertools

from conftest import ROOT

from lib.random_streams import Stream, generator


def test_no_two_streams_or_positions_begin_alike():
    """Whatever the lengths of their positions, zeros among them; the same one begins alike."""
    first = lambda *place: tuple(generator(*place).integers(2**62, size=2))
    positions = [position for length in range(4) for position in itertools.product((0, 1, 4), repeat=length)]
    places = [(seed, stream, *position) for seed in (0, 1, 42) for stream in Stream for position in positions]
    assert len({first(*place) for place in places}) == len(places) and first(42, Stream.TEST, 3) == first(
        42, Stream.TEST, 3
    )


def test_streams_are_made_nowhere_else():
    made = [
        str(path.relative_to(ROOT))
        for path in [*ROOT.glob("*.py"), *ROOT.glob("[a-s]*/*.py")]
        if "default_rng([" in (text := path.read_text()) or "SeedSequence(" in text
    ]
    assert made == ["lib/random_streams.py"]
