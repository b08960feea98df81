"""What a search has found: a line a run, the table, a picture, the best run's command."""

import shlex
from collections import Counter

import pandas as pd
from matplotlib.figure import Figure

from lib import plots
from lib.files import atomic, lock
from sweep.study import latest, status

LISTED = 20  # rows of a table; the CSV has all
METRICS = ("validation HR@100", "validation NDCG@10", "test HR@10", "test HR@100", "test NDCG@10")


def show_values(values):
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "the one run"


def describe(study, trial):
    """A line on a run that is over, by its latest trial."""
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
    values = [trial.value for trial in trials if status(trial) == "complete"]
    best = f"; best validation {about['best_by']} {max(values):.2f}" if values else ""
    return f"{study.study_name}  {about['dataset']}: {counts}{best}"


def report(study, results):
    """Prints the failures, the table and the best run's command; writes results/search/STUDY.csv and .png."""
    trials, by = latest(study).values(), f"validation {study.user_attrs['about']['best_by']}"
    for trial in trials:
        if status(trial) == "failed":
            print(describe(study, trial))
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
    varied = [key for key in finished[0].params if table[key].nunique() > 1]
    stem.parent.mkdir(parents=True, exist_ok=True)
    with lock(stem.with_name(f".{stem.name}.lock")):  # several searches may end at the same moment
        with atomic(f"{stem}.csv") as file:
            table.to_csv(file, index=False)
        if varied:
            draw(table, varied, by, f"{stem}.png")
    print("best: python distill.py", shlex.quote(f"--config={table['folder'][0]}"))
    print(f"written: {stem}.csv" + f", {stem}.png" * bool(varied))


def draw(table, varied, by, path):
    """Draws the runs of a table, the best one first: a panel a varied setting, the metric over its values."""
    with plots.style():
        figure = Figure(figsize=(1.2 + 2.4 * len(varied), 3.4), layout="constrained")
        for axes, key in zip(figure.subplots(1, len(varied), sharey=True, squeeze=False)[0], varied):
            ordered = table.sort_values(key, key=lambda column: column.map(lambda x: (isinstance(x, str), x)))
            axes.plot(ordered[key].map(str), ordered[by], "o", alpha=0.6)
            axes.plot(str(table[key][0]), table[by][0], "*", color="0.15", markersize=14, label="best")
            axes.tick_params(axis="x", rotation=90 if table[key].nunique() > 5 else 0)
            axes.set(xlabel=key, xmargin=0.2)
        figure.axes[0].set(ylabel=f"{by}, %")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right")
        with atomic(path) as file:
            file.write(plots.to_bytes(figure, "png"))
