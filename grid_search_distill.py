"""Many settings of distill.py, over many devices and machines.

    python grid_search_distill.py                         the lists in this file
    python grid_search_distill.py --dry-run               which runs, how many are new, how long they may take
    python grid_search_distill.py --report                the studies there are, at any time
    python grid_search_distill.py --report --study=NAME   the table, the pictures and the best command of one
    python grid_search_distill.py --dataset=ml-100k --gpu_ids=[] --learning_rate=[0.04,0.08] --seed=[1,2,3]
    python grid_search_distill.py --storage=postgresql://user@host/database     from many machines at once
    python grid_search_distill.py --sampler=tpe --trials=30                     not all combinations

Every setting of hyper_params.py is --key=value or, to try several, --key=[a,b,c]. The search may be killed
and started again, at any moment. What is finished stays finished, what was under way goes on from its
checkpoint, and what had failed is tried again.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import re
import sys
from pathlib import Path

import optuna
from optuna.trial import TrialState
from tqdm import tqdm

import data
from lib.errors import Parser, UserError, run_script
from lib.files import lock
from lib.settings import holds_list, resolve, to_argument
from lib.settings import parse as parse_setting
from runs import recipes
from runs.folder import NOT_SHAPING, run_name, shaping
from sweep.report import describe, list_study, load_studies, report, show_values
from sweep.study import ended, enqueue, failure, open_storage, open_study, standing, work
from sweep.worker import find_devices

# ---- Edit here: a list means, try each ---------------------------------------------------------------------
gpu_ids = "auto"  # all GPUs, or the CPU where there is none; [0, 2]: a worker on each of these; []: the CPU

common_hyper_params = {"seed": 42, "user_support": 500}

data_set_hyper_params = {
    "ml-1m": {"gumbel_tau": [5.0, 10.0, 20.0], "learning_rate": [0.04, 0.08], "keep_prob": [0.5, 0.8]}
}
# ------------------------------------------------------------------------------------------------------------

MOST_RUNS = 10_000


@functools.cache
def known_of(dataset, data_dir, repeats):
    """(fingerprint, recipes.Statistics) of a data set."""
    found = data.load(dataset, data_dir, repeats)
    return found.fingerprint, recipes.statistics_of(found)


def run_settings(values, data_dir):
    """All settings that shape the run of distill.py with these, {setting: value}: the run's identity."""
    settings, _ = resolve([to_argument(key, value) for key, value in values.items()])
    return shaping(
        recipes.resolve_auto(settings, known_of(settings["dataset"], data_dir, settings["repeats"])[1])[0]
    )


def run_key(settings):
    """A short name of a run, by its identity."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def shortest_arguments(settings, places):
    """The arguments with which distill.py has just these shaping settings today; None if it cannot.

    Args:
        places: the arguments that say where files are.
    """
    try:
        data_dir = resolve(places)[0]["data_dir"]
        if run_settings(settings, data_dir) != settings:
            return None
    except UserError:  # a setting, or a value, that is no more
        return None
    for key in [key for key in settings if key != "dataset"]:
        fewer = {name: value for name, value in settings.items() if name != key}
        settings = fewer if run_settings(fewer, data_dir) == run_settings(settings, data_dir) else settings
    return [to_argument(key, value) for key, value in settings.items()]


@dataclasses.dataclass
class Plan:
    """What to run on one data set."""

    sampler: str  # "grid" or "tpe"
    fixed: dict  # {setting: value} that all runs share
    space: dict  # {setting: values to try}, where a list is JSON
    places: list  # arguments of distill.py that shape no result, such as where files are
    data_dir: str
    results: Path
    runs: dict  # {run's name: the values it is queued with}
    settings: list  # all shaping settings of every run; of TPE's runs, those of every value tried alone

    def settle(self, values):
        """(all shaping settings of the run with these searched values, its folder)."""
        settings = run_settings({**self.fixed, **values}, self.data_dir)
        return settings, self.results / run_name(settings, self.fingerprint(settings), "distill")

    def fingerprint(self, settings):
        return known_of(settings["dataset"], self.data_dir, settings["repeats"])[0]

    def about(self):
        """What makes a study another one; see search.open_study."""
        values = {
            key: list({json.dumps(settings[key]): settings[key] for settings in self.settings}.values())
            for key in self.settings[0]
        }
        return {
            **{key: several if len(several) > 1 else several[0] for key, several in values.items()},
            "sampler": self.sampler,
            "data": "-".join(sorted(set(map(self.fingerprint, self.settings)))),
            "space": self.space,
            "combinations": run_key(sorted(map(run_key, self.settings))),
        }

    def study_name(self, study):
        """--study, before which the data set's name stands; or a name for these runs on these data."""
        name, dataset = study or run_key(self.about())[:6], self.fixed["dataset"]
        return name if name.startswith(f"{dataset}-") else f"{dataset}-{name}"


def _count(text):
    if not 1 <= int(text) <= 10**6:
        raise ValueError
    return int(text)


def _gpu_ids(text):
    return text if text == "auto" else list(json.loads(text))


def parse(arguments):
    """(options, {setting: value or list of values}) of the command line; UserError for what cannot be."""
    # argparse's messages have these names.
    _count.__name__, _gpu_ids.__name__ = "count from 1", "list of GPUs, such as [0,1], [] or auto,"
    parser = Parser(
        __doc__.strip(),
        allow_abbrev=False,
        usage="python grid_search_distill.py [--option] [--setting=value]",
    )
    option = parser.add_argument
    option("--storage", metavar="URL", help="the database of all studies; else a file in results_dir/search")
    option("--study", metavar="NAME", help="begin, go on with, or report the study of that name")
    option("--sampler", choices=("grid", "tpe"), default="grid", help="all combinations, or Optuna's TPE")
    option("--trials", type=_count, metavar="N", help="how many runs TPE has")
    option("--workers-per-device", type=_count, default=1, metavar="N", help="runs at a time on a device")
    option("--heartbeat", type=_count, default=10, metavar="SECONDS", help="who misses four of them is dead")
    option(
        "--gpu_ids",
        type=_gpu_ids,
        default=gpu_ids,
        metavar="LIST",
        help="positions in what CUDA_VISIBLE_DEVICES shows; [] is the CPU; auto",
    )
    option("--dry-run", action="store_true", help="only say what would be run")
    option("--report", action="store_true", help="only show what has been found")
    option("--yes", action="store_true", help=f"yes, more than {MOST_RUNS:,} runs")
    options, words = parser.parse_known_args(arguments)
    if options.storage == "" or options.study == "" or "/" in (options.study or ""):
        raise UserError("--storage must be the URL of a database, and --study a plain name")
    if (options.trials is None) == (options.sampler == "tpe"):
        raise UserError("--trials=N goes with --sampler=tpe, and that with it")
    given = {}
    while words:
        key, equals, value = words.pop(0).partition("=")
        if not key.startswith("--") or not equals and (not words or words[0].startswith("--")):
            raise UserError(f"'{key}' is not understood: settings are given as --key=value; see --help")
        given[key[2:]] = _to_values(key[2:], value if equals else words.pop(0))
    return options, given


def _to_values(key, text):
    """One value or, from [a,b,c], a list of them."""
    if key == "config":
        raise UserError("--config is for distill.py; here, settings are given one by one")
    if not text.startswith("[") or holds_list(key) and not text.replace(" ", "").startswith("[["):
        return parse_setting(key, text)
    try:
        return json.loads(text)
    except ValueError:
        return re.findall(r"[^][,\s\"']+", text)


def divide(block):
    """({setting: value} all runs share, {setting: values to try}) of a block; every value is checked.

    A setting whose value is a list itself, lamda_grid, is tried over a list of lists.
    """
    fixed, space = {}, {}
    for key, value in block.items():
        is_list = holds_list(key)
        several = isinstance(value, list) and (not is_list or any(isinstance(item, list) for item in value))
        if several and key in NOT_SHAPING - {"paper"}:
            raise UserError(f"{key} cannot be searched: it does not shape a result")
        if value == []:
            raise UserError(f"{key} has an empty list: there is nothing to try")
        values = [json.dumps(item) if is_list else item for item in (value if several else [value])]
        for item in values:
            resolve([to_argument(key, item)])
        if several:
            space[key] = list(dict.fromkeys(values))
        else:
            fixed[key] = values[0]
    return fixed, space


def make_plan(dataset, block, options):
    """The Plan of a block, {setting: value or list of values}. Equal settings make one run."""
    fixed, space = divide({**block, "dataset": dataset})
    places = {key: fixed.pop(key) for key in list(fixed) if key in NOT_SHAPING and key != "paper"}
    places = [to_argument(key, value) for key, value in places.items()]
    first, count = {key: values[0] for key, values in space.items()}, math.prod(map(len, space.values()))
    if options.sampler == "tpe":
        variants = [first, *({**first, key: value} for key, values in space.items() for value in values)]
    elif count > MOST_RUNS and not options.yes:
        raise UserError(f"{dataset}: that makes {count:,} runs, more than {MOST_RUNS:,}; --yes means it")
    else:
        variants = [dict(zip(space, values)) for values in itertools.product(*space.values())]
    where = resolve(places)[0]
    runs, settings = {}, {}
    for values in variants:
        resolved = run_settings({**fixed, **values}, where["data_dir"])
        runs.setdefault(run_key(resolved), values)
        settings.setdefault(run_key(resolved), resolved)
    if len({each["best_by"] for each in settings.values()}) > 1:
        raise UserError(f"{dataset}: all runs must have one best_by to be compared by; try --best_by=NDCG@10")
    if options.sampler == "tpe":
        runs = {f"trial {number}": {} for number in range(options.trials)}
    return Plan(
        options.sampler,
        fixed,
        space,
        places,
        where["data_dir"],
        Path(where["results_dir"]),
        runs,
        list(settings.values()),
    )


def finished_runs(plan):
    """{run: (settings, seconds a step, seconds beside the steps, folder)} on these data, the latest first."""
    finished, fingerprints = {}, set(map(plan.fingerprint, plan.settings))
    for path in sorted(plan.results.glob("*/result.json"), key=lambda path: -path.stat().st_mtime):
        try:
            result = json.loads(path.read_text())
            config = json.loads(path.with_name("config.json").read_text())
            if config["data_fingerprint"] in fingerprints and "train_steps" in config["settings"]:
                settings, step = shaping(config["settings"]), result["step_seconds"] or 0
                beside = max(result["wall_seconds"] - step * result["steps"], 0)
                finished[run_key(settings)] = settings, step, beside, path.parent.name
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a run's folder, or a damaged one: its run will say so
    return finished


def estimate(settings, finished):
    """(seconds that a run may take, the folder of the finished run it is reckoned from).

    That run has the nearest user_support, to which the seconds of a step are taken to be in proportion.
    """

    def ratio(known):
        users = settings["user_support"], known["user_support"]
        return users[0] / users[1] if min(users) > 0 else 1

    def distance(run):
        return abs(math.log(ratio(run[0]))), sum(run[0].get(key) != value for key, value in settings.items())

    known, step, beside, folder = min(finished.values(), key=distance)
    return beside + step * ratio(known) * settings["train_steps"], folder


def dry_run(name, plan, trials, workers):
    """Lists the runs, and says how long the new ones may take.

    Args:
        trials: search.standing of the study; empty where there is none yet.
    """
    finished = finished_runs(plan)
    done = finished.keys() | {run for run, trial in trials.items() if ended(trial) and failure(trial) is None}
    for run, values in plan.runs.items():
        print("done " if run in done else "new  ", show_values(values) if plan.sampler == "grid" else run)
    settings = {run_key(each): each for each in plan.settings}
    new = [settings.get(run, plan.settings[0]) for run in plan.runs if run not in done]
    time = "no run has finished to tell how long they take" if new else "nothing to do"
    if new and finished:
        seconds, folders = zip(*(estimate(each, finished) for each in new))
        minutes = max(sum(seconds) / workers, *seconds) / 60
        time = (
            f"about {minutes:.1f} min with {workers} at a time, reckoned from "
            f"{', '.join(list(dict.fromkeys(folders))[:2])}; what is not compiled yet takes longer"
        )
    print(f"{name}: {len(plan.runs)} runs, {len(new)} of them to do; {time}")


def progress(studies, bar):
    """show() for search.work: prints a line for every run that gets over, and moves the bar."""
    seen = None

    def show():
        nonlocal seen
        trials = [(study, trial) for study in studies for trial in standing(study).values()]
        over = {(study.study_name, trial.number): (study, trial) for study, trial in trials if ended(trial)}
        for key in [] if seen is None else over.keys() - seen:
            tqdm.write(describe(*over[key]), file=sys.stdout)
            sys.stdout.flush()
        seen = over.keys()
        bar.total, bar.n = len(trials), len(over)
        bar.set_postfix_str(
            f"running {sum(trial.state == TrialState.RUNNING for _, trial in trials)}, "
            f"failed {sum(failure(trial) is not None for _, trial in over.values())}"
        )
        return len(trials) - len(over)

    show()
    return show


def report_all(studies, results):
    """Reports on the studies; the trials of their runs. UserError if none has finished."""
    (results / "search").mkdir(parents=True, exist_ok=True)
    for study in studies:
        # Several searches may end at the same moment.
        with lock(results / "search" / f".{study.study_name}.lock"):
            report(study, results, shortest_arguments)
    trials = [trial for study in studies for trial in standing(study).values()]
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        raise UserError("no run has finished")
    return trials


def report_existing(options, results):
    """--report without settings: a line on every study or, with --study, that one's report."""
    path = results / "search" / "studies.db"
    if options.storage is None and not path.exists():
        raise UserError(f"there is no study: {path} does not exist; --results_dir looks elsewhere")
    studies = load_studies(open_storage(options.storage, path))
    if options.study is None:
        print("\n".join(map(list_study, studies.values())) or "there is no study yet")
    elif options.study in studies:
        report_all([studies[options.study]], results)
    else:
        raise UserError(f"there is no study {options.study}; there are {', '.join(studies) or 'none'}")


def search(studies, plans, devices, heartbeat):
    """Runs what is to do, and reports; UserError if a run has failed."""
    for study, plan in zip(studies, plans):
        enqueue(study, plan.runs)
        done = finished_runs(plan)
        left = sum(not ended(trial) and run not in done for run, trial in standing(study).items())
        print(f"{study.study_name}: {len(plan.runs)} runs, {left} of them to do", flush=True)
    try:
        with tqdm(unit="run", disable=None, dynamic_ncols=True) as bar:
            work(list(zip(studies, plans)), devices, heartbeat, progress(studies, bar))
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", flush=True)
        raise
    trials = report_all(studies, plans[0].results)
    if failed := [show_values(trial.params) for trial in trials if failure(trial) is not None]:
        named = "; ".join(failed[:5]) + "; ..." * (len(failed) > 5)
        raise UserError(
            f"{len(failed)} of {len(trials)} runs failed: {named}. The lines above say why; the "
            "same command tries them again"
        )


def main(arguments):
    options, given = parse(arguments)
    if options.report and given.keys() <= NOT_SHAPING:
        block = {**common_hyper_params, **given}
        return report_existing(options, Path(block.get("results_dir") or resolve([])[0]["results_dir"]))
    datasets = given.pop("dataset", list(data_set_hyper_params))
    datasets = [datasets] if isinstance(datasets, str) else datasets
    # A study's name, as it was printed, begins with its data set.
    named = [name for name in datasets if (options.study or "").startswith(f"{name}-")]
    plans = [
        make_plan(name, {**common_hyper_params, **data_set_hyper_params.get(name, {}), **given}, options)
        for name in ([max(named, key=len)] if named else datasets)
    ]
    if len(folders := sorted({str(plan.results) for plan in plans})) != 1:
        raise UserError(
            f"one search has one results_dir, not {' and '.join(folders)}"
            if folders
            else "dataset has an empty list: there is nothing to try"
        )
    results, path = plans[0].results, plans[0].results / "search" / "studies.db"
    abouts = {plan.study_name(options.study): plan.about() for plan in plans}
    if options.report or options.dry_run:
        storage = open_storage(options.storage, path) if options.storage or path.exists() else None
        known = optuna.get_all_study_names(storage) if storage else []
        studies = {name: open_study(storage, name, about) for name, about in abouts.items() if name in known}
    if options.report:
        if not studies:
            raise UserError(f"there is no study of these settings; there are {', '.join(known) or 'none'}")
        return report_all(studies.values(), results)
    devices, where = find_devices(options.gpu_ids, options.workers_per_device)
    if options.dry_run:
        for name, plan in zip(abouts, plans):
            dry_run(name, plan, standing(studies[name]) if name in studies else {}, len(devices))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.parent / ".studies.lock"):  # several searches may begin at the same moment
        storage = open_storage(options.storage, path)
        studies = [open_study(storage, *study) for study in abouts.items()]
    print(where)
    search(studies, plans, devices, options.heartbeat)


if __name__ == "__main__":
    run_script(main)
