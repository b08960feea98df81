"""Means over seeds, the test over users, and cells: what the paper's table and `compare.py --mine` share."""

import numpy as np
import pandas as pd
from scipy import stats

from eval import METRICS

DEVIATIONS = tuple(f"{name} deviation" for name in METRICS)
P = "p, over users"
CAPTION = (
    "p: a t-test paired over users, seeds averaged, of NDCG@10 against the best system's, "
    "Holm-corrected; it knows nothing of the spread over seeds (±, a standard deviation)."
)
MARKDOWN, LATEX = ("**{}**", "±"), (r"\textbf{{{}}}", r"$\pm$")


def moments(runs):
    """Of each metric the mean, and the standard deviation, NaN of a single run; NaN where no run has it."""
    tests = pd.DataFrame([run.result["test"] for run in runs], columns=METRICS, dtype=float)
    return tests.mean(), tests.std()


def line_of(runs):
    """What a line of a table has of its runs, a seed each: their number, the means and the deviations."""
    mean, deviation = moments(runs)
    return {"runs": len(runs), **mean, **dict(zip(DEVIATIONS, deviation))}


def with_deviations(found, metrics):
    """A DataFrame for lib/plots.py, a row an x: x, and of a metric the mean and the deviation, 0 of one run.

    Args:
        found: {x: its runs, a seed each}.
    """
    rows = []
    for x, runs in found.items():
        mean, deviation = moments(runs)
        rows.append([x, *(mean[name] for name in metrics), *(deviation.fillna(0)[name] for name in metrics)])
    columns = ["x", *metrics, *(f"{name} deviation" for name in metrics)]
    return pd.DataFrame(rows, columns=columns, dtype=float)


def holm(p):
    """Holm's correction of p-values, (n,): times how many are at least as large, monotone, at most 1."""
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)), 1)
    return corrected


def paired(users, others):
    """p of the paired t-test, NaN left out; 1 where no user differs."""
    if np.nanmax(np.abs(users - others)) == 0:
        return 1.0
    return stats.ttest_rel(users, others, nan_policy="omit").pvalue


def compare_with_best(lines, runs):
    """Gives a line "best", whether it has the highest NDCG@10, and "p" as CAPTION says, NaN without a run.

    Args:
        lines: dicts as of `line_of`.
        runs: of each line, its runs, all on the same users.
    """
    users = {
        place: np.mean([run.users() for run in own], axis=0, dtype=np.float64)
        for place, own in enumerate(runs)
        if own
    }
    best = max(users, key=lambda place: lines[place]["NDCG@10"], default=None)
    others = [place for place in users if place != best]
    p = dict(zip(others, holm([paired(users[best], users[place]) for place in others])))
    for place, line in enumerate(lines):
        line |= {"best": place == best, "p": float(p.get(place, np.nan))}


def cells(table, style):
    """Of each line of a DataFrame, the text of its metrics, the highest emphasised, and that of p.

    Args:
        style: MARKDOWN or LATEX.
    """
    bold, plus_minus = style
    top = table[list(METRICS)].max()
    for _, line in table.iterrows():
        texts = []
        for name in METRICS:
            digits = 4 if name == "AUC" else 2
            text = f"{line[name]:.{digits}f}"
            text = bold.format(text) if line[name] == top[name] else text
            deviation = line[f"{name} deviation"]
            text = text if np.isnan(deviation) else f"{text} {plus_minus} {deviation:.{digits}f}"
            texts.append(text if not np.isnan(line[name]) else "none" if line["runs"] else "missing")
        p = "" if np.isnan(line["p"]) else "< 0.001" if line["p"] < 0.001 else f"{line['p']:.3f}"
        yield texts, "best" if line["best"] else p


def markdown(head, rows):
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join("".join(f"| {cell} " if cell else "| " for cell in line) + "|" for line in lines)


def to_csv(table):
    """A DataFrame as bytes; its p says what it knows."""
    table = table.rename(columns={"p": "p, paired over users, seeds averaged"})
    return table.to_csv(index=False, float_format="%.6g").encode()
