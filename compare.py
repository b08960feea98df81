"""The paper's table and figure, from finished runs.

    python compare.py             the tables as Markdown, LaTeX and CSV, the figure as PNG and SVG, in docs/
    python compare.py --plan      which runs are missing, and the commands that make them
    python compare.py --run       makes them, one after another, and then the tables; killed, it goes on where it was

Runs are looked for in results_dir and among those that are kept with the code, docs/results/, where --run leaves the
small files of what it has made. A run counts if it has finished and its settings are those that the plan asks for;
what is missing is shown as missing. All runs of a data set must be on the same interactions and the same split.
"""
import io
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from tqdm import tqdm

import baselines
import distill
import hyper_params
import infinite_ae
import pictures
from eval import METRICS
from runs import atomic, identity, read_npz, shaping
from settings import UserError, resolve, run_script

DOCS = Path(__file__).parent / "docs"
KEPT = DOCS / "results"
OPTIONS = ("data_dir", "results_dir")
DATASETS = {"magazine": "Amazon Magazine", "ml-1m": "MovieLens-1M"}
SEEDS, BUDGETS = (1, 2, 3), (10, 20, 50, 100, 200, 500, 1000)
SCRIPTS = {"distill": (None, {}), "infinite_ae": (infinite_ae.KEYS, hyper_params.infinite_ae), "baselines": (baselines.KEYS, hyper_params.baselines)}


class System(NamedTuple):
    """A row of the table or a line of the figure."""
    name: str
    script: str
    arguments: tuple
    paper: dict         # its NDCG@10 in the paper's table, by data set
    seeds: tuple = SEEDS
    tuned: bool = False  # the first seed tries a grid, and the others take what it has chosen


class Wanted(NamedTuple):
    """A run that the table or the figure needs."""
    system: str
    dataset: str
    budget: int | None  # users, in the figure
    seed: int
    script: str
    arguments: tuple | None  # None: they are known once another run has finished

    def identity(self):
        """The same for the same script and the same settings that shape the result; None for arguments that are not known yet."""
        if self.arguments is None:
            return None
        settings, _ = resolve(self.arguments, "", *SCRIPTS[self.script])
        if self.script == "baselines":
            settings["grid"] = settings["grid"] or hyper_params.grids[settings["model"]]
        return self.script, identity(settings)


class Found(NamedTuple):
    """A finished run."""
    folder: Path
    fingerprint: str    # of its data
    result: dict

    def users(self):
        """{metric: (U,)} of the test set."""
        return read_npz(self.folder / "users.npz", "make the run again")


def _baseline(name, model, seeds=SEEDS):
    return System(name, "baselines", (f"--model={model}",), baselines.PAPER_NDCG_AT_10[model], seeds, tuned=len(seeds) > 1)


TABLE = (
    _baseline("PopRec", "pop", SEEDS[:1]), _baseline("MF", "mf"), _baseline("NeuMF", "neumf"), _baseline("MVAE", "mvae"),
    _baseline("LightGCN", "lightgcn"), _baseline("EASE", "ease", SEEDS[:1]),
    System("∞-AE, all users", "infinite_ae", (), infinite_ae.PAPER_NDCG_AT_10, SEEDS[:1]),
    System("∞-AE on Distill-CF, S = 500", "distill", (), distill.PAPER_NDCG_AT_10),
)
# The head users are the same whatever the seed.
FIGURE = (
    System("random users", "infinite_ae", ("--sampler=random",), {}), System("random interactions", "infinite_ae", ("--sampler=interactions",), {}),
    System("head users", "infinite_ae", ("--sampler=head",), {}, SEEDS[:1]), System("SVP-CF users", "infinite_ae", ("--sampler=svp_cf",), {}),
    System("Distill-CF", "distill", (), {}),
)
FULL = TABLE[-2]


def of_table(system, dataset, seed, found):
    """The Wanted run of a row of the table.

    Args:
        found: as `find` returns it.
    """
    arguments = f"--dataset={dataset}", *system.arguments, f"--seed={seed}"
    if system.tuned and seed != system.seeds[0]:
        first = found.get(of_table(system, dataset, system.seeds[0], found).identity())
        arguments = first and (*arguments, "--grid=" + json.dumps([first.result["choice"]]))
    return Wanted(system.name, dataset, None, seed, system.script, arguments)


def plan(found):
    """Every Wanted run, those of the table first."""
    table = [of_table(system, dataset, seed, found) for dataset in DATASETS for system in TABLE for seed in system.seeds]
    return table + [Wanted(system.name, dataset, budget, seed, system.script,
                           (f"--dataset={dataset}", *system.arguments, f"--user_support={budget}", f"--seed={seed}"))
                    for dataset in DATASETS for budget in BUDGETS for system in FIGURE for seed in system.seeds]


def find(folders):
    """{identity: Found} of the finished runs in some folders; of the same settings, the first one met.

    Raises:
        UserError: a file of a run is damaged.
    """
    found = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*/result.json"))):
        try:
            config, result = json.loads((path.parent / "config.json").read_text()), json.loads(path.read_text())
            key = config.get("script"), identity(config["settings"])
            found.setdefault(key, Found(path.parent, config["data_fingerprint"], {**result, "test": {name: result["test"][name] for name in METRICS}}))
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path.parent} holds a damaged config.json or result.json ({error}); delete it, and make the run again") from error
    return found


def match(found):
    """{Wanted: Found}, of those in the plan that have been made.

    Raises:
        UserError: runs of one data set were made on different data.
    """
    made = {each: found[key] for each in plan(found) if (key := each.identity()) in found}
    for dataset in DATASETS:
        runs = {run.fingerprint: run for each, run in made.items() if each.dataset == dataset}
        if len(runs) > 1:
            one, other = list(runs.values())[:2]
            raise UserError(f"{one.folder} and {other.folder} are on different data or splits of {dataset}: they cannot be compared; "
                            "delete what does not belong")
    return made


def keep_all(made):
    """Keeps what has not been kept yet."""
    for run in made.values():
        if not (KEPT / run.folder.name / "result.json").exists():
            keep(run)


def keep(run):
    """Copies the small files of a run to where they are kept with the code, without what belongs to this machine."""
    folder = KEPT / run.folder.name
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((run.folder / "config.json").read_text())
    config = {"script": config["script"], "settings": shaping(config["settings"]),
              **{key: config[key] for key in ("data_fingerprint", "devices", "versions", "git_revision")}}
    users = io.BytesIO()
    np.savez_compressed(users, **run.users())
    # result.json last: with it the run is there.
    for name, content in (("config.json", json.dumps(config, indent=1).encode() + b"\n"), ("users.npz", users.getvalue()),
                          ("result.json", (run.folder / "result.json").read_bytes())):
        with atomic(folder / name) as file:
            file.write(content)


# ---- The tables ----------------------------------------------------------------------------------------

def holm(p):
    """Holm's correction of p-values, (n,): each times how many are at least as large, made monotone, at most 1."""
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)), 1)
    return corrected


def summary(made):
    """A line a data set and system of the table, as a DataFrame.

    Columns: dataset, system, runs (how many of how many), for every metric its mean and its standard deviation over
    seeds (NaN of a single run), paper, best, and p: of a paired t-test over users, NDCG@10 in the mean over seeds,
    against the best system of the data set, Holm-corrected. NaN where there is no run.
    """
    lines = []
    for dataset in DATASETS:
        users, first = {}, len(lines)
        for system in TABLE:
            runs = [run for each, run in made.items() if each[:3] == (system.name, dataset, None)]
            tests = pd.DataFrame([run.result["test"] for run in runs], columns=METRICS, dtype=float)
            mean, deviation = tests.mean(), tests.std()
            lines.append({"dataset": dataset, "system": system.name, "runs": f"{len(runs)} of {len(system.seeds)}", **mean,
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
    return pd.DataFrame(lines, columns=["dataset", "system", "runs", *METRICS, *(f"{name} deviation" for name in METRICS), "paper", "best", "p"])


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
            rows.append([line["system"], *(_cell(line, name, bold, plus_minus) for name in METRICS),
                         "" if np.isnan(line["paper"]) else f"{line['paper']:.2f}", p])
        yield DATASETS[dataset], rows


def _grid(head, rows):
    return "\n".join("".join(f"| {cell} " if cell else "| " for cell in row) + "|" for row in (head, ["---"] * len(head), *rows))


def to_markdown(table):
    """NDCG@10, a line a system, a column a data set and one for the paper's; then all metrics, a table a data set."""
    parts = dict(_rows(table, "**{}**", "±"))
    place = 1 + METRICS.index("NDCG@10")
    short = [[lines[0][0], *(cell for line in lines for cell in (line[place], line[-2]))] for lines in zip(*parts.values())]
    head = ["NDCG@10", *(cell for title in parts for cell in (title, "the paper's"))]
    return "\n\n".join([_grid(head, short), *(f"{title}\n\n{_grid(['', *METRICS, 'paper, NDCG@10', 'p'], rows)}" for title, rows in parts.items())]) + "\n"


def to_latex(table):
    """One tabular; it needs the package booktabs."""
    lines = [r"\begin{tabular}{l" + "r" * (len(METRICS) + 2) + "}", r"\toprule",
             " & ".join(["", *METRICS, "paper, NDCG@10", "$p$"]) + r" \\"]
    for title, rows in _rows(table, r"\textbf{{{}}}", r"$\pm$"):
        lines += [r"\midrule", rf"\multicolumn{{{len(METRICS) + 3}}}{{l}}{{{title}}} \\"]
        lines += [" & ".join(row).replace("∞", r"$\infty$").replace("< ", "$<$ ") + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


# ---- The figure ----------------------------------------------------------------------------------------

def curves(made):
    """What pictures.strategies draws: {data set: ({strategy: DataFrame}, the full data's metrics or None)}.

    A DataFrame has a line a budget: budget, share of all users in percent, and for HR@10 and PSP@10 mean and deviation.
    """
    drawn = {}
    for dataset, title in DATASETS.items():
        here = {each: run for each, run in made.items() if each.dataset == dataset}
        full = next((run for each, run in here.items() if each.system == FULL.name), None)
        if full is None:
            continue  # without it, how many users there are is not known
        count, lines = len(full.users()["NDCG@10"]), {}
        for system in FIGURE:
            rows = []
            for budget in BUDGETS:
                tests = pd.DataFrame([run.result["test"] for each, run in here.items() if (each.system, each.budget) == (system.name, budget)])
                if len(tests):
                    rows.append({"budget": budget, "share": 100 * budget / count, **{name: tests[name].mean() for name in ("HR@10", "PSP@10")},
                                 **{f"{name} deviation": tests[name].std(ddof=0) for name in ("HR@10", "PSP@10")}})
            lines[system.name] = pd.DataFrame(rows)
        drawn[title] = lines, full.result["test"]
    return drawn


def write(made, folder):
    """Writes the tables and the figure; their names."""
    table = summary(made)
    files = {"results.md": to_markdown(table).encode(), "results.tex": to_latex(table).encode(),
             "results.csv": table.drop(columns="best").to_csv(index=False).encode()}
    if drawn := curves(made):
        files |= {f"results.{kind}": pictures.strategies(drawn, kind) for kind in ("png", "svg")}
    for name, content in files.items():
        with atomic(folder / name) as file:
            file.write(content)
    return list(files), table


# ---- The runs ------------------------------------------------------------------------------------------

def command(each, options):
    return [f"{each.script}.py", *each.arguments, *(f"--{key}={value}" for key, value in options.items())]


def seconds_of(wanted, made):
    """How long a run may take: as long as those of the same system have taken, or else as all; None if there are none."""
    same = [run.result["wall_seconds"] for each, run in made.items() if each.system == wanted.system and each.dataset == wanted.dataset]
    every = same or [run.result["wall_seconds"] for run in made.values()]
    return float(np.mean(every)) if every else None


def missing_of(found):
    """The Wanted runs that have not been made, each once; those whose arguments are not known last."""
    absent = [each for each in plan(found) if each.identity() not in found]
    known = {each.identity(): each for each in absent if each.arguments is not None}
    return [*known.values(), *(each for each in absent if each.arguments is None)]


def show_plan(missing, made, options):
    for each in missing:
        if each.arguments is not None:
            print("python " + shlex.join(command(each, options)))
    if later := sum(each.arguments is None for each in missing):
        print(f"and {later} that take over what one of these chooses or learns")
    known = [seconds for each in missing if (seconds := seconds_of(each, made)) is not None]
    print(f"{len(missing)} runs are missing, {len(made)} are there" + (f"; about {sum(known) / 3600:.1f} hours, by those that have finished" if known else ""))


def make(options):
    """Makes the missing runs, keeps their small files; the commands that failed.

    Ctrl-C stops the run, which goes on from its checkpoint the next time, and all that would follow.
    """
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
        done = subprocess.run([sys.executable, Path(__file__).parent / f"{each.script}.py", *command(each, options)[1:]],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode < 0 or done.returncode > 128:
            raise UserError(f"{words} was interrupted; the same command goes on from its checkpoint")
        run = find([Path(options["results_dir"])]).get(each.identity())
        if done.returncode or run is None:
            failed.append(words)
            tqdm.write(f"failed: {words}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        else:
            tqdm.write(f"{each.system}, {each.dataset}, {'' if each.budget is None else f'S = {each.budget}, '}seed {each.seed}: "
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
    absent = [f"{line.system} on {line.dataset} ({line.runs})" for line in table.itertuples() if line.runs.split(" of ")[0] != line.runs.split(" of ")[1]]
    print(f"written in {DOCS}: {', '.join(names)}" + (f"; not all runs are there for {', '.join(absent)}: --plan shows how to make them" if absent else ""))
    if failed:
        raise UserError(f"{len(failed)} runs failed")


if __name__ == "__main__":
    run_script(main)
