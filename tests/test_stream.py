"""stream.py: who comes when, who is remembered, and that a run which was killed goes on."""

import json

import numpy as np
import pytest

import stream
from lib.errors import UserError

TINY = [
    "--dataset=tiny",
    "--parts=3",
    "--user_support=10",
    "--num_per_user=10",
    "--train_steps=20",
    "--seed=3",
]


def run(run_script, data_dir, results, *more):
    done = run_script("stream.py", *TINY, f"--data_dir={data_dir}", f"--results_dir={results}", *more)
    assert done.returncode == 0, done.stderr
    [folder] = [path for path in results.iterdir() if path.is_dir()]
    return folder, json.loads((folder / "result.json").read_text()), done


def test_every_user_comes_once(tiny):
    parts = stream.arrive(tiny, 4, seed=1)
    assert sorted(np.concatenate(parts)) == list(range(150)) and {len(part) for part in parts} == {37, 38}
    first = stream.take(tiny, parts[0])
    assert (
        first.users == len(parts[0])
        and (first.train != tiny.train[parts[0]]).nnz == 0
        and first.items == tiny.items
    )


def test_the_random_memory_is_an_even_sample_that_only_new_users_push_out_of(tiny):
    counts = np.zeros(150)
    for seed in range(200):
        parts, before = stream.arrive(tiny, 3, seed), set()
        for part in range(3):
            arrived = np.concatenate(parts[: part + 1])
            memory = set(stream.random_memory(tiny, arrived, 20, seed).tolist())
            assert len(memory) == 20 and memory <= before | set(parts[part].tolist())
            before = memory
        counts[list(memory)] += 1
    assert 10 < counts.min() and counts.max() < 48  # 27 at the mean, a deviation of 5


@pytest.mark.parametrize("memory, remembered", [("all", [50, 100, 150]), ("random", [10, 10, 10])])
def test_real_users_remembered(tiny_data, tmp_path, run_script, memory, remembered):
    _, result, _ = run(run_script, tiny_data, tmp_path, f"--memory={memory}")
    assert [part["users"] for part in result["parts"]] == [50, 100, 150] and [
        part["remembered"] for part in result["parts"]
    ] == remembered
    assert result["parts"][-1]["test"] == pytest.approx(result["test"])


def test_a_distilled_memory_that_was_killed_ends_with_the_same_bits(tiny_data, tmp_path, run_script):
    folder, result, _ = run(run_script, tiny_data, tmp_path)
    assert [part["remembered"] for part in result["parts"]] == [10, 10, 10]
    (folder / "result.json").unlink()  # as killed in the last part: the checkpoint is of the one before
    _, again, done = run(run_script, tiny_data, tmp_path)
    assert "going on from part 1 of 3" in done.stdout and again["parts"] == result["parts"]
    (folder / "result.json").unlink()
    with np.load(folder / "checkpoint.npz") as arrays:
        np.savez(folder / "checkpoint.npz", **{**arrays, "state_0": np.zeros((9, 40))})
    done = run_script("stream.py", *TINY, f"--data_dir={tiny_data}", f"--results_dir={tmp_path}")
    assert (
        done.returncode == 1
        and len(done.stderr.splitlines()) == 1
        and "does not fit these settings (shapes differ)" in done.stderr
    )


@pytest.mark.parametrize(
    "change, words",
    [
        ({"parts": 200}, "parts is 200, but tiny has 150 users"),
        ({"user_support": 60}, "the first part"),
        ({"memory": "random", "user_support": 151}, "but tiny has 150 users"),
    ],
)
def test_what_cannot_be_is_refused(tiny, change, words):
    with pytest.raises(UserError, match=words):
        stream.check({"memory": "distilled", "parts": 3, "user_support": 10, **change}, tiny)
