"""The queue of a search, on Optuna, and the threads that carry out its runs.

A study has a trial for every run, queued by `enqueue`. A thread a device takes one trial at a time, through
study.optimize. Any number of searches, on any machines, share a study. Optuna's heartbeat tells which search
has died. A trial's user attributes: run, its run's name; error, where the run has failed; surplus, where
another trial has the run; folder and result, where it has finished.
"""

import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from urllib.parse import quote, quote_plus

import optuna
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

import data
from lib.checks import check_kind
from lib.errors import FULL_DISK, IN_USE, UserError
from lib.settings import resolve, to_arguments
from runs import recipes
from runs.folder import run_name
from runs.reading import Result, read_result, read_validations
from sweep.worker import POLL_SECONDS, run_distill

RETRIES = 2  # of a run whose process was killed
MISSING_HEARTBEATS = 4  # after which a search counts as dead
IF_DAMAGED = "; where it is damaged, move it away: the same search repeats no run that results_dir has"
UNREACHABLE_SECONDS = 300  # for which a search waits for its database
STORAGE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
OVER = ("failed", "pruned", "complete")  # see `status`
optuna.logging.set_verbosity(optuna.logging.ERROR)


class GivenUp(Exception):
    """A trial ends without a result, and its run has not failed."""


class Storage(optuna.storages.RDBStorage):
    """Optuna's database, where an outage ends no heartbeat, and a trial has one before it is claimed."""

    def record_heartbeat(self, trial_id):
        with suppress(*STORAGE_ERRORS):
            super().record_heartbeat(trial_id)

    def set_trial_state_values(self, trial_id, state, values=None):
        if state == TrialState.RUNNING:
            super().record_heartbeat(trial_id)
        return super().set_trial_state_values(trial_id, state, values)


@contextmanager
def reading(name, secrets=(), hint=""):
    """Within the block, a database that cannot be read becomes a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # sqlite3, SQLAlchemy, Alembic, Optuna and json raise different classes
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        hint = ". Try pip install 'psycopg[binary]'" if isinstance(error, ImportError) else hint
        raise UserError(mask(f"{name} cannot be opened: {reason}{hint}", secrets)) from None


def mask(text, secrets):
    """The text with *** for every secret that is not None or empty, as it is or quoted for a URL."""
    for secret in filter(None, secrets):
        for form in (secret, quote(secret), quote_plus(secret)):
            text = text.replace(form, "***")
    return text


def open_storage(url, path, heartbeat=10):
    """The database of all studies: at a SQLAlchemy URL or, where that is None, in the file path.

    Raises:
        UserError: it cannot be opened, or is a SQLite file that is damaged.
    """
    name, secrets, hint, options = str(path), [], IF_DAMAGED, {"poolclass": sqlalchemy.pool.NullPool}
    if url is None:  # in a URL, some characters of the path would mean something
        options["creator"] = lambda: sqlite3.connect(path, timeout=60, check_same_thread=False)
    else:
        with reading("--storage"):
            parsed = sqlalchemy.make_url(url)
        secrets = [parsed.password, *parsed.normalized_query.get("password", ())]
        name = f"--storage={parsed!r}"  # with *** for the password, but for one behind a question mark
        hint = IF_DAMAGED if parsed.get_backend_name() == "sqlite" else ""
    with reading(name, secrets, hint):
        check_file(sqlalchemy.create_engine(url or "sqlite://", **options))
        beats = {"heartbeat_interval": heartbeat, "grace_period": MISSING_HEARTBEATS * heartbeat}
        storage = Storage(url or "sqlite://", options, **beats)
    storage.reading = partial(reading, name, secrets, hint)
    if storage.engine.name == "sqlite":
        # A trial is read, then claimed. As SQLite knows no FOR UPDATE, two searches may read at once, and
        # both claim it, unless the transaction has its lock from the start.
        sqlalchemy.event.listen(storage.engine, "connect", set_no_begin)
        sqlalchemy.event.listen(storage.engine, "begin", lambda link: link.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def check_file(engine):
    """Raises an error of some class where the file of a SQLite database is damaged."""
    if engine.name == "sqlite":
        with engine.connect() as link:
            faults = link.exec_driver_sql("PRAGMA integrity_check(1)").scalars().all()
        if faults != ["ok"]:
            raise ValueError(" ".join(faults[0].split()))


def set_no_begin(connection, _):
    """Python's sqlite3 begins no transaction of its own."""
    connection.isolation_level = None


def open_study(storage, name, about):
    """The study of that name, made if need be.

    Raises:
        UserError: it was made with another Plan.about, or is damaged.
    """
    way = {"pruner": optuna.pruners.NopPruner(), "direction": "maximize", "load_if_exists": True}
    if about["sampler"] == "tpe":
        way["sampler"] = optuna.samplers.TPESampler(constant_liar=True, n_startup_trials=5)
        way["pruner"] = optuna.pruners.MedianPruner(n_warmup_steps=25)
    with storage.reading():
        study = optuna.create_study(storage=storage, study_name=name, **way)
        if "about" not in study.user_attrs:
            study.set_user_attr("about", about)
        then = study.user_attrs["about"]
        check_study(study)
    if keys := [key for key in sorted({*then, *about}) if then.get(key) != about.get(key)]:
        differ = "; ".join(f"{key} {then.get(key)} then, {about.get(key)} now" for key in keys)
        raise UserError(f"the study {name} was made with other settings: {differ}. Try another --study=NAME")
    return study


def load_studies(storage):
    """{name: study} of the searches in the database, where there may be other studies, too."""
    with storage.reading():
        names = optuna.get_all_study_names(storage)
        studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
        studies = [study for study in studies if "about" in study.user_attrs]
        for study in studies:
            check_study(study)
    return {study.study_name: study for study in studies}


def check_study(study):
    """Raises an error of some class unless the study has all that a search and its report read of it."""
    about = study.user_attrs["about"]
    _ = about["dataset"], about["sampler"]
    for trial in latest(study).values():
        if status(trial) == "complete":
            result, _ = trial.user_attrs["result"], Path(trial.user_attrs["folder"])
            check_kind(result, Result)
            if result["val"][about["best_by"]] != trial.value:
                raise ValueError(f"trial {trial.number} of {study.study_name} has another value than its run")


def status(trial):
    """How a run stands, by its latest trial. A failed trial without an error is queued again."""
    failed = "failed" if "error" in trial.user_attrs else "waiting"
    return failed if trial.state == TrialState.FAIL else trial.state.name.lower()


def latest(study):
    """{run: its latest trial}."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if "surplus" not in trial.user_attrs]
    return {trial.user_attrs["run"]: trial for trial in trials if "run" in trial.user_attrs}


def enqueue(study, runs):
    """Queues the runs, {run: values of the searched settings}, that have no trial or a failed one."""
    trials = latest(study)
    for run, values in runs.items():
        if run not in trials or trials[run].state == TrialState.FAIL:
            study.enqueue_trial(values, user_attrs={"run": run})


def revive(study):
    """Queues again what a dead search had claimed, and what a search gave up."""
    optuna.storages.fail_stale_trials(study)
    trials = latest(study).items()
    enqueue(study, {run: trial.params for run, trial in trials if status(trial) == "waiting"})


@cache
def data_facts(dataset, data_dir, repeats):
    """(fingerprint, recipes.Statistics) of a data set."""
    loaded = data.load(dataset, data_dir, repeats)
    return loaded.fingerprint, recipes.statistics_of(loaded)


def resolve_run(given):
    """(all settings, folder, fingerprint of the data) of the run of distill.py given {setting: value}."""
    settings, _ = resolve(to_arguments(given))
    fingerprint, statistics = data_facts(settings["dataset"], settings["data_dir"], settings["repeats"])
    settings, _ = recipes.resolve_auto(settings, statistics)
    return settings, Path(settings["results_dir"], run_name(settings, fingerprint, "distill")), fingerprint


def carry_out(trial, plan, device, heartbeat, stop):
    """The validation metric of the run of a claimed trial: the objective of study.optimize."""
    run, trials = trial.user_attrs.get("run"), trial.study.get_trials(deepcopy=False)[: trial.number]
    same = {status(earlier) for earlier in trials if earlier.user_attrs.get("run") == run}
    if run is None or same & {"running", "pruned", "complete"}:  # None: Optuna made it, as nothing waited
        trial.set_user_attr("surplus", True)
        raise GivenUp
    values = {key: trial.suggest_categorical(key, values) for key, values in plan.space.items()}
    try:
        settings, folder, _ = resolve_run({**plan.fixed, **values})
        run_to_end(trial, settings, folder, device, heartbeat, stop)
        result = read_result(folder)
    except UserError as error:
        trial.set_user_attr("error", str(error))
        raise
    trial.set_user_attr("folder", str(folder))
    trial.set_user_attr("result", result)
    return result["val"][settings["best_by"]]


def run_to_end(trial, settings, folder, device, heartbeat, stop):
    """Runs distill.py until it has finished; UserError if it fails, OSError if a disk is full.

    What has ended a run is told by its exit code: the message may hold any name.
    """
    # All settings are given, so that an edit of hyper_params.py during the search changes nothing.
    arguments = to_arguments({**settings, "resume": True})
    reported, killed, pruned = set(), 0, False

    def is_unwanted():
        nonlocal pruned
        with suppress(UserError, *STORAGE_ERRORS):  # UserError: there are none yet
            for line in read_validations(folder):
                value = (line["validation"] or {}).get(settings["best_by"])
                if line["step"] not in reported and value is not None:
                    trial.report(value, line["step"])
                    reported.add(line["step"])
                    pruned = trial.should_prune()
        return pruned or stop.is_set()

    while True:
        code, message = run_distill(arguments, device, is_unwanted)
        number = -code if code < 0 else code - 128  # of the signal, if one ended the process
        if code == 0:
            return
        if is_unwanted():
            raise optuna.TrialPruned if pruned else GivenUp
        if code == FULL_DISK:
            raise OSError(f"{message}; the same command goes on when it has space")
        if code == IN_USE:  # by somebody else, or by a search that was taken for dead: it will end
            stop.wait(heartbeat)
        elif code > 0 and number not in (signal.SIGINT, signal.SIGTERM):
            raise UserError(message)
        elif (killed := killed + 1) > RETRIES:
            name = signal.Signals(number).name
            raise UserError(f"killed {killed} times, now by {name}, maybe for want of memory")


def serve(searches, device, heartbeat, stop, show):
    """Carries out runs on the device until none waits or runs in any study, in this search or in another."""
    outage = 0  # seconds
    while not stop.wait(POLL_SECONDS):
        try:
            for study, plan in searches:
                revive(study)
                outage = 0
                while not stop.is_set() and study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                    objective = lambda trial: carry_out(trial, plan, device, heartbeat, stop)
                    study.optimize(objective, n_trials=1, catch=(GivenUp, UserError), callbacks=[show])
            if all(status(trial) in OVER for study, _ in searches for trial in latest(study).values()):
                return
        except Exception as error:
            if isinstance(error, UpdateFinishedTrialError) or "Cannot tell" in str(error):
                continue  # another search took this one for dead, and has the run
            # Where a trial ends in an outage, Optuna 5.0 hides the outage behind an error of its own.
            if not isinstance(error, STORAGE_ERRORS) and not isinstance(error.__context__, STORAGE_ERRORS):
                raise
            outage += 2 * heartbeat
            if outage > UNREACHABLE_SECONDS:
                raise UserError(f"no database for {outage} s: {str(error)[:200]}") from None
            stop.wait(2 * heartbeat)  # until the hearts of other searches have beaten, too


def work(searches, devices, heartbeat, show):
    """Serves [(study, Plan)] on every device; show(study, trial) is called after every trial."""
    stop = threading.Event()
    try:
        with ThreadPoolExecutor(len(devices)) as pool, ExitStack() as stack:
            stack.callback(stop.set)  # however the block ends, the runs write their checkpoints
            threads = [pool.submit(serve, searches, device, heartbeat, stop, show) for device in devices]
            for thread in as_completed(threads):
                thread.result()  # raises what ended it
    finally:
        with suppress(*STORAGE_ERRORS):  # else the next search misses the heartbeats
            for study, _ in searches:
                revive(study)
