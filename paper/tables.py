"""The tables of the comparison, as Markdown, LaTeX and data; `matched` is what paper.plan.match returns."""

import re

import numpy as np
import pandas as pd

from lib.metric_names import METRICS
from paper import plan, record
from paper.summaries import CAPTION, P, cells, markdown, mean_text, moments, summarize
from runs.published import NDCG_AT_10

# Bytes an entry: two for the item's number, one for a weight. A soft weight has no number: it has its place.
BYTES = {"soft": 1, "sparse": 2 + 1, "ids": 2}
HEAD = ["", *METRICS, "chosen by", "settings", "paper, NDCG@10", P]  # of the tables with all metrics
# The README's first table: its data sets; of each system, what it is and what it was trained on.
FIRST_DATASETS = "ml-1m", "magazine"
FIRST = {
    "PopRec": ("popularity", plan.ALL),
    plan.EASE.name: ("EASE", plan.ALL),
    plan.FULL.name: ("∞-AE", plan.ALL),
    plan.DISTILLED.name: ("∞-AE", f"{plan.SUMMARY} synthetic users (Distill-CF)"),
}


def select(matched, part, system, dataset, point=None):
    """The finished runs of a system in a part of the plan, a seed each."""
    return [run for planned, run in matched.items() if run and planned[:4] == (part, system, dataset, point)]


def summary(matched):
    """A DataFrame with a row for each data set and system of the table.

    Columns: dataset, system, chosen by, settings (how many its first seed was given to try; NaN without a
    run), seeds (how many are planned), paper, and those of `summarize`.
    """
    tables = []
    for dataset in plan.DATASETS:
        of_table = plan.systems_of(dataset)
        runs_of = [select(matched, "table", system.name, dataset) for system in of_table]
        systems = [
            {
                "dataset": dataset,
                "system": system.name,
                "chosen by": system.chosen_by,
                "settings": settings_tried(runs[0]) if runs else np.nan,
                "seeds": len(system.seeds),
                "paper": system.paper(dataset),
            }
            for system, runs in zip(of_table, runs_of)
        ]
        tables.append(summarize(systems, runs_of))
    return pd.concat(tables, ignore_index=True)


def settings_tried(run):
    """How many settings a run was given to choose from."""
    grid = {"baselines": "grid", "infinite_ae": "lamda_grid"}.get(run.script)
    return len(run.settings[grid]) if grid else 1


def rows_of(table):
    """{data set: {system: the texts under HEAD}} of a `summary`."""
    rows = {dataset: {} for dataset in plan.DATASETS}
    for dataset, part in table.groupby("dataset"):
        for (_, row), (metrics, p) in zip(part.iterrows(), cells(part)):
            so_far = f" ({row['runs']} of {row['seeds']} seeds)" if 0 < row["runs"] < row["seeds"] else ""
            paper = "" if np.isnan(row["paper"]) else f"{row['paper']:.2f}"
            settings = "" if np.isnan(row["settings"]) else f"{row['settings']:.0f}"
            texts = [row["system"] + so_far, *metrics, row["chosen by"], settings, paper, p]
            rows[dataset][row["system"]] = texts
    return rows


def learners(matched):
    """The Markdown table of NDCG@10 by model and what it was trained on."""
    rows = []
    for on_sample, on_all in plan.LEARNERS:
        for sample in (*plan.samples_of(on_sample), plan.ALL):
            system, texts = on_all if sample == plan.ALL else on_sample, []
            for dataset in plan.WHOLE:
                runs = select(matched, "learners", system.name, dataset, sample)
                made, seeds = len(runs), len(system.seeds)
                text = mean_text(*(moment["NDCG@10"] for moment in moments(runs)))
                text += f" ({made} of {seeds} seeds)" if made < seeds else ""
                texts.append(text if runs else "missing")
            rows.append([system.name, sample, system.chosen_by, *texts])
    return markdown(["NDCG@10 of", "trained on", "chosen by", *map(plan.DATASETS.get, plan.WHOLE)], rows)


def statistics(matched):
    """{data set: the recipes.Statistics of its data}, of those with runs that have them."""
    return {run.dataset: run.statistics for run in matched.values() if run and run.statistics}


def size_of(data, users, kind):
    """(entries, bytes) of so many users of a data set in a plain format, BYTES an entry.

    Soft rows have an entry at every item. All others have about as many interactions a user as the data.

    Args:
        data: recipes.Statistics.
        kind: a key of BYTES.
    """
    entries = int(users * (data.items if kind == "soft" else data.per_user))
    return entries, entries * BYTES[kind]


def sizes(matched):
    """The Markdown table of how large the learners' train data are: entries, and kB, as in `size_of`."""
    known, rows = statistics(matched), []
    for sample in (*plan.LEARNT_FROM, plan.ALL):
        sampler, system = plan.LEARNT_FROM.get(sample, (None, None))
        weights = {plan.DISTILLED: "soft", plan.SPARSE: "sparse"}.get(system)
        kind = weights if sampler == "distilled" else "ids"
        texts = []
        for dataset in plan.WHOLE:
            if dataset not in known:
                texts += ["missing"] * 2
                continue
            data = known[dataset]
            entries, size = size_of(data, data.users if sample == plan.ALL else plan.SUMMARY, kind)
            texts += [f"{entries:,}", f"{size / 1000:,.0f}"]
        rows.append([sample, *texts])
    heads = [head for dataset in plan.WHOLE for head in (f"{plan.DATASETS[dataset]}: entries", "kB")]
    return markdown(["trained on", *heads], rows)


def to_markdown(matched):
    """{name: Markdown} of all tables: "first" of four rows, "ndcg", all metrics by data set, "learners" and
    the "sizes" of what they learn from."""
    rows = rows_of(summary(matched))
    own, papers = HEAD.index("NDCG@10"), HEAD.index("paper, NDCG@10")

    def columns(datasets, own_text, papers_text):
        """The texts of all data sets; the paper's only of those that it has."""
        pairs = [(own_text(dataset), papers_text(dataset)) for dataset in datasets]
        counts = [1 + (dataset in NDCG_AT_10) for dataset in datasets]
        return [text for pair, count in zip(pairs, counts) for text in pair[:count]]

    def ndcg(system, datasets):
        text = lambda place: lambda dataset: rows[dataset].get(system, [""] * len(HEAD))[place]
        return columns(datasets, text(own), text(papers))

    titles = lambda datasets: columns(datasets, plan.DATASETS.get, lambda dataset: "the paper's")
    first_head = ["NDCG@10 of", "trained on", *titles(FIRST_DATASETS)]
    first = [[*names, *ndcg(system, FIRST_DATASETS)] for system, names in FIRST.items()]
    ndcg_head = ["NDCG@10", "chosen by", *titles(plan.DATASETS)]
    in_some = {system for dataset in plan.DATASETS for system in plan.systems_of(dataset)}
    planned = [system for system in plan.TABLE if system in in_some]
    ndcg_rows = [[system.name, system.chosen_by, *ndcg(system.name, plan.DATASETS)] for system in planned]
    note = uncommitted(matched)
    return {
        "first": markdown(first_head, first),
        "ndcg": markdown(ndcg_head, ndcg_rows) + (f"\n\n{note}" if note else ""),
        **{name: f"{markdown(HEAD, part.values())}\n\n{CAPTION}" for name, part in rows.items()},
        "learners": learners(matched),
        "sizes": sizes(matched),
    }


def to_latex(matched):
    """One tabular of all metrics; it needs the package booktabs."""
    wide = rf"\multicolumn{{{len(HEAD)}}}{{l}}"
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(HEAD) - 1)}}}", r"\toprule", " & ".join(HEAD) + r" \\"]
    for dataset, rows in rows_of(summary(matched)).items():
        lines += [r"\midrule", rf"{wide}{{{plan.DATASETS[dataset]}}} \\"]
        lines += [" & ".join(texts) + r" \\" for texts in rows.values()]
    lines += [r"\bottomrule", rf"{wide}{{{CAPTION}}} \\", r"\end{tabular}"]
    text = re.sub(r"\*\*(.*?)\*\*", r"\\textbf{\1}", "\n".join(lines) + "\n")
    for symbol, latex in ((P, "$p$, users and seeds"), ("∞", r"$\infty$"), ("±", r"$\pm$"), ("< ", "$<$ ")):
        text = text.replace(symbol, latex)
    return text


def uncommitted(matched):
    """A line on how many runs were made by code that nobody can look up; "" if there are none."""
    runs = {run.name: run for run in matched.values() if run}.values()
    unclean = sum(not run.clean for run in runs)
    if not unclean:
        return ""
    return (
        f"{unclean} of the {len(runs)} runs in these tables and figures were made at a revision with "
        f"uncommitted changes: `revision` in docs/{record.LINES} says which."
    )
