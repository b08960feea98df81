"""Many settings of distill.py, over many devices and machines.

    python grid_search_distill.py                         the lists in this file
    python grid_search_distill.py --dry-run               which runs, how many are new, how long they may take
    python grid_search_distill.py --report                the studies there are, at any time
    python grid_search_distill.py --report --study=NAME   the table, the picture and the best command of one
    python grid_search_distill.py --dataset=ml-100k --gpu_ids=[] --learning_rate=[0.04,0.08] --seed=[1,2,3]
    python grid_search_distill.py --storage=postgresql://user@host/database     from many machines at once
    python grid_search_distill.py --sampler=tpe --trials=30                     not all combinations

Every setting of hyper_params.py is --key=value or, to try several, --key=[a,b,c]. The search may be killed
and started again, at any moment. What is finished stays finished, what was under way goes on from its
checkpoint, and what had failed is tried again.
"""

if __name__ == "__main__":
    import lib.start  # noqa: F401

import hashlib
import itertools
import json
import math
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import optuna
from tqdm import tqdm

from hyper_params import name as plain_name
from lib.checks import checked, parse_json
from lib.errors import Parser, UserError, run_script
from lib.files import lock
from lib.settings import check, holds_list, parse, resolve, split, to_arguments
from runs.folder import NOT_SHAPING, shaping
from runs.reading import read_finished, read_readable
from sweep import study as queue
from sweep.report import describe, report, show_values, summarise
from sweep.worker import find_devices

# ---- Edit here: a list means, try each ---------------------------------------------------------------------
gpu_ids = "auto"  # all GPUs, or the CPU where there is none; [0, 2]: a worker on each of these; []: the CPU

common_hyper_params = {"seed": 42}

data_set_hyper_params = {
    "ml-1m": {"gumbel_tau": [5.0, 10.0, 20.0], "learning_rate": [0.04, 0.08], "keep_prob": [0.5, 0.8]}
}
# ------------------------------------------------------------------------------------------------------------

MOST_RUNS = 10_000


class Plan(NamedTuple):
    fixed: dict  # {setting: value} of all runs
    space: dict  # {setting: values to try}
    runs: dict  # {run (of a grid, its folder's name): the searched values that it is queued with}
    about: dict  # all that makes another study: settings, sampler, data, and a digest of the runs


def list_of_gpus(text):
    return text if text == "auto" else parse_json(text, list[int])


def parse_options(arguments):
    """(options, {setting: value or list of values}) of the command line."""
    usage = "python grid_search_distill.py [--option] [--setting=value]"
    parser = Parser(__doc__.strip(), allow_abbrev=False, usage=usage)
    option, yes = parser.add_argument, {"action": "store_true"}
    option("--storage", metavar="URL", help="the database of all studies; else a file in results_dir/search")
    option("--study", metavar="NAME", help="begin, go on with, or report the study of that name")
    option("--sampler", choices=("grid", "tpe"), default="grid", help="all combinations, or Optuna's TPE")
    option("--trials", type=int, metavar="N", help="how many runs TPE has")
    option("--workers-per-device", type=int, default=1, metavar="N", help="runs at a time on a device")
    option("--heartbeat", type=int, default=10, metavar="SECONDS", help="who misses four of them is dead")
    option("--gpu_ids", type=list_of_gpus, default=gpu_ids, metavar="LIST", help="as in this file")
    option("--dry-run", **yes, help="only say what would be run")
    option("--report", **yes, help="only show what has been found")
    option("--yes", **yes, help=f"yes, more than {MOST_RUNS:,} runs")
    options, words = parser.parse_known_args(arguments)
    if options.storage == "":
        raise UserError("--storage must be the URL of a database")
    if options.study is not None:  # it names files, too
        checked("--study", options.study, plain_name)
        if len(options.study.encode()) >= 150:
            raise UserError("--study must be a plain name, of fewer than 150 bytes")
    if (options.trials is None) == (options.sampler == "tpe"):
        raise UserError("--sampler=tpe needs --trials=N, and --trials=N needs --sampler=tpe")
    if min(options.trials or 1, options.workers_per_device, options.heartbeat) < 1:
        raise UserError("--trials, --workers-per-device and --heartbeat must be whole numbers from 1")
    return options, {key: read_values(key, text) for key, text in split(words)}


def read_values(key, text):
    """The value of a text of the command line or, of [a,b,c], the list of values."""
    value = parse(key, text)
    if not isinstance(value, str) or not value.startswith("["):
        return value
    return [parse(key, item.strip(" '\"")) for item in value.strip("[]").split(",") if item]


def divide(block):
    """({setting: value} of all runs, {setting: values to try}) of a block, {setting: value or values}.

    A setting whose value is a list itself, lamda_grid, is tried over a list of lists. It becomes JSON.
    """
    fixed, space = {}, {}
    for key, value in block.items():
        if value == []:
            raise UserError(f"{key} has an empty list: there is nothing to try")
        is_list = holds_list(key)
        several = isinstance(value, list) and (not is_list or isinstance(value[0], list))
        if several and key in NOT_SHAPING - {"paper"}:
            raise UserError(f"{key} cannot be searched: it does not shape a result")
        values = [check({key: item})[key] for item in (value if several else [value])]
        values = list(dict.fromkeys(json.dumps(item) if is_list else item for item in values))
        (space if several else fixed)[key] = values if several else values[0]
    return fixed, space


def make_plan(block, trials=None, most=MOST_RUNS):
    """The Plan of a block (see `divide`): all combinations, equal ones once; or so many trials of TPE."""
    fixed, space = divide(block)
    count = math.prod(map(len, space.values()))
    if count > most and not trials:
        raise UserError(f"{fixed['dataset']}: that makes {count:,} runs, more than {most:,}. --yes means it")
    runs, measures = {}, set()
    for combination in itertools.islice(itertools.product(*space.values()), 1000 if trials else None):
        values = dict(zip(space, combination))
        settings, folder, fingerprint = queue.resolve_run({**fixed, **values})
        runs.setdefault(folder.name, values)
        measures.add(settings["best_by"])
    if len(measures) > 1:
        raise UserError("all runs must have one best_by to be compared by. Try --best_by=NDCG@10")
    shared, sampler = resolve(to_arguments(fixed))[0], "tpe" if trials else "grid"
    digest = hashlib.sha256(json.dumps([sampler, space, sorted(runs)]).encode()).hexdigest()[:6]
    about = {**shaping(shared), **space, "best_by": settings["best_by"], "sampler": sampler}
    queued = {f"trial {i}": {} for i in range(trials)} if trials else runs
    return Plan(fixed, space, queued, {**about, "data": fingerprint, "runs": digest})


def make_plans(options, given):
    """{study's name: Plan}, one a data set; the name begins with the data set's."""
    datasets, study = given.pop("dataset", list(data_set_hyper_params)), options.study or ""
    datasets = [datasets] if isinstance(datasets, str) else datasets
    if not datasets:
        raise UserError("dataset has an empty list: there is nothing to try")
    named = [name for name in datasets if study.startswith(f"{name}-")]  # as it was printed
    plans = {}
    for dataset in [max(named, key=len)] if named else datasets:
        block = {**common_hyper_params, **data_set_hyper_params.get(dataset, {}), **given, "dataset": dataset}
        plan = make_plan(block, options.trials, math.inf if options.yes else MOST_RUNS)
        plans[study if named else f"{dataset}-{study or plan.about['runs']}"] = plan
    return plans


def estimate(settings, finished):
    """Seconds that a run may take, by the finished run, (config, result), with the nearest user_support."""
    sizes = [(settings["user_support"], config["settings"]["user_support"]) for config, _ in finished]
    ratios = [new / old if min(new, old) > 0 else 1 for new, old in sizes]  # of a step's time
    ratio, (_, result) = min(zip(ratios, finished), key=lambda pair: abs(math.log(pair[0])))
    steps = ratio * settings["train_steps"] - result["steps"]
    return result["wall_seconds"] + (result["step_seconds"] or 0) * steps


def tells_time(config, result):
    """Whether a finished run, by its config.json and result.json, says how long others may take."""
    return "user_support" in config["settings"] and result["steps"] and "step_seconds" in result


def dry_run(name, plan, trials, results, workers):
    """Lists the runs, by the plan and the study's latest trials, and says how long the new ones may take."""
    folders = [path.parent for path in results.glob(f"distill-{plan.fixed['dataset']}-*/result.json")]
    done = {folder.name for folder in folders}
    done |= {run for run, trial in trials.items() if queue.status(trial) in ("pruned", "complete")}
    for run, values in plan.runs.items():
        print("done " if run in done else "new  ", show_values(values) if values else run)
    new = [values for run, values in plan.runs.items() if run not in done]
    time = "no run has finished to tell how long they take" if new else "nothing to do"
    finished = [run for run in read_readable(folders, read_finished)[0] if tells_time(*run)]
    if new and finished:
        first = {key: values[0] for key, values in plan.space.items()}
        seconds = [
            estimate(queue.resolve_run({**plan.fixed, **first, **values})[0], finished) for values in new
        ]
        minutes = max(sum(seconds) / workers, *seconds) / 60
        time = f"about {minutes:.1f} min with {workers} at a time, by {len(finished)} finished runs"
    print(f"{name}: {len(plan.runs)} runs, {len(new)} of them to do; {time}")


def search(studies, plans, devices, heartbeat):
    """Does the runs that are to do, and shows how it gets on."""

    def show(study, trial):
        if queue.status(trial) in queue.OVER:
            tqdm.write(describe(study, trial), file=sys.stdout)
            sys.stdout.flush()
        counts = Counter(queue.status(trial) for study in studies for trial in queue.latest(study).values())
        bar.n = sum(counts[word] for word in queue.OVER)
        bar.set_postfix_str(f"running {counts['running']}, failed {counts['failed']}")

    for study, plan in zip(studies, plans):
        queue.enqueue(study, plan.runs)
        left = sum(queue.status(trial) not in queue.OVER for trial in queue.latest(study).values())
        print(f"{study.study_name}: {len(plan.runs)} runs, {left} of them to do", flush=True)
    total = sum(len(plan.runs) for plan in plans)
    with tqdm(total=total, unit="run", disable=None, dynamic_ncols=True) as bar:
        queue.work(list(zip(studies, plans)), devices, heartbeat, show)


def show_report(known, names, results):
    """Reports on the named studies of {name: study}; without a name, prints a line on each."""
    if not known:
        raise UserError(f"{results / 'search'} has no study. Try another --results_dir, or --storage=URL")
    if not {*names} <= {*known}:
        raise UserError(f"there is no study {', '.join(names)}; there are {', '.join(known)}")
    for name in names:
        report(known[name], results)
    if not names:
        print("\n".join(map(summarise, known.values())))


def main(arguments):
    for number in (signal.SIGINT, signal.SIGTERM):  # as Ctrl-C, also in the background
        signal.signal(number, signal.default_int_handler)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Optuna's heartbeat
    options, given = parse_options(arguments)
    plans = {} if options.report and given.keys() <= NOT_SHAPING else make_plans(options, given)
    shared = [plan.fixed for plan in plans.values()] or [{**common_hyper_params, **given}]
    results = Path(shared[0].get("results_dir") or resolve([])[0]["results_dir"])
    path = results / "search" / "studies.db"
    known = {}
    if (options.report or options.dry_run) and (options.storage or path.exists()):
        storage = queue.open_storage(options.storage, path)
        known = queue.load_studies(storage)
    if options.report:
        return show_report(known, list(plans) or [options.study] * bool(options.study), results)
    devices, where = find_devices(options.gpu_ids, options.workers_per_device)
    if options.dry_run:
        for name, plan in plans.items():
            trials = queue.latest(queue.open_study(storage, name, plan.about)) if name in known else {}
            dry_run(name, plan, trials, results, len(devices))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.parent / ".studies.lock"):  # several searches may begin at the same moment
        storage = queue.open_storage(options.storage, path, options.heartbeat)
        studies = [queue.open_study(storage, name, plan.about) for name, plan in plans.items()]
    print(where)
    try:
        search(studies, plans.values(), devices, options.heartbeat)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", flush=True)
        raise
    for study in studies:
        report(study, results)
    trials = [trial for study in studies for trial in queue.latest(study).values()]
    if failed := [show_values(trial.params) for trial in trials if queue.status(trial) == "failed"]:
        named = "; ".join(failed[:5]) + "; ..." * (len(failed) > 5)
        raise UserError(
            f"{len(failed)} of {len(trials)} runs failed: {named}. The same command tries them again"
        )


if __name__ == "__main__":
    run_script(main)
