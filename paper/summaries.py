"""Means over seeds, a test over users, the text of tables; for the paper's table and `compare.py --mine`."""

import numpy as np
import pandas as pd
from scipy import stats

from lib.metric_names import METRICS

DEVIATIONS = tuple(f"{name} deviation" for name in METRICS)
P = "p, users and seeds"
CAPTION = (
    "p: a t-test of NDCG@10 against the best system's, Holm-corrected. It is paired over users, and counts "
    "the spread over seeds, too (±, a standard deviation); a system with one seed is taken as having none."
)


def moments(runs):
    """Each metric's mean and standard deviation over runs, as two Series.

    A deviation is NaN for a single run, both are NaN where a run lacks the metric.
    """
    tests = pd.DataFrame([run.result["test"] for run in runs], columns=METRICS, dtype=float)
    return tests.mean(skipna=False), tests.std(skipna=False)


def with_deviations(runs_at, metrics):
    """A DataFrame for lib/plots.py, a row an x: x, each metric's mean and its deviation, 0 for a single run.

    Args:
        runs_at: {x: its FinishedRuns, a seed each}.
    """
    rows = []
    for x, runs in runs_at.items():
        mean, deviation = moments(runs)
        rows.append([x, *mean[list(metrics)], *deviation.fillna(0)[list(metrics)]])
    columns = ["x", *metrics, *(f"{name} deviation" for name in metrics)]
    return pd.DataFrame(rows, columns=columns, dtype=float)


def summarize(systems, runs_of):
    """A DataFrame with a row a system.

    Columns: those of `systems`; "runs", how many there are; METRICS, their means; DEVIATIONS; "best", whether
    the system has the highest NDCG@10; "p", as CAPTION says, NaN for the best and for a system without runs.

    Args:
        systems: a dict a system.
        runs_of: the FinishedRuns of each system, a seed each; all on the same users.
    """
    rows = []
    for system, runs in zip(systems, runs_of):
        mean, deviation = moments(runs)
        rows.append({**system, "runs": len(runs), **mean, **dict(zip(DEVIATIONS, deviation))})
    ndcg = {
        row: np.array([run.ndcg_of_users() for run in runs], np.float64)
        for row, runs in enumerate(runs_of)
        if runs
    }
    best = max(ndcg, key=lambda row: rows[row]["NDCG@10"], default=None)
    p, table = p_against(ndcg, best), pd.DataFrame(rows)
    return table.assign(best=table.index == best, p=pd.Series(p, dtype=float))


def p_against(ndcg, system):
    """{other system: its p against `system`, Holm-corrected}.

    Args:
        ndcg: {system: NDCG@10 of the users, (seeds, U), or (U,) of one seed}.
    """
    others = [other for other in ndcg if other != system]
    return dict(zip(others, holm([p_of_difference(ndcg[system], ndcg[other]) for other in others])))


def holm(p):
    """Holm's correction of p-values, (n,): each times how many are as large, monotone, at most 1."""
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)), 1)
    return corrected


def p_of_difference(ndcg, other):
    """p of a t-test that two systems have the same mean over all users and seeds; 1 where nothing differs.

    The variance of the difference has a part of the users, by which both are paired, and a part of each
    system's seeds. The degrees of freedom are those of a sum of variances (Satterthwaite, Biometrics 1946).

    Args:
        ndcg, other: (seeds, U), or (U,) of one seed; NaN for users without targets.
    """
    ndcg, other = map(np.atleast_2d, (ndcg, other))
    ndcg, other = (values[:, ~np.isnan(values[0])] for values in (ndcg, other))
    difference = ndcg.mean(axis=0) - other.mean(axis=0)
    samples = [difference, *(values.mean(axis=1) for values in (ndcg, other) if len(values) > 1)]
    variances = np.array([sample.var(ddof=1) / len(sample) for sample in samples])
    if not variances.any():
        return 1.0 if difference.mean() == 0 else 0.0
    degrees = variances.sum() ** 2 / sum(variances**2 / [len(sample) - 1 for sample in samples])
    return 2 * stats.t.sf(abs(difference.mean()) / variances.sum() ** 0.5, degrees)


# ---- Text ----------------------------------------------------------------------------------------------


def mean_text(mean, deviation, digits=2, bold=False):
    """The text "34.70 ± 0.05"; the mean alone where the deviation is NaN."""
    text = f"**{mean:.{digits}f}**" if bold else f"{mean:.{digits}f}"
    return text if np.isnan(deviation) else f"{text} ± {deviation:.{digits}f}"


def p_text(p):
    """The text of a p-value; "" for NaN."""
    return "" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def cells(table):
    """([text of each metric, the highest in bold], text of p) of each row of a table from `summarize`."""
    highest = table[list(METRICS)].max()
    for _, row in table.iterrows():
        texts = []
        for name in METRICS:
            text = mean_text(
                row[name], row[f"{name} deviation"], 4 if name == "AUC" else 2, row[name] == highest[name]
            )
            texts.append(text if not np.isnan(row[name]) else "none" if row["runs"] else "missing")
        yield texts, "best" if row["best"] else p_text(row["p"])


def markdown(head, rows):
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join("".join(f"| {cell} " if cell else "| " for cell in line) + "|" for line in lines)


def to_csv(table):
    """A DataFrame as bytes; the column p says what it is."""
    table = table.rename(columns={"p": "p, paired over users, with the spread over seeds"})
    return table.to_csv(index=False, float_format="%.6g").encode()
