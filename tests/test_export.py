"""export.py: what each format's plain reader gets back, and the distribution of the hard draws."""

import shutil

import duckdb
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import chisquare

import export
from lib.errors import UserError
from runs.synthetic_users import draw, draw_temperature, open_distilled


def rebuilt(users, items, weights, distilled):
    """The matrix of a table, its items found by their ids."""
    columns = [list(distilled.item_ids).index(item) for item in items]
    return sp.csr_matrix(
        (np.asarray(weights, np.float32), (np.asarray(users, int), columns)), distilled.rows.shape
    )


def read_back(kind, out, distilled):
    """By the readers that the libraries themselves use, and no code of export.py."""
    if kind == "recbole":
        path = out / "titled-distilled" / "titled-distilled.inter"
        assert path.read_text(encoding="utf-8").split("\n")[0] == "user_id:token\titem_id:token\trating:float"
        table = pd.read_csv(
            path,
            delimiter="\t",
            engine="python",
            dtype={"user_id:token": str, "item_id:token": str, "rating:float": np.float64},
        )
        return rebuilt(*(table[column] for column in table), distilled)
    if kind == "implicit":
        items = pd.read_csv(out / "items.csv")
        assert list(items["item"]) == list(distilled.item_ids) and list(items["column"]) == list(
            range(len(items))
        )
        return sp.load_npz(out / "user_items.npz")
    table = (
        duckdb.read_parquet(str(out / "interactions.parquet")).df()
        if kind == "lenskit"
        else pd.read_csv(out / "interactions.csv")
    )
    return rebuilt(table["user"], table["item"], table["weight"], distilled)


@pytest.mark.parametrize("values", ["soft", "hard"])
@pytest.mark.parametrize("kind", export.FORMATS)
def test_read_back_is_the_same_matrix(distilled_run, tmp_path, capsys, kind, values):
    distilled = open_distilled(distilled_run)
    export.main(
        [f"--run={distilled_run}", f"--format={kind}", f"--values={values}", "--seed=3", f"--out={tmp_path}"]
    )
    expected = (
        distilled.rows
        if values == "soft"
        else (
            draw(distilled.logits, 10, draw_temperature(distilled.logits, 10, distilled.real_length), 3) > 0
        ).astype(np.float32)
    )
    found = read_back(kind, tmp_path, distilled)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.toarray(), expected)
    assert f"{(expected > 0).sum():,} interactions" in capsys.readouterr().out


def test_the_recbole_config_names_its_files(distilled_run, tmp_path, capsys):
    run = shutil.copytree(distilled_run, tmp_path / "run: one")
    export.main([f"--run={run}", "--format=recbole"])
    text = (run / "export-recbole-soft" / "titled-distilled.yaml").read_text()
    assert (
        f'data_path: "{run}/export-recbole-soft"' in text
        and 'dataset: "titled-distilled"' in text
        and "inter: [user_id, item_id, rating]" in text
    )


def test_draws_of_other_seeds_lie_elsewhere(distilled_run, tmp_path, capsys):
    run = shutil.copytree(distilled_run, tmp_path / "run")
    for seed in (0, 1):
        export.main([f"--run={run}", "--format=csv", "--values=hard", f"--seed={seed}"])
    first, second = (
        (run / f"export-csv-hard-seed{seed}" / "interactions.csv").read_bytes() for seed in (0, 1)
    )
    assert first != second


def test_hard_draws_repeat_and_follow_softmax():
    """Chi-square of 40,000 draws a user against softmax(L); so for the argmax of L + Gumbel noise."""
    logits = np.random.default_rng(0).normal(scale=1.5, size=(3, 40)).astype(np.float32)
    draws = 40_000
    counts = draw(logits, draws, 1, 7)
    assert (counts == draw(logits, draws, 1, 7)).all() and (counts != draw(logits, draws, 1, 8)).any()
    assert (counts == draw(logits * 0.5, draws, 0.5, 7)).all()
    assert (counts.sum(axis=1) == draws).all()
    expected = np.exp(logits.astype(np.float64))
    expected *= draws / expected.sum(axis=1, keepdims=True)
    for user in range(3):
        assert chisquare(counts[user], expected[user]).pvalue > 0.01
        wrong = np.exp(logits[user].astype(np.float64) / 1.1)
        assert chisquare(counts[user], wrong * draws / wrong.sum()).pvalue < 1e-6, (
            "this many draws tell a temperature of 1.1 from 1"
        )
        noise = np.random.default_rng(user).gumbel(size=(draws, 40))
        maxima = np.bincount(np.argmax(logits[user] + noise, axis=1), minlength=40)
        assert chisquare(maxima, expected[user]).pvalue > 0.01


@pytest.mark.parametrize("length", [2, 7, 15])
def test_the_temperature_gives_as_many_items_as_real_users_have(length):
    logits = np.random.default_rng(0).normal(scale=1.5, size=(200, 60)).astype(np.float32)
    temperature = draw_temperature(logits, 50, length)
    assert temperature < 1 and (draw(logits, 50, temperature, 1) > 0).sum(axis=1).mean() == pytest.approx(
        length, rel=0.05
    )


def test_the_temperature_has_ends():
    logits = np.random.default_rng(0).normal(size=(20, 60)).astype(np.float32)
    assert draw_temperature(logits, 50, 51) == 1, "more than there are draws"
    assert draw_temperature(logits, 50, 1) == pytest.approx(1e-3)


def test_bad_input(run_script, distilled_run, tmp_path):
    for arguments, code, says in (
        (["--format=xml"], 1, "export: argument --format: invalid choice"),
        (["--format=csv", "--seed=-1"], 1, "at least 0"),
        (["--format=csv", "--seed=--"], 1, "argument --seed: it cannot be --"),
        (["--format=" + 5000 * "x"], 1, "invalid choice: 'xxx"),
        (["--format=csv", "--out="], 1, "--out must name a folder"),
        (["--format=csv", "--out=/proc/here"], 1, "No such file or directory: '/proc/here'"),
        ([], 1, "export: the following arguments are required: --format"),
    ):
        done = run_script("export.py", f"--run={distilled_run}", *arguments)
        assert done.returncode == code and says in done.stderr and "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1 and len(done.stderr) < 800
    with pytest.raises(UserError, match="item ids NA, null for missing"):
        export.write(sp.csr_matrix(np.eye(3)), np.array(["NA", "1", "null"]), "recbole", tmp_path, "x")
