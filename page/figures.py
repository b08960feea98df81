"""The pictures of report.html: matplotlib's SVG as elements of the page, dark where the page is dark."""

import re
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from lib import plots

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
# The page's CSS variables: (name, its colour on a light page).
VARIABLES = (
    ("--ink", plots.INK),
    ("--soft", plots.SOFT),
    ("--line", plots.LINE),
    ("--distilled", plots.DISTILL_CF[0]),
    ("--everyone", plots.INFINITE_AE[0]),
)
SIZE = (5.6, 3.4)  # inches


def inline(title, draw):
    """A picture with its title as a <figure> element, which is safe to put in the page.

    Its text is text in the page's font, its colours are VARIABLES, and its ids are no other picture's.

    Args:
        draw: kind -> bytes, as all pictures of lib/plots.py are drawn.
    """
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        root = ElementTree.fromstring(draw("svg"))  # without comments
    root.remove(root.find(f"{SVG}metadata"))
    root.remove(root.find(f"{SVG}defs"))  # a style sheet, which would be the whole page's
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        if element.tag == "g":
            element.attrib.pop("id", None)  # "axes_1", in every picture
        if link := element.attrib.pop(f"{XLINK}href", None):
            element.set("href", link)
        if style := element.get("style"):
            element.set("style", _to_variables(style))
    root.attrib = {"viewBox": root.get("viewBox"), "class": "chart", "role": "img", "aria-label": title}
    element = Markup(ElementTree.tostring(root, encoding="unicode"))
    return Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(title, element)


def _to_variables(style):
    style = re.sub("font-family: [^;]*; ", "", style).replace("#ffffff", "none")
    for name, colour in VARIABLES:
        style = style.replace(colour, f"var({name})")
    return style


@plots.style()
def lengths(real, totals, spread, kind):
    """Histograms of how long histories are, in percent of users, over a logarithmic number of items.

    Args:
        real: (U,), the real users' train interactions.
        totals: (S,), the sums of the synthetic users' weights.
        spread: (S,), over how many items they spread, as report.effective_items.
    """
    edges = np.geomspace(1, max(real.max(), totals.max(), spread.max(), 2) * 1.05, 40)
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    for values, label, (colour, _), stroke in (
        (real, "real: length", plots.INFINITE_AE, "-"),
        (totals, "synthetic: sum of weights", plots.DISTILL_CF, "-"),
        (spread, "synthetic: exp(entropy)", plots.DISTILL_CF, "--"),
    ):
        shares = np.histogram(values, edges)[0] / len(values) * 100
        axes.stairs(shares, edges, color=colour, linestyle=stroke, linewidth=1.8, label=label)
    axes.set(xscale="log", xlabel="items", ylabel="% of users")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.grid(axis="y")
    figure.legend(loc="outside upper left", ncols=2, fontsize="small")
    return plots.to_bytes(figure, kind)


@plots.style()
def popularity(frequency, weight, kind):
    """A dot an item: its mean weight over the share of real users that have it, which is logarithmic.

    Args:
        frequency: (I,), shares of the real users' train histories, in percent.
        weight: (I,), means over the synthetic users.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    known = frequency > 0
    axes.plot(frequency[known], weight[known], ".", color=plots.DISTILL_CF[0], alpha=0.4, markeredgewidth=0)
    axes.set(xscale="log", xlabel="real users that have the item, %", ylabel="mean synthetic weight")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.grid(axis="y")
    return plots.to_bytes(figure, kind)
