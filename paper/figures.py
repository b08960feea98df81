"""The figures of the comparison; `matched` is what paper.plan.match returns."""

from functools import partial

import pandas as pd

from lib import plots
from paper import plan
from paper.summaries import with_deviations
from paper.tables import select, size_of, statistics

KINDS = ("pdf", "png", "svg")
HOLLOW = "; hollow points lack seeds"
NOISE_AXIS, STREAM_AXIS = "random interactions, % of train", "parts of the users that have arrived"
SIZE_AXIS = "train data, kB"


def labels(matched, part, systems, dataset=None):
    """{system's name: its label in a figure, which tells how many of its planned runs are missing}.

    dataset: the figure's, None if it has several.
    """
    by_name = {}
    for system in systems:
        points = {}  # whether each planned run is made, by the point of the figure
        for planned, run in matched.items():
            if planned[:2] == (part, system.name) and dataset in (None, planned.dataset):
                points.setdefault(planned[2:4], []).append(run is not None)
        made, count = (sum(map(total, points.values())) for total in (sum, len))
        partly = any(0 < sum(seeds) < len(seeds) for seeds in points.values())
        unit = "seeds" if len(points) == 1 else f"runs{HOLLOW * partly}"
        missing = f" ({made} of {count} {unit})" if made < count else ""
        by_name[system.name] = system.name + missing
    return by_name


def line(matched, part, system, dataset, places, metrics):
    """A system's line as a DataFrame: x, each metric's mean and deviation over the runs there, and "missing",
    how many of the point's seeds have no run.

    Args:
        system: its name.
        places: {`point` of the planned runs: x in the figure}.
    """
    runs_at = {x: select(matched, part, system, dataset, at) for at, x in places.items()}
    seeds_at = {
        x: sum(planned[:4] == (part, system, dataset, at) for planned in matched) for at, x in places.items()
    }
    drawn = with_deviations({x: runs for x, runs in runs_at.items() if runs}, metrics)
    return drawn.assign(missing=[seeds_at[x] - len(runs_at[x]) for x in drawn["x"]])


def strategies(matched):
    """[plots.Panel], one a data set with runs; x is the share of all users in percent."""
    panels, names = [], labels(matched, "strategies", (*plan.STRATEGIES, plan.EVERYONE))
    known = statistics(matched)
    for dataset, (budgets, _) in plan.FIGURE.items():
        users = known[dataset].users if dataset in known else None
        places = {budget: 100 * budget / users for budget in budgets} if users else {}
        line_at = lambda part, system, places: line(
            matched, part, system.name, dataset, places, plots.STRATEGY_METRICS
        )
        lines = {names[system.name]: line_at("strategies", system, places) for system in plan.STRATEGIES}
        lines[f"∞-AE, {names[plan.ALL]}"] = line_at("strategies", plan.EVERYONE, {None: 100})
        if any(map(len, lines.values())):
            lines[f"{plan.EASE.name}, {plan.ALL}"] = line_at("table", plan.EASE, {None: 100})
            panels.append(plots.Panel(plan.DATASETS[dataset], users, lines, levels=2))
    return panels


def by_size(matched):
    """{label: `line`}, x the kB of what a model is trained on, by `size_of`; {} if the data are unknown."""
    data = statistics(matched).get(plan.SIZE_DATASET)
    if data is None:
        return {}
    budgets, _ = plan.FIGURE[plan.SIZE_DATASET]
    drawn = (  # part, system, its label, its numbers of users, kind
        ("strategies", plan.SOFT, "Distill-CF, soft rows", budgets, "soft"),
        ("sizes", plan.SIZED, plan.SIZED.name, plan.SIZED_BUDGETS, "sparse"),
        ("strategies", plan.RANDOM, plan.RANDOM.name, budgets, "ids"),
        ("table", plan.WEIGHTED, plan.WEIGHTED.name, (None,), "ids"),  # which has their kernel
        ("table", plan.EASE, f"EASE, {plan.ALL}", (None,), "ids"),
    )
    lines = {}
    for part, system, label, points, kind in drawn:
        places = {point: size_of(data, point or data.users, kind)[1] / 1000 for point in points}
        name = labels(matched, part, (system,), plan.SIZE_DATASET)[system.name].replace(system.name, label, 1)
        lines[name] = line(matched, part, system.name, plan.SIZE_DATASET, places, ("NDCG@10",))
    return lines


def noise(matched):
    """{label: `line`}, x the random interactions in percent of train."""
    names, places = labels(matched, "noise", plan.NOISY), {share: 100 * share for share in plan.NOISE}
    return {
        names[system.name]: line(matched, "noise", system.name, plan.NOISE_DATASET, places, ("NDCG@10",))
        for system in plan.NOISY
    }


def stream(matched):
    """{label: DataFrame as of `line`}, x the number of parts that have arrived."""
    lines, names = {}, labels(matched, "stream", plan.STREAM)
    for system in plan.STREAM:
        runs = select(matched, "stream", system.name, plan.STREAM_DATASET)
        values = [[part["test"]["NDCG@10"] for part in run.result["parts"]] for run in runs]
        parts = pd.DataFrame(values, dtype=float)
        lines[names[system.name]] = pd.DataFrame(
            {
                "x": parts.columns + 1,
                "NDCG@10": parts.mean(skipna=False),  # no point where a run lacks the part
                "NDCG@10 deviation": parts.std().fillna(0),
            },
            dtype=float,
        )
    return lines


def draw_all(matched):
    """({file's name: bytes}, [a line on each figure that lacks runs])."""
    panels = strategies(matched)
    drawings = [("results", [panel.lines for panel in panels], partial(plots.strategies, panels))]
    for name, lines, axis, dataset, log_x in (
        ("sizes", by_size(matched), SIZE_AXIS, plan.SIZE_DATASET, True),
        ("noise", noise(matched), NOISE_AXIS, plan.NOISE_DATASET, False),
        ("stream", stream(matched), STREAM_AXIS, plan.STREAM_DATASET, False),
    ):
        draw = partial(plots.lines, lines, "NDCG@10", axis, plan.DATASETS[dataset], log_x=log_x)
        drawings.append((name, [lines], draw))
    files, notes = {}, []
    for name, of_panels, draw in drawings:
        names = [f"{name}.{kind}" for kind in KINDS]
        lines = {label: line for panel in of_panels for label, line in panel.items()}
        if not any(map(len, lines.values())):
            notes.append(f"{', '.join(names)}: not drawn, since none of its runs is finished")
            continue
        files |= {f"{name}.{kind}": draw(kind=kind) for kind in KINDS}
        if short := [label for label in lines if label.endswith((" runs)", " seeds)", f"{HOLLOW})"))]:
            notes.append(f"{', '.join(names)}: drawn, but runs are missing: {', '.join(short)}")
    return files, notes
