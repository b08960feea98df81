"""grid_search_distill.py: what it plans and refuses; that every run is done once, whoever is killed meanwhile."""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import optuna
import pandas as pd
import postgres
import pytest
from conftest import ROOT

import grid_search_distill as grid
import search
from settings import UserError

SMALL = ["--dataset=tiny", "--user_support=6", "--num_per_user=5", "--batch_size=40", "--train_steps=2", "--gpu_ids=[]"]


def command(tiny_data, results, *arguments):
    return [sys.executable, "grid_search_distill.py", *SMALL, f"--data_dir={tiny_data}", f"--results_dir={results}", *arguments]


def run(*arguments, **options):
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300, **options)


def trials(url):
    storage = search.open_storage(url, 10)
    [name] = optuna.get_all_study_names(storage)
    return search.load(storage, name).get_trials()


def finished(url):
    """Identities of the trials that have a result."""
    return [trial.user_attrs["identity"] for trial in trials(url) if trial.state == optuna.trial.TrialState.COMPLETE]


def test_a_plan_is_the_product_and_the_same_settings_once():
    fixed, space = grid.divide({"dataset": "tiny", "seed": [1, 2, 2], "gumbel_tau": [5, 5.0, 10], "lamda_grid": [0.1, 1], "objective": ["held_out"]})
    assert space == {"seed": [1, 2], "gumbel_tau": [5, 10], "objective": ["held_out"]} and fixed["lamda_grid"] == "[0.1, 1]"
    assert len(grid.plan(fixed, space)) == 4
    _, space = grid.divide({"lamda_grid": [[0.1], [1, 2]], "float64": [True, False]})
    assert space == {"lamda_grid": ["[0.1]", "[1, 2]"], "float64": [True, False]}
    # What --paper=true sets is the same as setting it.
    assert len(grid.plan({}, {"depth": [1, 2], "eval_batch_size": [5, 6]})) == 2, "what does not shape a result makes no run"


@pytest.mark.parametrize("block, words", [
    ({"gumbel_tu": [1]}, "there is no setting 'gumbel_tu'; is it gumbel_tau"), ({"seed": []}, "seed has an empty list"),
    ({"seed": [1, "x"]}, "seed must be a whole number"), ({"data_dir": ["a", "b"]}, "data_dir cannot be searched"), ({"seed": [[1]]}, "seed must be")])
def test_blocks_that_cannot_be(block, words):
    with pytest.raises(UserError, match=re.escape(words)):
        grid.divide(block)


@pytest.mark.parametrize("argument, words", [
    ("--gumbel_tu=[1,2]", "there is no setting 'gumbel_tu'"), ("--seed=[]", "empty list"), ("--gpu_ids=[77]", "there is no GPU 77 here"),
    ("--gpu_ids=0", "gpu_ids must be a list"), (f"--seed={list(range(10_001))}", "10,001 runs, more than 10,000; --yes"),
    ("--storage=nothing://x", "--storage=nothing://x cannot be opened"), ("--sampler=tpe", "--trials=N"), ("--sampler=best", "grid or tpe"),
    ("--storage=sqlite:////nowhere/x.db", "cannot be opened"), ("--storage=", "--storage must be the URL"), ("--study=a/b", "--study must be a plain name"),
    ("--dataset=[]", "dataset has an empty list"), ("--dataset=[nothing]", "there is no data set"), ("--config=a.json", "--config is for distill.py"), ("--workers-per-device=0", "--workers-per-device must be"), ("seed", "is not understood")])
def test_wrong_calls_are_one_line(tiny_data, tmp_path, argument, words):
    done = run(tiny_data, tmp_path, argument)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and words in done.stderr, done.stderr


def test_a_search_from_plan_to_report(tiny_data, tmp_path):
    """One of its runs cannot be done; a second search finds nothing new; a named study keeps its settings."""
    arguments = [tiny_data, tmp_path, "--user_support=[6,1000]", "--seed=[1,2]", "--heartbeat=2"]
    planned = run(*arguments, "--dry-run")
    assert planned.returncode == 0 and planned.stdout.count("new  ") == 4 and "4 of them to do" in planned.stdout, planned.stderr
    assert not (tmp_path / "search" / "studies.db").exists() or not optuna.get_all_study_names(f"sqlite:///{tmp_path}/search/studies.db")
    done = run(*arguments, "--workers-per-device=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": validation HR@100 ") == 2 and done.stdout.count("failed: distill: user_support is 1,000, but tiny has 150 users") == 4
    assert done.stderr == "", "no warnings"
    [table] = (tmp_path / "search").glob("*.csv")
    table = pd.read_csv(table)
    assert len(table) == 2 and table["validation HR@100"].is_monotonic_decreasing and {"test NDCG@10", "folder"} <= set(table)
    assert len(list((tmp_path / "search").glob("*.png"))) == 2
    best = re.search("best: python (.*)", done.stdout)[1].split()
    again = subprocess.run([sys.executable, *best], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "was finished before" in again.stdout, "the command for the best run is that run's"
    second = run(*arguments)
    assert "4 runs, 2 of them to do" in second.stdout, "what failed is tried again, what is done is not"
    assert "4 runs, 2 of them to do" in run(*arguments, "--dry-run").stdout
    told = run(*arguments, "--report").stdout
    assert told.count("finished runs, by validation HR@100") == 1 and told.count("failed: distill: user_support is 1,000") == 2
    assert run(*arguments, "--study=mine", "--dry-run").returncode == 0
    storage = search.open_storage(f"sqlite:///{tmp_path}/search/studies.db", 10)
    search.open_study(storage, "mine", "grid", "", {"depth": 1}, {"seed": [1]})
    with pytest.raises(UserError, match="data  then, others now; depth 1 then, 2 now; seed .1. then, .1, 2. now"):
        search.open_study(storage, "mine", "grid", "others", {"depth": 2}, {"seed": [1, 2]})


def communicate(launcher, seconds):
    """(stdout, stderr) of a search; one that does not end in time is ended."""
    try:
        return launcher.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        launcher.terminate()  # as by Ctrl-C: it ends its workers
        out, err = launcher.communicate()
        raise AssertionError(f"not ended after {seconds} s: {out}{err}")


def kill_some(launchers, url, kills, total):
    """Kills workers, a random one each time a few more runs have finished; waits for the launchers."""
    chance = random.Random(0)
    at = sorted(chance.sample(range(1, total - 4), kills))
    deadline = time.monotonic() + 280
    while any(launcher.poll() is None for launcher in launchers) and time.monotonic() < deadline:
        time.sleep(0.2)
        if at and len(finished(url)) >= at[0]:
            at.pop(0)
            listed = subprocess.run(["pgrep", "-f", f"search.py .*{re.escape(url[-20:])}"], capture_output=True, text=True).stdout.split()
            os.kill(int(chance.choice(listed)), signal.SIGKILL)
    said = [communicate(launcher, 30) for launcher in launchers]
    assert not at and [launcher.returncode for launcher in launchers] == [0] * len(launchers), "".join(map("".join, said))
    return said


@pytest.mark.parametrize("database, seeds, kills", [("sqlite", 8, 1), ("postgresql", 24, 3)])
def test_every_run_is_done_once_though_workers_are_killed(tiny_data, tmp_path, database, seeds, kills):
    """4 workers from 2 launchers that begin at the same moment."""
    if database == "postgresql":
        if postgres.programs() is None:
            pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
        with postgres.server() as (url, _, _):
            search_with_kills(tiny_data, tmp_path, url, seeds, kills)
    else:
        search_with_kills(tiny_data, tmp_path, f"sqlite:///{tmp_path}/studies.db", seeds, kills)


def search_with_kills(tiny_data, tmp_path, url, seeds, kills):
    search.open_storage(url, 1)  # the tables
    arguments = command(tiny_data, tmp_path, f"--seed={list(range(seeds))}", "--heartbeat=1", "--workers-per-device=2", f"--storage={url}")
    launchers = []
    for _ in range(2):
        launchers.append(subprocess.Popen(arguments, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        deadline = time.monotonic() + 60
        while not optuna.get_all_study_names(search.open_storage(url, 1)) and time.monotonic() < deadline:
            time.sleep(0.1)
    kill_some(launchers, url, kills, seeds)
    assert sorted(finished(url)) == sorted(set(finished(url))) and len(finished(url)) == seeds
    assert len(list(tmp_path.glob("tiny-*/result.json"))) == seeds


@pytest.mark.skipif(postgres.programs() is None, reason="PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
def test_a_database_that_goes_away_is_waited_for(tiny_data, tmp_path):
    with postgres.server() as (url, start, stop):
        launcher = subprocess.Popen(command(tiny_data, tmp_path, "--seed=[1,2,3,4]", "--heartbeat=1", f"--storage={url}", "--workers-per-device=2"),
                                    cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("tiny-*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        stop()
        time.sleep(8)
        start()
        out, err = communicate(launcher, 120)
        assert launcher.returncode == 0, out + err
        assert len(finished(url)) == len(set(finished(url))) == 4 and "failed" not in out


def test_interrupted_and_started_again_it_does_what_is_missing(tiny_data, tmp_path):
    url = f"sqlite:///{tmp_path}/search/studies.db"
    arguments = (tiny_data, tmp_path, "--seed=[1,2]", "--train_steps=300", "--patience=1000", "--heartbeat=1")
    launcher = subprocess.Popen(command(*arguments), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("tiny-*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.2)
    launcher.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, err = communicate(launcher, 60)
    assert launcher.returncode == 130 and time.monotonic() - began < 15 and "the same command goes on where it was" in out, err
    assert err == "grid_search_distill: interrupted\n"
    states = [trial.state.name for trial in trials(url)]
    assert states.count("WAITING") == 2 and "RUNNING" not in states, "it is back in the queue, and need not be found dead first"
    done = run(*arguments)
    assert done.returncode == 0 and len(set(finished(url))) == len(finished(url)) == 2, done.stderr
    logs = "".join(path.read_text() for path in tmp_path.glob("tiny-*/log.txt"))
    assert "SIGTERM: stopped after step" in logs and "going on from step" in logs


def test_tpe_searches_as_often_as_told(tiny_data, tmp_path):
    done = run(tiny_data, tmp_path, "--sampler=tpe", "--trials=3", "--learning_rate=[0.02,0.05,0.1]", "--heartbeat=2")
    assert done.returncode == 0 and "3 runs, 3 of them to do" in done.stdout, done.stderr
    assert [trial.params["learning_rate"] in (0.02, 0.05, 0.1) for trial in trials(f"sqlite:///{tmp_path}/search/studies.db")] == [True] * 3


def test_a_full_disk_stops_the_search_and_fails_no_run(tiny_data, tmp_path):
    """The file that takes the place of distill.py in a run says what it says on a full disk."""
    url = f"sqlite:///{tmp_path}/a.db"
    study = search.open_study(search.open_storage(url, 10), "a", "grid", "", {"dataset": "tiny"}, {"seed": [1, 2]})
    grid.enqueue(study, {str(seed): {"seed": seed} for seed in (1, 2)}, "grid", None)
    (tmp_path / "distill.py").write_text("import sys; sys.exit('distill: [Errno 28] No space left on device')")
    job = search.Job(url, ["a"], 10, [], None, {"a": []})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "HERE", tmp_path)
        patch.setattr(signal, "signal", lambda *_: None)
        with pytest.raises(search.DiskFull, match="No space left"):
            search.work(job)
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL", "WAITING", "WAITING"] and search.settled(study) == {"2", search.identity(
        search.resolve(["--dataset=tiny", "--seed=1"], "")[0])}
    assert all(search.failure(trial) is None for trial in study.get_trials())


def test_other_data_begin_another_study_and_each_data_set_has_its_own_place(tiny_data, tmp_path, monkeypatch):
    shutil.copytree(tiny_data / "tiny", tmp_path / "other" / "second")
    (tmp_path / "other" / "second" / "manifest.json").unlink(missing_ok=True)
    part = np.load(tiny_data / "tiny" / "index.npz")["data"]
    np.savez(tmp_path / "other" / "second" / "index.npz", data=part[::-1])
    options = {"sampler": "grid", "study": None}
    prints = [grid.fingerprint(name, folder, {}, {}) for name, folder in (("tiny", tiny_data), ("second", tmp_path / "other"))]
    assert grid.study_name(options, "tiny", prints[0], {}, {}) != grid.study_name(options, "tiny", prints[1], {}, {})
    monkeypatch.setattr(grid, "data_set_hyper_params", {"tiny": {"data_dir": str(tiny_data)}, "second": {"data_dir": str(tmp_path / "other")}})
    monkeypatch.setattr(grid, "common_hyper_params", {"results_dir": str(tmp_path / "results")})
    jobs = []
    monkeypatch.setattr(grid, "run_workers", lambda options, url, studies, results, arguments: jobs.append(arguments))
    with pytest.raises(UserError, match="no run has finished"):
        grid.main(["--gpu_ids=[]", "--user_support=5"])
    places = {name.split("-")[0]: words for name, words in jobs[0].items()}
    assert f"--data_dir={tiny_data}" in places["tiny"] and f"--data_dir={tmp_path / 'other'}" in places["second"]


def test_of_two_trials_with_the_same_settings_the_older_is_run(tmp_path):
    study = search.open_study(search.open_storage(f"sqlite:///{tmp_path}/a.db", 10), "a", "grid", "", {}, {"seed": [1]})
    for _ in range(2):
        study.enqueue_trial({"seed": 1}, user_attrs={"identity": "same"})
    first, second = search.claim(study), search.claim(study)
    assert search.claim(study) is None and not search.is_repeated(study, first) and search.is_repeated(study, second)
    study.tell(first, state=optuna.trial.TrialState.FAIL)
    assert not search.is_repeated(study, second)


def test_a_worker_that_dies_before_its_first_heartbeat_loses_no_trial(tmp_path):
    study = search.open_study(search.open_storage(f"sqlite:///{tmp_path}/a.db", 10), "a", "grid", "", {}, {"seed": [1]})
    study.enqueue_trial({"seed": 1}, user_attrs={"identity": "one"})
    search.claim(study)
    running_since = {}
    search.put_back(study, running_since, 40)
    assert [trial.state.name for trial in study.get_trials()] == ["RUNNING"], "not before its time"
    study._storage._backend.grace_period = -1  # nothing is young any more
    search.put_back(study, running_since, -1)
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL", "WAITING"]
    search.claim(study)
    assert study.get_trials()[1].user_attrs == {"identity": "one"} and study.get_trials()[1].params == study.get_trials()[0].params


def test_a_worker_that_dies_while_it_puts_a_trial_back_loses_none(tmp_path):
    """Failed, but not enqueued again: once, and not where it gave way, has an error, or died too often."""
    study = search.open_study(search.open_storage(f"sqlite:///{tmp_path}/a.db", 10), "a", "grid", "", {}, {"seed": [1]})
    for attributes, history in (({}, []), ({"gave_way": True}, []), ({"error": "no memory"}, []), ({}, [7, 8])):
        study.add_trial(optuna.create_trial(state=optuna.trial.TrialState.FAIL, user_attrs=attributes, system_attrs={"retry_history": history}))
    assert search.put_back_lost(study) and not search.put_back_lost(study)
    assert [trial.system_attrs["retry_history"] for trial in study.get_trials(states=[optuna.trial.TrialState.WAITING])] == [[0]]


def test_a_run_is_stopped_by_what_its_validations_gave(tmp_path):
    """Each line of metrics.jsonl is reported once; the pruner has the last word, and a run without a file yet goes on."""
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=50, n_warmup_steps=25))
    trial, reported = study.ask(), []
    assert not search.prune_by(trial, tmp_path, reported)
    for lines, expected in (([(0, 10.0)], False), ([(0, 10.0), (25, 60.0)], False), ([(0, 10.0), (25, 60.0), (50, 40.0)], True)):
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": step, "validation": {"HR@100": value}}) + "\n" for step, value in lines))
        assert search.prune_by(trial, tmp_path, reported) is expected
    assert reported == [0, 25, 50] and study.trials[0].intermediate_values == {0: 10.0, 25: 60.0, 50: 40.0}


def test_what_has_failed_for_good_and_what_is_run_again(tmp_path):
    study = search.open_study(search.open_storage(f"sqlite:///{tmp_path}/a.db", 10), "a", "grid", "", {}, {"seed": [1, 2, 3, 4]})
    for seed, attributes, history in ((1, {"error": "no memory"}, []), (2, {}, [0, 1]), (3, {}, [0]), (4, {"gave_way": True}, [0, 1])):
        study.add_trial(optuna.create_trial(state=optuna.trial.TrialState.FAIL, user_attrs={"identity": str(seed), **attributes},
                                            system_attrs={"retry_history": history}))
    assert [search.failure(trial) for trial in study.get_trials()] == ["no memory", "its worker died 3 times", None, None]
    assert search.settled(study) == set(), "what has failed is tried again by the next call"
    assert grid.enqueue(study, {str(seed): {"seed": seed} for seed in (1, 2, 3, 4)}, "grid", None) == 4
    assert search.settled(study) == {"1", "2", "3", "4"}
