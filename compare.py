"""The paper's table and figures, from finished runs.

    python compare.py             the tables as Markdown, LaTeX and CSV, the figures as PNG and SVG, in docs/
    python compare.py --plan      which runs are missing, and the commands that make them
    python compare.py --run       makes them, one after another, and then the tables; killed, it goes on where it was

Which runs those are stands in comparison.py. They are looked for in results_dir and among those that are kept with the code,
docs/results/, where --run leaves the small files of what it has made. A run counts if it has finished and its settings are
those that the plan asks for; what is missing is shown as missing. All runs of a data set must be on the same interactions
and the same split.
"""
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from tqdm import tqdm

import pictures
from comparison import (BUDGETS, DATASETS, DOCS, FULL, KEPT, LEARNERS, LEARNT_FROM, NOISE, NOISE_DATASET, NOISY, STRATEGIES, STREAM, STREAM_DATASET,
                        TABLE, find, keep_all, match, missing_of)
from eval import METRICS
from runs import IN_USE, atomic
from settings import UserError, resolve, run_script

OPTIONS = ("data_dir", "results_dir")
PAIRED = "paired over users, seeds averaged"  # so it does not know how far seeds are apart


# ---- The tables ----------------------------------------------------------------------------------------

def select(made, part, system, dataset, at=None):
    """The finished runs of a part, a seed each."""
    return [run for each, run in made.items() if each[:4] == (part, system, dataset, at)]


def moments(runs):
    """Of each metric the mean and the standard deviation, NaN of a single run; NaN both where there is no run."""
    tests = pd.DataFrame([run.result["test"] for run in runs], columns=METRICS, dtype=float)
    return tests.mean(), tests.std()


def holm(p):
    """Holm's correction of p-values, (n,): each times how many are at least as large, made monotone, at most 1."""
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)), 1)
    return corrected


def summary(made):
    """A line a data set and system of the table, as a DataFrame.

    Columns: dataset, system, runs and seeds (how many of how many), for every metric its mean and its standard deviation over
    seeds (NaN of a single run), paper, best, and p: of a paired t-test over users, NDCG@10 in the mean over seeds,
    against the best system of the data set, Holm-corrected. NaN where there is no run.
    """
    lines = []
    for dataset in DATASETS:
        users, first = {}, len(lines)
        for system in TABLE:
            runs = select(made, "table", system.name, dataset)
            mean, deviation = moments(runs)
            lines.append({"dataset": dataset, "system": system.name, "runs": len(runs), "seeds": len(system.seeds), **mean,
                          **{f"{name} deviation": deviation[name] for name in METRICS}, "paper": system.paper.get(dataset, np.nan)})
            if runs:
                users[len(lines) - 1] = np.mean([run.users()["NDCG@10"] for run in runs], axis=0, dtype=np.float64)
        if not users:
            continue
        best = max(users, key=lambda line: lines[line]["NDCG@10"])
        others = [line for line in users if line != best]
        p = [stats.ttest_rel(users[best], users[line], nan_policy="omit").pvalue for line in others]
        for line, value in zip(others, holm(p)):
            lines[line]["p"] = float(value)
        for line in lines[first:]:
            line["best"] = line is lines[best]
    return pd.DataFrame(lines, columns=["dataset", "system", "runs", "seeds", *METRICS, *(f"{name} deviation" for name in METRICS), "paper", "best", "p"])


def _cell(line, metric, bold, plus_minus):
    if np.isnan(line[metric]):
        return "missing"
    digits = 4 if metric == "AUC" else 2
    text = f"{line[metric]:.{digits}f}"
    text = bold.format(text) if line["bold"][metric] else text
    deviation = line[f"{metric} deviation"]
    return text if np.isnan(deviation) else f"{text} {plus_minus} {deviation:.{digits}f}"


def _rows(table, bold, plus_minus):
    """Of each data set (its title, its rows): system, the metrics, the paper's NDCG@10, p; all text."""
    for dataset, part in table.groupby("dataset", sort=False):
        top = part[list(METRICS)].max()
        rows = []
        for _, line in part.iterrows():
            line["bold"] = {name: line[name] == top[name] for name in METRICS}
            p = "best" if line["best"] is True else "" if np.isnan(line["p"]) else "< 0.001" if line["p"] < 0.001 else f"{line['p']:.3f}"
            so_far = f" ({line['runs']} of {line['seeds']} seeds)" if 0 < line["runs"] < line["seeds"] else ""
            rows.append([line["system"] + so_far, *(_cell(line, name, bold, plus_minus) for name in METRICS),
                         "" if np.isnan(line["paper"]) else f"{line['paper']:.2f}", p])
        yield DATASETS[dataset], rows


def learners(made):
    """Lines of the Markdown table of other models on distilled users: NDCG@10 by model and what it was trained on."""
    rows = []
    for system in LEARNERS:
        row = next(each for each in TABLE if each.name == system.name)
        for data in (*LEARNT_FROM, "all users"):
            cells = []
            for dataset in DATASETS:
                runs, seeds = (select(made, "table", system.name, dataset), row.seeds) if data == "all users" else \
                    (select(made, "learners", system.name, dataset, data), system.seeds)
                value, spread = (each["NDCG@10"] for each in moments(runs))
                cells.append("missing" if np.isnan(value) else f"{value:.2f}" + ("" if np.isnan(spread) else f" ± {spread:.2f}")
                             + (f" ({len(runs)} of {len(seeds)} seeds)" if len(runs) < len(seeds) else ""))
            rows.append([system.name, data, *cells])
    return _grid(["NDCG@10 of", "trained on", *DATASETS.values()], rows)


def _grid(head, rows):
    return "\n".join("".join(f"| {cell} " if cell else "| " for cell in row) + "|" for row in (head, ["---"] * len(head), *rows))


def to_markdown(table):
    """NDCG@10, a line a system, a column a data set and one for the paper's; then all metrics, a table a data set."""
    parts = dict(_rows(table, "**{}**", "±"))
    place = 1 + METRICS.index("NDCG@10")
    short = [[name, *(cell for line in lines for cell in (line[place], line[-2]))] for name, *lines in zip((system.name for system in TABLE), *parts.values())]
    head = ["NDCG@10", *(cell for title in parts for cell in (title, "the paper's"))]
    every = ["", *METRICS, "paper, NDCG@10", f"p ({PAIRED})"]
    return "\n\n".join([_grid(head, short), *(f"{title}\n\n{_grid(every, rows)}" for title, rows in parts.items())]) + "\n"


def to_latex(table):
    """One tabular; it needs the package booktabs."""
    lines = [r"\begin{tabular}{l" + "r" * (len(METRICS) + 2) + "}", r"\toprule",
             " & ".join(["", *METRICS, "paper, NDCG@10", f"$p$ ({PAIRED})"]) + r" \\"]
    for title, rows in _rows(table, r"\textbf{{{}}}", r"$\pm$"):
        lines += [r"\midrule", rf"\multicolumn{{{len(METRICS) + 3}}}{{l}}{{{title}}} \\"]
        lines += [" & ".join(row).replace("∞", r"$\infty$").replace("< ", "$<$ ") + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


# ---- The figures ---------------------------------------------------------------------------------------

def line(made, part, system, dataset, places, metrics):
    """A DataFrame for pictures.py: of each place (at of a run, x in the picture) that has runs x, and of each metric mean and deviation."""
    rows = []
    for at, x in places.items():
        if runs := select(made, part, system, dataset, at):
            mean, deviation = moments(runs)
            rows.append({"x": x, **{name: mean[name] for name in metrics}, **{f"{name} deviation": deviation.fillna(0)[name] for name in metrics}})
    return pd.DataFrame(rows, columns=["x", *metrics, *(f"{name} deviation" for name in metrics)])


def strategies(made):
    """What pictures.strategies draws: {data set: ({strategy: `line`}, the full data's metrics)}, x the share of all users in percent."""
    drawn = {}
    for dataset, title in DATASETS.items():
        full = select(made, "table", FULL.name, dataset)
        if not full:
            continue  # without it, how many users there are is not known
        count = len(full[0].users()["NDCG@10"])
        places = {budget: 100 * budget / count for budget in BUDGETS}
        drawn[title] = ({system.name: line(made, "strategies", system.name, dataset, places, ("HR@10", "PSP@10")) for system in STRATEGIES},
                        full[0].result["test"])
    return drawn


def noise(made):
    """{system: `line`}, x the share of noise in percent; without any, the runs of the table."""
    clean = {system.name: line(made, "table", system.name, NOISE_DATASET, {None: 0}, ("NDCG@10",)) for system in NOISY}
    noisy = {system.name: line(made, "noise", system.name, NOISE_DATASET, {share: 100 * share for share in NOISE}, ("NDCG@10",)) for system in NOISY}
    return {name: pd.concat([clean[name], noisy[name]]) for name in clean if len(noisy[name])}


def stream(made):
    """{memory: `line`}, x the part."""
    drawn = {}
    for system in STREAM:
        if runs := select(made, "stream", system.name, STREAM_DATASET):
            values = np.array([[part["test"]["NDCG@10"] for part in run.result["parts"]] for run in runs])
            drawn[system.name] = pd.DataFrame({"x": np.arange(values.shape[1]) + 1, "NDCG@10": values.mean(0),
                                               "NDCG@10 deviation": values.std(0, ddof=1) if len(runs) > 1 else 0})
    return drawn


def write(made, folder):
    """Writes the tables and the figures; their names, and the table."""
    table = summary(made)
    files = {"results.md": f"{to_markdown(table)}\n{learners(made)}\n".encode(), "results.tex": to_latex(table).encode(),
             "results.csv": table.drop(columns="best").to_csv(index=False).encode()}
    by_strategy, by_noise, by_part = strategies(made), noise(made), stream(made)
    for kind in ("png", "svg"):
        if by_strategy:
            files[f"results.{kind}"] = pictures.strategies(by_strategy, kind)
        if by_noise:
            files[f"noise.{kind}"] = pictures.lines(by_noise, "NDCG@10", "random interactions, % of train", DATASETS[NOISE_DATASET], kind)
        if by_part:
            files[f"stream.{kind}"] = pictures.lines(by_part, "NDCG@10", "parts of the users that have come", DATASETS[STREAM_DATASET], kind)
    for name, content in files.items():
        with atomic(folder / name) as file:
            file.write(content)
    return sorted(files), table


# ---- The runs ------------------------------------------------------------------------------------------

def command(each, options):
    return [f"{each.script}.py", *each.arguments, *(f"--{key}={value}" for key, value in options.items())]


def seconds_of(wanted, made):
    """How long a run may take: as long as those of the same system have taken, or else as all; None if there are none."""
    same = [run.result["wall_seconds"] for each, run in made.items() if (each.part, each.system, each.dataset) == (wanted.part, wanted.system, wanted.dataset)]
    every = same or [run.result["wall_seconds"] for run in made.values()]
    return float(np.mean(every)) if every else None


def show_plan(missing, made, options):
    for each in missing:
        if each.arguments is not None:
            print("python " + shlex.join(command(each, options)))
    if later := sum(each.arguments is None for each in missing):
        print(f"and {later} that take over what one of these chooses or learns")
    known = [seconds for each in missing if (seconds := seconds_of(each, made)) is not None]
    print(f"{len(missing)} runs are missing, {len(made)} are there" + (f"; about {sum(known) / 3600:.1f} hours, by those that have finished" if known else ""))


def run_to_the_end(words):
    """Runs a command; (its exit code, the last line of its stderr). What ends this process ends that one first."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            complaint = process.communicate()[1]
        except BaseException:
            process.terminate()  # it writes a checkpoint
            process.wait()
            raise
    return process.returncode, (complaint.strip().splitlines() or ["no reason given"])[-1]


def make(options):
    """Makes the missing runs, keeps their small files; the commands that failed.

    Ctrl-C and SIGTERM stop the run, which goes on from its checkpoint the next time, and all that would follow.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    failed, bar = [], tqdm(unit="run", disable=None)
    while True:
        found = find([Path(options["results_dir"]), KEPT])
        keep_all(match(found))
        missing = [each for each in missing_of(found) if each.arguments is None or "python " + shlex.join(command(each, options)) not in failed]
        bar.total = bar.n + len(missing)
        if not missing or missing[0].arguments is None:
            return failed
        each = missing[0]
        words = "python " + shlex.join(command(each, options))
        bar.set_postfix_str(f"{each.system}, {each.dataset}")
        began = time.monotonic()
        code, complaint = run_to_the_end([sys.executable, Path(__file__).parent / f"{each.script}.py", *command(each, options)[1:]])
        if code < 0 or code > 128:
            raise UserError(f"{words} was interrupted; the same command goes on from its checkpoint")
        if IN_USE in complaint:
            raise UserError(complaint)
        run = find([Path(options["results_dir"])]).get(each.identity())
        if code or run is None:
            failed.append(words)
            tqdm.write(f"failed: {words}: {complaint}")
        else:
            tqdm.write(f"{each.part}: {each.system}, {each.dataset}, {'' if each.at is None else f'{each.at}, '}seed {each.seed}: "
                       f"test NDCG@10 {run.result['test']['NDCG@10']:.2f}, {time.monotonic() - began:.0f} s")
        bar.update()


def main(arguments):
    what = [argument for argument in arguments if argument in ("--plan", "--run")]
    rest = [argument for argument in arguments if argument not in what]
    options, _ = resolve(rest, __doc__, OPTIONS)
    if len(what) > 1:
        raise UserError("--plan and --run do not go together")
    folders, failed = [Path(options["results_dir"]), KEPT], []
    found = find(folders)
    made = match(found)
    if what == ["--plan"]:
        return show_plan(missing_of(found), made, options)
    if what == ["--run"]:
        failed = make(options)
        made = match(find(folders))
    names, table = write(made, DOCS)
    print(to_markdown(table))
    absent = [f"{line.system} on {line.dataset} ({line.runs} of {line.seeds})" for line in table.itertuples() if line.runs < line.seeds]
    print(f"written in {DOCS}: {', '.join(names)}" + (f"; not all runs are there for {', '.join(absent)}: --plan shows how to make them" if absent else ""))
    if failed:
        raise UserError(f"{len(failed)} runs failed")


if __name__ == "__main__":
    run_script(main)
