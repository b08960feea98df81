"""lib/plots.py: a system's one colour, the same bytes for the same picture, and titles that are only text."""

import pandas as pd
import pytest
from matplotlib import rcParams, rcParamsDefault

from lib import plots
from paper import own_runs, plan

METRICS = {"HR@100": 50.0, "NDCG@10": 20.0}
HISTORY = [
    {"step": step, "lamda": lamda, "loss": loss, "validation": METRICS}
    for step, lamda, loss in ((0, 0.1, None), (10, 0.01, 3.0), (20, 0.02, 2.0))
]
LINE = pd.DataFrame(
    {"x": [10, 20], "HR@10": [1, 2], "PSP@10": [1, 2], "HR@10 deviation": 0, "PSP@10 deviation": 0}
)
FAULTY = r"$\frac$ <b>"  # no formula, though matplotlib takes dollars for one
DRAWINGS = {
    "curve": lambda kind: plots.curve(HISTORY, 10, FAULTY, kind),
    "grid": lambda kind: plots.grid(HISTORY, 0.01, FAULTY, kind),
    "strategies": lambda kind: plots.strategies(
        [plots.Panel(FAULTY, 90, {"a": LINE, FAULTY: LINE[:1]})], kind
    ),
    "bars": lambda kind: plots.bars({FAULTY: 1.0, "Distill-CF": 2.0}, "NDCG@10", FAULTY, kind),
    "lines": lambda kind: plots.lines({FAULTY: LINE}, "HR@10", "x", FAULTY, kind, log_x=True),
}


def test_a_system_has_one_colour():
    colour = lambda label: plots.system_style(label)[0]
    same = (
        ("Distill-CF", "synthetic users (2 of 3 seeds)", plan.DISTILLED.name, "∞-AE on Distill-CF, depth=2"),
        ("∞-AE, all users (1 of 2 runs)", "everyone so far", plan.FULL.name, "∞-AE, depth=2"),
        ("random users", "∞-AE, sampler=random"),
        ("random interactions (1 of 2 runs)", "∞-AE, sampler=interactions"),
        ("head users", "∞-AE, sampler=head"),
        ("SVP-CF users", "∞-AE, sampler=svp_cf"),
        ("EASE",),
    )
    colours = [{colour(label) for label in labels} for labels in same]
    assert all(len(of_one) == 1 for of_one in colours) and len(set.union(*colours)) == len(same)
    drawn = [*plan.STRATEGIES, *plan.NOISY, *plan.STREAM]
    labels = {*(system.name for system in drawn), own_runs.NAMES["distill"], own_runs.NAMES["infinite_ae"]}
    assert all(colour(label) in set.union(*colours) for label in labels)


@pytest.mark.parametrize("users", [None, 90])
def test_a_column_may_have_one_of_its_parts_alone(users):
    """Strategies without the model of all users, or that one without strategies."""
    for lines in (
        {"head users": LINE, "all users": LINE[:0]},
        {"head users": LINE[:0], "all users": LINE[:1]},
    ):
        assert b"<!-- head users -->" in plots.strategies([plots.Panel("", users, lines)], "svg")


def test_models_of_all_users_lie_from_side_to_side():
    lines = {"head users": LINE, "∞-AE, all users": LINE[:1], "EASE, all users": LINE[1:]}
    one, two = (plots.strategies([plots.Panel("", 90, lines, levels)], "svg") for levels in (1, 2))
    dashed = [svg.count(b"stroke-dasharray") for svg in (one, two)]
    assert dashed[1] == dashed[0] + 3, "in two metrics and the legend"


def test_lines_of_one_system_differ_in_their_strokes():
    svg = plots.lines({f"Distill-CF {name}": LINE for name in "ab"}, "HR@10", "x", "", "svg").decode()
    assert svg.count("stroke-dasharray") == 2, "the second line, and its part of the legend"


def test_the_number_of_users_stands_above_their_share():
    """10 and 20 % of 90 users; of an unknown number of users there is no such axis."""
    lines = {"Distill-CF": LINE, "∞-AE, all users": LINE[:1]}
    known, unknown = (plots.strategies([plots.Panel("", users, lines)], "svg") for users in (90, None))
    for text in (b"<!-- 9 -->", b"<!-- 18 -->", b"<!-- S, number of users -->"):
        assert text in known and text not in unknown


@pytest.mark.parametrize("last", [60, 20_000])
def test_no_two_numbers_of_a_log_axis_overlap(last, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "to_bytes", lambda figure, kind: drawn.append(figure))
    plots.lines({"a": LINE.assign(x=[2, last])}, "HR@10", "x", "title", log_x=True)
    [figure] = drawn
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels() if label.get_text()]
    inside = [box for box in boxes if figure.bbox.x0 <= box.x0 <= figure.bbox.x1]
    assert len(inside) > 3
    assert all(one.x1 < other.x0 for one, other in zip(inside, inside[1:]))


@pytest.mark.parametrize("name", DRAWINGS)
def test_pictures_are_the_same_bytes_and_their_titles_text(name):
    """Neither a date nor a random id is in them, and a title is no formula."""
    files = [[draw(kind) for kind in ("png", "svg", "pdf")] for draw in [DRAWINGS[name]] * 2]
    assert files[0] == files[1]
    for content, start in zip(files[0], (b"\x89PNG", b"<?xml", b"%PDF")):
        assert content.startswith(start) and b"CreationDate" not in content and b"<dc:date>" not in content


@pytest.mark.parametrize("lamda", [0.0, 0.1])
def test_a_curve_of_one_validation(lamda):
    """Also of lamda 0, which has no logarithm, and without a best step."""
    history = [{**HISTORY[0], "lamda": lamda}]
    assert plots.curve(history, 0, "") != plots.curve(history, None, "")


def test_the_style_ends_with_its_block():
    with plots.style():
        assert not rcParams["axes.spines.top"]
    assert rcParams["axes.spines.top"] == rcParamsDefault["axes.spines.top"]
    assert rcParams["font.size"] == rcParamsDefault["font.size"]
