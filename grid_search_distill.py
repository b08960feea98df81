"""Many settings of distill.py, over many devices and machines.

    python grid_search_distill.py               what stands below
    python grid_search_distill.py --dry-run     which runs that is, how many are new, how long they may take
    python grid_search_distill.py --report      the table and the pictures, at any time
    python grid_search_distill.py --dataset=ml-100k --gpu_ids=[] --learning_rate=[0.04,0.08] --seed=[1,2,3]
    python grid_search_distill.py --storage=postgresql://user@host/database     from several machines at once
    python grid_search_distill.py --sampler=tpe --trials=30                     search the same values, not all of them

It may be killed, and started again, at any moment: what is finished stays finished, what was under way goes on
from its checkpoint, and what had failed is tried again.
"""
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
from optuna.trial import TrialState
from tqdm import tqdm

import data
from hyper_params import hyper_params
from runs import NOT_SHAPING, identity, lock
from search import MISSING_HEARTBEATS, STORAGE_ERRORS, Job, failure, open_storage, open_study, settled, to_argument
from search_report import describe, ended, report
from settings import RULES, UserError, resolve, run_script

# ---- Edit here: a list means, try each ---------------------------------------------------------------------
gpu_ids = [0]  # a worker on each; [] for the CPU

common_hyper_params = {
    "seed": 42,
    "user_support": 500,
}

data_set_hyper_params = {
    "ml-1m": {
        "gumbel_tau": [5.0, 10.0, 20.0],
        "learning_rate": [0.04, 0.08],
        "keep_prob": [0.5, 0.8],
    },
}
# ------------------------------------------------------------------------------------------------------------

OPTIONS = {"storage": None, "study": None, "sampler": "grid", "trials": None, "workers-per-device": 1, "heartbeat": 10, "gpu_ids": None,
           "dry-run": False, "report": False, "yes": False}
MOST_RUNS = 10_000
HERE = Path(__file__).parent
MOST_KILLED = 20  # workers, before a search is given up


def parse(arguments):
    """(options, {data set: {key: value or list of values}}) of the file and the command line.

    Raises:
        UserError: an option, a key or a value that cannot be.
    """
    options, given = dict(OPTIONS), {}
    for argument in arguments:
        key, equals, value = argument.removeprefix("--").partition("=")
        name = key.replace("_", "-") if key != "gpu_ids" else key
        if name in OPTIONS and argument.startswith("--"):
            options[name] = True if not equals else value if name in ("storage", "study", "sampler") else _from_json(name, value)
        elif not argument.startswith("--") or not equals:
            raise UserError(f"'{argument}' is not understood: options and settings are given as --key=value (--help lists them)")
        else:
            given[key] = _to_values(key, value)
    for name in ("storage", "study"):
        if options[name] is not None and (options[name] in (True, "") or name == "study" and "/" in options[name]):
            raise UserError(f"--{name} must be {'the URL of a database' if name == 'storage' else 'a plain name'}, not '{options[name]}'")
    if options["sampler"] not in ("grid", "tpe"):
        raise UserError(f"--sampler must be grid or tpe, not {options['sampler']}")
    if (options["trials"] is None) == (options["sampler"] == "tpe"):
        raise UserError("--trials=N goes with --sampler=tpe, and that with it")
    for name in ("trials", "workers-per-device", "heartbeat"):
        if options[name] is not None and not (type(options[name]) is int and 1 <= options[name] <= 10 ** 6):
            raise UserError(f"--{name} must be a whole number from 1, not {options[name]}")
    options["gpu_ids"] = gpu_ids if options["gpu_ids"] is None else options["gpu_ids"]
    if not isinstance(options["gpu_ids"], list) or not all(type(each) is int and each >= 0 for each in options["gpu_ids"]):
        raise UserError(f"gpu_ids must be a list of the GPUs' numbers, [] for the CPU, not {options['gpu_ids']}")
    datasets = given.pop("dataset", None)
    if datasets == []:
        raise UserError("dataset has an empty list: there is nothing to try")
    blocks = {name: block for name, block in data_set_hyper_params.items() if datasets is None or name in datasets}
    if datasets is not None:
        blocks = {name: blocks.get(name, {}) for name in datasets}
    return options, {name: {**common_hyper_params, **block, **given} for name, block in blocks.items()}


def _from_json(key, value):
    try:
        return json.loads(value)
    except ValueError as error:
        raise UserError(f"--{key}={value} cannot be read") from error


def _to_values(key, text):
    """One value or, from [a,b,c], a list of them."""
    if key == "config":
        raise UserError("--config is for distill.py; here, settings are given one by one")
    if key not in RULES:
        resolve([f"--{key}={text}"], "")  # says so
    if not text.startswith("["):
        return [text] if key == "dataset" else text if RULES[key][0] is str else _from_json(key, text)
    if RULES[key][0] is str:
        return [word.strip().strip("\"'") for word in text.strip("[]").split(",") if word.strip()]
    return _from_json(key, text)


def divide(block):
    """(what all runs share, {key: values to try}) of a block; every value is checked.

    A key whose value is a list itself, lamda_grid, is tried over a list of lists.
    """
    fixed, space = {}, {}
    for key, value in block.items():
        if key not in RULES:
            resolve([f"--{key}=?"], "")
        is_list = RULES[key][0] is list
        several = isinstance(value, list) and (not is_list or any(isinstance(each, list) for each in value))
        if several and key in ("resume", "data_dir", "results_dir", "distributed", "coordinator", "num_processes", "process_id"):
            raise UserError(f"{key} cannot be searched: it does not shape a result")
        if isinstance(value, list) and not value:
            raise UserError(f"{key} has an empty list: there is nothing to try")
        values = [json.dumps(each) if is_list else each for each in (value if several else [value])]
        for each in values:
            resolve([to_argument(key, each)], "")
        if several:
            space[key] = list(dict.fromkeys(values))
        else:
            fixed[key] = values[0]
    return fixed, space


def plan(fixed, space):
    """{identity: values of the searched keys} of every run of the product; the same settings once."""
    runs = {}
    for values in itertools.product(*space.values()):
        chosen = dict(zip(space, values))
        settings, _ = resolve([to_argument(key, value) for key, value in {**fixed, **chosen}.items()], "")
        runs.setdefault(identity(settings), chosen)
    return runs


def missing_trials(study, trials):
    """How many of so many a study of TPE's has not had yet; None: there is no study yet."""
    return trials if study is None else max(trials - sum(trial.state != TrialState.FAIL for trial in study.get_trials(deepcopy=False)), 0)


def enqueue(study, runs, sampler, trials):
    """Puts what is new into the queue; how many that are."""
    if sampler == "tpe":
        new = missing_trials(study, trials)
        for _ in range(new):
            study.enqueue_trial({})
        return new
    known = settled(study)
    new = {key: values for key, values in runs.items() if key not in known}
    for key, values in new.items():
        study.enqueue_trial(values, user_attrs={"identity": key})
    return len(new)


def unfinished(study):
    """The trials that wait or run, be it in a worker that has died."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state in (TrialState.WAITING, TrialState.RUNNING)]


def devices_to_use(options):
    """A (gpu or None, cores) for each worker."""
    per_device, cores = options["workers-per-device"], sorted(os.sched_getaffinity(0))
    if options["gpu_ids"]:
        there = _gpus()
        if missing := [each for each in options["gpu_ids"] if each not in there]:
            raise UserError(f"there is no GPU {missing[0]} here (nvidia-smi finds {there or 'none'}); gpu_ids = [], or --gpu_ids=[], is the CPU")
        return [(gpu, []) for gpu in options["gpu_ids"] for _ in range(per_device)]
    return [(None, cores[number::per_device] or cores) for number in range(per_device)]


def _gpus():
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True)
    return [int(line) for line in listed.stdout.split() if line.isdigit()]


def run_workers(options, url, studies, results, arguments):
    """Starts the workers (their Job has the arguments), shows how they get on, and starts again those that are killed, until nothing is left to do.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM; the workers' runs have written their checkpoints.
        UserError: a worker cannot go on (it has said why), or too many were killed.
    """
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(results / ".jax_cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                   "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    names = [study.study_name for study in studies]

    def begin(gpu, cores):
        job = Job(url, names, options["heartbeat"], cores, gpu, arguments)
        return subprocess.Popen([sys.executable, str(HERE / "search.py"), json.dumps(vars(job))], env=environment, start_new_session=True)

    told, killed, seen = [], 0, {trial._trial_id for study in studies for trial in ended(study)}
    handlers = {number: signal.signal(number, lambda number, frame: told.append(number)) for number in (signal.SIGINT, signal.SIGTERM)}
    workers = [(device, begin(*device)) for device in devices_to_use(options)]
    try:
        with tqdm(unit="run", disable=None, dynamic_ncols=True) as bar:
            while not told and any(process.poll() is None or process.returncode < 0 for _, process in workers):
                time.sleep(0.5)
                dead = [number for number, (_, process) in enumerate(workers) if (process.poll() or 0) < 0]
                killed += len(dead)
                if killed > MOST_KILLED:
                    raise UserError(f"workers have been killed {killed} times; the same command goes on where it stopped")
                for number in dead:
                    tqdm.write(f"a worker was killed by {signal.Signals(-workers[number][1].returncode).name}: another takes its place now, and its run is taken "
                               f"up again within {MISSING_HEARTBEATS * options['heartbeat']} s", file=sys.stdout)
                    workers[number] = workers[number][0], begin(*workers[number][0])
                try:
                    show_progress(studies, seen, bar)
                except STORAGE_ERRORS:
                    bar.set_postfix_str("the database does not answer")
    finally:
        for _, process in workers:
            process.terminate()
        for _, process in workers:
            process.wait()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if told:
        raise KeyboardInterrupt
    if any(process.returncode > 0 for _, process in workers):
        raise UserError("a worker could not go on; the same command goes on where it stopped")


def show_progress(studies, seen, bar):
    """A line for each trial that has ended since, and the bar; `seen` are the ids of those that were shown."""
    done = [(study, trial) for study in studies for trial in ended(study)]
    for study, trial in done:
        if trial._trial_id not in seen:
            seen.add(trial._trial_id)
            tqdm.write(describe(study, trial), file=sys.stdout)
            sys.stdout.flush()
    states = [trial.state for study in studies for trial in study.get_trials(deepcopy=False)]
    bar.total, bar.n = len(seen) + states.count(TrialState.RUNNING) + states.count(TrialState.WAITING), len(seen)
    bar.set_postfix_str(f"running {states.count(TrialState.RUNNING)}, failed {sum(failure(trial) is not None for _, trial in done)}")


def main(arguments):
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__.strip()}\n\nOptions: {', '.join('--' + name for name in OPTIONS)}. Every setting of hyper_params.py is --key=value or --key=[a,b,c].")
        return
    options, blocks = parse(arguments)
    divided = {name: divide({**block, "dataset": name}) for name, block in blocks.items()}
    for name, (_, space) in divided.items():
        count = 1
        for values in space.values():
            count *= len(values)
        if options["sampler"] == "grid" and count > MOST_RUNS and not options["yes"]:
            raise UserError(f"{name}: that makes {count:,} runs, more than {MOST_RUNS:,}; --yes means it")
    plans = {name: plan(*divided[name]) if options["sampler"] == "grid" else {} for name in divided}
    # Where things lie may differ from machine to machine, and is no part of a study.
    places = {name: [to_argument(key, value) for key, value in fixed.items() if key in NOT_SHAPING and key != "paper"] for name, (fixed, _) in divided.items()}
    divided = {name: ({key: value for key, value in fixed.items() if key not in NOT_SHAPING or key == "paper"}, space) for name, (fixed, space) in divided.items()}
    settings = {name: resolve(arguments, "")[0] for name, arguments in places.items()}
    results = {Path(each["results_dir"]) for each in settings.values()}
    if len(results) > 1:
        raise UserError(f"one search has one results_dir, not {' and '.join(map(str, sorted(results)))}")
    [results] = results
    fingerprints = {name: fingerprint(name, settings[name]["data_dir"], *divided[name]) for name in divided}
    (results / "search").mkdir(parents=True, exist_ok=True)
    url = options["storage"] or f"sqlite:///{results / 'search' / 'studies.db'}"
    storage = open_storage(url, options["heartbeat"])
    names = {name: study_name(options, name, fingerprints[name], *divided[name]) for name in divided}
    there = optuna.get_all_study_names(storage)
    studies = {name: open_study(storage, names[name], options["sampler"], fingerprints[name], *divided[name]) for name in divided
               if not options["dry-run"] or names[name] in there}
    if options["dry-run"]:
        for name in divided:
            dry_run(names[name], plans[name], studies.get(name), finished_runs(results, fingerprints[name]), options)
        return
    if not options["report"]:
        devices_to_use(options)
        for name, study in studies.items():
            enqueue(study, plans[name], options["sampler"], options["trials"])
            finished = finished_runs(results, fingerprints[name])
            left = sum(trial.user_attrs.get("identity") not in finished for trial in unfinished(study))
            print(f"{study.study_name}: {len(plans[name]) or options['trials']} runs, {left} of them to do", flush=True)
        try:
            run_workers(options, url, list(studies.values()), results, {names[name]: places[name] for name in names})
        except KeyboardInterrupt:
            print("stopped; the same command goes on where it was", flush=True)
            raise
    for name, study in studies.items():
        with lock(results / "search" / f".{study.study_name}.lock"):  # several searches of it may end at the same moment
            report(study, results, places[name])
    if not any(trial.state == TrialState.COMPLETE for study in studies.values() for trial in study.get_trials(deepcopy=False)):
        others = sorted(set(there) - set(names.values()))
        raise UserError("no run has finished" + (f"; there are other studies, of other lists of settings: {', '.join(others)}" if others else ""))


def fingerprint(dataset, data_dir, fixed, space):
    """Of the data set's interactions, as the runs will see them."""
    every = space.get("repeats", [fixed.get("repeats", hyper_params["repeats"])])
    return "-".join(data.load(dataset, data_dir, repeats).fingerprint for repeats in every)


def study_name(options, dataset, data_fingerprint, fixed, space):
    """--study with the data set's name; without it, a name for just these settings on these data, so that others begin a study of their own."""
    about = [options["sampler"], data_fingerprint, sorted(fixed.items()), sorted(space.items())]
    return f"{dataset}-{options['study'] or hashlib.sha256(json.dumps(about).encode()).hexdigest()[:6]}"


def finished_runs(results, data_fingerprint):
    """{identity: seconds} of all runs of distill.py on these data in the results folder that have finished."""
    finished = {}
    for path in results.glob("*/result.json"):
        try:
            config = json.loads((path.parent / "config.json").read_text())
            if config["data_fingerprint"] in data_fingerprint.split("-") and "train_steps" in config["settings"]:
                finished[identity(config["settings"])] = json.loads(path.read_text())["wall_seconds"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a run's folder, or a damaged one: its run will say so
    return finished


def dry_run(name, runs, study, finished, options):
    """Lists the runs and says how long the new ones may take, by those that have finished."""
    new = [values for key, values in runs.items() if key not in finished]
    for key, values in runs.items():
        print(f"{'done' if key in finished else 'new '}  " + (", ".join(f"{key}={value}" for key, value in values.items()) or "the one run"))
    known = [finished[key] for key in runs if key in finished] or list(finished.values())
    workers = max(len(options["gpu_ids"]), 1) * options["workers-per-device"]
    left = len(new) if runs else missing_trials(study, options["trials"])
    estimate = f"about {left * sum(known) / len(known) / workers / 60:.1f} min on {workers} workers" if known else "no run has finished to tell how long they take"
    print(f"{name}: {len(runs) or options['trials']} runs, {left} of them to do; {estimate}")


if __name__ == "__main__":
    run_script(main)
