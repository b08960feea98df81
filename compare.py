"""The paper's table and figures, from finished runs; and a comparison of your own.

    python compare.py          the tables in README.md and docs/, as Markdown, LaTeX and CSV, and the figures
    python compare.py --plan   which runs are missing, and the commands that make them
    python compare.py --run    makes them, one after another, and then the tables; killed, it goes on
    python compare.py --mine   your own runs of one data set: table, figure and test, in results_dir/compare/;
                               --dataset=NAME picks the data set, --runs=a,b,c the runs

Which runs the paper's table needs stands in paper/plan.py. They are looked for in results_dir and in the
record that is kept with the code (paper/record.py). --run adds to the record what it has made at a revision without
uncommitted changes. README.md and docs/ show the record alone; what is missing is shown as missing. All runs
of a data set must be on the same interactions and the same split.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from eval import METRICS
from lib import plots
from lib.errors import UserError, run_script
from lib.files import atomic
from lib.settings import resolve, split
from paper import make_runs, own_runs, plan, record
from paper.plan import (
    ALL,
    BUDGETS,
    DATASETS,
    EVERYONE,
    LEARNERS,
    LEARNT_FROM,
    NOISE,
    NOISE_DATASET,
    NOISY,
    STRATEGIES,
    STREAM,
    STREAM_DATASET,
    TABLE,
    Runs,
)
from paper.summaries import (
    CAPTION,
    DEVIATIONS,
    LATEX,
    MARKDOWN,
    P,
    cells,
    compare_with_best,
    line_of,
    markdown,
    moments,
    to_csv,
    with_deviations,
)

README = Path(__file__).parent / "README.md"
TITLES = {"ndcg": "NDCG@10", **DATASETS, "learners": "Synthetic users for other models"}


# ---- The tables ----------------------------------------------------------------------------------------


def select(matched, part, system, dataset, at=None):
    """The finished runs of a part, a seed each."""
    return [run for planned, run in matched.items() if planned[:4] == (part, system, dataset, at) and run]


def summary(matched):
    """A line a data set and system of the table, as a DataFrame.

    Columns: dataset, system, chosen by, seeds (that are planned), paper, and as summaries.line_of and
    compare_with_best have them.
    """
    lines = []
    for dataset in DATASETS:
        runs = [select(matched, "table", system.name, dataset) for system in TABLE]
        own = [
            {
                "dataset": dataset,
                "system": system.name,
                "chosen by": system.chosen_by,
                "seeds": len(system.seeds),
                "paper": system.paper(dataset),
                **line_of(found),
            }
            for system, found in zip(TABLE, runs)
        ]
        compare_with_best(own, runs)
        lines += own
    return pd.DataFrame(lines)


def _rows(table, style):
    """Of each data set its rows: system, the metrics, its choice, the paper's NDCG@10, p; all text."""
    for dataset, part in table.groupby("dataset", sort=False):
        rows = []
        for (_, line), (metrics, p) in zip(part.iterrows(), cells(part, style)):
            so_far = f" ({line['runs']} of {line['seeds']} seeds)" if 0 < line["runs"] < line["seeds"] else ""
            in_paper = "" if np.isnan(line["paper"]) else f"{line['paper']:.2f}"
            rows.append([line["system"] + so_far, *metrics, line["chosen by"], in_paper, p])
        yield dataset, rows


def learners(matched):
    """The Markdown table of other models on distilled users: NDCG@10 by model and what it was trained on."""
    rows = []
    for some, everyone in LEARNERS:
        for data in (*LEARNT_FROM, ALL):
            system, values = everyone if data == ALL else some, []
            for dataset in DATASETS:
                runs = select(matched, "learners", system.name, dataset, data)
                mean, deviation = (of["NDCG@10"] for of in moments(runs))
                text, seeds = f"{mean:.2f}", len(system.seeds)
                text += "" if np.isnan(deviation) else f" ± {deviation:.2f}"
                text += f" ({len(runs)} of {seeds} seeds)" if len(runs) < seeds else ""
                values.append(text if runs else "missing")
            rows.append([system.name, data, system.chosen_by, *values])
    return markdown(["NDCG@10 of", "trained on", "chosen by", *DATASETS.values()], rows)


def to_markdown(matched):
    """{name: Markdown} of all tables: "ndcg", all metrics of each data set, "learners"."""
    parts = dict(_rows(summary(matched), MARKDOWN))
    place = 1 + METRICS.index("NDCG@10")
    short = [
        [system.name, system.chosen_by, *(cell for line in lines for cell in (line[place], line[-2]))]
        for system, *lines in zip(TABLE, *parts.values())
    ]
    head = ["NDCG@10", "chosen by", *(cell for title in DATASETS.values() for cell in (title, "the paper's"))]
    full = {
        name: markdown(["", *METRICS, "chosen by", "paper, NDCG@10", P], rows) + f"\n\n{CAPTION}"
        for name, rows in parts.items()
    }
    return {"ndcg": markdown(head, short), **full, "learners": learners(matched)}


def fill(text, tables, name):
    """The text with the tables between its `<!-- table: NAME -->` and `<!-- end -->`.

    Raises:
        UserError: a marker of no table, or without its end, in the file of this name.
    """

    def table(found):
        if found[1] not in tables:
            raise UserError(f"{name} has <!-- table: {found[1]} -->, and the tables are {', '.join(tables)}")
        return f"<!-- table: {found[1]} -->\n{tables[found[1]]}\n<!-- end -->"

    block = r"<!-- table: ([^\s>]+) -->\n(?:(?!<!-- table).)*?<!-- end -->"
    filled, count = re.subn(block, table, text, flags=re.S)
    if not text.count("<!-- table: ") == text.count("<!-- end -->") == count:
        raise UserError(f"{name}: every <!-- table: NAME --> needs its own <!-- end -->")
    return filled


def to_latex(matched):
    """One tabular; it needs the package booktabs."""
    columns = len(METRICS) + 4
    lines = [
        r"\begin{tabular}{l" + "r" * (columns - 1) + "}",
        r"\toprule",
        " & ".join(["", *METRICS, "chosen by", "paper, NDCG@10", "$p$, over users"]) + r" \\",
    ]
    for dataset, rows in _rows(summary(matched), LATEX):
        lines += [r"\midrule", rf"\multicolumn{{{columns}}}{{l}}{{{DATASETS[dataset]}}} \\"]
        lines += [" & ".join(row).replace("∞", r"$\infty$").replace("< ", "$<$ ") + r" \\" for row in rows]
    text = CAPTION.replace("±", r"$\pm$")  # not within the f-string: Python 3.11 has no backslash there
    caption = rf"\multicolumn{{{columns}}}{{l}}{{{text}}} \\"
    return "\n".join([*lines, r"\bottomrule", caption, r"\end{tabular}"]) + "\n"


def uncommitted(matched):
    """How many of the runs were made by code that nobody can look up, in a line; "" if none."""
    runs = {run.name: run for run in matched.values() if run}.values()
    unclean = sum(not run.clean for run in runs)
    return (
        (
            f"{unclean} of the {len(runs)} runs in these tables and figures were made at a revision with "
            f"uncommitted changes: `revision` in docs/{record.LINES} says which."
        )
        if unclean
        else ""
    )


# ---- The figures ---------------------------------------------------------------------------------------

KINDS = ("pdf", "png", "svg")
NOISE_AXIS, STREAM_AXIS = "random interactions, % of train", "parts of the users that have arrived"


def labels(matched, part, systems):
    """{system's name: its label in a figure, which tells how many of its planned runs are missing}."""
    by_name = {}
    for system in systems:
        runs = [run for planned, run in matched.items() if planned[:2] == (part, system.name)]
        made = sum(run is not None for run in runs)
        unit = "seeds" if len(runs) == len(system.seeds) else "runs"
        missing = f" ({made} of {len(runs)} {unit})" if made < len(runs) else ""
        by_name[system.name] = system.name + missing
    return by_name


def line(matched, part, system, dataset, places, metrics):
    """A system's line as a DataFrame: x, and each metric's mean and deviation over the runs there.

    Args:
        system: its name.
        places: {`at` of the planned runs: x in the figure}.
    """
    runs_at = {x: select(matched, part, system, dataset, at) for at, x in places.items()}
    return with_deviations({x: runs for x, runs in runs_at.items() if runs}, metrics)


def strategies(matched):
    """[plots.Panel], one a data set with runs; x is the share of all users in percent."""
    panels, names = [], labels(matched, "strategies", (*STRATEGIES, EVERYONE))
    for dataset, title in DATASETS.items():
        runs = [run for run in matched.values() if run and run.dataset == dataset]
        users = next((run.statistics.users for run in runs if run.statistics), None)
        places = {budget: 100 * budget / users for budget in BUDGETS} if users else {}
        line_at = lambda system, places: line(
            matched, "strategies", system.name, dataset, places, plots.STRATEGY_METRICS
        )
        lines = {names[system.name]: line_at(system, places) for system in STRATEGIES}
        lines[f"∞-AE, {names[ALL]}"] = line_at(EVERYONE, {None: 100})
        if any(map(len, lines.values())):
            panels.append(plots.Panel(title, users, lines))
    return panels


def noise(matched):
    """{label: `line`}, x the random interactions in percent of train."""
    names, places = labels(matched, "noise", NOISY), {share: 100 * share for share in NOISE}
    return {
        names[system.name]: line(matched, "noise", system.name, NOISE_DATASET, places, ("NDCG@10",))
        for system in NOISY
    }


def stream(matched):
    """{label: DataFrame as of `line`}, x the number of parts that have arrived."""
    lines, names = {}, labels(matched, "stream", STREAM)
    for system in STREAM:
        runs = select(matched, "stream", system.name, STREAM_DATASET)
        values = [[part["test"]["NDCG@10"] for part in run.result["parts"]] for run in runs]
        parts = pd.DataFrame(values, dtype=float)
        lines[names[system.name]] = pd.DataFrame(
            {"x": parts.columns + 1, "NDCG@10": parts.mean(), "NDCG@10 deviation": parts.std().fillna(0)},
            dtype=float,
        )
    return lines


def figures(matched):
    """({file's name: bytes}, [a line on each figure that lacks runs])."""
    panels, by_noise, by_part = strategies(matched), noise(matched), stream(matched)
    drawings = (
        ("results", [panel.lines for panel in panels], partial(plots.strategies, panels)),
        ("noise", [by_noise], partial(plots.lines, by_noise, "NDCG@10", NOISE_AXIS, DATASETS[NOISE_DATASET])),
        (
            "stream",
            [by_part],
            partial(plots.lines, by_part, "NDCG@10", STREAM_AXIS, DATASETS[STREAM_DATASET]),
        ),
    )
    files, notes = {}, []
    for name, of_panels, draw in drawings:
        names = [f"{name}.{kind}" for kind in KINDS]
        lines = {label: line for panel in of_panels for label, line in panel.items()}
        if not any(map(len, lines.values())):
            notes.append(f"{', '.join(names)}: not drawn, since none of its runs is finished")
            continue
        files |= {f"{name}.{kind}": draw(kind=kind) for kind in KINDS}
        if short := [label for label in lines if label.endswith((" runs)", " seeds)"))]:
            notes.append(f"{', '.join(names)}: drawn, but runs are missing: {', '.join(short)}")
    return files, notes


def write(matched, folder):
    """Writes the tables and the figures; (the files' names, the lines on what is missing in the figures)."""
    files, notes = figures(matched)
    blocks = [
        f"{TITLES[name]}\n\n<!-- table: {name} -->\n{table}\n<!-- end -->"
        for name, table in to_markdown(matched).items()
    ]
    text = "\n\n".join([*blocks, uncommitted(matched)]).rstrip() + "\n"
    columns = ["dataset", "system", "chosen by", "runs", "seeds", *METRICS, *DEVIATIONS, "paper", "p"]
    files |= {
        "results.md": text.encode(),
        "results.tex": to_latex(matched).encode(),
        "results.csv": to_csv(summary(matched)[columns]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with atomic(folder / name) as file:
            file.write(content)
    return sorted(files), notes


# ---- The command line ----------------------------------------------------------------------------------


def main(arguments):
    flags = [word for word in arguments if word in ("--plan", "--run", "--mine")]
    rest = [word for word in arguments if word not in flags]
    if len(flags) > 1:
        raise UserError(f"{flags[0]} and {flags[1]} do not go together")
    narrowed = {}
    if flags == ["--mine"] and not {"-h", "--help"} & set(rest):
        narrowed = {key: text for key, text in split(rest) if key in ("dataset", "runs")}
        rest = [f"--{key}={text}" for key, text in split(rest) if key not in narrowed]
    options, _ = resolve(rest, __doc__, "compare")
    results = Path(options["results_dir"])
    if flags == ["--mine"]:
        return own_runs.show(results, **narrowed)
    runs, damaged = plan.find(results)
    matched, failed = plan.match(runs), []
    if flags == ["--plan"]:
        print("".join(f"{note}\n" for note in damaged), end="")
        return make_runs.show_plan(plan.missing_of(runs), matched, options)
    if flags == ["--run"]:
        failed = make_runs.make(options)
        plan.keep(plan.match(plan.find(results)[0]))
        runs, damaged = plan.find(results)
        matched = plan.match(runs)
    show(runs, matched, damaged, results)
    if failed:
        raise UserError(f"{len(failed)} runs failed")


def show(runs, matched, damaged, results):
    """Writes the record's tables in README.md and docs/, prints those of all runs, says what is missing."""
    kept = plan.match(Runs([run for run in runs.runs if run.folder is None]))
    names, notes = write(kept, record.DOCS)
    text = fill(README.read_text(encoding="utf-8"), to_markdown(kept), README.name)
    with atomic(README) as file:
        file.write(text.encode())
    tables = to_markdown(matched)
    print("\n\n".join(tables[name] for name in ("ndcg", *DATASETS)))
    for note in damaged + notes:
        print(note)
    print(f"written: the tables of {README.name}, and in {record.DOCS}: {', '.join(names)}")
    if note := uncommitted(kept):
        print(note)
    absent = [
        f"{line.system} on {line.dataset} ({line.runs} of {line.seeds})"
        for line in summary(kept).itertuples()
        if line.runs < line.seeds
    ]
    if absent:
        print(f"the record lacks {', '.join(absent)}: --plan shows how to make what is missing")
    others = {run.name: run for run in matched.values() if run and run.folder}.values()
    if clean := [run.name for run in others if run.clean]:
        print(f"shown, and not in the record yet: {', '.join(clean)}; --run keeps them")
    if unclean := [run.name for run in others if not run.clean]:
        print(
            "shown, and not kept, since the code that made them had uncommitted changes: "
            f"{', '.join(unclean)}; to keep such runs, commit, delete these folders of {results}, and "
            "call --run again"
        )
    if others:
        write(matched, results / "compare")
        print(f"the tables and figures with these runs are in {results / 'compare'}")


if __name__ == "__main__":
    run_script(main)
