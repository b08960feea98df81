"""infinite_ae.py: against a float64 solve in NumPy, on one and eight devices, interrupted, asked too much."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import arc_cosine_ntk, environment_of, write_layout

import eval as evaluation
import infinite_ae
import model
from lib import devices
from lib.errors import UserError
from lib.random_streams import Stream, generator
from rivals import samplers

pytestmark = pytest.mark.usefixtures("no_pictures")


def run(run_script, data_dir, results, *arguments, **options):
    done = run_script(
        "infinite_ae.py",
        "--dataset=tiny",
        f"--data_dir={data_dir}",
        f"--results_dir={results}",
        *arguments,
        **options,
    )
    assert done.returncode == 0, done.stderr
    [folder] = [path for path in results.iterdir() if path.is_dir()]
    return (
        done,
        json.loads((folder / "result.json").read_text()),
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()],
    )


@pytest.mark.parametrize(
    "depth, support, float64", [(1, -1, False), (3, -1, False), (1, 60, False), (4, 60, True)]
)
def test_against_a_float64_solve(tiny, tiny_data, tmp_path, run_script, depth, support, float64):
    """Kernel, solve and scores in NumPy; all users, and a sample of them, which can do without a ridge."""
    grid = [50, 1, 5, 0] if float64 else [50, 1, 5]
    done, result, history = run(
        run_script,
        tiny_data,
        tmp_path,
        f"--depth={depth}",
        f"--user_support={support}",
        f"--lamda_grid={grid}",
        f"--float64={str(float64).lower()}",
    )
    rows = samplers.sample({"sampler": "random", "user_support": support, "seed": 42}, tiny)
    check_against_numpy(tiny, rows, depth, result, history)
    for (
        line
    ) in history:  # without a ridge the users of the sample are ranked by rounding errors, all others are not
        assert line["lamda"] or 0 < line["validation"]["HR@100"] < 100
    assert [line["lamda"] for line in history] == grid and done.stdout.splitlines()[-1].startswith(
        "test  HR@10"
    )


def check_against_numpy(dataset, rows, depth, result, history):
    """A run has the choice and metrics of a float64 solve on the same rows (m, I), but for a ridge of 0."""
    rows = rows.toarray().astype(np.float64)
    gram = arc_cosine_ntk(rows, rows, depth)

    def metrics(lamda, view):
        alpha = np.linalg.solve(gram + lamda * np.trace(gram) / len(gram) * np.eye(len(gram)), rows)
        scores = arc_cosine_ntk(view.context.toarray().astype(np.float64), rows, depth) @ alpha
        [found] = evaluation.evaluate(
            lambda users, context: [jnp.asarray(scores, jnp.float32)],
            1,
            view,
            dataset.frequency,
            dataset.users,
            devices.start(False),
        )
        return evaluation.summarise(found)

    validation = dataset.validation_view(generator(42, Stream.VALIDATION))
    for line in (line for line in history if line["lamda"]):
        assert line["validation"] == pytest.approx(metrics(line["lamda"], validation), rel=1e-3)
    assert (
        result["lamda"]
        == max(history, key=lambda line: (line["validation"] or {"NDCG@10": -1})["NDCG@10"])["lamda"]
    )
    assert result["test"] == pytest.approx(
        metrics(result["lamda"], dataset.test_view(generator(42, Stream.TEST))), rel=1e-3
    )


@pytest.mark.parametrize("normalize", [False, True])
def test_users_that_nearly_coincide_have_the_alpha_of_double_precision(normalize):
    """Soft rows, as those of a high temperature: they differ by a thousandth of what they have in common."""
    rng, mesh = np.random.default_rng(4), devices.start(False)
    soft = sp.csr_matrix((0.3 + 1e-3 * rng.random((60, 400))).astype(np.float32))
    kernel, solve = model.Kernel(1, normalize), infinite_ae.make_solver(mesh, 400)
    alpha = solve(
        infinite_ae.build_gram(kernel, soft, jnp.asarray(soft.toarray()), mesh), soft.toarray(), 1e-2
    )
    with jax.enable_x64(True):
        rows = soft.toarray().astype(np.float64)
        expected = np.asarray(model.ridge(kernel(rows), rows, 1e-2))
    assert np.linalg.norm(alpha - expected) < 1e-3 * np.linalg.norm(expected)


def test_eight_devices_give_the_same_metrics(tiny_data, tmp_path, run_script):
    """With users and items that 8 does not divide; devices share the rows and the solve's columns."""
    _, one, _ = run(run_script, tiny_data, tmp_path / "one", "--normalize=true")
    done, eight, _ = run(
        run_script,
        tiny_data,
        tmp_path / "eight",
        "--normalize=true",
        "--eval_batch_size=13",
        env=environment_of(8),
    )
    assert "on 8 x cpu" in done.stdout
    assert eight["test"] == pytest.approx(one["test"], abs=1e-3) and eight["val"] == pytest.approx(
        one["val"], abs=1e-3
    )


def test_it_goes_on_after_the_last_lamda_and_can_be_finished_twice(tiny_data, tmp_path, run_script):
    done, result, history = run(run_script, tiny_data, tmp_path / "whole")
    command = [
        "infinite_ae.py",
        "--dataset=tiny",
        f"--data_dir={tiny_data}",
        f"--results_dir={tmp_path / 'cut'}",
    ]
    [whole] = [path for path in (tmp_path / "whole").iterdir() if path.is_dir()]
    cut = tmp_path / "cut" / whole.name
    cut.mkdir(parents=True)
    with open(cut / "checkpoint.npz", "wb") as file:  # as it was after three lamdas, the best one among them
        place = {"stage": 0, "step": 2, "validated": True, "history": history[:3], "seconds": []}
        np.savez(file, state=np.array(json.dumps({**place, "wall_seconds": 100.0})))
    again = run_script(*command)
    assert again.returncode == 0 and "going on from lamda 3 of 6" in again.stdout, again.stderr
    assert again.stdout.count("validation  HR@10") == 3
    resumed = json.loads((cut / "result.json").read_text())
    assert resumed["test"] == result["test"] and resumed["wall_seconds"] > 100
    third = run_script(*command)
    assert (
        third.returncode == 0
        and "finished before" in third.stdout
        and third.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    )


def test_a_lamda_that_is_not_positive_definite_is_left_out(tmp_path, run_script):
    """Users who are all alike have a kernel of rank 1."""
    write_layout(
        tmp_path / "alike",
        np.repeat(np.arange(40), 6),
        np.tile(np.arange(6), 40),
        np.tile([0, 0, 0, 0, 1, 2], 40),
    )
    arguments = ["--dataset=alike", f"--data_dir={tmp_path}", f"--results_dir={tmp_path / 'results'}"]
    done = run_script("infinite_ae.py", *arguments, "--lamda_grid=[1e-20,1]")
    assert (
        done.returncode == 0
        and "lamda 1e-20   left out: the kernel is not positive definite in float32" in done.stdout
    ), done.stderr
    failed = run_script("infinite_ae.py", *arguments, "--lamda_grid=[0,1e-20]")
    assert (
        failed.returncode == 1
        and len(failed.stderr.splitlines()) == 1
        and "no lamda of 0, 1e-20 can be used: the kernel is not" in failed.stderr
    )


@pytest.mark.parametrize("support", [-1, 150])
def test_without_a_ridge_everyone_is_left_out(tiny_data, tmp_path, run_script, support):
    done, result, history = run(
        run_script, tiny_data, tmp_path, f"--user_support={support}", "--lamda_grid=[5,0]", "--float64=true"
    )
    assert (
        "lamda 0       left out: without a ridge, the scores of the training users are their own rows."
        in done.stdout
    )
    assert history[1] == {"lamda": 0, "validation": None} and result["lamda"] == 5
    failed = run_script(
        "infinite_ae.py",
        "--dataset=tiny",
        f"--data_dir={tiny_data}",
        f"--results_dir={tmp_path}",
        "--lamda_grid=[0]",
    )
    assert (
        failed.returncode == 1
        and "no lamda of 0 can be used: without a ridge, the scores" in failed.stderr
        and len(failed.stderr.splitlines()) == 1
    )


@pytest.mark.parametrize(
    "sampler, support",
    [("random", -1), ("head", 149), ("interactions", 149), ("interactions", -1), ("distilled", 149)],
)
def test_too_many_users_are_refused_with_what_would_fit(tiny, monkeypatch, sampler, support):
    """Whoever does what the message says is not refused again; with a little more they would be."""
    monkeypatch.setattr(devices, "free_bytes", lambda mesh: 200_000)
    settings = {"user_support": support, "sampler": sampler, "float64": False}
    with pytest.raises(
        UserError,
        match=f"kernel of {150 if support == -1 or sampler == 'interactions' else 149} users .* need 0.0 GiB",
    ) as caught:
        infinite_ae.check_fits(settings, tiny, None)
    if sampler == "distilled":
        advice = {
            "user_support": re.search(r"a run with (\d+) synthetic users would fit$", str(caught.value))[1]
        }
    else:
        advice = dict(re.findall(r"--(\w+)=(\w+)", str(caught.value)))
    settings |= {**advice, "user_support": int(advice["user_support"])}
    infinite_ae.check_fits(settings, tiny, None)
    with pytest.raises(UserError, match="would fit"):
        infinite_ae.check_fits({**settings, "user_support": settings["user_support"] + 2}, tiny, None)


def test_where_nobody_fits_no_number_of_users_is_advised(tiny, monkeypatch):
    monkeypatch.setattr(devices, "free_bytes", lambda mesh: 1)
    for sampler in ("random", "interactions", "distilled"):
        with pytest.raises(UserError) as caught:
            infinite_ae.check_fits({"user_support": 5, "sampler": sampler, "float64": False}, tiny, None)
        assert "--user_support" not in str(caught.value)


@pytest.mark.parametrize(
    "sampler, words",
    [
        ("head", "the 60 longest users"),
        ("interactions", "random interactions, as of 60 users"),
        ("svp_cf", "the 60 hardest users"),
    ],
)
def test_users_picked_otherwise(tiny, tiny_data, tmp_path, run_script, sampler, words):
    _, result, history = run(
        run_script, tiny_data, tmp_path, f"--sampler={sampler}", "--user_support=60", "--lamda_grid=[1,20]"
    )
    settings = {"sampler": sampler, "user_support": 60, "seed": 42, "results_dir": tmp_path}
    check_against_numpy(tiny, samplers.sample(settings, tiny), 1, result, history)
    assert infinite_ae.title_of({"sampler": sampler, "user_support": 60}, tiny) == f"{words}, of 150"


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--user_support=151", "150 users"),
        ("--gumbel_tau=1", "has no use for gumbel_tau"),
        ("--lamda_grid=[]", "lamda_grid must be"),
        ("--depth=5", "depth must be"),
    ],
)
def test_wrong_settings(tiny_data, tmp_path, run_script, argument, words):
    done = run_script(
        "infinite_ae.py", "--dataset=tiny", f"--data_dir={tiny_data}", f"--results_dir={tmp_path}", argument
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and words in done.stderr


def test_on_synthetic_users_it_has_the_kernel_and_the_lamda_of_their_run(
    distilled_run, titled_data, tmp_path, run_script
):
    """So it gives the metrics of that run; and what is said on the command line still wins."""
    arguments = [
        "--dataset=titled",
        f"--data_dir={titled_data}",
        "--sampler=distilled",
        f"--distilled={distilled_run}",
    ]
    done = run_script("infinite_ae.py", *arguments, f"--results_dir={tmp_path / 'as_learnt'}")
    assert done.returncode == 0 and "as in the run of the synthetic users" in done.stdout, done.stderr
    [folder], learnt = (
        (tmp_path / "as_learnt").glob("infinite_ae-*"),
        json.loads((distilled_run / "result.json").read_text()),
    )
    result, settings = (json.loads((folder / name).read_text()) for name in ("result.json", "config.json"))
    assert settings["settings"]["item_discount"] == 0.25 and result["lamda"] == pytest.approx(learnt["lamda"])
    assert result["test"] == pytest.approx(learnt["test"], rel=1e-3)
    done = run_script(
        "infinite_ae.py",
        *arguments,
        f"--results_dir={tmp_path / 'otherwise'}",
        "--item_discount=0",
        "--lamda_grid=[3]",
    )
    [folder] = (tmp_path / "otherwise").glob("infinite_ae-*")
    assert json.loads((folder / "result.json").read_text())["lamda"] == 3
    assert json.loads((folder / "config.json").read_text())["settings"]["item_discount"] == 0


@pytest.mark.parametrize("cut_at", [4, 5])
def test_the_usual_grid_grows_the_same_way_after_a_resume(
    tiny_data, tmp_path, monkeypatch, run_script, cut_at
):
    """And one by hand does not. `tiny` asks for a smaller lamda than this grid has."""
    monkeypatch.setitem(infinite_ae.FULL_DATA, "lamda_grid", [0.0, 10.0, 20.0, 40.0])
    done, result, history = run(run_script, tiny_data, tmp_path / "whole")
    assert "the best lamda lies at an end of the grid, so 5 is tried, too" in done.stdout
    assert len(history) > 5 and result["lamda"] < 10
    [whole] = [path for path in (tmp_path / "whole").iterdir() if path.is_dir()]
    cut = tmp_path / "cut" / whole.name
    cut.mkdir(parents=True)
    place = {"stage": 0, "step": cut_at - 1, "validated": True, "history": history[:cut_at], "seconds": []}
    with open(cut / "checkpoint.npz", "wb") as file:
        np.savez(file, state=np.array(json.dumps({**place, "wall_seconds": 1.0})))
    _, resumed, resumed_history = run(run_script, tiny_data, tmp_path / "cut")
    assert (resumed["lamda"], resumed["test"]) == (result["lamda"], result["test"])
    assert resumed_history == history
    by_hand, _, history = run(run_script, tiny_data, tmp_path / "hand", "--lamda_grid=[10, 20]")
    assert len(history) == 2 and "note: the best lamda, 10, lies at the end" in by_hand.stdout
