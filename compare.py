"""The paper's table and figures, from finished runs; and comparisons on your own data.

    python compare.py          fills the tables of README.md and docs/results.md; draws the figures
    python compare.py --plan   lists the missing runs, as commands that make them
    python compare.py --run    makes the missing runs, one after another, then the tables; killed, it goes on
    python compare.py --mine   compares your own runs of one data set: a table, a figure, a test over users,
                               in results_dir/compare/; --dataset=NAME and --runs=a,b,c pick the runs
    python compare.py --data=NAME    is distilling worth it on your data set? Makes the runs that tell, of
                               popularity, EASE, ∞-AE on all users and on random ones, and Distill-CF, with
                               --seed=N; then the table, a figure and a verdict. Killed, it goes on

paper/plan.py says which runs the paper's table needs. Finished runs are those of results_dir, and those of
the record that docs/ keeps (paper/record.py). --run adds new runs to the record, except those of a revision
with uncommitted changes. README.md and docs/ show the record alone; what is missing is shown as missing. All
runs of a data set must be on the same interactions and the same split.
"""

if __name__ == "__main__":
    import lib.start  # noqa: F401

import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from lib import plots
from lib.errors import UserError, run_script
from lib.files import write_files
from lib.metric_names import METRICS
from lib.settings import resolve, split
from paper import make_runs, own_data, own_runs, plan, record
from paper.plan import (
    ALL,
    DATASETS,
    EVERYONE,
    FIGURE,
    LEARNERS,
    LEARNT_FROM,
    NOISE,
    NOISE_DATASET,
    NOISY,
    SIZE_DATASET,
    SIZED,
    SIZED_BUDGETS,
    STRATEGIES,
    STREAM,
    STREAM_DATASET,
    TABLE,
    WHOLE,
    Runs,
    systems_of,
)
from paper.summaries import (
    CAPTION,
    DEVIATIONS,
    P,
    cells,
    markdown,
    mean_text,
    moments,
    summarize,
    to_csv,
    with_deviations,
)
from runs.published import NDCG_AT_10

README = Path(__file__).parent / "README.md"
# Bytes an entry: two for the item's number, one for a sparse weight; four for a soft one at the item's place.
BYTES = {"soft": 4, "sparse": 2 + 1, "ids": 2}
HEAD = ["", *METRICS, "chosen by", "settings", "paper, NDCG@10", P]  # of the tables with all metrics
# The README's first table: its data sets; of each system, what it is and what it was trained on.
FIRST_DATASETS = "ml-1m", "magazine"
FIRST = {
    "PopRec": ("popularity", ALL),
    plan.EASE.name: ("EASE", ALL),
    plan.FULL.name: ("∞-AE", ALL),
    plan.DISTILLED.name: ("∞-AE", f"{plan.SUMMARY} synthetic users (Distill-CF)"),
}
TITLES = {
    "ndcg": "NDCG@10",
    **DATASETS,
    "learners": "Synthetic users for other models",
    "sizes": "Sizes of what they are trained on",
}


# ---- The tables ----------------------------------------------------------------------------------------


def select(matched, part, system, dataset, point=None):
    """The finished runs of a system in a part of the plan, a seed each."""
    return [run for planned, run in matched.items() if run and planned[:4] == (part, system, dataset, point)]


def summary(matched):
    """A DataFrame with a row for each data set and system of the table.

    Columns: dataset, system, chosen by, settings (how many its first seed was given to try; NaN without a
    run), seeds (how many are planned), paper, and those of `summarize`.
    """
    tables = []
    for dataset in DATASETS:
        of_table = systems_of(dataset)
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
    rows = {dataset: {} for dataset in DATASETS}
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
    for on_sample, on_all in LEARNERS:
        for sample in (*plan.samples_of(on_sample), ALL):
            system, texts = on_all if sample == ALL else on_sample, []
            for dataset in WHOLE:
                runs = select(matched, "learners", system.name, dataset, sample)
                made, seeds = len(runs), len(system.seeds)
                text = mean_text(*(moment["NDCG@10"] for moment in moments(runs)))
                text += f" ({made} of {seeds} seeds)" if made < seeds else ""
                texts.append(text if runs else "missing")
            rows.append([system.name, sample, system.chosen_by, *texts])
    return markdown(["NDCG@10 of", "trained on", "chosen by", *map(DATASETS.get, WHOLE)], rows)


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
    for sample in (*LEARNT_FROM, ALL):
        sampler, system = LEARNT_FROM.get(sample, (None, None))
        weights = {plan.DISTILLED: "soft", plan.SPARSE: "sparse"}.get(system)
        kind = weights if sampler == "distilled" else "ids"
        texts = []
        for dataset in WHOLE:
            if dataset not in known:
                texts += ["missing"] * 2
                continue
            data = known[dataset]
            entries, size = size_of(data, data.users if sample == ALL else plan.SUMMARY, kind)
            texts += [f"{entries:,}", f"{size / 1000:,.0f}"]
        rows.append([sample, *texts])
    heads = [head for dataset in WHOLE for head in (f"{DATASETS[dataset]}: entries", "kB")]
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

    titles = lambda datasets: columns(datasets, DATASETS.get, lambda dataset: "the paper's")
    first_head = ["NDCG@10 of", "trained on", *titles(FIRST_DATASETS)]
    first = [[*names, *ndcg(system, FIRST_DATASETS)] for system, names in FIRST.items()]
    ndcg_head = ["NDCG@10", "chosen by", *titles(DATASETS)]
    planned = [system for system in TABLE if any(system in systems_of(dataset) for dataset in DATASETS)]
    ndcg_rows = [[system.name, system.chosen_by, *ndcg(system.name, DATASETS)] for system in planned]
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
        lines += [r"\midrule", rf"{wide}{{{DATASETS[dataset]}}} \\"]
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


# ---- The figures ---------------------------------------------------------------------------------------

KINDS = ("pdf", "png", "svg")
HOLLOW = "; hollow points lack seeds"
NOISE_AXIS, STREAM_AXIS = "random interactions, % of train", "parts of the users that have arrived"
SIZE_AXIS = "train data, kB"


def labels(matched, part, systems, dataset=None):
    """{system's name: its label in a figure, which tells how many of its planned runs are missing}.

    dataset: the figure's, None if it has several.
    """
    by_name = {}
    for system in systems:
        points = {}  # whether each planned run is made, by the point of the figure
        for planned, run in matched.items():
            if planned[:2] == (part, system.name) and dataset in (None, planned.dataset):
                points.setdefault(planned[2:4], []).append(run is not None)
        made, count = (sum(map(total, points.values())) for total in (sum, len))
        partly = any(0 < sum(seeds) < len(seeds) for seeds in points.values())
        unit = "seeds" if len(points) == 1 else f"runs{HOLLOW * partly}"
        missing = f" ({made} of {count} {unit})" if made < count else ""
        by_name[system.name] = system.name + missing
    return by_name


def line(matched, part, system, dataset, places, metrics):
    """A system's line as a DataFrame: x, each metric's mean and deviation over the runs there, and "missing",
    how many of the point's seeds have no run.

    Args:
        system: its name.
        places: {`point` of the planned runs: x in the figure}.
    """
    runs_at = {x: select(matched, part, system, dataset, at) for at, x in places.items()}
    seeds_at = {
        x: sum(planned[:4] == (part, system, dataset, at) for planned in matched) for at, x in places.items()
    }
    drawn = with_deviations({x: runs for x, runs in runs_at.items() if runs}, metrics)
    return drawn.assign(missing=[seeds_at[x] - len(runs_at[x]) for x in drawn["x"]])


def strategies(matched):
    """[plots.Panel], one a data set with runs; x is the share of all users in percent."""
    panels, names = [], labels(matched, "strategies", (*STRATEGIES, EVERYONE))
    for dataset, (budgets, _) in FIGURE.items():
        runs = [run for run in matched.values() if run and run.dataset == dataset]
        users = next((run.statistics.users for run in runs if run.statistics), None)
        places = {budget: 100 * budget / users for budget in budgets} if users else {}
        line_at = lambda part, system, places: line(
            matched, part, system.name, dataset, places, plots.STRATEGY_METRICS
        )
        lines = {names[system.name]: line_at("strategies", system, places) for system in STRATEGIES}
        lines[f"∞-AE, {names[ALL]}"] = line_at("strategies", EVERYONE, {None: 100})
        if any(map(len, lines.values())):
            lines[f"{plan.EASE.name}, {ALL}"] = line_at("table", plan.EASE, {None: 100})
            panels.append(plots.Panel(DATASETS[dataset], users, lines, levels=2))
    return panels


def by_size(matched):
    """{label: `line`}, x the kB of what a model is trained on, by `size_of`; {} if the data are unknown."""
    data = statistics(matched).get(SIZE_DATASET)
    if data is None:
        return {}
    budgets, _ = FIGURE[SIZE_DATASET]
    drawn = (  # part, system, its label, its numbers of users, kind
        ("strategies", plan.SOFT, "Distill-CF, soft rows", budgets, "soft"),
        ("sizes", SIZED, SIZED.name, SIZED_BUDGETS, "sparse"),
        ("strategies", plan.RANDOM, plan.RANDOM.name, budgets, "ids"),
        ("strategies", EVERYONE, f"∞-AE, {ALL}", (None,), "ids"),
        ("table", plan.EASE, f"EASE, {ALL}", (None,), "ids"),
    )
    lines = {}
    for part, system, label, points, kind in drawn:
        places = {point: size_of(data, point or data.users, kind)[1] / 1000 for point in points}
        name = labels(matched, part, (system,), SIZE_DATASET)[system.name].replace(system.name, label, 1)
        lines[name] = line(matched, part, system.name, SIZE_DATASET, places, ("NDCG@10",))
    return lines


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
            {
                "x": parts.columns + 1,
                "NDCG@10": parts.mean(skipna=False),  # no point where a run lacks the part
                "NDCG@10 deviation": parts.std().fillna(0),
            },
            dtype=float,
        )
    return lines


def figures(matched):
    """({file's name: bytes}, [a line on each figure that lacks runs])."""
    panels = strategies(matched)
    drawings = [("results", [panel.lines for panel in panels], partial(plots.strategies, panels))]
    for name, lines, axis, dataset, log_x in (
        ("sizes", by_size(matched), SIZE_AXIS, SIZE_DATASET, True),
        ("noise", noise(matched), NOISE_AXIS, NOISE_DATASET, False),
        ("stream", stream(matched), STREAM_AXIS, STREAM_DATASET, False),
    ):
        draw = partial(plots.lines, lines, "NDCG@10", axis, DATASETS[dataset], log_x=log_x)
        drawings.append((name, [lines], draw))
    files, notes = {}, []
    for name, of_panels, draw in drawings:
        names = [f"{name}.{kind}" for kind in KINDS]
        lines = {label: line for panel in of_panels for label, line in panel.items()}
        if not any(map(len, lines.values())):
            notes.append(f"{', '.join(names)}: not drawn, since none of its runs is finished")
            continue
        files |= {f"{name}.{kind}": draw(kind=kind) for kind in KINDS}
        if short := [label for label in lines if label.endswith((" runs)", " seeds)", f"{HOLLOW})"))]:
            notes.append(f"{', '.join(names)}: drawn, but runs are missing: {', '.join(short)}")
    return files, notes


# ---- The files -----------------------------------------------------------------------------------------


def fill(text, tables, name, required=()):
    """The text with the tables between its `<!-- table: NAME -->` and `<!-- end -->`.

    Args:
        tables: {name: Markdown}.
        name: of the file that has the text.
        required: names of tables that it must have.

    Raises:
        UserError: a marker is missing, is that of no table, or has no end.
    """

    def to_table(match):
        if match[1] not in tables:
            raise UserError(f"{name} has <!-- table: {match[1]} -->, and the tables are {', '.join(tables)}")
        return f"<!-- table: {match[1]} -->\n{tables[match[1]]}\n<!-- end -->"

    block = r"<!-- table: ([^\s>]+) -->\n(?:(?!<!-- table).)*?<!-- end -->"
    filled, count = re.subn(block, to_table, text, flags=re.S)
    if not text.count("<!-- table: ") == text.count("<!-- end -->") == count:
        raise UserError(f"{name}: every <!-- table: NAME --> needs its own <!-- end -->")
    for table in required:
        if f"<!-- table: {table} -->" not in text:
            raise UserError(
                f"{name} has no place for the table {table}: put the lines <!-- table: {table} --> and "
                "<!-- end --> where it belongs"
            )
    return filled


def fill_pages(tables):
    """Fills the tables of README.md and docs/results.md, and leaves the text around them.

    Raises:
        UserError: as `fill`.
    """
    pages = (README, ("first",)), (record.DOCS / "results.md", ("ndcg", *DATASETS, "learners", "sizes"))
    texts = {
        path: fill(path.read_text(encoding="utf-8"), tables, path.name, required) for path, required in pages
    }
    for path, text in texts.items():
        write_files(path.parent, {path.name: text.encode()})


def write(matched, folder):
    """Writes figures, LaTeX and CSV; (names of the files, [a line on each figure that lacks runs])."""
    files, notes = figures(matched)
    columns = ["dataset", "system", "chosen by", "settings", "runs", "seeds"]
    columns += [*METRICS, *DEVIATIONS, "paper", "p"]
    files |= {"results.tex": to_latex(matched).encode(), "results.csv": to_csv(summary(matched)[columns])}
    write_files(folder, files)
    return sorted(files), notes


# ---- The command line ----------------------------------------------------------------------------------

OWN_KEYS = {"--mine": ("dataset", "runs"), "--data": ("data", "seed")}  # beside those of hyper_params.py


def main(arguments):
    modes = [word for word in arguments if word in ("--plan", "--run", "--mine")]
    rest = [word for word in arguments if word not in modes]
    modes += ["--data"] * any(word.partition("=")[0] == "--data" for word in rest)
    if len(modes) > 1:
        instead = "; --mine takes --dataset=NAME" if modes == ["--mine", "--data"] else ""
        raise UserError(f"{modes[0]} and {modes[1]} do not go together{instead}")
    mode, which = modes[0] if modes else None, {}
    if mode in OWN_KEYS and not {"-h", "--help"} & set(rest):
        which = {key: text for key, text in split(rest) if key in OWN_KEYS[mode]}
        rest = [f"--{key}={text}" for key, text in split(rest) if key not in which]
    options, _ = resolve(rest, __doc__, "compare")
    results = Path(options["results_dir"])
    if mode == "--mine":
        return own_runs.show(results, **which)
    if mode == "--data":
        return own_data.show(options, which["data"], which.get("seed"))
    runs, damaged = plan.read_runs(results)
    matched, failed = plan.match(runs), []
    if mode == "--plan":
        print("".join(f"{note}\n" for note in damaged), end="")
        return make_runs.show_plan(plan.missing_runs(runs), matched, options)
    if mode == "--run":
        failed = make_runs.make(options)
        plan.keep(plan.read_runs(results)[0])
        runs, damaged = plan.read_runs(results)
        matched = plan.match(runs)
    show(runs, matched, damaged, results)
    if failed:
        raise UserError(f"{len(failed)} runs failed")


def show(runs, matched, damaged, results):
    """Writes the record's tables in README.md and docs/, prints those of all runs, says what is missing."""
    recorded = plan.match(Runs([run for run in runs.runs if run.folder is None]))
    fill_pages(to_markdown(recorded))
    names, notes = write(recorded, record.DOCS)
    tables = to_markdown(matched)
    print("\n\n".join(tables[name] for name in ("ndcg", *DATASETS)))
    for note in damaged + notes:
        print(note)
    print(f"filled: README.md and docs/results.md; written in {record.DOCS}: {', '.join(names)}")
    absent = [
        f"{row.system} on {row.dataset} ({row.runs} of {row.seeds})"
        for row in summary(recorded).itertuples()
        if row.runs < row.seeds
    ]
    if absent:
        print(f"the record lacks {', '.join(absent)}: --plan lists the commands that make them")
    new = {run.name: run for run in matched.values() if run and run.folder}.values()
    if clean := [run.name for run in new if run.clean]:
        print(f"shown, and not in the record yet: {', '.join(clean)}; --run adds them")
    if unclean := [run.name for run in new if not run.clean]:
        print(
            "shown, and not recorded, since the code that made them had uncommitted changes: "
            f"{', '.join(unclean)}; to record such runs, commit, delete these folders of {results}, and "
            "call --run again"
        )
    if new:
        folder = results / "compare"
        write(matched, folder)
        blocks = [f"{title}\n\n{tables[name]}\n" for name, title in TITLES.items()]
        write_files(folder, {"results.md": "\n".join(blocks).encode()})
        print(f"the tables and figures with these runs are in {folder}")


if __name__ == "__main__":
    run_script(main)
