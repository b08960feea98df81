"""What a search has found: a line a run, the table, a picture, the best run's command."""

import shlex
from collections import Counter

import pandas as pd
from matplotlib.figure import Figure

from lib.files import atomic, lock
from sweep.study import latest, status

LISTED = 20  # rows of a table; the CSV has all
METRICS = ("validation HR@100", "validation NDCG@10", "test HR@10", "test HR@100", "test NDCG@10")


def show_values(values):
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "the one run"


def describe(study, trial):
    """A line on a run that is over, by its standing trial."""
    end = f"failed: {trial.user_attrs['error']}" if status(trial) == "failed" else status(trial)
    if result := trial.user_attrs.get("result"):
        end = f"validation {study.user_attrs['about']['best_by']} {trial.value:.2f}, "
        end += f"test NDCG@10 {result['test']['NDCG@10']:.2f}, {result['wall_seconds']:.0f} s"
        end += "" if result.get("learnt", True) else ", NOTHING WAS LEARNT"
    return f"{study.study_name}  {show_values(trial.params)}: {end}"


def summarise(study):
    """A line on a study: its name, its data set, how its runs stand, its best value."""
    trials, about = latest(study).values(), study.user_attrs["about"]
    counts = ", ".join(f"{count} {word}" for word, count in sorted(Counter(map(status, trials)).items()))
    best = max((trial.value for trial in trials if status(trial) == "complete"), default=float("nan"))
    return f"{study.study_name}  {about['dataset']}: {counts}; best validation {about['best_by']} {best:.2f}"


def report(study, results):
    """Prints the failures, the table and the best run's command; writes results/search/STUDY.csv and .png."""
    trials, by = latest(study).values(), f"validation {study.user_attrs['about']['best_by']}"
    print(*(describe(study, trial) for trial in trials if status(trial) == "failed"), sep="\n")
    finished = [trial for trial in trials if status(trial) == "complete"]
    if not finished:
        return print(f"{study.study_name}: no run has finished")
    finished.sort(key=lambda trial: -trial.value)
    rows = []
    for trial in finished:
        result = trial.user_attrs["result"]
        row = {**trial.params, "validation": result["val"], "test": result["test"], "lamda": result["lamda"]}
        row |= {"best_step": result["best_step"], "seconds": result["wall_seconds"]}
        rows.append({**row, "folder": trial.user_attrs["folder"]})
    table, stem = pd.json_normalize(rows, sep=" "), results / "search" / study.study_name
    columns = dict.fromkeys([*finished[0].params, by, *METRICS, "seconds"])
    print(f"\n{study.study_name}: {len(table)} finished runs, by {by}")
    print(table[[*columns]].head(LISTED).to_string(index=False, float_format="%.4g"))
    with lock(f"{stem}.lock"):  # several searches may end at the same moment
        with atomic(f"{stem}.csv") as file:
            table.to_csv(file, index=False)
        draw(finished, by, f"{stem}.png")
    print("best: python distill.py", shlex.quote(f"--config={table['folder'][0]}"))
    print(f"written: {stem}.csv, {stem}.png")


def draw(finished, by, path):
    """Draws the finished trials, the best one first: a panel a varied setting, the metric over its values."""
    varied = [key for key in finished[0].params if len({trial.params[key] for trial in finished}) > 1]
    figure = Figure(figsize=(1 + 2.5 * len(varied), 3.5), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(varied) or 1, sharey=True, squeeze=False)[0], varied):
        ordered = sorted(finished, key=lambda trial: (isinstance(trial.params[key], str), trial.params[key]))
        axes.plot([str(trial.params[key]) for trial in ordered], [trial.value for trial in ordered], "o")
        axes.plot(str(finished[0].params[key]), finished[0].value, "*", markersize=14)
        axes.set(xlabel=key, ylabel=f"{by}, %" if key == varied[0] else "")
        axes.spines[["top", "right"]].set_visible(False)
    with atomic(path) as file:
        figure.savefig(file, format="png", dpi=150)
