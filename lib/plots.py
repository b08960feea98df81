"""Pictures of runs, as the bytes of a file: one style, and a system in the same colour in all of them.

`kind` is the file's format, "png", "svg" or "pdf". The same picture is the same bytes, whenever it is drawn.
"""

import io
import textwrap
from collections import Counter
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from cycler import cycler
from matplotlib import rc_context, rcParams, ticker
from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart.
VERMILLION, BLUE, GREEN, ORANGE = "#d55e00", "#0072b2", "#009e73", "#e69f00"
SKY, PURPLE, GREY = "#56b4e9", "#cc79a7", "#6b6b6b"
INK, SOFT, LINE = "#1c2024", "#5f6770", "#dfe3e8"  # text, axes, the lines of a grid

DISTILL_CF, INFINITE_AE = (VERMILLION, "o"), (BLUE, "s")
# (colour, marker) of a system by a word of its label; the first word that the label contains decides.
SYSTEMS = {
    "Distill-CF": DISTILL_CF,
    "synthetic users": DISTILL_CF,
    "interactions": (SKY, "^"),
    "random": (GREY, "D"),
    "head": (ORANGE, "v"),
    "svp": (PURPLE, "P"),
    "EASE": (GREEN, "X"),
    "∞-AE": INFINITE_AE,
    "everyone": INFINITE_AE,
}
STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.prop_cycle": cycler(color=[VERMILLION, BLUE, GREEN, ORANGE, SKY, PURPLE, GREY]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": LINE,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "pdf.fonttype": 42,  # TrueType, since many publishers refuse Type 3
    "savefig.dpi": 150,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}
STRATEGY_METRICS = "HR@10", "PSP@10"
CURVE_METRICS = "HR@100", "NDCG@10"


class Panel(NamedTuple):
    """A data set's column in the picture of strategies.

    users: U; if it is unknown, None, the column has no axis of S.
    lines: {label: DataFrame of x (the share of users in percent), STRATEGY_METRICS and their deviations}.
    levels: how many of them, the last, are models of all users.
    """

    title: str
    users: int | None
    lines: dict
    levels: int = 1


@contextmanager
def style():
    """The rcParams of all pictures, within a `with`, or as the decorator `@style()`."""
    with rc_context(STYLE):
        yield


def system_style(label):
    """(colour, marker) of the system that a label names; black and a point if it is none of SYSTEMS."""
    matches = (look for word, look in SYSTEMS.items() if word.casefold() in label.casefold())
    return next(matches, (INK, "."))


@style()
def curve(history, best_step, title, kind="png"):
    """The learning curve of a distill run: validation metrics above, loss and lamda below, over the steps.

    Args:
        history: a dict a validation: step, lamda, loss (None before the first step), validation (in percent).
        best_step: the step that is marked, if not None.
    """
    figure = Figure(figsize=(5.6, 4.8), layout="constrained")
    quality, training = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    steps = [line["step"] for line in history]
    _plot_quality(quality, steps, history, DISTILL_CF)
    loss = [float("nan") if line["loss"] is None else line["loss"] for line in history]
    lamdas = [line["lamda"] for line in history]
    right = _plot_pair(training, steps, {"loss": loss, "λ": lamdas}, DISTILL_CF)
    if min(lamdas) > 0:
        right.set_yscale("log")
        _label_log(right.yaxis)
    if best_step is not None:
        _mark(training, best_step)
        _mark(quality, best_step, f"best: step {best_step}")
    quality.set_title(title, parse_math=False)
    training.set(xlabel="step")
    training.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    return to_bytes(figure, kind)


@style()
def grid(history, best_lamda, title, kind="png"):
    """Validation metrics of ∞-AE over its lamdas, evenly spaced, in ascending order.

    Args:
        history: a dict a lamda: lamda, validation (in percent).
        best_lamda: the lamda that is marked.
    """
    history = sorted(history, key=lambda line: line["lamda"])
    lamdas = [line["lamda"] for line in history]
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axes = figure.subplots()
    _plot_quality(axes, range(len(lamdas)), history, INFINITE_AE)
    _mark(axes, lamdas.index(best_lamda), f"best: λ = {best_lamda:g}")
    axes.set_xticks(range(len(lamdas)), [f"{lamda:g}" for lamda in lamdas])
    axes.set(xlabel="λ")
    axes.set_title(title, parse_math=False)
    return to_bytes(figure, kind)


@style()
def strategies(panels, kind="png"):
    """HR@10, and PSP@10 below it, over the users trained on: a column a data set, a line a strategy.

    The axis below has their share of all users, the axis above their number S. A band is a standard
    deviation.

    Args:
        panels: [Panel]; models of all users are drawn from side to side. A label without lines stands in the
            legend alone.
    """
    figure = Figure(figsize=(5.2 * len(panels), 6.8), layout="constrained")
    grid = figure.subplots(2, len(panels), sharex="col", squeeze=False)
    for column, panel in zip(grid.T, panels):
        labels = list(panel.lines)
        strategies = {label: panel.lines[label] for label in labels[: -panel.levels]}
        shares = sorted({share for line in strategies.values() for share in line["x"]})
        for axes, metric in zip(column, STRATEGY_METRICS):
            _plot_lines(axes, strategies, metric)
            for label in labels[-panel.levels :]:
                level = panel.lines[label][metric].max()  # of one row; NaN of none
                axes.axhline(level, color=system_style(label)[0], linestyle="--", label=label)
            if shares:  # matplotlib has no logarithmic axis of nothing
                axes.set_xscale("log")
                _label_log(axes.xaxis)
        column[0].set_title(panel.title, parse_math=False)
        column[1].set_xlabel("users, % of all")
        if shares and panel.users is not None:
            _add_axis_of_s(column[0], shares, panel.users)
    labelled = {label: handle for axes in grid[0] for handle, label in zip(*axes.get_legend_handles_labels())}
    _legend(figure, labelled.values(), labelled)
    return to_bytes(figure, kind)


@style()
def lines(lines_of, metric, x_label, title, kind="png", log_x=False):
    """A metric in percent over x, a line a label, with a band of one standard deviation.

    Args:
        lines_of: {label: DataFrame of x, the metric and its deviation}; a label without lines stands in the
            legend alone.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    _plot_lines(axes, lines_of, metric)
    axes.set_xlabel(x_label)
    axes.set_title(title, parse_math=False)
    if log_x:
        axes.set_xscale("log")
        _label_log(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    _legend(figure, *axes.get_legend_handles_labels())
    return to_bytes(figure, kind)


@style()
def bars(values, metric, title, kind="png"):
    """A metric in percent of every system, a horizontal bar each, the first on top; the numbers beside them.

    Args:
        values: {label: value}; Distill-CF stands out.
    """
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(values)), layout="constrained")
    axes = figure.subplots()
    looks, places = [system_style(label) for label in values], range(len(values), 0, -1)
    drawn = axes.barh(places, values.values(), height=0.6, color=[colour for colour, _ in looks], alpha=0.45)
    axes.bar_label(drawn, [f"{value:.2f}" for value in values.values()], padding=4)
    axes.set_yticks(places, values, color=INK)
    axes.tick_params(axis="y", length=0)
    for look, bar, name, number in zip(looks, drawn, axes.get_yticklabels(), axes.texts):
        name.set_parse_math(False)
        if look == DISTILL_CF:
            bar.set_alpha(1)
            name.set(color=VERMILLION, fontweight="bold")
            number.set(color=VERMILLION, fontweight="bold")
    axes.set(xlabel=f"test {_in_words(metric)}, %")
    axes.set_title(title, parse_math=False)
    axes.margins(x=0.16)
    return to_bytes(figure, kind)


def _add_axis_of_s(axes, shares, users):
    numbers = [f"{round(share * users / 100):,}" for share in shares]
    above = axes.secondary_xaxis("top")
    above.set_xticks(shares, numbers)
    above.xaxis.set_minor_locator(ticker.NullLocator())
    above.set_xlabel("S, number of users")


def _plot_lines(axes, lines_of, metric):
    """A system has one colour; several lines of one system differ in their strokes.

    Points are hollow where the column "missing", if there is one, says that they lack seeds.
    """
    strokes, drawn = ("-", "--", ":", "-."), Counter()
    for label, line in lines_of.items():
        colour, marker = system_style(label)
        stroke = strokes[drawn[colour] % len(strokes)]
        drawn[colour] += 1
        axes.plot(line["x"], line[metric], stroke, marker=marker, label=label, color=colour)
        if "missing" in line and len(short := line[line["missing"] > 0]):
            axes.plot(short["x"], short[metric], marker, color=colour, markerfacecolor="white")
        deviation = line[f"{metric} deviation"]
        low, high = line[metric] - deviation, line[metric] + deviation
        axes.fill_between(line["x"], low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set(ylabel=f"{_in_words(metric)}, %")
    axes.grid()


def _legend(figure, handles, labels):
    """Below the axes, in up to three columns as the figure has room; the figure grows with the third row."""
    room = int(12 * figure.get_figwidth())  # characters
    labels = [textwrap.fill(label, room - 7) for label in labels]
    width = lambda column: 7 + max(map(len, column), default=0)
    columns = next((n for n in (3, 2) if sum(map(width, np.array_split(labels, n))) <= room), 1)
    rows = sum(label.count("\n") + 1 for label in labels) / columns
    figure.set_figheight(figure.get_figheight() + 0.2 * max(0, rows - 2))
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _plot_quality(axes, places, history, look):
    values = {name: [line["validation"][name] for line in history] for name in CURVE_METRICS}
    labelled = {f"validation {_in_words(name)}, %": line for name, line in values.items()}
    _plot_pair(axes, places, labelled, look)


def _plot_pair(axes, xs, values, look):
    """Draws {axis label: values}, first on the left axis, second on the right one; returns the right axis."""
    twin = axes.twinx()
    sides = (axes, *look, "-"), (twin, SOFT, "D", "--")
    for (side, colour, marker, stroke), (label, line) in zip(sides, values.items()):
        side.plot(xs, line, stroke, marker=marker, color=colour, markersize=4.5)
        side.set_ylabel(label, color=colour)
        side.tick_params(axis="y", colors=colour)
    axes.grid(axis="y")
    return twin


def _mark(axes, place, text=None):
    """A line from top to bottom, with a text on its side that has more room."""
    axes.axvline(place, color=SOFT, linestyle=":", linewidth=1.2, zorder=0)
    if text:
        low, high = axes.get_xlim()
        side, shift = ("left", 5) if place < (low + high) / 2 else ("right", -5)
        where = dict(xycoords=("data", "axes fraction"), textcoords="offset points")
        axes.annotate(text, (place, 0.04), (shift, 0), color=SOFT, ha=side, **where)


def _label_log(axis):
    """Ticks at 1, 2 and 5 of every power of ten, as plain numbers; on a long axis, at 1 and 3."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1, 3)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_locator(ticker.NullLocator())


def _in_words(metric):
    return metric.replace("NDCG", "nDCG")


def to_bytes(figure, kind):
    """The file of a Figure; it holds neither a date nor random ids."""
    image, no_date = io.BytesIO(), {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with rc_context({"svg.hashsalt": rcParams["svg.hashsalt"] or "fixed"}):
        figure.savefig(image, format=kind, metadata=no_date.get(kind))
    return image.getvalue()
