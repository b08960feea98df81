"""The pictures of a run, as PNG files in memory."""
import io

from matplotlib import ticker
from matplotlib.figure import Figure


def curve(history, best_step, title):
    """Validation HR@100 and nDCG@10, and lamda, over the steps of `history` (a dict a validation)."""
    steps = [line["step"] for line in history]
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    quality, strength = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _plot_quality(quality, steps, history, best_step)
    _mark(strength, best_step)
    quality.annotate(f"best: step {best_step}", (best_step, 0.03), (-4, 0), xycoords=("data", "axes fraction"),
                     textcoords="offset points", color="0.4", ha="right")
    quality.set(ylabel="validation, %", title=title)
    strength.plot(steps, [line["lamda"] for line in history], "o-", color="0.4", markersize=4)
    strength.set(xlabel="step", ylabel="λ", yscale="log")
    strength.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=5))
    strength.yaxis.set_major_formatter("{x:g}")
    strength.yaxis.set_minor_locator(ticker.NullLocator())
    return _to_png(figure)


def grid(history, best_lamda, title):
    """Validation HR@100 and nDCG@10 over the lamdas of `history`, evenly spaced, in ascending order."""
    history = sorted(history, key=lambda line: line["lamda"])
    lamdas = [line["lamda"] for line in history]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    _plot_quality(axes, range(len(lamdas)), history, lamdas.index(best_lamda))
    axes.set_xticks(range(len(lamdas)), [f"{lamda:g}" for lamda in lamdas])
    axes.set(xlabel="λ", ylabel="validation, %", title=title)
    return _to_png(figure)


def _plot_quality(axes, places, history, best):
    for metric, colour in (("HR@100", "tab:blue"), ("NDCG@10", "tab:orange")):
        values = [line["validation"][metric] for line in history]
        axes.plot(places, values, "o-", color=colour, markersize=4)
        axes.annotate(f"{metric}  {values[-1]:.1f}", (places[-1], values[-1]), (6, 0), textcoords="offset points",
                      color=colour, va="center")
    axes.margins(x=0.16)
    _mark(axes, best)


def _mark(axes, best):
    axes.axvline(best, color="0.7", linestyle=":", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92")


def _to_png(figure):
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()
