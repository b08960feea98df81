"""grid_search_distill.py: what it plans and refuses; that every run is done once, whoever is killed."""

import errno
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pandas as pd
import postgres
import pytest
from conftest import ROOT
from optuna.trial import TrialState

import grid_search_distill as grid
from lib.errors import UserError
from runs import recipes
from runs.folder import shaping
from runs.reading import METRICS
from sweep import study as queue
from sweep import worker
from sweep.worker import choose_devices, run_environment

pytestmark = [  # Optuna's heartbeat is experimental; tests claim trials by study.ask, which has none
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Heartbeat of storage"),
]
FAKE = Path(__file__).parent / "fake_distill.py"
SMALL = [
    "--dataset=tiny",
    "--user_support=6",
    "--num_per_user=5",
    "--batch_size=40",
    "--train_steps=2",
    "--gpu_ids=[]",
    "--heartbeat=1",
]
LAUNCH = (
    "import sys; from pathlib import Path; from sweep import worker; import grid_search_distill as grid;"
    f"worker.DISTILL = Path({str(FAKE)!r}); grid.run_script(grid.main, 'grid_search_distill')"
)


@pytest.fixture
def arguments(tiny, tiny_data, tmp_path, monkeypatch):
    """arguments("--key=value", ...): a call's words, for small runs that fake_distill.py carries out."""
    monkeypatch.setenv("FAKE_FINGERPRINT", tiny.fingerprint)
    monkeypatch.setattr(worker, "DISTILL", FAKE)
    return lambda *more: [*SMALL, f"--data_dir={tiny_data}", f"--results_dir={tmp_path}", *more]


@pytest.fixture
def launch(arguments):
    """launch("--key=value", ...): a search as a process."""
    launched = []

    def start(*more):
        command = [sys.executable, "-c", LAUNCH, *arguments(*more)]
        launched.append(
            subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
        return launched[-1]

    yield start
    for launcher in launched:
        launcher.kill()
        launcher.communicate()


def until(condition, seconds=60):
    """Waits for condition() to be true, and returns what it is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
    return found


def no_options(words):
    return [word for word in words if not word.startswith(("--gpu_ids", "--heartbeat"))]


def study_in(folder, url=None):
    storage = queue.open_storage(url, folder / "search" / "studies.db")
    [name] = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def states(study):
    return [trial.state.name for trial in study.get_trials()]


def new_study(path, heartbeat=10):
    storage = queue.open_storage(None, path, heartbeat)
    return queue.open_study(storage, "a", {"sampler": "grid", "best_by": "NDCG@10", "dataset": "tiny"})


# ---- The plan ----------------------------------------------------------------------------------------------


def data_known(monkeypatch, fingerprint="same", statistics=recipes.Statistics(6040, 3706, 791_718)):
    """As if every data set were of these Statistics."""
    monkeypatch.setattr(queue, "data_facts", lambda *_: (fingerprint, statistics))


def test_a_plan_is_the_product_and_the_same_settings_once(monkeypatch):
    data_known(monkeypatch)
    fixed, space = grid.divide(
        {"seed": [1, 2, 2], "gumbel_tau": [5, 5.0, 10], "lamda_grid": [0.1, 1], "objective": ["held_out"]}
    )
    assert space == {"seed": [1, 2], "gumbel_tau": [5, 10], "objective": ["held_out"]}
    assert fixed == {"lamda_grid": "[0.1, 1.0]"}
    _, space = grid.divide({"lamda_grid": [[0.1], [1, 2]], "float64": [True, False]})
    assert space == {"lamda_grid": ["[0.1]", "[1.0, 2.0]"], "float64": [True, False]}
    assert len(grid.make_plan({"dataset": "tiny", "seed": [1, 2], "gumbel_tau": [5, 10]}).runs) == 4
    plan = grid.make_plan({"dataset": "ml-1m", "loss": ["auto", "squared"]})
    assert len(plan.runs) == 1, "the recipe's"


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--gumbel_tu=[1,2]", "there is no setting 'gumbel_tu'; is it gumbel_tau"),
        ("--seed=[]", "seed has an empty list"),
        ('--seed=[1,"x"]', "seed must be a whole number"),
        ("--seed=[[1]]", "seed must be"),
        ("--depth=[1,9]", "depth must be a whole number from 0 to 4"),
        ("--data_dir=[a,b]", "data_dir cannot be searched"),
        ("--best_by=[HR@10,HR@100]", "one best_by"),
        ("--gpu_ids=[77]", "gpu_ids is [77], but"),
        ("--gpu_ids=0", "--gpu_ids: invalid list_of_gpus value"),
        ("--gpu_ids=" + 3000 * "[", "--gpu_ids: invalid list_of_gpus value"),
        (f"--seed={list(range(10_001))}", "10,001 runs, more than 10,000. --yes"),
        ("--storage=nothing://x", "--storage=nothing://x cannot be opened"),
        ("--sampler=tpe", "--trials=N"),
        ("--sampler=best", "'grid', 'tpe'"),
        ("--storage=sqlite:////nowhere/x.db", "cannot be opened"),
        ("--storage=", "--storage must be the URL"),
        ("--study=a/b", "--study must be a plain name"),
        ("--study=a\x1b[31m", "--study must be a plain name"),
        ("--study=a\nb", "--study must be a plain name"),
        (f"--study={'x' * 300}", "--study must be a plain name"),
        ("--dataset=[]", "dataset has an empty list"),
        ("--dataset=[nothing]", "there is no data set"),
        ("--config=a.json", "there is no setting 'config'"),
        ("--workers-per-device=0", "--workers-per-device and --heartbeat must be whole numbers from 1"),
        ("--heartbeat=x", "--heartbeat: invalid int value"),
        ("seed", "'seed' is not understood"),
        ("--seed", "--seed needs a value"),
        ("--report", "search has no study. Try another --results_dir"),
    ],
)
def test_wrong_calls_are_one_line(arguments, tmp_path, argument, words):
    given = arguments(argument) if argument != "--report" else ["--report", f"--results_dir={tmp_path}"]
    with pytest.raises(UserError, match=re.escape(words)) as error:
        grid.main(given)
    assert len(str(error.value).splitlines()) == 1


def test_a_value_may_follow_its_key():
    options, given = grid.parse_options(
        "--seed [1] --storage sqlite:///x --user_support -1 --dry-run --depth=1".split()
    )
    assert given == {"seed": [1], "user_support": -1, "depth": 1}
    assert options.storage == "sqlite:///x" and options.dry_run and options.gpu_ids == "auto"


def test_lists_are_read_with_and_without_quotes():
    _, given = grid.parse_options(
        [
            "--dataset=[a, b]",
            "--loss=['auto',\"squared\"]",
            "--float64=[True,false]",
            "--lamda_grid=[[1],[2]]",
        ]
    )
    assert given == {
        "dataset": ["a", "b"],
        "loss": ["auto", "squared"],
        "float64": [True, False],
        "lamda_grid": [[1], [2]],
    }


def test_a_study_has_all_settings_of_its_runs(arguments, tiny, tmp_path, monkeypatch):
    """An edit of hyper_params.py makes another study, or is named; so do other data."""

    def plans(*words):
        return grid.make_plans(*grid.parse_options([*arguments("--seed=[1,2]"), *words]))

    def about(*words):
        [plan] = plans(*words).values()
        return plan.about

    before = plans().keys()
    assert before == plans(f"--gumbel_tau={grid.resolve([])[0]['gumbel_tau']}").keys(), "said or not"
    storage = queue.open_storage(None, tmp_path / "a.db")
    queue.open_study(storage, "mine", about())
    queue.open_study(storage, "mine", about())
    monkeypatch.setitem(sys.modules["hyper_params"].hyper_params, "cardinality_reg", 0.5)
    assert plans().keys() != before
    with pytest.raises(UserError, match="cardinality_reg 0.001 then, 0.5 now; .*seed .1, 2. then, 3 now"):
        queue.open_study(storage, "mine", about("--seed=3"))
    monkeypatch.setitem(sys.modules["hyper_params"].hyper_params, "cardinality_reg", 1e-3)
    data_known(monkeypatch, "others", recipes.statistics_of(tiny))
    assert plans().keys() != before
    with pytest.raises(UserError, match="data .* then, others now.* Try another --study"):
        queue.open_study(storage, "mine", about())


def test_a_recipe_that_is_edited_makes_another_study(monkeypatch):
    data_known(monkeypatch)
    block = {"dataset": "ml-1m", "user_support": [10, 40, 100]}
    about = grid.make_plan(block).about
    for name, rate in (("squared-few", 0.5), ("generalized-few", 0.3)):
        monkeypatch.setitem(recipes.RECIPES[name], "learning_rate", rate)
    assert grid.make_plan(block).about["runs"] != about["runs"]


def test_each_data_set_has_its_own_place(arguments, tiny_data, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "second").symlink_to(tiny_data / "tiny")
    places = {"tiny": {"data_dir": str(tiny_data)}, "second": {"data_dir": str(tmp_path / "other")}}
    monkeypatch.setattr(grid, "data_set_hyper_params", places)
    monkeypatch.setattr(grid, "common_hyper_params", {"results_dir": str(tmp_path / "results")})
    plans = []
    monkeypatch.setattr(queue, "work", lambda searches, *_: plans.extend(plan for _, plan in searches))
    grid.main(["--gpu_ids=[]", "--user_support=5"])
    assert [plan.fixed["dataset"] for plan in plans] == ["tiny", "second"]
    assert [plan.fixed["data_dir"] for plan in plans] == [str(tiny_data), str(tmp_path / "other")]


def test_an_estimate_is_scaled_from_the_nearest_run():
    """10 steps of 2 s and 5 s beside them, with 100 users; with 400 users a step takes 4 times as long."""
    finished = [
        ({"settings": {"user_support": users}}, {"steps": 10, "step_seconds": 2.0, "wall_seconds": seconds})
        for users, seconds in ((5, 1020.0), (100, 25.0))
    ]
    assert grid.estimate({"user_support": 400, "train_steps": 20}, finished) == 165


def test_a_damaged_run_tells_no_time_and_stops_nothing(arguments, tmp_path, capsys):
    for content in ("[1]", 3000 * "["):
        folder = tmp_path / "distill-tiny-damaged"
        folder.mkdir(exist_ok=True)
        for name in ("config.json", "result.json"):
            (folder / name).write_text(content)
        grid.main([*arguments("--seed=[1,2]"), "--dry-run"])
        assert "2 of them to do; no run has finished to tell how long they take" in capsys.readouterr().out


# ---- Devices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "installed, chosen, expected",
    [
        (2, None, ["0", "1"]),
        (4, "1", ["1"]),
        (4, "3, 1", ["3", "1"]),
        (4, "GPU-abc,2", ["GPU-abc", "2"]),
        (4, "", []),
        (4, "-1", []),
        (2, "1,7,0", ["1"]),
        (0, "0", []),
        (0, None, []),
        (0, "GPU-abc", []),
        (1, "MIG-1/2", ["MIG-1/2"]),
    ],
)
def test_gpus_are_those_that_cuda_visible_devices_shows(installed, chosen, expected):
    devices = choose_devices("auto", 1, installed, chosen, [])
    assert [device.gpu for device in devices] == (expected or [None])


def test_gpu_ids_are_positions_in_what_is_visible():
    assert [device.gpu for device in choose_devices([0], 1, 4, "1", [])] == ["1"]
    devices = choose_devices("auto", 2, 4, "GPU-abc,2", [])
    assert sorted(device.gpu for device in devices) == ["2", "2", "GPU-abc", "GPU-abc"]
    assert [device.cores for device in choose_devices("auto", 2, 0, None, [3, 4, 5])] == [(3, 5), (4,)]
    assert [device.cores for device in choose_devices([], 2, 1, None, [])] == [(), ()], "no cores to bind"
    for ids in ([1], [-1]):
        with pytest.raises(UserError, match="gpu_ids is .*1., but .* show 1 GPUs"):
            choose_devices(ids, 1, 4, "1", [])


def test_workers_on_one_gpu_share_its_memory():
    def given(environment, gpu_ids, workers):
        return run_environment(environment, choose_devices(gpu_ids, workers, 1, "GPU-abc", [])[0])

    share, ours = "XLA_PYTHON_CLIENT_MEM_FRACTION", {"PATH": "x", "CUDA_VISIBLE_DEVICES": "GPU-abc,1"}
    environment = given(ours, [0], 2)
    assert environment[share] == given(ours, [0, 0], 1)[share] == "0.450"
    assert "JAX_PLATFORMS" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-abc" and environment["PATH"] == "x"
    assert given({share: ".2"}, [0], 2)[share] == ".2"
    assert share not in given({"XLA_CLIENT_MEM_FRACTION": ".2"}, [0], 2), "JAX does not take both"
    assert share not in given({}, [0], 1) and share not in given({}, [], 2)
    assert given({}, [], 1)["CUDA_VISIBLE_DEVICES"] == "" and given({}, [], 1)["JAX_PLATFORMS"] == "cpu"


def test_a_system_without_affinity_is_said_and_used(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sched_setaffinity")
    devices, line = worker.find_devices([], 2)
    assert [device.cores for device in devices] == [(), ()] and "cannot bind" in line


def test_a_trial_is_claimed_once(tmp_path):
    """Twelve searches, each with the database opened for itself, want the same trial at the same moment."""
    storage = queue.open_storage(None, tmp_path / "studies.db")
    study = optuna.create_study(storage=storage)
    storages = [queue.open_storage(None, tmp_path / "studies.db") for _ in range(12)]
    for number in range(15):
        study.enqueue_trial({"number": number})
        [trial] = study.get_trials(states=(TrialState.WAITING,))
        ready = threading.Barrier(len(storages))

        def claim(storage):
            ready.wait()
            return storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)

        with ThreadPoolExecutor(len(storages)) as pool:
            assert sum(pool.map(claim, storages)) == 1


# ---- From plan to report -----------------------------------------------------------------------------------


def test_a_search_of_distill_from_plan_to_command(tiny_data, tmp_path, capfd):
    """With distill.py itself: the folder is where it is looked for; the best run's command is that run's."""
    grid.main([*SMALL, "--train_steps", "1", f"--data_dir={tiny_data}", f"--results_dir={tmp_path}"])
    said, errors = capfd.readouterr()
    assert "workers: 1 on the CPU\n" in said and ": validation NDCG@10 " in said and errors == ""
    best = shlex.split(re.search("best: python distill.py (.*)", said)[1])
    config = json.loads(next(tmp_path.glob("distill-tiny-*/config.json")).read_text())
    assert shaping(grid.resolve(best)[0]) == shaping(config["settings"])


def test_a_search_some_of_whose_runs_fail(arguments, tmp_path, capfd):
    # On a busy machine, a heart that beats every second may miss four beats: it beats every five.
    words = arguments("--user_support=[6,1000]", "--seed=[1,2]", "--workers-per-device=2", "--heartbeat=5")
    grid.main([*words, "--dry-run"])
    planned = capfd.readouterr().out
    assert planned.count("new  ") == 4 and "4 of them to do; no run has finished" in planned
    assert not (tmp_path / "search").exists()
    with pytest.raises(
        UserError, match="2 of 4 .* failed: seed=., user_support=1000; seed=., user_support=1000"
    ):
        grid.main(words)
    said, errors = capfd.readouterr()
    assert said.count(": validation NDCG@10 ") == 2
    assert said.count("failed: distill: user_support is 1,000, but tiny has 150 users") == 4
    assert errors == "", "no warnings"
    [table] = (tmp_path / "search").glob("*.csv")
    table = pd.read_csv(table)
    assert table["validation NDCG@10"].is_monotonic_decreasing and len(table) == 2
    assert {"test NDCG@10", "folder"} <= set(table) and len(list((tmp_path / "search").glob("*.png"))) == 1
    best = shlex.split(re.search("best: python distill.py (.*)", said)[1])
    study = study_in(tmp_path)
    assert study.best_trial.params == {"seed": 2, "user_support": 6}
    assert {"seed": 2, "user_support": 6}.items() <= grid.resolve(best)[0].items()
    grid.main([*words, "--dry-run"])
    planned = capfd.readouterr().out
    assert "4 runs, 2 of them to do; about" in planned, "what has failed is tried again"
    assert "min with 2 at a time, by 2 finished runs" in planned
    # The studies that there are, and one by its printed name, without its lists.
    grid.main(["--report", f"--results_dir={tmp_path}"])
    [line] = capfd.readouterr().out.splitlines()
    assert line.startswith(f"{study.study_name}  tiny: 2 complete, 2 failed; ")
    assert line.endswith("best validation NDCG@10 12.02")
    grid.main(["--report", f"--study={study.study_name}", f"--results_dir={tmp_path}"])
    assert "2 finished runs, by validation NDCG@10" in capfd.readouterr().out
    with pytest.raises(UserError, match=f"there is no study x; there are {study.study_name}"):
        grid.main(["--report", "--study=x", f"--results_dir={tmp_path}"])
    grid.main([*words, "--report"])
    assert "2 finished runs" in capfd.readouterr().out
    # The name as it was printed opens the study.
    grid.main([*words, f"--study={study.study_name}", "--dry-run"])
    assert f"{study.study_name}: 4 runs, 2 of them to do" in capfd.readouterr().out
    with pytest.raises(UserError, match=r"seed \[1, 2\] then, 1 now"):
        grid.main([*words, "--seed=1", f"--study={study.study_name}", "--dry-run"])


def test_it_goes_by_best_by(arguments, tmp_path, capfd):
    """The fake runs' HR@100 falls where NDCG@10 rises. The folder's name is one that a URL would alter."""
    results = tmp_path / "what? 50% {on} on #1"
    grid.main(arguments("--seed=[1,2,3]", "--best_by=HR@100", f"--results_dir={results}"))
    said = capfd.readouterr().out
    assert "3 finished runs, by validation HR@100" in said and "-seed1-" in re.search("best: .*", said)[0]
    assert study_in(results).best_value == pytest.approx(100 - 11.02)


def test_tpe_searches_as_often_as_told(arguments, tmp_path, capfd):
    words = arguments("--sampler=tpe", "--trials=3", "--learning_rate=[0.02,0.05,0.1]", "--study=mine")
    grid.main(words)
    assert "3 runs, 3 of them to do" in capfd.readouterr().out
    grid.main([*words, "--trials=4"])
    assert "4 runs, 1 of them to do" in capfd.readouterr().out
    study = study_in(tmp_path)
    assert states(study) == ["COMPLETE"] * 4
    assert {trial.params["learning_rate"] for trial in study.get_trials()} <= {0.02, 0.05, 0.1}


def test_a_password_is_not_printed(monkeypatch):
    for url in ("postgresql://me:se%20cret@127.0.0.1:1/x", "nothing://me:secret@host/x"):
        with pytest.raises(UserError, match="^--storage=[a-z]*://me:.*/x cannot be opened") as error:
            queue.open_storage(url, None)
        assert "damaged" not in str(error.value)
        assert "se%20cret" not in str(error.value) and "secret" not in str(error.value)
        assert error.value.__cause__ is None

    for url in ("postgresql://127.0.0.1:1/x?user=me&password=se%20cret", "postgresql//me:secret@host/x"):
        with pytest.raises(UserError, match="^--storage.* cannot be opened") as error:
            queue.open_storage(url, None)
        assert not re.search("se.{0,3}cret", str(error.value))

    def fail(storage, url, *_, **options):
        raise ValueError(f"cannot connect with {url}")

    monkeypatch.setattr(optuna.storages.RDBStorage, "__init__", fail)
    with pytest.raises(UserError, match=r"cannot connect with postgresql://me:\*\*\*@host/x"):
        queue.open_storage("postgresql://me:secret@host/x", None)


@pytest.mark.parametrize("part", ["file", "text"])
def test_a_damaged_database_is_named_in_one_line(tmp_path, capsys, part):
    """Bytes are lost, or altered within the texts, which SQLite does not notice."""
    path = tmp_path / "search" / "studies.db"
    path.parent.mkdir()
    study = new_study(path)
    metrics = {**dict.fromkeys(METRICS, 3.0), "AUC": 0.3}
    result = {"val": metrics, "test": metrics, "lamda": 1.0, "best_step": 1, "steps": 1, "wall_seconds": 1.0}
    for run in ("one", "two"):
        distributions = {"seed": optuna.distributions.CategoricalDistribution([1, 2])}
        about = {"run": run, "result": result, "folder": run}
        study.add_trial(
            optuna.create_trial(value=3.0, params={"seed": 1}, distributions=distributions, user_attrs=about)
        )
    whole, rng, errors = path.read_bytes(), random.Random(0), []
    texts = [match.span() for match in re.finditer(rb"[ -~]{6,}", whole)]
    for _ in range(20):
        content = bytearray(whole)
        start, end = rng.choice(texts) if part == "text" else (rng.randrange(len(whole)), len(whole))
        if part == "text":
            content[rng.randrange(start, end)] = rng.choice(b'a0 "{}[],')
        else:
            content[start:end] = rng.choice([b"", bytes(end - start), rng.randbytes(end - start)])
        path.write_bytes(content)
        try:
            grid.main(["--report", "--study=a", f"--results_dir={tmp_path}"])
        except UserError as error:
            errors.append(str(error))
    assert len(errors) > 10
    for error in errors:
        assert len(error.splitlines()) == 1
        assert (
            f"{path} cannot be opened: " in error
            and "move it away" in error
            or "there is no study a" in error
        )
    path.write_bytes(whole)
    grid.main(["--report", "--study=a", f"--results_dir={tmp_path}"])
    assert "2 finished runs" in capsys.readouterr().out


# ---- Whoever is killed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_every_run_is_done_once_whoever_is_killed(database, launch, tmp_path, monkeypatch):
    """Two searches of two workers begin at the same moment. Two runs, then one of the searches, are killed.

    PostgreSQL goes away meanwhile, and is waited for.
    """
    monkeypatch.setenv("FAKE_SECONDS", "0.2")
    if database == "sqlite":
        search_with_kills(launch, tmp_path, None, lambda: None)
    elif postgres.programs() is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    else:
        with postgres.server() as (url, start, stop):
            search_with_kills(launch, tmp_path, url, lambda: (stop(), time.sleep(3), start()))


def search_with_kills(launch, tmp_path, url, disturb, runs=6):
    words = [f"--seed={list(range(runs))}", "--workers-per-device=2", *([f"--storage={url}"] if url else [])]
    first, second = launch(*words), launch(*words)
    killed = set()
    while len(killed) < 2:
        path = until(
            lambda: next((path for path in tmp_path.glob("distill-tiny-*/pid") if path not in killed), None)
        )
        os.kill(int(path.read_text()), signal.SIGKILL)
        killed.add(path)
    until(lambda: (tmp_path / "finished").exists())
    first.kill()
    disturb()
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0 and f"{runs} finished runs" in out, out + err
    study = study_in(tmp_path, url)
    done = [trial.user_attrs["run"] for trial in study.get_trials() if trial.state == TrialState.COMPLETE]
    assert len(done) == len(set(done)) == runs and not {"RUNNING", "WAITING"} & set(states(study))
    finished = (tmp_path / "finished").read_text().split()
    # A run that was killed between its result and this list is not in the list, and is not made again.
    assert len(finished) == len(set(finished)) and runs - len(killed) <= len(finished) <= runs


def test_it_goes_on_after_ctrl_c_and_after_it_was_killed(launch, tmp_path, monkeypatch):
    def logs():
        return "".join(path.read_text() for path in tmp_path.glob("distill-tiny-*/log.txt"))

    words = ("--seed=[1,2]", "--train_steps=20")
    monkeypatch.setenv("FAKE_SECONDS", "0.5")
    launcher = launch(*words)
    path = until(lambda: next(tmp_path.glob("distill-tiny-*/pid"), None))
    launcher.send_signal(signal.SIGINT)
    out, err = launcher.communicate(timeout=15)
    assert launcher.returncode == 130 and "the same command goes on where it was" in out
    assert err == "grid_search_distill: interrupted\n" and logs().count("SIGTERM: stopped") == 1
    assert sorted(states(study_in(tmp_path))) == ["FAIL", "WAITING", "WAITING"], "no beat is waited for"
    launcher = launch(*words)
    until(lambda: logs().count("going on") == 1 or len(list(tmp_path.glob("distill-tiny-*/pid"))) == 2)
    launcher.kill()
    until(lambda: logs().count("SIGTERM: stopped") == 2, 10)  # its run has ended with it
    monkeypatch.setenv("FAKE_SECONDS", "0")
    out, err = launch(*words).communicate(timeout=60)
    assert "2 finished runs" in out and "going on" in (path.parent / "log.txt").read_text(), err


def test_a_run_that_is_killed_again_and_again_has_failed(arguments, tmp_path, monkeypatch):
    script = "import os; open('starts', 'a').write('x'); os.kill(os.getpid(), 9)"
    (tmp_path / "killed.py").write_text(script)
    monkeypatch.setattr(worker, "DISTILL", tmp_path / "killed.py")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="1 of 1 runs failed: seed=1. "):
        grid.main(arguments("--seed=[1]"))
    [trial] = study_in(tmp_path).get_trials()
    assert trial.user_attrs["error"] == "killed 3 times, now by SIGKILL, maybe for want of memory"
    assert (tmp_path / "starts").read_text() == "xxx"


def test_a_full_disk_stops_the_search_and_fails_no_run(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_ERRNO", str(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left on device.*; the same command"):
        grid.main(arguments("--seed=[1,2]"))
    study = study_in(tmp_path)
    assert sorted(states(study)) == ["FAIL", "WAITING", "WAITING"]
    assert {queue.status(trial) for trial in queue.latest(study).values()} == {"waiting"}


def test_a_name_is_taken_for_no_reason(arguments, tmp_path, monkeypatch):
    """The message of a run that fails names folders, and a folder may have any name."""
    folder = "another process is running these settings in No space left on device"
    monkeypatch.setenv("FAKE_SAYS", f"{folder}/checkpoint.npz cannot be read")
    with pytest.raises(UserError, match="1 of 1 runs failed"):
        grid.main(arguments("--seed=[1]"))
    [trial] = study_in(tmp_path).get_trials()
    assert trial.user_attrs["error"] == f"distill: {folder}/checkpoint.npz cannot be read"


def test_a_search_that_was_taken_for_dead_gives_its_run_away(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.5")
    launcher = launch("--seed=[1]", "--train_steps=8")
    path = until(lambda: next(tmp_path.glob("distill-tiny-*/pid"), None))
    study_in(tmp_path).tell(0, state=TrialState.FAIL)
    out, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 0 and "1 finished runs" in out, out + err
    assert states(study_in(tmp_path)) == ["FAIL", "COMPLETE"]
    log = (path.parent / "log.txt").read_text()
    assert log.index("SIGTERM: stopped") < log.index("going on"), "the process was stopped first"


def test_a_folder_in_use_is_waited_for(launch, arguments, tmp_path, monkeypatch):
    """Somebody runs distill.py by hand with the settings of a run."""
    monkeypatch.setenv("FAKE_SECONDS", "1")
    more = "--seed=3", "--train_steps=12"
    settings, folder, _ = queue.resolve_run(dict(grid.split(no_options(arguments(*more)))))
    words = grid.to_arguments(settings)
    by_hand = subprocess.Popen([sys.executable, FAKE, *words], stderr=subprocess.PIPE, text=True)
    until((folder / "pid").exists)
    out, err = launch(*more).communicate(timeout=60)
    assert by_hand.wait() == 0, by_hand.stderr.read()
    by_hand.stderr.close()
    assert "1 finished runs" in out, out + err
    assert (tmp_path / "finished").read_text().split() == [folder.name]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_a_run_keeps_to_its_cores(arguments, tmp_path, monkeypatch):
    script = "import os; open(f'cores{os.getpid()}', 'w').write(str(os.sched_getaffinity(0)))"
    (tmp_path / "bound.py").write_text(script)
    monkeypatch.setattr(worker, "DISTILL", tmp_path / "bound.py")
    monkeypatch.chdir(tmp_path)
    [core, *_] = os.sched_getaffinity(0)
    worker.run_distill([], worker.Device(None, (core,), 1), lambda: False)
    [path] = tmp_path.glob("cores*")
    assert path.read_text() == str({core})


# ---- The queue ---------------------------------------------------------------------------------------------


def claim(study):
    """What the claim of the next trial makes of it: "run", or "surplus" where another has its run."""
    plan, seen = grid.Plan({}, {}, {}, {}), []

    def begin(given):
        seen.append("run")
        raise queue.GivenUp

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "resolve_run", begin)
        objective = lambda trial: queue.carry_out(trial, plan, None, 1, None)
        study.optimize(objective, n_trials=1, catch=(queue.GivenUp,))
    return seen[0] if seen else "surplus"


def runs_waiting(study):
    return [trial.user_attrs["run"] for trial in study.get_trials(states=[TrialState.WAITING])]


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETE", "PRUNED", "FAIL"])
def test_of_two_trials_of_one_run_the_older_is_carried_out(tmp_path, state):
    study = new_study(tmp_path / "a.db")
    for _ in range(2):
        study.enqueue_trial({"seed": 1}, user_attrs={"run": "same"})
    first = study.ask()
    if state != "RUNNING":
        study.tell(first, 1.0 if state == "COMPLETE" else None, TrialState[state])
    assert claim(study) == ("run" if state == "FAIL" else "surplus")
    status = queue.status(queue.latest(study)["same"])
    assert status == {"FAIL": "waiting"}.get(state, state.lower()), "a surplus trial says nothing"


def test_what_has_failed_is_queued_by_the_next_call_only(tmp_path):
    study = new_study(tmp_path / "a.db")
    queue.enqueue(study, {"same": {"seed": 1}})
    trial = study.ask()
    trial.set_user_attr("error", "no memory")
    study.tell(trial, state=TrialState.FAIL)
    queue.revive(study)
    assert runs_waiting(study) == [] and queue.status(queue.latest(study)["same"]) == "failed"
    queue.enqueue(study, {"same": {"seed": 1}})
    assert runs_waiting(study) == ["same"]


def test_a_trial_that_nobody_queued_is_surplus(tmp_path):
    """Another search takes the last waiting trial between this one's look and its claim."""
    study = new_study(tmp_path / "a.db")
    queue.enqueue(study, {"one": {"seed": 1}})
    study.ask()
    assert claim(study) == "surplus" and states(study) == ["RUNNING", "FAIL"]
    assert list(queue.latest(study)) == ["one"]


def test_a_trial_whose_search_is_silent_is_queued_again(tmp_path):
    """Also one whose search died before its first beat; not one that beats."""
    study = new_study(tmp_path / "a.db", heartbeat=1)
    for run in ("silent", "beating"):
        study.enqueue_trial({"seed": 1}, user_attrs={"run": run})
    study.ask()
    beaten = []

    def beat(trial):
        while len(beaten) < 7:
            queue.revive(study)
            beaten.append(states(study))
            time.sleep(1)
        return 1.0

    study.optimize(beat, n_trials=1)
    assert beaten[0] == ["RUNNING", "RUNNING"], "not before its time"
    assert beaten[-1] == ["FAIL", "RUNNING", "WAITING"] and runs_waiting(study) == ["silent"]


def test_a_heart_beats_on_after_an_outage(tmp_path, monkeypatch):
    study = new_study(tmp_path / "a.db", heartbeat=1)
    record, beats = optuna.storages.RDBStorage.record_heartbeat, []

    def fail_once(storage, trial):
        beats.append(trial)
        if len(beats) == 2:
            raise optuna.exceptions.StorageInternalError("gone away")
        return record(storage, trial)

    monkeypatch.setattr(optuna.storages.RDBStorage, "record_heartbeat", fail_once)
    study.optimize(lambda trial: until(lambda: len(beats) > 3, 10), n_trials=1)
    assert states(study) == ["COMPLETE"]


def test_what_a_dying_search_gave_up_is_queued_again(tmp_path):
    """It died before it queued it. Not what has an error, or is done or waits otherwise."""
    study = new_study(tmp_path / "a.db")
    for run, attributes, value in (
        ("lost", {}, None),
        ("failed", {"error": "no memory"}, None),
        ("done", {}, None),
        ("done", {}, 1.0),
    ):
        state = TrialState.COMPLETE if value else TrialState.FAIL
        study.add_trial(optuna.create_trial(state=state, value=value, user_attrs={"run": run, **attributes}))
    queue.revive(study)
    queue.revive(study)
    assert runs_waiting(study) == ["lost"]
    queue.enqueue(study, {run: {} for run in ("lost", "failed", "done", "new")})
    assert runs_waiting(study) == ["lost", "failed", "new"]


def test_a_run_is_stopped_by_what_its_validations_gave(arguments, tmp_path, monkeypatch):
    """The pruner sees every line of metrics.jsonl once, by best_by."""
    monkeypatch.setenv("FAKE_SECONDS", "0.4")
    study = new_study(tmp_path / "a.db")
    study.pruner = optuna.pruners.ThresholdPruner(lower=12, n_warmup_steps=25)
    block = dict(grid.split(no_options(arguments("--train_steps=40"))))
    plan = grid.make_plan({key: grid.parse(key, text) for key, text in block.items()} | {"seed": [1, 5]})
    queue.enqueue(study, plan.runs)
    objective = lambda trial: queue.carry_out(trial, plan, worker.Device(None, (), 1), 1, threading.Event())
    study.optimize(objective, n_trials=1)
    trial = study.get_trials()[0]
    steps = list(trial.intermediate_values)
    assert trial.state == TrialState.PRUNED and steps == [25 * step for step in range(len(steps))]
    assert 2 <= len(steps) < 30 and trial.value == pytest.approx(11.02)
    [folder] = tmp_path.glob("distill-tiny-*")
    assert "SIGTERM: stopped" in (folder / "log.txt").read_text()
