"""A search's queue, on Optuna, and the loop that carries out what waits in it.

A study has a trial for every run. A search takes a waiting trial with `study.ask`, runs distill.py as a
process, and ends the trial with `study.tell`. Any number of searches, on any machines, share a study.

A search counts up the "beat" of its running trials. Where a beat stands still the search has died, and
another gives the trial up. A run whose trials were all given up is queued again; it goes on from its checkpoint.

User attributes of a trial:
    run        names the run; a trial without it was not queued, and is surplus
    beat       counts up while its search is alive
    killed     how often the run's process was killed
    surplus    an older trial has the same run
    error      why the run failed for good
    settings, places, folder, result     of a finished run; places are the arguments that say where files are
"""

import errno
import json
import os
import signal
import sqlite3
import subprocess
import tempfile
import time

import optuna
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from lib.errors import UserError
from lib.settings import to_argument
from runs.folder import IN_USE
from sweep import worker

RETRIES = 2  # of a run whose process was killed
MISSING_HEARTBEATS = 4  # after which a search counts as dead
POLL_SECONDS = 0.3
UNREACHABLE_SECONDS = 300  # for which a search waits for its database
STOP_SECONDS = 20  # for which a run may write its last checkpoint
STORAGE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
STATES = (TrialState.FAIL, TrialState.WAITING, TrialState.RUNNING, TrialState.PRUNED, TrialState.COMPLETE)
optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_storage(url, path):
    """The database of all studies: at a SQLAlchemy URL or, where that is None, the file path.

    Raises:
        UserError: it cannot be opened. No password is in the text.
    """
    where, password = "--storage", None
    # No connection is held during a run: a server has only so many, and may be restarted meanwhile.
    options = {"poolclass": sqlalchemy.pool.NullPool}
    try:
        if url is None:  # the path is in no URL, where some of its characters would mean something
            url, where = "sqlite://", str(path)
            options["creator"] = lambda: sqlite3.connect(path, timeout=60, check_same_thread=False)
        else:
            parts = sqlalchemy.make_url(url)
            password = parts.password
            where = f"--storage={parts.drivername}://{parts.host or ''}/{parts.database or ''}"
            options["connect_args"] = {"timeout": 60} if parts.drivername.startswith("sqlite") else {}
        return optuna.storages.RDBStorage(url, options)
    except ImportError:
        raise UserError(f"{where}: no driver; PostgreSQL's is pip install 'psycopg[binary]'") from None
    except (*STORAGE_ERRORS, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200].replace(password or "\n", "***")
        raise UserError(f"{where} cannot be opened: {reason}") from None


def open_study(storage, name, about):
    """The study of that name, made if need be.

    Args:
        about: all that makes it another study. {setting: value or list of values} of its runs; "sampler",
            "grid" or "tpe"; "data", a fingerprint; "space", {setting: values to try}; "combinations", a hash
            of all runs.

    Raises:
        UserError: it was made with others. Finished runs are not lost: distill.py finds their folders.
    """
    sampler, pruner = None, optuna.pruners.NopPruner()
    if about["sampler"] == "tpe":
        sampler = optuna.samplers.TPESampler(constant_liar=True, n_startup_trials=5)
        pruner = optuna.pruners.MedianPruner(n_warmup_steps=25)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        sampler=sampler,
        pruner=pruner,
    )
    if "about" not in study.user_attrs:
        study.set_user_attr("about", about)
    then = study.user_attrs["about"]
    keys = [key for key in sorted(then.keys() | about.keys()) if then.get(key) != about.get(key)]
    if keys:
        keys = [key for key in keys if key not in ("space", "combinations")] or keys
        differ = "; ".join(f"{key} {then.get(key)} then, {about.get(key)} now" for key in keys)
        raise UserError(
            f"the study {name} was made with other settings: {differ}. Another --study=NAME "
            "begins a study; what is finished is not run again"
        )
    return study


def standing(study):
    """{run: the trial that says how it stands}, of several after retries, or if two searches queued it."""

    def rank(trial):
        """What got furthest; of failures the last; of others the first, to which the later ones give way."""
        return STATES.index(trial.state), trial.number if trial.state == TrialState.FAIL else -trial.number

    found = {}
    for trial in study.get_trials(deepcopy=False):
        run = trial.user_attrs.get("run")
        if run is not None and "surplus" not in trial.user_attrs:
            found[run] = max(found.get(run, trial), trial, key=rank)
    return found


def failure(trial):
    """Why a run has failed for good, by its standing trial; None if it has not."""
    return trial.user_attrs.get("error") if trial.state == TrialState.FAIL else None


def ended(trial):
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or failure(trial) is not None


def enqueue(study, runs):
    """Queues the runs, {run: values of the searched settings}, that are not done, under way or waiting."""
    trials = standing(study)
    for run, values in runs.items():
        if run not in trials or trials[run].state == TrialState.FAIL:
            study.enqueue_trial(values, user_attrs={"run": run})


def revive(study, beats, grace):
    """Gives up the trials whose search has died, and queues the runs whose trials were all given up.

    If two searches queue a run at once, one of its trials gives way in `claim`.

    Args:
        beats: {(study's name, trial's number): (beat, when it was seen first)}, kept from call to call.
        grace: seconds for which a beat may stand still.
    """
    now = time.monotonic()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        key, beat = (study.study_name, trial.number), trial.user_attrs.get("beat")
        if beats.setdefault(key, (beat, now))[0] != beat:
            beats[key] = beat, now
        elif now - beats[key][1] > grace:
            finish(study, trial.number, state=TrialState.FAIL)
    for run, trial in standing(study).items():
        if trial.state == TrialState.FAIL and failure(trial) is None:
            killed = trial.user_attrs.get("killed", 0)
            study.enqueue_trial(trial.params, user_attrs={"run": run, "killed": killed})


def claim(study):
    """The oldest waiting trial, as this search's own; None if none waits."""
    while study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        trial = study.ask()  # makes a new one, without a run, if another search has been faster
        run = trial.user_attrs.get("run")
        if run is not None and standing(study)[run].number == trial.number:
            return trial
        finish(study, trial, {"surplus": True}, state=TrialState.FAIL)
    return None


def finish(study, trial, attributes={}, **how):
    """Sets attributes and ends the trial as study.tell does, unless another search has ended it."""
    try:
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        study.tell(trial, skip_if_finished=True, **how)
    except UpdateFinishedTrialError:
        pass


class Run:
    """A claimed trial, carried out by distill.py. A method may be called again if the database fails."""

    def __init__(self, study, trial, plan, device, heartbeat):
        self.study, self.trial, self.plan, self.device, self.heartbeat = study, trial, plan, device, heartbeat
        values = {key: trial.suggest_categorical(key, values) for key, values in plan.space.items()}
        self.settings, self.folder = plan.settle(values)
        self.process, self.pruned, self.stopped = None, False, False
        self._beat, self._beat_at, self._start_at, self._reported = 0, 0.0, 0.0, 0

    def advance(self):
        """Looks after the process; whether the trial has ended."""
        now = time.monotonic()
        if now - self._beat_at >= self.heartbeat:
            try:
                self.trial.set_user_attr("beat", self._beat + 1)
            except UpdateFinishedTrialError:  # this search was taken for dead, and another has the run
                self.stop()
            self._beat, self._beat_at = self._beat + 1, now
        if self.process is None:
            if self.stopped or now < self._start_at:
                return self.stopped
            self.errors, self.said = tempfile.TemporaryFile("w+"), None
            # All settings are given, so that an edit of hyper_params.py during the search changes nothing.
            arguments = [to_argument(key, value) for key, value in self.settings.items()]
            self.process = worker.start(
                [*arguments, *self.plan.places, "--resume=true"],
                self.device,
                self.plan.results / ".jax_cache",
                self.errors,
            )
        elif self.process.poll() is not None:
            return self._conclude()
        elif not self.pruned and self._should_prune():
            self.pruned = True
            self.process.terminate()
        return False

    def stop(self):
        """Has the process stop with a checkpoint. The trial is then given up, unless it finishes."""
        if self.process is not None and not self.stopped:
            self.process.terminate()
        self.stopped = True

    def give_up(self):
        """Waits for a process that was told to stop, and ends the trial."""
        if self.process is None:
            return finish(self.study, self.trial, state=TrialState.FAIL)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._conclude()

    def _should_prune(self):
        """Reports to Optuna what the validations gave since the last call; whether to stop the run."""
        try:
            lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        except (OSError, ValueError):
            return False
        for line in lines[self._reported :]:
            self.trial.report(line["validation"][self.settings["best_by"]], line["step"])
            self._reported += 1
        return self.trial.should_prune()

    def _conclude(self):
        """Ends the trial by how the process ended. False: it is started again, as its folder was in use."""
        code, attributes, how = self.process.returncode, {}, {"state": TrialState.FAIL}
        if self.said is None:
            self.errors.seek(0)
            self.said = (self.errors.read().strip().splitlines() or [f"no word, and exit code {code}"])[-1]
            self.errors.close()
            self.process.stdin.close()
        if code == 0:
            try:
                result = json.loads((self.folder / "result.json").read_text())
                how = {"values": float(result["val"][self.settings["best_by"]])}
                attributes = {
                    "settings": self.settings,
                    "places": self.plan.places,
                    "folder": str(self.folder),
                    "result": result,
                }
            except (OSError, ValueError, TypeError, KeyError) as error:
                attributes = {"error": f"{self.folder}/result.json is missing or damaged ({error})"}
        elif self.pruned:
            how = {"state": TrialState.PRUNED}
        elif IN_USE in self.said and not self.stopped:
            # By somebody else, or by a search that was taken for dead: it will end.
            self.process, self._start_at = None, time.monotonic() + self.heartbeat
            return False
        elif os.strerror(errno.ENOSPC) in self.said and not self.stopped:
            raise UserError(f"{self.said}; the same command goes on when it has space")
        elif code < 0 or code - 128 in (signal.SIGINT, signal.SIGTERM):
            killed = self.trial.user_attrs.get("killed", 0) + (not self.stopped)
            attributes = {"killed": killed}
            if killed > RETRIES:
                name = signal.Signals(-code if code < 0 else code - 128).name
                attributes["error"] = f"killed {killed} times, now by {name}, maybe for want of memory"
        elif not self.stopped:
            attributes = {"error": self.said}
        finish(self.study, self.trial, attributes, **how)
        return True


def work(searches, devices, heartbeat, show):
    """Carries out runs until none waits or runs in any study, in this search or in another.

    Args:
        searches: (study, plan) pairs, where a plan has space: {setting: values to try}, places: arguments of
            distill.py, results: a folder, settle: {setting: value} -> (all settings of the run, its folder).
        devices: a worker.Device for every worker.
        heartbeat: seconds.
        show: shows how the search gets on, and returns how many runs are not over; called in every round.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM; the runs have written their checkpoints, and wait again.
        UserError: the database does not answer any more, or a disk is full.
    """
    signals, runs, free, beats, answered_at = [], [], list(devices), {}, time.monotonic()
    before = {
        number: signal.signal(number, lambda number, frame: signals.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        while not signals:
            began = time.monotonic()
            try:
                for run in list(runs):
                    if run.advance():
                        runs.remove(run)
                        free.append(run.device)
                for study, plan in searches:
                    revive(study, beats, MISSING_HEARTBEATS * heartbeat)
                    while free and (trial := claim(study)) is not None:
                        runs.append(Run(study, trial, plan, free[0], heartbeat))
                        free.pop(0)
                if show() == 0 and not runs:
                    return
                answered_at = time.monotonic()
            except STORAGE_ERRORS as error:
                beats.clear()  # the other searches could not count up theirs, either
                if time.monotonic() - answered_at > UNREACHABLE_SECONDS:
                    reason = str(error).partition("\n")[0][:200]
                    raise UserError(f"no database for {UNREACHABLE_SECONDS} s: {reason}") from None
            # A database of very many trials has a rest between two looks at it.
            time.sleep(max(POLL_SECONDS, 2 * (time.monotonic() - began)))
        raise KeyboardInterrupt
    finally:
        for run in runs:
            run.stop()
        try:
            for run in runs:
                run.give_up()
            for study, _ in searches:
                revive(study, beats, MISSING_HEARTBEATS * heartbeat)
        except STORAGE_ERRORS:
            pass  # the next search finds that the beats stand still
        for number, handler in before.items():
            signal.signal(number, handler)
