"""compare.py: the tables of fixed results byte for byte, the figure's lines, and comparisons that must be refused."""
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy import stats

import compare
import comparison
import pictures
from eval import METRICS
from settings import UserError


def finished_run(folder, wanted, ndcg, users, fingerprint="abc", seconds=10.0):
    """What a run of these settings leaves: every metric is ndcg, and differs between its users as is given."""
    script, settings = wanted.identity()
    path = folder / f"{wanted.part}-{wanted.dataset}-{wanted.system}-{wanted.at}-{wanted.seed}".replace(" ", "_")
    path.mkdir(parents=True)
    config = {"script": script, "settings": json.loads(settings), "data_fingerprint": fingerprint, "devices": "1 x cpu", "versions": {},
              "git_revision": "abc"}
    (path / "config.json").write_text(json.dumps(config))
    test = {name: ndcg / 100 if name == "AUC" else ndcg for name in METRICS}
    (path / "result.json").write_text(json.dumps({"dataset": wanted.dataset, "test": test, "wall_seconds": seconds, "choice": {"l2": 0.5}}))
    users = (users - users.mean(dtype=np.float64) + ndcg).astype(np.float32)
    np.savez(path / "users.npz", **{"HR@10": users, "NDCG@10": users})
    return path


def wanted_of(system, folder, dataset="ml-1m", at=None, part="table"):
    return [each for each in comparison.plan(comparison.find([folder])) if each[:4] == (part, system, dataset, at)]


@pytest.fixture
def results(tmp_path):
    """PopRec, EASE, two of three runs of MF on ml-1m; the figure's full line and two budgets."""
    rng = np.random.default_rng(0)
    ease = rng.random(100).astype(np.float32)
    finished_run(tmp_path, *wanted_of("EASE", tmp_path), 34.0, ease)
    finished_run(tmp_path, *wanted_of("PopRec", tmp_path), 14.0, ease - rng.normal(0.3, 0.1, 100).astype(np.float32))
    finished_run(tmp_path, *wanted_of("∞-AE, all users", tmp_path), 33.5, ease - rng.normal(0, 4, 100).astype(np.float32))
    for seed, ndcg in enumerate((25.0, 27.0)):  # the second takes what the first has chosen
        finished_run(tmp_path, wanted_of("MF", tmp_path)[seed], ndcg, ease - rng.normal(0.2, 0.1, 100).astype(np.float32))
    for budget in (10, 100):
        for system in comparison.STRATEGIES:
            for wanted in wanted_of(system.name, tmp_path, at=budget, part="strategies"):
                finished_run(tmp_path, wanted, 20.0 + wanted.seed + budget / 100, ease)
    return tmp_path


def made_of(folder):
    return comparison.match(comparison.find([folder]))


def test_the_markdown_table_byte_for_byte(results):
    short, _, magazine, _, ml_1m = compare.to_markdown(compare.summary(made_of(results))).split("\n\n")
    assert short == """\
| NDCG@10 | Amazon Magazine | the paper's | MovieLens-1M | the paper's |
| --- | --- | --- | --- | --- |
| PopRec | missing | 8.42 | 14.00 | 13.84 |
| MF | missing | 13.10 | 26.00 ± 1.41 | 25.65 |
| NeuMF | missing | 13.60 | missing | 24.44 |
| MVAE | missing | 12.18 | missing | 22.14 |
| LightGCN | missing | 22.57 | missing | 28.85 |
| EASE | missing | 22.84 | **34.00** | 29.88 |
| ∞-AE, all users | missing | 23.06 | 33.50 | 32.82 |
| ∞-AE, all users, items weighted | missing | | missing | |
| ∞-AE on Distill-CF, S = 500 | missing | 23.81 | missing | 32.52 |"""
    assert "0." not in magazine and ml_1m == """\
| | HR@10 | HR@100 | NDCG@10 | NDCG@100 | PSP@10 | PSP@100 | AUC | paper, NDCG@10 | p (paired over users, seeds averaged) |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| PopRec | 14.00 | 14.00 | 14.00 | 14.00 | 14.00 | 14.00 | 0.1400 | 13.84 | < 0.001 |
| MF (2 of 3 seeds) | 26.00 ± 1.41 | 26.00 ± 1.41 | 26.00 ± 1.41 | 26.00 ± 1.41 | 26.00 ± 1.41 | 26.00 ± 1.41 | 0.2600 ± 0.0141 | 25.65 | < 0.001 |
| NeuMF | missing | missing | missing | missing | missing | missing | missing | 24.44 | |
| MVAE | missing | missing | missing | missing | missing | missing | missing | 22.14 | |
| LightGCN | missing | missing | missing | missing | missing | missing | missing | 28.85 | |
| EASE | **34.00** | **34.00** | **34.00** | **34.00** | **34.00** | **34.00** | **0.3400** | 29.88 | best |
| ∞-AE, all users | 33.50 | 33.50 | 33.50 | 33.50 | 33.50 | 33.50 | 0.3350 | 32.82 | 0.265 |
| ∞-AE, all users, items weighted | missing | missing | missing | missing | missing | missing | missing | | |
| ∞-AE on Distill-CF, S = 500 | missing | missing | missing | missing | missing | missing | missing | 32.52 | |
"""


def test_the_latex_table_byte_for_byte(results):
    lines = compare.to_latex(compare.summary(made_of(results))).splitlines()
    assert lines[:5] == [r"\begin{tabular}{lrrrrrrrrr}", r"\toprule", r" & HR@10 & HR@100 & NDCG@10 & NDCG@100 & PSP@10 & PSP@100 & AUC & paper, NDCG@10 & $p$ (paired over users, seeds averaged) \\",
                         r"\midrule", r"\multicolumn{10}{l}{Amazon Magazine} \\"]
    assert lines[-5] == r"$\infty$-AE, all users & 33.50 & 33.50 & 33.50 & 33.50 & 33.50 & 33.50 & 0.3350 & 32.82 & 0.265 \\"
    assert lines[-6].startswith(r"EASE & \textbf{34.00}") and lines[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_the_paired_test_and_its_correction(results):
    table = compare.summary(made_of(results)).set_index(["dataset", "system"]).loc["ml-1m"]
    users = {system: np.load(results / f"table-ml-1m-{system}-None-1".replace(" ", "_") / "users.npz")["NDCG@10"] for system in ("EASE", "∞-AE, all users")}
    difference = (users["EASE"] - users["∞-AE, all users"]).astype(np.float64)
    t = difference.mean() / difference.std(ddof=1) * 10
    p = 2 * stats.t.sf(abs(t), 99)
    assert table.loc["∞-AE, all users", "p"] == pytest.approx(p, rel=1e-3)  # the largest of three: not multiplied
    assert compare.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert compare.holm([0.9, 0.8]) == pytest.approx([1, 1])


def test_the_figure_has_a_line_for_each_strategy(results):
    drawn = compare.strategies(made_of(results))
    assert list(drawn) == ["MovieLens-1M"]
    lines, full = drawn["MovieLens-1M"]
    assert list(lines) == ["random users", "random interactions", "head users", "SVP-CF users", "Distill-CF"] and full["HR@10"] == 33.5
    assert list(lines["Distill-CF"]["x"]) == [10, 100] and lines["Distill-CF"]["HR@10"].tolist() == pytest.approx([22.1, 23.0])
    assert lines["Distill-CF"]["PSP@10 deviation"].tolist() == pytest.approx([1, 1])
    picture = pictures.strategies(drawn, "svg").decode()
    assert pictures.strategies(drawn, "svg").decode() == picture
    assert all(f"<!-- {name} -->" in picture for name in (*lines, "all users", "MovieLens-1M", "PSP@10, %"))


def test_what_is_missing_is_planned_and_half_written_runs_do_not_count(results, capsys):
    for path in results.glob("table-ml-1m-EASE*"):
        (path / "result.json").unlink()
    made = made_of(results)
    assert not any(each.system == "EASE" for each in made)
    missing = comparison.missing_of(comparison.find([results]))
    compare.show_plan([each for each in missing if each.part == "table" and each.system in ("EASE", "MF", "NeuMF") and each.dataset == "ml-1m"], made, {"data_dir": "somewhere"})
    mf, neumf, ease, later, count = capsys.readouterr().out.splitlines()
    assert mf == "python baselines.py --dataset=ml-1m --model=mf --seed=3 '--grid=[{\"l2\": 0.5}]' --data_dir=somewhere"
    assert neumf == "python baselines.py --dataset=ml-1m --model=neumf --seed=1 --data_dir=somewhere"
    assert ease == "python baselines.py --dataset=ml-1m --model=ease --seed=1 --data_dir=somewhere"
    assert later == "and 2 that take over what one of these chooses or learns"
    assert count.startswith("5 runs are missing") and "about 0.0 hours" in count


def test_runs_of_the_table_and_the_figure_that_are_the_same_are_made_once(results):
    [first, *_] = wanted_of("∞-AE on Distill-CF, S = 500", results)
    [second, *_] = wanted_of("Distill-CF", results, at=500, part="strategies")
    assert first != second and first.identity() == second.identity()
    finished_run(results, second, 33.0, np.zeros(100, np.float32))
    assert {first, second} <= made_of(results).keys()


def test_runs_of_other_data_are_not_compared(results):
    finished_run(results, wanted_of("NeuMF", results)[0], 30.0, np.zeros(100, np.float32), fingerprint="other")
    with pytest.raises(UserError, match="different data or splits of ml-1m"):
        made_of(results)


@pytest.mark.parametrize("name, change", [
    ("result.json", "{"), ("config.json", "[1]"), ("config.json", {"settings": [1]}), ("config.json", {"data_fingerprint": ["abc"]}),
    ("result.json", {"test": {name: "34" for name in METRICS}}), ("result.json", {"test": {name: float("nan") for name in METRICS}}),
    ("result.json", {"choice": 5}), ("result.json", {"parts": [None]})])
def test_a_damaged_run_is_named(results, name, change):
    path = next(results.glob("table-ml-1m-EASE*"))
    whole = json.loads((path / name).read_text())
    (path / name).write_text(change if isinstance(change, str) else json.dumps({**whole, **change}))
    with pytest.raises(UserError, match=f"{path.name} holds a damaged"):
        comparison.find([results])


@pytest.mark.parametrize("users", [np.zeros(100, np.float32), np.full(100, np.nan, np.float32), np.full((2, 50), 34, np.float32), np.array(["34"] * 100)])
def test_users_of_another_run_are_refused(results, users):
    path = next(results.glob("table-ml-1m-EASE*"))
    np.savez(path / "users.npz", **{"HR@10": users, "NDCG@10": users})
    with pytest.raises(UserError, match="does not have the HR@10 .* delete"):
        compare.summary(made_of(results))


def test_what_is_kept_says_nothing_of_the_machine_and_counts_as_the_run(results, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "KEPT", tmp_path / "kept")
    made = made_of(results)
    comparison.keep_all(made)
    kept = made_of(tmp_path / "kept")
    assert kept.keys() == made.keys() and compare.to_markdown(compare.summary(kept)) == compare.to_markdown(compare.summary(made))


def test_synthetic_users_that_are_not_here_are_learnt_again_for_others(results):
    teacher = wanted_of("∞-AE on Distill-CF, S = 500", results)[0]
    folder = finished_run(results, teacher, 33.0, np.zeros(100, np.float32))
    first = wanted_of("EASE", results, at="500 synthetic users", part="learners")[0]
    missing = comparison.missing_of(comparison.find([results]))
    assert missing[0] == teacher and first in missing
    np.savez(folder / "distilled.npz", data=np.zeros(1))
    missing = comparison.missing_of(comparison.find([results]))
    assert teacher not in missing and first in missing


def test_sigterm_ends_the_run_that_is_being_made_first(tmp_path):
    code = f"""import signal, sys, compare
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
compare.run_to_the_end(["sh", "-c", "echo $$ > {tmp_path}/.pid; mv {tmp_path}/.pid {tmp_path}/pid; exec sleep 60"])"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=compare.DOCS.parent)
    while not (tmp_path / "pid").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=30) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert compare.run_to_the_end(["sh", "-c", "echo one >&2; echo two >&2; exit 3"]) == (3, "two")


@pytest.mark.parametrize("arguments, words", [(["--plan", "--run"], "do not go together"), (["--dataset=ml-1m"], "has no use for dataset")])
def test_wrong_options(run_script, arguments, words):
    done = run_script("compare.py", *arguments)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and words in done.stderr


def test_learners_noise_and_stream(results):
    """Distilled users are handed on by the name of the run that has learnt them; noise begins with the table's runs."""
    assert all(each.arguments is None for each in wanted_of("EASE", results, at="500 synthetic users", part="learners"))
    finished_run(results, wanted_of("∞-AE on Distill-CF, S = 500", results)[0], 33.0, np.zeros(100, np.float32))
    first, second, _ = wanted_of("EASE", results, at="500 synthetic users", part="learners")
    assert "--distilled=table-ml-1m-∞-AE_on_Distill-CF,_S_=_500-None-1" in first.arguments and second.arguments is None
    finished_run(results, first, 30.0, np.zeros(100, np.float32))
    for wanted in wanted_of("EASE", results, at=0.1, part="noise"):
        finished_run(results, wanted, 30.0 + wanted.seed, np.zeros(100, np.float32))
    made = made_of(results)
    assert "| EASE | 500 synthetic users | missing | 30.00 (1 of 3 seeds) |" in compare.learners(made) and "| EASE | all users | missing | 34.00 |" in compare.learners(made)
    drawn = compare.noise(made)
    assert list(drawn) == ["EASE"] and drawn["EASE"]["x"].tolist() == [0, 10] and drawn["EASE"]["NDCG@10"].tolist() == [34, 32]
    assert compare.stream(made) == {}
    for wanted, shift in zip(wanted_of("synthetic users", results, part="stream"), (0, 2)):
        path = finished_run(results, wanted, 30.0, np.zeros(100, np.float32))
        result = json.loads((path / "result.json").read_text())
        (path / "result.json").write_text(json.dumps({**result, "parts": [{"test": {"NDCG@10": 20.0 + shift}}, {"test": {"NDCG@10": 30.0 + shift}}]}))
    drawn = compare.stream(made_of(results))
    assert drawn["synthetic users"]["NDCG@10"].tolist() == [21, 31] and drawn["synthetic users"]["x"].tolist() == [1, 2]
    picture = pictures.lines(drawn, "NDCG@10", "parts", "MovieLens-1M", "svg").decode()
    assert "<!-- synthetic users -->" in picture
