"""runs/grids.py: grids that grow, on generated curves of quality, whole and resumed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyper_params import grid_kinds, grids
from lib.checks import checked
from runs.grids import AT_MOST, FLAT, beyond, grow, note
from runs.recipes import FULL_DATA

LAMDAS = [{"lamda": lamda} for lamda in FULL_DATA["lamda_grid"]]
L2 = [{"l2": l2} for l2 in (100, 200, 500, 1000, 2000, 3000)]


def search(grid, curve, at_most=AT_MOST):
    """(the settings in the order in which a run tries them, their qualities); curve: setting -> percent."""
    qualities = []
    while len(settings := grow(grid, qualities, at_most)) > len(qualities):
        value = curve(settings[len(qualities)])
        qualities.append(None if value is None else (value, 0.0))
    return settings, qualities


def peak_at(top, key):
    """A curve with its highest value where a key is `top`, and nothing at 0."""
    return lambda setting: 20 - math.log(setting[key] / top) ** 2 if setting[key] else None


def chosen(settings, qualities):
    return settings[max(range(len(settings)), key=lambda place: qualities[place] or (-math.inf,))]


@pytest.mark.parametrize(
    "grid, top, further",
    [
        (LAMDAS, 5, []),
        (LAMDAS, 0.9, [0.33]),  # a 0 that cannot be used is no end: 1 / 3, since 5 / 1 is above 3
        (LAMDAS, 0.1, [0.33, 0.11, 0.037]),
        (LAMDAS, 190, [200, 400]),
        (L2, 1000, []),
        (L2, 60, [50, 25]),
        (L2, 6000, [4500, 6800, 10000]),
    ],
)
def test_it_grows_until_the_best_lies_inside(grid, top, further):
    [key] = grid[0]
    settings, qualities = search(grid, peak_at(top, key))
    assert settings[: len(grid)] == grid
    assert [setting[key] for setting in settings[len(grid) :]] == pytest.approx(further, rel=0.02)
    assert beyond(settings, qualities) is None is note(settings, qualities, "grid")


def test_it_stops_at_the_bound_where_the_curve_has_no_top_and_where_it_is_flat():
    rising, falling = (lambda setting: setting["l2"]), (lambda setting: -setting["l2"])
    for curve, side in (rising, max), (falling, min):
        settings, qualities = search(L2, curve)
        values = [setting["l2"] for setting in settings]
        assert len(values) <= len(L2) + AT_MOST and len(set(values)) == len(values)
        assert side(values) == values[-1] and all(isinstance(value, int) and value >= 1 for value in values)
    assert len(search(L2, rising)[0]) == len(L2) + AT_MOST
    assert len(search(L2, lambda setting: setting["l2"] * FLAT / 1e6)[0]) == len(L2) + 2
    assert search(L2, lambda setting: 3.0)[0] == [*L2, {"l2": 50}], "the first of equals is the best"
    assert search(L2, rising, 0)[0] == L2, "a grid of the user's own"


def test_what_cannot_be_used_is_an_end_and_a_usable_0_is_the_natural_one():
    below = lambda limit: lambda setting: -setting["lamda"] if setting["lamda"] >= limit else None
    assert [setting["lamda"] for setting in search(LAMDAS, below(0.1))[0][6:]] == [0.33, 0.11, 0.037]
    assert search(LAMDAS, below(0))[0] == LAMDAS
    assert search(LAMDAS, lambda setting: None)[0] == LAMDAS
    assert search([{"l2": 3}], peak_at(1, "l2"))[0] == [{"l2": 3}], "one value has no ends"


@pytest.mark.parametrize("model", ["mf", "neumf", "mvae", "recvae", "lightgcn"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_learners_settings_stay_usable_and_change_in_one_key(model, sign):
    grid = grids[model]
    settings, qualities = search(grid, lambda setting: sign * sum(map(math.log1p, setting.values())), 4)
    natural = model == "neumf" and sign == -1  # its best setting has no dropout, and l2 lies inside
    assert len(grid) + (not natural) <= len(settings) <= len(grid) + 4
    for place in range(len(grid), len(settings)):
        setting, best = settings[place], chosen(settings[:place], qualities[:place])
        [key] = [key for key in best if best[key] != setting[key]]
        assert len({other[key] for other in grid}) > 1 and type(setting[key]) is type(best[key])
        for name, value in setting.items():
            checked(name, value, grid_kinds.get(name, grid_kinds["others"]))


def test_the_note_says_what_to_type():
    told = note(L2, [(setting["l2"], 0) for setting in L2], "grid")
    assert "best l2, 3000" in told and """'--grid=[{"l2": 3000}, {"l2": 4500}]'""" in told
    told = note(LAMDAS[1:3], [(2, 0), (1, 0)], "lamda_grid")
    assert "best lamda, 1" in told and "'--lamda_grid=[1.0, 0.33]'" in told


@given(st.lists(st.none() | st.floats(0, 30), min_size=20, max_size=20), st.integers(0, 20))
def test_a_resumed_run_tries_what_a_whole_one_does(values, place):
    """On any history: what is tried next follows from what was found before, never from what comes after."""
    qualities = [None if value is None else (value, value) for value in values]
    whole = grow(L2, qualities)
    part = grow(L2, qualities[:place])
    assert whole[: len(part)] == part
    assert len(whole) <= len(L2) + AT_MOST and whole[: len(L2)] == L2
    assert len({setting["l2"] for setting in whole}) == len(whole)
