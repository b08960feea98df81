"""The pictures of runs, as files in memory."""

import io
import itertools
import textwrap

import numpy as np
from matplotlib import rc_context, ticker
from matplotlib.figure import Figure

TWO = "HR@10", "PSP@10"  # that `strategies` draws


def curve(history, best_step, title):
    """Validation HR@100 and nDCG@10, and lamda, over the steps of `history` (a dict a validation)."""
    steps = [line["step"] for line in history]
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    quality, strength = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _plot_quality(quality, steps, history, best_step)
    _mark(strength, best_step)
    quality.annotate(
        f"best: step {best_step}",
        (best_step, 0.03),
        (-4, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color="0.4",
        ha="right",
    )
    quality.set(ylabel="validation, %", title=title)
    strength.plot(steps, [line["lamda"] for line in history], "o-", color="0.4", markersize=4)
    strength.set(xlabel="step", ylabel="λ", yscale="log")
    strength.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=5))
    strength.yaxis.set_major_formatter("{x:g}")
    strength.yaxis.set_minor_locator(ticker.NullLocator())
    return _to_bytes(figure)


def grid(history, best_lamda, title):
    """Validation HR@100 and nDCG@10 over the lamdas of `history`, evenly spaced, in ascending order."""
    history = sorted(history, key=lambda line: line["lamda"])
    lamdas = [line["lamda"] for line in history]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    _plot_quality(axes, range(len(lamdas)), history, lamdas.index(best_lamda))
    axes.set_xticks(range(len(lamdas)), [f"{lamda:g}" for lamda in lamdas])
    axes.set(xlabel="λ", ylabel="validation, %", title=title)
    return _to_bytes(figure)


def strategies(drawn, kind):
    """HR@10 above PSP@10 against the share of users, a column a data set, a line a strategy, a band of one standard deviation.

    Args:
        drawn: {title: {label: DataFrame of x, the share in percent, the metrics of TWO, and deviations}}; the
            last label is that of all users, drawn from side to side. A label without lines stands in the
            legend alone.
        kind: "png" or "svg".
    """
    figure = Figure(figsize=(5.2 * len(drawn), 6.4), layout="constrained")
    grid = figure.subplots(2, len(drawn), sharex="col", squeeze=False)
    for column, (title, named) in zip(grid.T, drawn.items()):
        *strategies, (everyone, full) = named.items()
        for axes, metric in zip(column, TWO):
            _plot_lines(axes, dict(strategies), metric)
            [level] = full[metric] if len(full) else [float("nan")]
            axes.axhline(level, color="0.4", linestyle="--", label=everyone)
            axes.set(xscale="log")
            axes.xaxis.set_major_formatter(lambda share, _: f"{share:g}")
        column[0].set_title(title)
        column[1].set_xlabel("users, % of all")
    labelled = {label: handle for axes in grid[0] for handle, label in zip(*axes.get_legend_handles_labels())}
    _legend(figure, labelled.values(), labelled)
    return _to_bytes(figure, kind)


def lines(drawn, metric, x_label, title, kind, log_x=False):
    """A metric in percent over x, a line a label, a band of one standard deviation.

    Args:
        drawn: {label: DataFrame of x, the metric and its deviation}; a label without lines stands in the
            legend alone.
        kind: "png" or "svg".
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    _plot_lines(axes, drawn, metric)
    axes.set(xlabel=x_label, title=title, xscale="log" if log_x else "linear")
    if log_x:
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    else:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    _legend(figure, *axes.get_legend_handles_labels())
    return _to_bytes(figure, kind)


def _plot_lines(axes, drawn, metric):
    for number, ((name, line), marker) in enumerate(zip(drawn.items(), itertools.cycle("os^Dv"))):
        axes.plot(line["x"], line[metric], marker=marker, markersize=5, label=name, color=f"C{number}")
        axes.fill_between(
            line["x"],
            line[metric] - line[f"{metric} deviation"],
            line[metric] + line[f"{metric} deviation"],
            color=f"C{number}",
            alpha=0.2,
            linewidth=0,
        )
    axes.set(ylabel=f"{metric}, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")


def _legend(figure, handles, labels):
    """Below the axes, in up to three columns as the figure has room; beyond two rows the figure grows with it."""
    room = int(12 * figure.get_figwidth())  # characters
    labels = [textwrap.fill(label, room - 7) for label in labels]
    width = lambda column: 7 + max(map(len, column), default=0)
    columns = next((n for n in (3, 2) if sum(map(width, np.array_split(labels, n))) <= room), 1)
    rows = sum(label.count("\n") + 1 for label in labels) / columns
    figure.set_figheight(figure.get_figheight() + 0.2 * max(0, rows - 2))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _plot_quality(axes, places, history, best):
    for metric, colour in (("HR@100", "tab:blue"), ("NDCG@10", "tab:orange")):
        values = [line["validation"][metric] for line in history]
        axes.plot(places, values, "o-", color=colour, markersize=4)
        axes.annotate(
            f"{metric}  {values[-1]:.1f}",
            (places[-1], values[-1]),
            (6, 0),
            textcoords="offset points",
            color=colour,
            va="center",
        )
    axes.margins(x=0.16)
    _mark(axes, best)


def _mark(axes, best):
    axes.axvline(best, color="0.7", linestyle=":", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92")


def _to_bytes(figure, kind="png"):
    image = io.BytesIO()
    # An SVG has the time and random ids in it otherwise: the same figure is to be the same bytes.
    with rc_context({"svg.hashsalt": "fixed"}):
        figure.savefig(image, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return image.getvalue()
