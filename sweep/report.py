"""What a search has found: a line for every run that is over, the table, pictures, the best run's command."""

import shlex
import warnings
from pathlib import Path

import matplotlib
import optuna
import pandas as pd
from matplotlib import pyplot
from optuna.trial import TrialState

from lib.files import atomic
from sweep.study import failure, standing

LISTED = 20  # rows of a table; the CSV has all
OTHERS = {"waiting": TrialState.WAITING, "running": TrialState.RUNNING, "stopped early": TrialState.PRUNED}


def show_values(values):
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "the one run"


def describe(study, trial):
    """A line on a run that is over, by its standing trial."""
    how = "stopped early" if trial.state == TrialState.PRUNED else f"failed: {failure(trial)}"
    if trial.state == TrialState.COMPLETE:
        result = trial.user_attrs["result"]
        how = (
            f"validation {study.user_attrs['about']['best_by']} {trial.value:.2f}, "
            f"test NDCG@10 {result['test']['NDCG@10']:.2f}, {result['wall_seconds']:.0f} s"
            + ("" if result.get("learnt", True) else ", NOTHING WAS LEARNT")
        )
    return f"{study.study_name}  {show_values(trial.params)}: {how}"


def load_studies(storage):
    """{name: study} of the studies that a search has made. Others may lie in the same database."""
    names = optuna.get_all_study_names(storage)
    studies = {name: optuna.load_study(study_name=name, storage=storage) for name in names}
    return {name: study for name, study in studies.items() if "best_by" in study.user_attrs.get("about", {})}


def list_study(study):
    """A line on a study: its name, data set, how its runs stand, its best value."""
    trials = standing(study).values()
    done = [trial.value for trial in trials if trial.state == TrialState.COMPLETE]
    counts = {"finished": len(done), "failed": sum(failure(trial) is not None for trial in trials)}
    for name, state in OTHERS.items():
        counts[name] = sum(trial.state == state for trial in trials)
    return (
        f"{study.study_name}  {study.user_attrs['about']['dataset']}: "
        + ", ".join(f"{count} {name}" for name, count in counts.items())
        + (f"; best validation {study.user_attrs['about']['best_by']} {max(done):.2f}" if done else "")
    )


def report(study, results, shortest):
    """Prints the failures, the finished runs and the best one's command; writes a table as CSV, and pictures.

    Args:
        results: the folder in whose search/ the files go.
        shortest: (settings, places) -> the arguments with which distill.py has just these today; None if it cannot.
    """
    trials, by = standing(study).values(), f"validation {study.user_attrs['about']['best_by']}"
    print("".join(f"{describe(study, trial)}\n" for trial in trials if failure(trial) is not None), end="")
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    finished.sort(key=lambda trial: -trial.value)
    if not finished:
        return print(f"{study.study_name}: no run has finished")
    rows = []
    for trial in finished:
        result = trial.user_attrs["result"]
        validation = {f"validation {name}": result["val"][name] for name in ("HR@100", "NDCG@10")}
        test = {f"test {name}": value for name, value in result["test"].items() if "textbook" not in name}
        rows.append(
            {
                **trial.params,
                by: trial.value,
                **validation,
                **test,
                "lamda": result["lamda"],
                "best_step": result["best_step"],
                "seconds": result["wall_seconds"],
                "folder": trial.user_attrs["folder"],
            }
        )
    table = pd.DataFrame(rows)
    columns = [
        *finished[0].params,
        *(name for name in table if name.startswith("validation")),
        "test HR@10",
        "test HR@100",
        "test NDCG@10",
        "seconds",
    ]
    print(f"\n{study.study_name}: {len(table)} finished runs, by {by}")
    print(table[columns].head(LISTED).to_string(index=False, float_format="%.4g"))
    stem = results / "search" / study.study_name
    with atomic(f"{stem}.csv") as file:
        table.to_csv(file, index=False)
    best = finished[0].user_attrs
    arguments = shortest(best["settings"], best["places"])
    print(
        "best: "
        + (
            f"{best['folder']}, which no command gives today"
            if arguments is None
            else "python distill.py " + shlex.join([*arguments, *best["places"]])
        )
    )
    print(f"written: {stem}.csv" + "".join(f", {path}" for path in draw(study, finished, by, stem)))


def draw(study, finished, by, stem):
    """Optuna's pictures of the study, where there is enough to draw; their paths."""
    varied = [key for key in finished[0].params if len({trial.params[key] for trial in finished}) > 1]
    if len({trial.value for trial in finished}) < 2 or not varied:
        return []
    matplotlib.use("Agg")
    plots = optuna.visualization.matplotlib
    with warnings.catch_warnings(action="ignore"):  # the pictures are experimental
        # What tells the better half of the runs from the rest. A tenth, the default, is few of a small grid.
        half = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.5)
        axes = {
            "parallel": plots.plot_parallel_coordinate(study, params=varied, target_name=by),
            "importance": plots.plot_param_importances(study, half, params=varied, target_name=by),
        }
    for name, drawn in axes.items():
        drawn.figure.set_size_inches(9, 5)
        with atomic(f"{stem}-{name}.png") as file:
            drawn.figure.savefig(file, format="png", dpi=130, bbox_inches="tight")
        pyplot.close(drawn.figure)
    return [Path(f"{stem}-{name}.png") for name in axes]
