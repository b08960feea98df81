"""A search's queue and its workers, on Optuna: any number of processes and machines share one study.

A study holds a trial for each setting to be run. A worker claims the oldest waiting trial, runs distill.py on it
as a process of its own, which keeps its folder and its checkpoints as always, and writes down how it ended. It
sends heartbeats while it does; a trial whose worker has died is put back into the queue by the others, and goes on
from its checkpoint. Called by grid_search_distill.py; a worker is `python search.py` with its Job as JSON.
"""
import ctypes
import dataclasses
import errno
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import optuna
import sqlalchemy.exc
import sqlalchemy.pool
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import TrialState

from runs import IN_USE, identity
from settings import UserError, resolve, run_script

HERE = Path(__file__).parent
RETRIES = 2                # of a trial whose worker died
MISSING_HEARTBEATS = 4     # after which a worker counts as dead
POLL_SECONDS = 0.3
UNREACHABLE_SECONDS = 300  # for which a worker waits for its database
STOP_SECONDS = 20          # for which a run may write its last checkpoint
STORAGE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclasses.dataclass
class Job:
    """What a worker is told."""
    storage: str
    studies: list     # names
    heartbeat: int    # seconds
    cores: list       # it and its runs keep to these; empty: all
    gpu: int | None   # the one its runs see; None: no GPU
    arguments: dict   # {study: those of its runs that are no part of it: where data and results lie}


def open_storage(url, heartbeat):
    """The database of all studies; a trial without a sign of life for MISSING_HEARTBEATS has lost its worker."""
    try:
        # No connection is held while a run takes its time: a server has only so many, and may be restarted meanwhile.
        options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"poolclass": sqlalchemy.pool.NullPool}
        return RDBStorage(url, options, heartbeat_interval=heartbeat, grace_period=MISSING_HEARTBEATS * heartbeat,
                          heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(RETRIES, inherit_intermediate_values=False))
    except ImportError as error:
        raise UserError(f"--storage={url}: the driver of that database is not installed; PostgreSQL's is pip install 'psycopg[binary]'") from error
    except (*STORAGE_ERRORS, ValueError) as error:
        raise UserError(f"--storage={url} cannot be opened: {str(error).strip().splitlines()[0][:200]}") from error


def to_argument(key, value):
    """--key=value as distill.py reads it."""
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def open_study(storage, name, sampler, data, fixed, space):
    """The study of that name, made if need be.

    Args:
        sampler: "grid" or "tpe".
        data: fingerprint of the data set.
        fixed: settings that all its runs share.
        space: {key: values to try}, each a number, a truth value or text (a list as JSON).

    Raises:
        UserError: it was made with others, or on other data. Their finished runs are not lost: a run that another study asks for, too,
            is found in its folder.
    """
    about = {"fixed": fixed, "space": space, "sampler": sampler, "data": data}
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    then = study.user_attrs.get("about")
    if then is None:
        study.set_user_attr("about", about)
    elif then != about:
        pairs = [(key, then[key], about[key]) for key in ("sampler", "data")] + [(key, {**then["fixed"], **then["space"]}.get(key), {**fixed, **space}.get(key))
                                                          for key in sorted({*then["fixed"], *then["space"], *fixed, *space})]
        differ = "; ".join(f"{key} {old} then, {new} now" for key, old, new in pairs if old != new)
        raise UserError(f"the study {name} was made with other settings: {differ}; --study=NAME begins another, and finds the runs that are "
                        "finished already")
    return load(storage, name)


def load(storage, name):
    """A study that is there, with the sampler and the pruner it was made with."""
    study = optuna.load_study(study_name=name, storage=storage)
    if study.user_attrs["about"]["sampler"] == "tpe":
        study.sampler = optuna.samplers.TPESampler(constant_liar=True, n_startup_trials=5)
        study.pruner = optuna.pruners.MedianPruner(n_warmup_steps=25)
    else:
        study.pruner = optuna.pruners.NopPruner()
    return study


def failure(trial):
    """Why a trial has failed for good; None if it has not, or only gave way to another one of the same settings."""
    if trial.state != TrialState.FAIL or "gave_way" in trial.user_attrs:
        return None
    if "error" in trial.user_attrs:
        return trial.user_attrs["error"]
    return f"its worker died {RETRIES + 1} times" if len(trial.system_attrs.get("retry_history", ())) >= RETRIES else None


def settled(study):
    """Identities that need no new trial: done, under way or waiting."""
    return {trial.user_attrs.get("identity") for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL}


def claim(study):
    """A waiting trial, the oldest, as this worker's own; None if none waits."""
    trial_id = study._pop_waiting_trial_id()  # what study.ask does before it makes new trials
    return None if trial_id is None else optuna.Trial(study, trial_id)


def put_back(study, running_since, grace):
    """Puts the trials whose workers have died back into the queue.

    Optuna finds them by the age of their last heartbeat, so a worker killed between its claim and its first heartbeat
    would leave a trial that runs for ever. One seen running for as long as a silent worker is waited for is therefore
    given a heartbeat, once: if its worker lives that changes nothing, and else it is now found like the others.

    Args:
        running_since: {trial id: when this process first saw it running}, kept from call to call.
        grace: seconds that a silent worker is waited for.
    """
    now = time.monotonic()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if now - running_since.setdefault(trial._trial_id, now) > grace:
            study._storage.record_heartbeat(trial._trial_id)
            running_since[trial._trial_id] = math.inf
    fail_stale_trials(study)


def put_back_lost(study):
    """Puts back what a worker that died meanwhile has marked as failed, but not yet enqueued again; whether there was any.

    To be called when nothing waits or runs.
    """
    ended = [trial for trial in study.get_trials() if "gave_way" not in trial.user_attrs]
    followed = {number for trial in ended for number in trial.system_attrs.get("retry_history", ())}
    lost = [trial for trial in ended if trial.state == TrialState.FAIL and failure(trial) is None and trial.number not in followed]
    for trial in lost:
        study._storage.get_heartbeat_stale_trial_callback()(study, trial)
    return bool(lost)


def is_repeated(study, trial):
    """Whether an older trial has the same settings: two searches may enqueue them at the same moment."""
    mine = trial.user_attrs.get("identity")
    return mine is not None and any(
        other.number < trial.number and other.user_attrs.get("identity") == mine and other.state != TrialState.FAIL
        for other in study.get_trials(deepcopy=False))


def prune_by(trial, folder, reported):
    """Tells Optuna what the run's validations gave since the last call; whether to stop it."""
    try:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        return False
    for line in lines[len(reported):]:
        reported.append(line["step"])
        trial.report(line["validation"]["HR@100"], line["step"])
    return trial.should_prune()


class Stopped(Exception):
    """The worker was told to stop; its run has kept a checkpoint."""


class DiskFull(UserError):
    """No run can go on; the ones there are have kept their checkpoints."""


def run_trial(trial, job, arguments, stop):
    """Runs distill.py and waits for it: its result and folder.

    Raises:
        UserError: the run failed; the text says why.
        DiskFull: no other one would fare better.
        optuna.TrialPruned: it was stopped for its poor validation.
        Stopped: stop() said so.
    """
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "" if job.gpu is None else str(job.gpu)}
    if job.gpu is None:
        environment["JAX_PLATFORMS"] = "cpu"
    while True:
        with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as wrong:
            process = subprocess.Popen([sys.executable, str(HERE / "distill.py"), *arguments, "--resume=true"], stdout=said, stderr=wrong,
                                       env=environment, start_new_session=True, preexec_fn=lambda: _follow_parent(job.cores))
            _wait(process, trial, said, stop)
            if process.returncode == 0:
                folder = _folder(said)
                return json.loads((folder / "result.json").read_text()), folder
            wrong.seek(0)
            last = (wrong.read().strip().splitlines() or ["no word"])[-1]
        if process.returncode < 0:
            raise UserError(f"killed by signal {-process.returncode}, maybe for want of memory")
        if os.strerror(errno.ENOSPC) in last:
            raise DiskFull(last)
        if IN_USE not in last:
            raise UserError(last)
        # By a worker that was taken for dead, as when the database did not answer, or by somebody else: it will end.
        time.sleep(job.heartbeat)


def _wait(process, trial, said, stop):
    """Until the process ends; ends it if it is to stop or to be pruned."""
    folder, reported = None, []
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        folder = folder or _folder(said)
        if stop():
            _end(process)
            if process.returncode:
                raise Stopped
        elif folder and prune_by(trial, folder, reported):
            _end(process)
            raise optuna.TrialPruned


def _folder(said):
    """The run's folder, from what distill.py says first."""
    said.seek(0)
    for line in said:
        if line.startswith("run: "):
            return Path(line.removeprefix("run: ").partition(" on ")[0].partition(" was finished")[0])
    return None


def _follow_parent(cores):
    """In a new process: end when the one that started it ends, and keep to its cores."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if cores:
        os.sched_setaffinity(0, cores)


def _end(process):
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def carry_out(study, trial, job, stop):
    """One trial from its claim to its end in the database."""
    about = study.user_attrs["about"]
    if is_repeated(study, trial):
        _give_way(study, trial)
        return
    arguments = [*job.arguments[study.study_name], *(to_argument(key, value) for key, value in about["fixed"].items())]
    arguments += [to_argument(key, trial.suggest_categorical(key, values)) for key, values in about["space"].items()]
    trial.set_user_attr("identity", identity(resolve(arguments, "")[0]))
    with get_heartbeat_thread(trial._trial_id, study._storage):
        try:
            result, folder = run_trial(trial, job, arguments, stop)
        except (Stopped, DiskFull) as reason:
            _put_back_own(study, trial)
            if isinstance(reason, DiskFull):
                raise
        except UserError as error:
            trial.set_user_attr("error", str(error))
            study.tell(trial, state=TrialState.FAIL)
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            for name, value in (("folder", str(folder)), ("result", result)):
                trial.set_user_attr(name, value)
            study.tell(trial, result["val"]["HR@100"])


def _put_back_own(study, trial):
    """Back into the queue, as often as may be: only the death of a worker counts."""
    own = study._storage.get_trial(trial._trial_id)
    waiting = optuna.create_trial(state=TrialState.WAITING, params=own.params, distributions=own.distributions,
                                  user_attrs=own.user_attrs, system_attrs=own.system_attrs)
    _give_way(study, trial)
    study.add_trial(waiting)


def _give_way(study, trial):
    trial.set_user_attr("gave_way", True)
    study.tell(trial, state=TrialState.FAIL)


def work(job):
    """Claims and runs trials until none of the studies has one that waits or runs."""
    told = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    stop, unreachable_since, running_since = lambda: bool(told), None, {}
    while not stop():
        try:
            storage = open_storage(job.storage, job.heartbeat)
            studies = [load(storage, name) for name in job.studies]
            unreachable_since = None
            while not stop():
                trial, study = next(((trial, study) for study in studies if (trial := claim(study)) is not None), (None, None))
                if trial is not None:
                    carry_out(study, trial, job, stop)
                    continue
                for study in studies:
                    put_back(study, running_since, MISSING_HEARTBEATS * job.heartbeat)
                under_way = any(study.get_trials(deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING)) for study in studies)
                if not under_way and not any([put_back_lost(study) for study in studies]):
                    return
                time.sleep(POLL_SECONDS)
        except optuna.exceptions.UpdateFinishedTrialError:
            continue  # taken for dead meanwhile, and given to another worker
        except DiskFull:
            raise
        except (*STORAGE_ERRORS, UserError) as error:
            unreachable_since = unreachable_since or time.monotonic()
            if time.monotonic() - unreachable_since > UNREACHABLE_SECONDS:
                raise UserError(f"the database has not answered for {UNREACHABLE_SECONDS} s: {str(error).splitlines()[0][:200]}") from error
            time.sleep(min(5, job.heartbeat))


def main(arguments):
    job = Job(**json.loads(arguments[0]))
    _follow_parent(job.cores)
    work(job)


if __name__ == "__main__":
    run_script(main)
