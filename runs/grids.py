"""A grid of settings that grows where validation finds the best of it at an end.

All follows from the settings that were tried and their qualities, so a run that goes on from a checkpoint
decides as one that was never stopped. A quality is a tuple, of which the larger is the better and the first
entry is in percent; None for a setting that cannot be used.
"""

import math

from lib.settings import to_argument

AT_MOST = 8  # further settings
FLAT = 0.01  # after two further settings that together gain less than this, no more are tried
LARGEST_RATIO = 3  # of a further value and the one before it
SHARES = ("dropout",)  # keys from 0 to below 1: at the upper end, what is left of 1 shrinks


def grow(grid, qualities, at_most=AT_MOST):
    """The settings of a grid, and behind them the further ones that the qualities so far ask for.

    Args:
        grid: settings, dicts.
        qualities: of the first settings of this function's value, in their order.
        at_most: how many further settings.

    Returns:
        [setting]; as many as there are qualities once there is nothing more to try.
    """
    settings = list(grid)
    while len(grid) <= len(settings) <= len(qualities) and len(settings) < len(grid) + at_most:
        tried = qualities[: len(settings)]
        flat = len(tried) >= len(grid) + 2 and _percent(tried) - _percent(tried[:-2]) < FLAT
        following = None if flat else beyond(settings, tried)
        if following is None:
            break
        settings.append(following)
    return settings


def beyond(settings, qualities):
    """The best setting, one number at an end of its key's values moved on; None if none lies there.

    A value that cannot be used is an end as any other. But a 0 that cannot be used, such as no ridge at all,
    is none: values between it and the next can be usable.
    """
    best = best_of(settings, qualities)
    for key, value in (best or {}).items():
        tried = [(setting.get(key), quality) for setting, quality in zip(settings, qualities)]
        values = {other for other, quality in tried if _is_number(other) and (other or quality is not None)}
        if len(values) > 1 and value in (min(values), max(values)):
            further = _further(key, sorted(values, reverse=value == min(values)))
            if further is not None:
                return {**best, key: further}
    return None


def best_of(settings, qualities):
    """The first of the best settings; None if none can be used."""
    usable = [place for place, quality in enumerate(qualities) if quality is not None]
    return settings[max(usable, key=lambda place: qualities[place])] if usable else None


def note(settings, qualities, name):
    """A line for people, with what to type, if the best setting lies at an end; else None.

    Args:
        name: the setting of hyper_params.py that holds the grid.
    """
    best, following = best_of(settings, qualities), beyond(settings, qualities)
    if following is None:
        return None
    key = next(key for key in best if best[key] != following[key])
    grid = [setting[key] if name.startswith(key) else setting for setting in (best, following)]
    return (
        f"note: the best {key}, {best[key]:g}, lies at the end of the values that were tried. "
        f"To look further: '{to_argument(name, grid)}'"
    )


def _further(key, values):
    """The number behind the last of these, which are sorted either way; None where it cannot be."""
    before, last = values[-2:]
    if key in SHARES and last > before:
        left = _further(None, [1 - value for value in values])
        return round(1 - left, 6)
    if last == 0:
        return None
    ratio = min(LARGEST_RATIO, max(before, last) / (min(before, last) or math.ulp(0.0)))
    further = float(f"{last * ratio if last > before else last / ratio:.2g}")
    if isinstance(last, int):
        further = max(round(further), last + 1) if last > before else min(round(further), last - 1)
        return further if further >= 1 else None
    return further


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _percent(qualities):
    return max((quality[0] for quality in qualities if quality is not None), default=-math.inf)
