"""compare.py: tables byte for byte, the record and what it refuses, figures' lines, and one's own runs."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

import compare
import eval
import hyper_params
from eval import METRICS
from lib import plots
from lib.errors import UserError
from paper import make_runs, plan, record, summaries
from paper.plan import Runs
from runs import folder as run_folder

DATA = {"ml-1m": (100, 50, 12_000), "magazine": (90, 40, 300)}  # users, items, train interactions
SIZES = "users", "items", "interactions"
KNOWN = [
    record.Found("", "", {"dataset": name}, {"fingerprint": "", **dict(zip(SIZES, data))}, None, {}, "", {})
    for name, data in DATA.items()
]


@pytest.fixture(autouse=True)
def docs(tmp_path, monkeypatch):
    """An empty record, and a README with two markers, in the place of the project's own."""
    folder = tmp_path / "docs"
    folder.mkdir()
    monkeypatch.setattr(record, "DOCS", folder)
    monkeypatch.setattr(compare, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text(
        "Before\n<!-- table: ndcg -->\n<!-- end -->\nbetween\n\n"
        "<!-- table: learners -->\nold\n\n<!-- end -->\n"
    )
    return folder


def planned_of(system, folder, dataset="ml-1m", at=None, part="table"):
    return [
        planned
        for planned in plan.plan(Runs(record.read_folder(folder)[0] + KNOWN))
        if planned[:4] == (part, system, dataset, at)
    ]


def finished_run(
    folder, planned, ndcg, users=None, fingerprint="abc", seconds=10.0, revision="abc", name=None, **more
):
    """What a planned run leaves: every metric is ndcg, its users as given around it; more: other settings."""
    settings, _ = Runs(KNOWN).settings_of(planned)
    path = folder / (
        name
        or "-".join(
            map(str, (planned.part, planned.dataset, planned.system, planned.at, planned.seed))
        ).replace(" ", "_")
    )
    path.mkdir(parents=True)
    data = dict(zip(SIZES, DATA[planned.dataset]))
    config = {
        "script": planned.script,
        "settings": {**settings, **more},
        "auto": {},
        "data": data,
        "data_fingerprint": fingerprint,
        "devices": "1 x cpu",
        "versions": {},
        "git_revision": revision,
        "command": "python /secret/x.py",
        "python": "3",
        "started": "",
    }
    (path / "config.json").write_text(json.dumps(config))
    metrics = {metric: ndcg / 100 if metric == "AUC" else ndcg for metric in METRICS}
    choice = {"choice": {"l2": 0.5}} if planned.script == "baselines" else {"lamda": 1.0}
    (path / "result.json").write_text(
        json.dumps(
            {
                "dataset": planned.dataset,
                "val": metrics,
                "test": metrics,
                **choice,
                "best_step": None,
                "steps": None,
                "wall_seconds": seconds,
            }
        )
    )
    users = (
        np.random.default_rng(int(100 * ndcg)).random(DATA[planned.dataset][0]) if users is None else users
    )
    users = (users - users.mean(dtype=np.float64) + ndcg).astype(np.float32)
    np.savez(path / "users.npz", **{"HR@10": users, "NDCG@10": users})
    return path


@pytest.fixture
def results(tmp_path):
    """PopRec, EASE, ∞-AE, two of three runs of MF on ml-1m; the figure's full line and two budgets."""
    rng, folder = np.random.default_rng(0), tmp_path / "results"
    ease = rng.random(100).astype(np.float32)
    finished_run(folder, *planned_of("EASE", folder), 34.0, ease)
    finished_run(
        folder, *planned_of("PopRec", folder), 14.0, ease - rng.normal(0.3, 0.1, 100).astype(np.float32)
    )
    finished_run(
        folder, *planned_of("∞-AE, all users", folder), 33.5, ease - rng.normal(0, 4, 100).astype(np.float32)
    )
    for seed, ndcg in enumerate((25.0, 27.0)):  # the second takes what the first has chosen
        finished_run(
            folder, planned_of("MF", folder)[seed], ndcg, ease - rng.normal(0.2, 0.1, 100).astype(np.float32)
        )
    finished_run(folder, *planned_of("all users", folder, part="strategies"), 33.0, ease)
    for budget in (10, 100):
        for system in plan.STRATEGIES:
            for planned in planned_of(system.name, folder, at=budget, part="strategies"):
                finished_run(folder, planned, 20.0 + planned.seed + budget / 100, ease)
    return folder


def match(folder):
    return plan.match(plan.find(folder)[0])


def made_of(folder):
    return {planned: run for planned, run in match(folder).items() if run}


# ---- The tables ----------------------------------------------------------------------------------------


def test_the_markdown_tables_byte_for_byte(results):
    tables = compare.to_markdown(match(results))
    assert (
        list(tables) == ["ndcg", "magazine", "ml-1m", "learners"]
        and tables["ndcg"]
        == """\
| NDCG@10 | chosen by | Amazon Magazine | the paper's | MovieLens-1M | the paper's |
| --- | --- | --- | --- | --- | --- |
| PopRec | NDCG@10 | missing | 8.42 | 14.00 | 13.84 |
| MF | HR@100 | missing | 13.10 | 26.00 ± 1.41 | 25.65 |
| NeuMF | HR@100 | missing | 13.60 | missing | 24.44 |
| MVAE | HR@100 | missing | 12.18 | missing | 22.14 |
| LightGCN | HR@100 | missing | 22.57 | missing | 28.85 |
| EASE | NDCG@10 | missing | 22.84 | **34.00** | 29.88 |
| ∞-AE, all users | NDCG@10 | missing | 23.06 | 33.50 | 32.82 |
| ∞-AE, all users, items weighted | NDCG@10 | missing | | missing | |
| ∞-AE on Distill-CF, S = 500 | NDCG@10 | missing | 23.81 | missing | 32.52 |"""
    )
    assert (
        "0." not in tables["magazine"]
        and tables["ml-1m"]
        == """\
| | HR@10 | HR@100 | NDCG@10 | NDCG@100 | PSP@10 | PSP@100 | AUC | chosen by | paper, NDCG@10 | p, over users |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| PopRec | 14.00 | 14.00 | 14.00 | 14.00 | 14.00 | 14.00 | 0.1400 | NDCG@10 | 13.84 | < 0.001 |
| MF (2 of 3 seeds) | 26.00 ± 1.41 | 26.00 ± 1.41 | 26.00 ± 1.41 | 26.00 ± 1.41 | 26.00 ± 1.41 | 26.00 ± 1.41 | 0.2600 ± 0.0141 | HR@100 | 25.65 | < 0.001 |
| NeuMF | missing | missing | missing | missing | missing | missing | missing | HR@100 | 24.44 | |
| MVAE | missing | missing | missing | missing | missing | missing | missing | HR@100 | 22.14 | |
| LightGCN | missing | missing | missing | missing | missing | missing | missing | HR@100 | 28.85 | |
| EASE | **34.00** | **34.00** | **34.00** | **34.00** | **34.00** | **34.00** | **0.3400** | NDCG@10 | 29.88 | best |
| ∞-AE, all users | 33.50 | 33.50 | 33.50 | 33.50 | 33.50 | 33.50 | 0.3350 | NDCG@10 | 32.82 | 0.265 |
| ∞-AE, all users, items weighted | missing | missing | missing | missing | missing | missing | missing | NDCG@10 | | |
| ∞-AE on Distill-CF, S = 500 | missing | missing | missing | missing | missing | missing | missing | NDCG@10 | 32.52 | |

p: a t-test paired over users, seeds averaged, of NDCG@10 against the best system's, Holm-corrected; it knows nothing of \
the spread over seeds (±, a standard deviation)."""
    )


def test_the_latex_and_csv_tables(results):
    matched = match(results)
    lines = compare.to_latex(matched).splitlines()
    assert lines[:5] == [
        r"\begin{tabular}{lrrrrrrrrrr}",
        r"\toprule",
        r" & HR@10 & HR@100 & NDCG@10 & NDCG@100 & PSP@10 & PSP@100 & AUC & chosen by & paper, NDCG@10 & $p$, over users \\",
        r"\midrule",
        r"\multicolumn{11}{l}{Amazon Magazine} \\",
    ]
    assert (
        lines[-6]
        == r"$\infty$-AE, all users & 33.50 & 33.50 & 33.50 & 33.50 & 33.50 & 33.50 & 0.3350 & NDCG@10 & 32.82 & 0.265 \\"
    )
    assert lines[-7].startswith(r"EASE & \textbf{34.00}") and lines[-3] == r"\bottomrule"
    assert lines[-1] == r"\end{tabular}"
    assert "nothing of the spread over seeds" in lines[-2]
    compare.write(matched, record.DOCS)
    header, *_ = (record.DOCS / "results.csv").read_text(encoding="utf-8").splitlines()
    assert "system,chosen by,runs,seeds,HR@10" in header
    assert header.endswith('"p, paired over users, seeds averaged"')


def test_the_paired_test_and_its_correction(results):
    table = compare.summary(match(results)).set_index(["dataset", "system"]).loc["ml-1m"]
    of = lambda name: np.load(results / name / "users.npz")["NDCG@10"]
    difference = (of("table-ml-1m-EASE-None-1") - of("table-ml-1m-∞-AE,_all_users-None-1")).astype(np.float64)
    t = difference.mean() / difference.std(ddof=1) * 10
    p = 2 * stats.t.sf(abs(t), 99)
    assert table.loc["∞-AE, all users", "p"] == pytest.approx(p, rel=1e-3), "the largest of three"
    assert summaries.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert summaries.holm([0.9, 0.8]) == pytest.approx([1, 1])
    one, other = np.array([1, 2, np.nan, 4.0]), np.array([1.5, 2, np.nan, 3])
    assert summaries.paired(one, one) == 1
    assert summaries.paired(one, other) == pytest.approx(stats.ttest_rel([1, 2, 4], [1.5, 2, 3]).pvalue)


def test_tables_are_filled_between_their_markers(docs):
    tables = {"one": "| 1 |", "two": "| 2 \\g<0> |"}
    text = "a\n<!-- table: one -->\nold\n<!-- end -->\nb\n<!-- table: two -->\n<!-- end -->\n"
    filled = compare.fill(text, tables, "README.md")
    assert (
        filled
        == "a\n<!-- table: one -->\n| 1 |\n<!-- end -->\nb\n<!-- table: two -->\n| 2 \\g<0> |\n<!-- end -->\n"
    )
    assert compare.fill(filled, tables, "README.md") == filled
    for wrong, says in (
        ("<!-- table: three -->\n<!-- end -->", "has <!-- table: three -->, and the tables are one, two"),
        ("<!-- table: one -->\n", "needs its own"),
        ("<!-- end -->", "needs its own"),
        ("<!-- table: one -->\n<!-- table: two -->\n<!-- end -->", "needs its own"),
    ):
        with pytest.raises(UserError, match=f"README.md.*{says}"):
            compare.fill(wrong, tables, "README.md")


def test_the_tables_of_the_readme_are_those_of_the_record():
    """`python compare.py` fills them; an edited hyper_params.py is another plan, and has other tables."""
    root = Path(compare.__file__).parent
    found = Runs(record.read_record(root / "docs"))
    matched = plan.match(found)
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert {"ndcg", "ml-1m", "learners"} <= set(re.findall("<!-- table: (.*) -->", readme))
    filled = compare.fill(readme, compare.to_markdown(matched), "README.md")
    assert filled == readme, "python compare.py fills README.md from the record"
    names, _ = compare.write(matched, record.DOCS)
    for name in (name for name in names if name.startswith("results") and name.endswith((".md", ".tex"))):
        assert (record.DOCS / name).read_text() == (root / "docs" / name).read_text(), name
    assert {planned.part for planned in plan.missing_of(found)} <= {"table"}
    assert all(run.clean or run.revision.endswith(" with uncommitted changes") for run in found.runs)


# ---- The figures ---------------------------------------------------------------------------------------


def test_the_figure_has_a_line_for_each_strategy(results):
    [panel] = compare.strategies(match(results))
    assert (panel.title, panel.users) == ("MovieLens-1M", 100)
    lines = panel.lines
    names = [
        "random users",
        "random interactions",
        "head users",
        "SVP-CF users",
        "Distill-CF",
        "∞-AE, all users",
    ]
    assert [name.partition(" (")[0] for name in lines] == names
    distilled = lines["Distill-CF (6 of 42 runs)"]
    assert list(distilled["x"]) == [10, 100] and distilled["HR@10"].tolist() == pytest.approx([22.1, 23.0])
    assert distilled["PSP@10 deviation"].tolist() == pytest.approx([1, 1])
    assert lines["∞-AE, all users (1 of 2 runs)"]["HR@10"].tolist() == [33]
    picture = plots.strategies([panel], "svg").decode()
    assert plots.strategies([panel], "svg").decode() == picture
    drawn = (*lines, panel.title, "PSP@10, %", "S, number of users", "users, % of all")
    assert all(f"<!-- {text} -->" in picture for text in drawn)


def test_a_figure_says_which_runs_it_lacks(results):
    files, notes = compare.figures(match(results))
    files_of = lambda name: [f"{name}.{kind}" for kind in ("pdf", "png", "svg")]
    assert [note.partition(":")[0] for note in notes] == [
        ", ".join(files_of(name)) for name in ("results", "noise", "stream")
    ]
    assert "random users (6 of 42 runs)" in notes[0] and "head users (2 of 14 runs)" in notes[0]
    assert "not drawn" in notes[2]
    assert set(files) == {*files_of("results"), *files_of("noise")}, "with ∞-AE on no noise"
    for planned in planned_of("synthetic users", results, part="stream")[:2]:
        path = finished_run(results, planned, 30.0)
        result = json.loads((path / "result.json").read_text())
        part = {"validation": result["val"], "test": result["test"]}
        (path / "result.json").write_text(json.dumps({**result, "parts": [part, part]}))
    files, notes = compare.figures(match(results))
    assert "synthetic users (2 of 3 seeds)" in notes[2] and "random users (0 of 3 seeds)" in notes[2]
    assert b"<!-- synthetic users (2 of 3 seeds) -->" in files["stream.svg"]
    assert b"<!-- random users (0 of 3 seeds) -->" in files["stream.svg"]


def test_a_legend_lies_within_its_figure():
    """Whatever its labels need: three columns, two, one, or lines that are broken."""
    for length in (5, 30, 60, 200):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for number in range(4):
            axes.plot([0, 1], label=f"{number} " + "some word" * (length // 9) + " word" * (length // 5))
        plots._legend(figure, *axes.get_legend_handles_labels())
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, length


def test_learners_noise_and_stream(results):
    """Distilled users are handed on by the name of the run that has learnt them; noise begins with none."""
    learner = lambda at: planned_of("EASE", results, at=at, part="learners")
    assert all(planned.arguments is None for planned in learner("500 synthetic users"))
    for planned in planned_of("∞-AE on Distill-CF, S = 500", results)[:1]:
        finished_run(results, planned, 33.0)
    first, second, _ = learner("500 synthetic users")
    assert "--distilled=table-ml-1m-∞-AE_on_Distill-CF,_S_=_500-None-1" in first.arguments
    assert second.arguments is None
    finished_run(results, first, 30.0)
    finished_run(results, *learner("all users"), 34.5)
    for share in (0, 0.1):
        for planned in planned_of("EASE", results, at=share, part="noise"):
            finished_run(
                results, planned, 30.0 + planned.seed + (share == 0), name=f"noise-{share}-{planned.seed}"
            )
    matched = match(results)
    table = compare.learners(matched)
    assert "| EASE | 500 synthetic users | HR@100 | missing | 30.00 (1 of 3 seeds) |" in table
    assert "| EASE | all users | HR@100 | missing | 34.50 |" in table
    drawn = compare.noise(matched)["EASE (4 of 10 runs)"]
    assert drawn["x"].tolist() == [0, 10]
    assert drawn["NDCG@10"].tolist() == [34.5, 32], "of two runs of the same settings, the first met"
    assert not any(map(len, compare.stream(matched).values()))
    for planned, shift in zip(planned_of("synthetic users", results, part="stream"), (0, 2)):
        path = finished_run(results, planned, 30.0)
        result = json.loads((path / "result.json").read_text())
        parts = [
            {"validation": result["val"], "test": {**result["test"], "NDCG@10": ndcg + shift}}
            for ndcg in (20.0, 30.0)
        ]
        (path / "result.json").write_text(json.dumps({**result, "parts": parts}))
    drawn = compare.stream(match(results))["synthetic users (2 of 3 seeds)"]
    assert drawn["NDCG@10"].tolist() == [21, 31] and drawn["x"].tolist() == [1, 2]


# ---- Which runs are the planned ones -------------------------------------------------------------------


def test_what_is_missing_is_planned_and_half_written_runs_do_not_count(results, capsys):
    (next(results.glob("table-ml-1m-EASE*")) / "result.json").unlink()
    found, _ = plan.find(results)
    assert not any(planned.system == "EASE" for planned in made_of(results) if planned.part == "table")
    of_three = [
        planned
        for planned in plan.missing_of(found)
        if planned[:3] in [("table", name, "ml-1m") for name in ("EASE", "MF", "NeuMF")]
    ]
    make_runs.show_plan(of_three, match(results), {"data_dir": "somewhere", "results_dir": "results"})
    mf, neumf, ease, later, count = capsys.readouterr().out.splitlines()
    assert (
        mf
        == "python baselines.py --dataset=ml-1m --model=mf --best_by=HR@100 --seed=3 '--grid=[{\"l2\": 0.5}]' --data_dir=somewhere"
    )
    assert (
        neumf
        == "python baselines.py --dataset=ml-1m --model=neumf --best_by=HR@100 --seed=1 --data_dir=somewhere"
    )
    assert ease == "python baselines.py --dataset=ml-1m --model=ease --seed=1 --data_dir=somewhere"
    assert later == "and 2 that take over what one of these chooses or learns"
    assert count.startswith("5 runs are missing") and "about 0.0 hours" in count


def test_runs_of_a_data_set_that_nothing_is_known_of_are_missing():
    missing = plan.missing_of(Runs([]))
    assert len([planned for planned in missing if planned.arguments]) > 200
    assert not any(plan.match(Runs([])).values())


def test_runs_of_the_table_and_the_figure_that_are_the_same_are_made_once(results):
    [first, *_] = planned_of("∞-AE on Distill-CF, S = 500", results)
    [second, *_] = planned_of("Distill-CF", results, at=500, part="strategies")
    assert first != second
    assert [first, second] != [
        planned for planned in plan.missing_of(plan.find(results)[0]) if planned in (first, second)
    ]
    finished_run(results, second, 33.0)
    assert {first, second} <= made_of(results).keys()


def test_a_new_setting_loses_no_run_and_a_changed_one_does(results, monkeypatch):
    """A run older than a setting is the planned one as long as the plan leaves it at hyper_params.py's value."""
    before = made_of(results).keys()
    distilled = {planned for planned in before if planned.script == "distill"}
    baselines = {planned for planned in before if planned.script == "baselines"}
    assert len(distilled) == 6 and len(baselines) == 4
    for key, value in (("a_new_number", 3), ("a_new_switch", False), ("a_new_text", "some")):
        monkeypatch.setitem(hyper_params.hyper_params, key, value)
        monkeypatch.setitem(hyper_params.takes, "baselines", (*hyper_params.takes["baselines"], key))
    assert made_of(results).keys() == before
    with monkeypatch.context() as patch:
        given = {"distill": ("--a_new_number=4",)}
        systems = tuple(
            system._replace(arguments=given.get(system.script, system.arguments))
            for system in plan.STRATEGIES
        )
        patch.setattr(plan, "STRATEGIES", systems)
        assert not any(planned.script == "distill" for planned in made_of(results)), (
            "the plan sets what those runs did not know"
        )
    for key, value, lost in (
        ("num_per_user", 100, distilled),
        ("score_scale", 2.0, distilled),
        ("validation_users", 5, set(before)),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(hyper_params.hyper_params, key, value)
            assert made_of(results).keys() == before - lost, key
    with monkeypatch.context() as patch:
        patch.setitem(hyper_params.grids, "ease", [{"l2": 7}])
        assert baselines - made_of(results).keys() == set(planned_of("EASE", results))


def test_a_run_of_other_settings_or_without_a_setting_that_the_plan_gives_is_not_found(results):
    path = next(results.glob("table-ml-1m-EASE*"))
    config = json.loads((path / "config.json").read_text())
    for settings in (
        {**config["settings"], "seed": 2},
        {**config["settings"], "unknown": 1},
        {key: value for key, value in config["settings"].items() if key != "seed"},
    ):
        (path / "config.json").write_text(json.dumps({**config, "settings": settings}))
        assert not any(planned.system == "EASE" for planned in made_of(results) if planned.part == "table")


def test_runs_of_other_data_are_not_compared(results):
    finished_run(results, planned_of("NeuMF", results)[0], 30.0, fingerprint="other")
    with pytest.raises(UserError, match="different data or splits of ml-1m"):
        match(results)


@pytest.mark.parametrize(
    "name, change",
    [
        ("result.json", "{"),
        ("result.json", "[1]"),
        ("config.json", "[1]"),
        ("config.json", {"settings": [1]}),
        ("config.json", {"data_fingerprint": ["abc"]}),
        ("result.json", {"test": dict.fromkeys(METRICS, "34")}),
        ("result.json", {"test": dict.fromkeys(METRICS, float("nan"))}),
        ("result.json", {"test": {"HR@10": 1.0}}),
        ("result.json", {"choice": 5}),
        ("result.json", {"parts": [None]}),
        ("result.json", {"wall_seconds": None}),
    ],
)
def test_a_damaged_run_is_named_and_left_out(results, name, change):
    path = next(results.glob("table-ml-1m-EASE*"))
    whole = json.loads((path / name).read_text())
    (path / name).write_text(change if isinstance(change, str) else json.dumps({**whole, **change}))
    found, [note] = record.read_folder(results)
    assert note.startswith(f"left out: {path}/{name} ") and path.name not in [run.name for run in found]
    assert len(found) > 30
    assert run_folder.METRICS == eval.METRICS


@pytest.mark.parametrize(
    "users",
    [
        np.zeros(100, np.float32),
        np.full(100, np.nan, np.float32),
        np.full((2, 50), 34, np.float32),
        np.array(["34"] * 100),
    ],
)
def test_users_of_another_run_are_refused(results, users):
    path = next(results.glob("table-ml-1m-EASE*"))
    np.savez(path / "users.npz", **{"HR@10": users, "NDCG@10": users})
    with pytest.raises(UserError, match="does not have the users' NDCG@10 .* delete"):
        compare.summary(match(results))


# ---- The record ----------------------------------------------------------------------------------------


def test_the_record_says_nothing_of_the_machine_and_counts_as_the_runs(results, docs, tmp_path):
    made = match(results)
    plan.keep(made)
    kept = match(tmp_path / "nothing")
    assert {planned for planned, run in kept.items() if run} == made_of(results).keys()
    assert compare.to_markdown(kept) == compare.to_markdown(made)
    assert all(run.folder is None for run in kept.values() if run)
    text = (docs / "results.jsonl").read_text(encoding="utf-8")
    assert "secret" not in text and str(tmp_path) not in text and "data_dir" not in text
    names = [json.loads(line)["name"] for line in text.splitlines()]
    assert names == sorted(names) and len(names) == len({run.name for run in made.values() if run})
    assert len(np.load(docs / "results-users.npz").files) == 5, "of the table alone"
    plan.keep(match(results))
    assert (docs / "results.jsonl").read_text(encoding="utf-8") == text


def test_a_record_that_has_been_altered_is_refused(results, docs):
    plan.keep(match(results))
    lines = (docs / "results.jsonl").read_text(encoding="utf-8").splitlines()
    place = next(number for number, line in enumerate(lines) if "table-ml-1m-EASE" in line)
    for altered in (
        lines[place].replace("34.0", "35.0", 1),
        lines[place] + " ",
        lines[place].replace('"revision": "abc"', '"revision": "abd"'),
        lines[place].replace('", "sha256": "', '", "sha256": "0'),
    ):
        assert altered != lines[place]
        text = "\n".join([*lines[:place], altered, *lines[place + 1 :]]) + "\n"
        (docs / "results.jsonl").write_text(text, encoding="utf-8")
        says = "the record of table-ml-1m-EASE-None-1 has been altered.*git checkout docs/results.jsonl"
        with pytest.raises(UserError, match=says):
            record.read_record()
    for junk in ("{", "", "{}"):
        (docs / "results.jsonl").write_text(junk + "\n")
        with pytest.raises(UserError, match="the record of line 1 has been altered"):
            record.read_record()
    rest = json.dumps({"name": "x", "result": {}})[:-1]  # a line with the right sum that is not of a run
    (docs / "results.jsonl").write_text(f'{rest}, "sha256": "{record.digest(rest.encode())}"}}\n')
    with pytest.raises(UserError, match="the record of x has been altered: it is not what a run has"):
        record.read_record()


def test_users_of_the_record_that_have_been_altered_are_refused(results, docs):
    plan.keep(match(results))
    users = dict(np.load(docs / "results-users.npz"))
    name = "table-ml-1m-EASE-None-1"
    swapped = users[name][::-1]  # of the same mean
    for altered in ({**users, name: swapped}, {key: value for key, value in users.items() if key != name}):
        np.savez(docs / "results-users.npz", **altered)
        with pytest.raises(UserError, match=f"the users' metrics of {name} have been altered"):
            record.read_record()
    (docs / "results-users.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="truncated or damaged.*git checkout"):
        record.read_record()


def test_synthetic_users_that_are_not_here_are_learnt_again_for_others(results, docs):
    teacher = planned_of("∞-AE on Distill-CF, S = 500", results)[0]
    folder = finished_run(results, teacher, 33.0)
    first, *_ = planned_of("EASE", results, at="500 synthetic users", part="learners")
    missing = plan.missing_of(plan.find(results)[0])
    assert missing[0] == teacher and first in missing
    np.savez(folder / "distilled.npz", data=np.zeros(1))
    missing = plan.missing_of(plan.find(results)[0])
    assert teacher not in missing and first in missing


def test_a_learner_of_the_record_is_found_when_its_teacher_has_been_made_again(results, docs):
    """Under another name: what counts is that the two have the same settings."""
    teacher = planned_of("∞-AE on Distill-CF, S = 500", results)[0]
    folder = finished_run(results, teacher, 33.0, name="of-old")
    [first, second, _] = planned_of("MVAE", results, at="500 synthetic users", part="learners")
    assert "--distilled=of-old" in first.arguments and second.arguments is None
    finished_run(results, first, 20.0)
    plan.keep(match(results))
    for path in (folder, next(results.glob("learners-*"))):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    again = finished_run(results, teacher, 33.0, name="of-today")
    np.savez(again / "distilled.npz", data=np.zeros(1))
    found, _ = plan.find(results)
    [first, _, _] = [
        planned
        for planned in plan.plan(found)
        if planned[:4] == ("learners", "MVAE", "ml-1m", "500 synthetic users")
    ]
    assert "--distilled=of-today" in first.arguments and found.of(first).result["test"]["NDCG@10"] == 20


def test_run_keeps_what_a_clean_revision_has_made(results, docs, tmp_path, monkeypatch, capsys):
    """A run made with uncommitted changes is shown, and left out of the record in a line; README has the record."""
    short = [planned_of(name, results) for name in ("∞-AE, all users, items weighted", "EASE", "PopRec")]
    monkeypatch.setattr(plan, "plan", lambda runs: [*short[0], *short[1], *short[2]])
    for path in results.glob("*PopRec*"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    made = {"infinite_ae.py": (short[0][0], 34.5, "abc-dirty"), "baselines.py": (short[2][0], 14.0, "abd")}

    def run_to_the_end(words):
        planned, ndcg, revision = made.pop(words[1].name)
        assert not (docs / "results.jsonl").exists(), "written now, it would make the next runs unclean"
        finished_run(results, planned, ndcg, revision=revision)
        return 0, ""

    monkeypatch.setattr(make_runs, "run_to_the_end", run_to_the_end)
    compare.main(["--run", f"--results_dir={results}"])
    said = capsys.readouterr().out
    assert not made
    assert [
        json.loads(line)["revision"]
        for line in (docs / "results.jsonl").read_text(encoding="utf-8").splitlines()
    ] == ["abc", "abd"]
    assert "| ∞-AE, all users, items weighted | NDCG@10 | missing | | **34.50** |" in said
    assert "not kept, since the code that made them had uncommitted changes: table-ml-1m" in said
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "34.50" not in readme and "**34.00**" in readme
    assert "34.50" in (results / "compare" / "results.md").read_text(encoding="utf-8")
    assert "34.50" not in (docs / "results.md").read_text(encoding="utf-8")
    assert readme.startswith("Before\n<!-- table: ndcg -->\n| NDCG@10 |")
    assert "the record lacks" in said and "items weighted on ml-1m (0 of 1)" in said


def test_runs_of_old_with_uncommitted_changes_are_counted(results, docs, tmp_path, capsys):
    ease = next(results.glob("table-ml-1m-EASE*"))
    run = record.read_run(ease)._replace(revision="abc with uncommitted changes")
    record.keep([run], {run.name})
    assert not run.clean and not run._replace(revision=None).clean
    assert not run._replace(revision="a-dirty").clean and run._replace(revision="a").clean
    compare.main([f"--results_dir={tmp_path / 'nothing'}"])
    assert (
        "1 of the 1 runs in these tables and figures were made at a revision with uncommitted changes"
        in capsys.readouterr().out
    )
    assert "1 of the 1 runs" in (docs / "results.md").read_text(encoding="utf-8")


def test_sigterm_ends_the_run_that_is_being_made_first(tmp_path):
    code = f"""import signal, sys; from paper import make_runs
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
make_runs.run_to_the_end(["sh", "-c", "echo $$ > {tmp_path}/.pid; mv {tmp_path}/.pid {tmp_path}/pid; exec sleep 60"])"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(compare.__file__).parent)
    while not (tmp_path / "pid").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=30) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert make_runs.run_to_the_end(["sh", "-c", "echo one >&2; echo two >&2; exit 3"]) == (3, "two")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--plan", "--run"], "do not go together"),
        (["--mine", "--run"], "do not go together"),
        (["--dataset=ml-1m"], "has no use for dataset"),
        (["--mine", "--run=x"], "there is no setting 'run'"),
        (["--mine", "--results_dir=/nowhere"], "no finished run can be compared"),
    ],
)
def test_wrong_options(run_script, arguments, words):
    done = run_script("compare.py", *arguments)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and words in done.stderr


# ---- One's own runs ------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    """EASE, Distill-CF with 10 users (three seeds) and 100, another temperature, another split, two damaged."""
    folder, users = tmp_path / "own", np.random.default_rng(1).random(100)
    finished_run(folder, *planned_of("EASE", folder), 34.0, users, name="ease")
    for planned in planned_of("Distill-CF", folder, at=10, part="strategies"):
        finished_run(
            folder, planned, 20.0 + planned.seed, users + planned.seed * users**2, name=f"ten-{planned.seed}"
        )
    hundred = planned_of("Distill-CF", folder, at=100, part="strategies")[0]
    finished_run(folder, hundred, 30.0, users, name="hundred", seconds=30.0)
    finished_run(folder, hundred, 29.0, users, name="hundred.old1")
    finished_run(folder, hundred, 31.0, users, name="warm", gumbel_tau=5.0)
    finished_run(folder, hundred, 32.0, users, name="elsewhere", fingerprint="other")
    (finished_run(folder, hundred, 32.0, users, name="torn") / "result.json").write_text("{")
    (finished_run(folder, hundred, 32.0, users, name="userless") / "users.npz").unlink()
    config = json.loads((folder / "hundred" / "config.json").read_text())
    for name in ("ten-1", "ten-2", "ten-3", "hundred", "hundred.old1"):  # as runs/recipes.py chose
        config = json.loads((folder / name / "config.json").read_text())
        config["auto"] = dict.fromkeys(
            ("train_steps", "loss", "score_scale", "learning_rate", "item_discount", "depth", "keep_prob"),
            "recipe",
        )
        (folder / name / "config.json").write_text(json.dumps(config))
    return folder


def test_mine(own, capsys):
    compare.main(["--mine", f"--results_dir={own}"])
    said = capsys.readouterr().out
    table = pd.read_csv(own / "compare" / "mine.csv").set_index("system")
    assert table["NDCG@10"].tolist() == [34, 31, 30, 22] and table["runs"].tolist() == [1, 1, 1, 3]
    ease, warm, hundred, ten = table.index
    assert ease == "EASE, all users" and hundred.startswith("∞-AE on Distill-CF, S = 100")
    assert "gumbel_tau=5.0" in warm and "gumbel_tau=10" in hundred
    assert ten.startswith("∞-AE on Distill-CF, S = 10,") and table.loc[ten, "NDCG@10 deviation"] == 1
    assert table.loc[hundred, "seconds"] == 30
    assert f"| {ease} | 1 | NDCG@10 | **34.00** |" in said and "nothing of the spread over seeds" in said
    users = {
        name: np.load(own / name / "users.npz")["NDCG@10"].astype(float)
        for name in ("ease", "ten-1", "ten-2", "ten-3", "hundred", "warm")
    }
    alone = [
        stats.ttest_rel(users["ease"], other).pvalue
        for other in (users["warm"], users["hundred"], sum(users[f"ten-{seed}"] for seed in (1, 2, 3)) / 3)
    ]
    p = table["p, paired over users, seeds averaged"]
    assert p.tolist()[1:] == pytest.approx(summaries.holm(alone).tolist(), rel=1e-4) and np.isnan(p[ease])
    for note in (
        "left out: elsewhere is on other data or another split of ml-1m than ease",
        "left out: hundred.old1 has the settings and the seed of hundred",
        f"left out: {own}/torn/result.json is damaged",
        f"left out: {own}/userless/users.npz cannot be read",
    ):
        assert note in said
    assert (own / "compare" / "mine.md").read_text(encoding="utf-8") in said
    assert (own / "compare" / "mine.png").read_bytes().startswith(b"\x89PNG")


def test_mine_draws_the_metric_over_the_number_of_users(own):
    names = ["ten-1", "ten-2", "ten-3", "hundred", "warm", "ease"]
    groups, _ = compare.own_runs.group(compare.own_runs.read(own, names)[0])
    [(label, line)] = compare.own_runs.by_size(groups).items()
    assert label.startswith("∞-AE on Distill-CF") and "S =" not in label
    assert line.values.tolist() == [[10, 22, 1], [100, 30, 0]], "nor has it the run at another temperature"


def test_mine_of_some_runs_and_of_one_data_set(own, capsys):
    compare.main(["--mine", f"--results_dir={own}", "--runs", f"ten-1,{own}/hundred,nothing"])
    said = capsys.readouterr().out
    assert "left out" in said and "there is no run nothing" in said and "EASE" not in said
    assert said.count("\n| ∞-AE") == 2
    with pytest.raises(UserError, match="ease and elsewhere are on different data or splits of ml-1m"):
        compare.main(["--mine", f"--results_dir={own}", "--runs=ease,hundred,elsewhere"])
    compare.main(["--mine", f"--results_dir={own}", "--runs=ease"])
    assert "no figure" in capsys.readouterr().out and not (own / "compare" / "mine.png").exists()
    finished_run(own, *planned_of("EASE", own, dataset="magazine"), 20.0, name="other")
    with pytest.raises(
        UserError, match=r"several data sets, ml-1m \(8\), magazine \(1\): --dataset=NAME picks one"
    ):
        compare.main(["--mine", f"--results_dir={own}"])
    compare.main(["--mine", f"--results_dir={own}", "--dataset=magazine"])
    assert "| EASE, all users | 1 | NDCG@10 | **20.00** |" in capsys.readouterr().out
    with pytest.raises(UserError, match="no finished run can be compared: they are of ml-1m"):
        compare.main(["--mine", f"--results_dir={own}", "--dataset=tiny"])


def test_models_on_synthetic_users_of_several_seeds_are_one_system(results, capsys):
    for seed in (0, 1):
        finished_run(
            results, planned_of("∞-AE on Distill-CF, S = 500", results)[seed], 33.0, name=f"teacher-{seed}"
        )
        finished_run(
            results,
            planned_of("EASE", results, at="500 synthetic users", part="learners")[seed],
            30.0 + seed,
            name=f"pupil-{seed}",
        )
    compare.main(["--mine", f"--results_dir={results}", "--runs=teacher-0,teacher-1,pupil-0,pupil-1"])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| EASE")]
    assert "distilled=teacher-0" in line and "every seed its own | 2 | HR@100 | 30.50 ± 0.71" in line
