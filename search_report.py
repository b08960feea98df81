"""What a search has found, for grid_search_distill.py: a line for each run that has ended, the table, the pictures."""
import shlex
from pathlib import Path

import matplotlib
import optuna
import pandas as pd
from matplotlib import pyplot
from optuna.trial import TrialState

from runs import atomic
from search import failure, to_argument


def ended(study):
    """Trials that have ended, but those that only gave way to another trial of the same settings."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
            or failure(trial) is not None]


def describe(study, trial):
    """A line on a trial that has ended."""
    values = ", ".join(f"{key}={value}" for key, value in trial.params.items()) or "the one run"
    if trial.state == TrialState.COMPLETE:
        result = trial.user_attrs["result"]
        return (f"{study.study_name}  {values}: validation HR@100 {result['val']['HR@100']:.2f}, test NDCG@10 {result['test']['NDCG@10']:.2f}, "
                f"{result['wall_seconds']:.0f} s")
    return f"{study.study_name}  {values}: " + ("stopped early" if trial.state == TrialState.PRUNED else f"failed: {failure(trial)}")


def report(study, results, arguments):
    """Prints the failures, the table of finished runs and the best one's command; writes the table as CSV, and the pictures."""
    rows, failed = {}, {}
    for trial in study.get_trials(deepcopy=False):
        key = trial.user_attrs.get("identity")
        if trial.state == TrialState.COMPLETE:
            result = trial.user_attrs["result"]
            rows[key] = {**trial.params, **{f"validation {name}": result["val"][name] for name in ("HR@100", "NDCG@10")},
                         **{f"test {name}": value for name, value in result["test"].items() if "textbook" not in name},
                         "lamda": result["lamda"], "best_step": result["best_step"], "seconds": result["wall_seconds"], "folder": trial.user_attrs["folder"]}
        elif failure(trial) is not None:
            failed[key] = describe(study, trial)
    for line in [line for key, line in failed.items() if key not in rows]:
        print(line)
    if not rows:
        print(f"{study.study_name}: no run has finished")
        return
    table = pd.DataFrame(rows.values()).sort_values("validation HR@100", ascending=False)
    shown = [column for column in table if column in study.user_attrs["about"]["space"] or column.startswith("validation")
             or column in ("test HR@10", "test HR@100", "test NDCG@10", "seconds")]
    print(f"\n{study.study_name}: {len(table)} finished runs, by validation HR@100\n{table[shown].head(20).to_string(index=False, float_format='%.4g')}")
    stem = results / "search" / study.study_name
    with atomic(f"{stem}.csv") as file:
        table.to_csv(file, index=False)
    best = {**study.user_attrs["about"]["fixed"], **study.best_trial.params}
    print("best: python distill.py " + shlex.join([*(to_argument(key, value) for key, value in best.items()), *arguments]))
    print(f"written: {stem}.csv" + "".join(f", {path}" for path in draw(study, stem)))


def draw(study, stem):
    """Optuna's pictures of the study, where there is enough to draw; their paths."""
    matplotlib.use("Agg")
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    varied = [key for key in study.user_attrs["about"]["space"] if len({trial.params[key] for trial in finished}) > 1]
    if len({trial.value for trial in finished}) < 2 or not varied:
        return []
    paths = []
    # What tells the better half of the runs from the others; the default, a tenth, is too few of a small grid's.
    half, plots, target = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.5), optuna.visualization.matplotlib, "validation HR@100"
    for name, plot in (("parallel", lambda: plots.plot_parallel_coordinate(study, params=varied, target_name=target)),
                       ("importance", lambda: plots.plot_param_importances(study, half, params=varied, target_name=target))):
        axes = plot()
        axes.figure.set_size_inches(9, 5)
        path = Path(f"{stem}-{name}.png")
        with atomic(path) as file:
            axes.figure.savefig(file, format="png", dpi=130, bbox_inches="tight")
        pyplot.close(axes.figure)
        paths.append(path)
    return paths
