"""Charts as SVG for report.html, drawn with the page's own fonts and colours, so that they turn dark with it."""

import math
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import LogLocator, MaxNLocator

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 30, 46  # what is left free around the plot


class Axis(NamedTuple):
    """Where numbers from low to high lie between the pixels start and end."""

    label: str
    low: float
    high: float
    start: float
    end: float
    log: bool

    def place(self, value):
        low, high, value = (
            np.log(each) if self.log else each for each in (self.low, self.high, np.asarray(value, float))
        )
        return self.start + (value - low) / ((high - low) or 1) * (self.end - self.start)

    def ticks(self):
        locator = (
            LogLocator(subs=(1, 2, 5) if self.high / self.low < 100 else (1,)) if self.log else MaxNLocator(5)
        )
        return [
            tick
            for tick in locator.tick_values(self.low, self.high)
            if self.low * 0.9999 <= tick <= self.high * 1.0001
        ]


def _axis(label, values, start, end, log):
    values = np.concatenate([np.ravel(each) for each in values])
    values = values[np.isfinite(values) & (values > 0 if log else True)]
    low, high = (values.min(), values.max()) if len(values) else (1, 2)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    margin = 0 if log else (high - low) * 0.05
    return Axis(label, low - margin, high + margin, start, end, log)


def chart(title, x_label, y_label, series, kind="lines", log_x=False, log_y=False, mark=None):
    """One chart as SVG text that is safe to put in a page.

    Args:
        series: [(name, xs, ys)]; the first ones take the page's colours --s1, --s2, ...
        kind: "lines", "steps" (ys hold from their x to the next one) or "dots".
        log_x, log_y: logarithmic; points that are not above 0 are left out.
        mark: (x, what it is): a line up and down there.
    """
    x = _axis(x_label, [xs for _, xs, _ in series], LEFT, WIDTH - RIGHT, log_x)
    y = _axis(y_label, [ys for _, _, ys in series], HEIGHT - BOTTOM, TOP, log_y)
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            WIDTH, HEIGHT, title
        )
    ]
    for tick in y.ticks():
        place = round(float(y.place(tick)), 1)
        parts.append(
            Markup(
                '<path class="grid" d="M{} {}H{}"/><text x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(LEFT, place, WIDTH - RIGHT, LEFT - 6, place + 4, f"{tick:g}")
        )
    for tick in x.ticks():
        place = round(float(x.place(tick)), 1)
        parts.append(
            Markup(
                '<path class="grid" d="M{} {}v4"/><text x="{}" y="{}" text-anchor="middle">{:,g}</text>'
            ).format(place, HEIGHT - BOTTOM, place, HEIGHT - BOTTOM + 18, tick)
        )
    parts.append(
        Markup(
            '<path class="axis" d="M{} {}H{}"/><text x="{}" y="{}" text-anchor="end">{}</text><text x="{}" y="14">{}</text>'
        ).format(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, WIDTH - RIGHT, HEIGHT - 8, x_label, 4, y_label)
    )
    if mark is not None:
        place = round(float(x.place(mark[0])), 1)
        end = place > WIDTH / 2
        parts.append(
            Markup('<path class="mark" d="M{} {}V{}"/><text x="{}" y="{}" text-anchor="{}">{}</text>').format(
                place,
                TOP,
                HEIGHT - BOTTOM,
                place + (-5 if end else 5),
                HEIGHT - BOTTOM - 6,
                "end" if end else "start",
                mark[1],
            )
        )
    for number, (_, xs, ys) in enumerate(series, 1):
        parts.append(Markup('<path class="{} s{}" d="{}"/>').format(kind, number, _path(kind, x, y, xs, ys)))
    parts.append(Markup("</svg>"))
    legend = Markup("").join(
        Markup('<span><i class="s{}"></i>{}</span>').format(number, name)
        for number, (name, _, _) in enumerate(series, 1)
    )
    return Markup('<figure><figcaption>{}<span class="legend">{}</span></figcaption>{}</figure>').format(
        title, legend, Markup("").join(parts)
    )


def _path(kind, x, y, xs, ys):
    points = [
        (a, b)
        for a, b in zip(map(float, xs), map(float, ys))
        if math.isfinite(a + b) and (a > 0 or not x.log) and (b > 0 or not y.log)
    ]
    places = [(round(float(x.place(a)), 1), round(float(y.place(b)), 1)) for a, b in points]
    if kind == "dots":
        return "".join(f"M{a} {b}h0" for a, b in places)
    if kind == "steps":
        places = [
            corner
            for (a, b), (after, _) in zip(places, [*places[1:], *places[-1:]])
            for corner in ((a, b), (after, b))
        ]
    return "M" + "L".join(f"{a} {b}" for a, b in places) if places else ""
