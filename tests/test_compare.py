"""compare.py: tables byte for byte, the record and what it refuses, the figures' lines, your own runs."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import without_sums
from matplotlib.figure import Figure
from scipy import stats

import compare
import hyper_params
from lib import plots
from lib.errors import InUse, UserError
from lib.files import ROOT, lock
from lib.metric_names import METRICS
from paper import figures, make_runs, own_runs, plan, record, summaries, tables
from paper.plan import Runs
from runs.folder import Run

DATA = {"ml-1m": (100, 50, 12_000), "magazine": (90, 40, 300)}  # users, items, train interactions
SIZES = "users", "items", "interactions"
OTHERS = "learners", "sizes"  # tables
KNOWN = [
    record.FinishedRun(
        "", "", {"dataset": name}, {"fingerprint": "", **dict(zip(SIZES, data))}, None, {}, "", {}
    )
    for name, data in DATA.items()
]


@pytest.fixture(autouse=True)
def docs(tmp_path, monkeypatch):
    """An empty record, pages with nothing but markers, in the place of the project's own; figures as SVG."""
    folder = tmp_path / "docs"
    folder.mkdir()
    monkeypatch.setattr(figures, "KINDS", ("svg",))
    monkeypatch.setattr(record, "DOCS", folder)
    monkeypatch.setattr(compare, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text(
        "Before\n<!-- table: ndcg -->\n<!-- end -->\nbetween\n\n<!-- table: first -->\nold\n\n<!-- end -->\n"
    )
    blocks = [f"<!-- table: {name} -->\n<!-- end -->\n" for name in ("ndcg", *plan.DATASETS, *OTHERS)]
    (folder / "results.md").write_text("By hand\n" + "".join(blocks))
    return folder


def planned_of(system, folder, dataset="ml-1m", at=None, part="table"):
    planned_runs = plan.plan(Runs(record.read_folder(folder)[0] + KNOWN))
    return [planned for planned in planned_runs if planned[:4] == (part, system, dataset, at)]


def finished_run(
    folder, planned, ndcg, users=None, fingerprint="abc", seconds=10.0, revision="abc", name=None, **more
):
    """What a planned run leaves: every metric is ndcg, its users as given around it; more: other settings."""
    settings, _ = Runs(KNOWN).settings_of(planned)
    parts = planned.part, planned.dataset, planned.system, planned.point, planned.seed
    path = folder / (name or "-".join(map(str, parts)).replace(" ", "_"))
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
    result = {
        "dataset": planned.dataset,
        "val": metrics,
        "test": metrics,
        **choice,
        "best_step": None,
        "steps": None,
        "wall_seconds": seconds,
    }
    (path / "result.json").write_text(json.dumps(result))
    if users is None:
        users = np.random.default_rng(int(100 * ndcg)).random(DATA[planned.dataset][0])
    users = (users - users.mean(dtype=np.float64) + ndcg).astype(np.float32)
    np.savez(path / "users.npz", **{"HR@10": users, "NDCG@10": users})
    return path


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("made") / "results"
    ease = rng.random(100).astype(np.float32)
    below_ease = lambda mean, deviation: ease - rng.normal(mean, deviation, 100).astype(np.float32)
    finished_run(folder, *planned_of("EASE", folder), 34.0, ease)
    finished_run(folder, *planned_of("PopRec", folder), 14.0, below_ease(0.3, 0.1))
    finished_run(folder, *planned_of("∞-AE, all users", folder), 33.5, below_ease(0, 4))
    for seed, ndcg in enumerate((25.0, 27.0)):  # the second takes the settings that the first has chosen
        finished_run(folder, planned_of("MF", folder)[seed], ndcg, below_ease(0.2, 0.1))
    finished_run(folder, *planned_of("all users", folder, part="strategies"), 33.0, ease)
    for budget in (10, 100):
        for system in plan.STRATEGIES:
            for planned in planned_of(system.name, folder, at=budget, part="strategies"):
                finished_run(folder, planned, 20.0 + planned.seed + budget / 100, ease)
    return folder


@pytest.fixture
def results(made_once, tmp_path, monkeypatch):
    """PopRec, EASE, ∞-AE, two of three runs of MF on ml-1m; of a figure of two panels, the full line and two
    budgets."""
    figure = {name: plan.FIGURE[name] for name in plan.WHOLE}
    monkeypatch.setattr(plan, "FIGURE", figure)
    return Path(shutil.copytree(made_once, tmp_path / "results"))


def match(folder):
    return plan.match(plan.read_runs(folder)[0])


def edit(path, **changes):
    """Changes keys of a JSON object."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def delete(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def made_of(folder):
    return {planned: run for planned, run in match(folder).items() if run}


# ---- The tables ----------------------------------------------------------------------------------------


@pytest.fixture
def two_data_sets(monkeypatch):
    """The plan of the data sets that have everything, alone."""
    two = {name: plan.DATASETS[name] for name in plan.WHOLE}
    monkeypatch.setattr(plan, "DATASETS", two)


def test_the_markdown_tables_byte_for_byte(two_data_sets, results):
    found = tables.to_markdown(match(results))
    assert list(found) == ["first", "ndcg", "magazine", "ml-1m", *OTHERS]
    assert (
        found["first"]
        == """\
| NDCG@10 of | trained on | MovieLens-1M | the paper's | Amazon Magazine | the paper's |
| --- | --- | --- | --- | --- | --- |
| popularity | all users | 14.00 | 13.84 | missing | 8.42 |
| EASE | all users | **34.00** | 29.88 | missing | 22.84 |
| ∞-AE | all users | 33.50 | 32.82 | missing | 23.06 |
| ∞-AE | 500 synthetic users (Distill-CF) | missing | 32.52 | missing | 23.81 |"""
    )
    assert (
        found["ndcg"]
        == """\
| NDCG@10 | chosen by | Amazon Magazine | the paper's | MovieLens-1M | the paper's |
| --- | --- | --- | --- | --- | --- |
| PopRec | NDCG@10 | missing | 8.42 | 14.00 | 13.84 |
| MF | HR@100 | missing | 13.10 | 26.00 ± 1.41 | 25.65 |
| NeuMF | HR@100 | missing | 13.60 | missing | 24.44 |
| MVAE | HR@100 | missing | 12.18 | missing | 22.14 |
| RecVAE | NDCG@10 | missing | | missing | |
| LightGCN | HR@100 | missing | 22.57 | missing | 28.85 |
| RP3beta | NDCG@10 | missing | | missing | |
| iALS | NDCG@10 | missing | | missing | |
| SVD-AE | NDCG@10 | missing | | missing | |
| EASE | NDCG@10 | missing | 22.84 | **34.00** | 29.88 |
| EDLAE | NDCG@10 | missing | | missing | |
| ∞-AE, all users | NDCG@10 | missing | 23.06 | 33.50 | 32.82 |
| ∞-AE, all users, items weighted | NDCG@10 | missing | | missing | |
| ∞-AE on Distill-CF, S = 500 | NDCG@10 | missing | 23.81 | missing | 32.52 |
| ∞-AE on Distill-CF, S = 500, sparse | NDCG@10 | missing | | missing | |"""
    )
    assert (
        found["sizes"]
        == """\
| trained on | Amazon Magazine: entries | kB | MovieLens-1M: entries | kB |
| --- | --- | --- | --- | --- |
| 500 synthetic users | missing | missing | 25,000 | 25 |
| 500 synthetic users, interactions drawn | missing | missing | 60,000 | 120 |
| 500 sparse synthetic users | missing | missing | 60,000 | 180 |
| 500 sparse synthetic users, all weights 1 | missing | missing | 60,000 | 120 |
| 500 random users | missing | missing | 60,000 | 120 |
| all users | missing | missing | 12,000 | 24 |"""
    )
    assert "0." not in found["magazine"]
    missing = "missing | " * 7  # below, a row's first six metrics are the same, and AUC stands last
    assert (
        found["ml-1m"]
        == f"""\
| | HR@10 | HR@100 | NDCG@10 | NDCG@100 | PSP@10 | PSP@100 | AUC | chosen by | settings | paper, NDCG@10 \
| p, users and seeds |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| PopRec | {"14.00 | " * 6}0.1400 | NDCG@10 | 1 | 13.84 | < 0.001 |
| MF (2 of 3 seeds) | {"26.00 ± 1.41 | " * 6}0.2600 ± 0.0141 | HR@100 | 4 | 25.65 | 0.158 |
| NeuMF | {missing}HR@100 | | 24.44 | |
| MVAE | {missing}HR@100 | | 22.14 | |
| RecVAE | {missing}NDCG@10 | | | |
| LightGCN | {missing}HR@100 | | 28.85 | |
| RP3beta | {missing}NDCG@10 | | | |
| iALS | {missing}NDCG@10 | | | |
| SVD-AE | {missing}NDCG@10 | | | |
| EASE | {"**34.00** | " * 6}**0.3400** | NDCG@10 | 6 | 29.88 | best |
| EDLAE | {missing}NDCG@10 | | | |
| ∞-AE, all users | {"33.50 | " * 6}0.3350 | NDCG@10 | 6 | 32.82 | 0.265 |
| ∞-AE, all users, items weighted | {missing}NDCG@10 | | | |
| ∞-AE on Distill-CF, S = 500 | {missing}NDCG@10 | | 32.52 | |
| ∞-AE on Distill-CF, S = 500, sparse | {missing}NDCG@10 | | | |

{summaries.CAPTION}"""
    )


def test_the_latex_and_csv_tables(two_data_sets, results):
    matched = match(results)
    lines = tables.to_latex(matched).splitlines()
    assert lines[:5] == [
        r"\begin{tabular}{lrrrrrrrrrrr}",
        r"\toprule",
        f" & {' & '.join(METRICS)} & chosen by & settings & paper, NDCG@10 & $p$, users and seeds " + r"\\",
        r"\midrule",
        r"\multicolumn{12}{l}{Amazon Magazine} \\",
    ]
    full = r"$\infty$-AE, all users & " + "33.50 & " * 6 + r"0.3350 & NDCG@10 & 6 & 32.82 & 0.265 \\"
    assert lines[-7] == full
    assert lines[-9].startswith(r"EASE & \textbf{34.00} & \textbf{34.00}") and lines[-3] == r"\bottomrule"
    assert lines[-17].startswith(r"MF (2 of 3 seeds) & 26.00 $\pm$ 1.41 & 26.00 $\pm$ 1.41")
    assert lines[-1] == r"\end{tabular}"
    assert r"counts the spread over seeds, too ($\pm$, a" in lines[-2]
    compare.write(matched, record.DOCS)
    header, *_ = (record.DOCS / "results.csv").read_text(encoding="utf-8").splitlines()
    assert "system,chosen by,settings,runs,seeds,HR@10" in header
    assert header.endswith('"p, paired over users, with the spread over seeds"')


def test_the_test_knows_users_and_seeds():
    """Two systems whose runs differ by their seeds alone are found different in 1 of 20 tries, not more."""
    rng, naive, found = np.random.default_rng(0), 0, 0
    for _ in range(400):
        taste = rng.normal(30, 20, 500)
        one, other = (taste + rng.normal(0, 2, (3, 1)) + rng.normal(0, 5, (3, 500)) for _ in range(2))
        naive += stats.ttest_rel(one.mean(axis=0), other.mean(axis=0)).pvalue < 0.05
        found += summaries.p_of_difference(one, other) < 0.05
    assert naive > 200 and found < 30
    better = summaries.p_of_difference(one + 30, other)
    assert 0 < better < 0.001 and better == pytest.approx(summaries.p_of_difference(other, one + 30))


def test_with_single_seeds_it_is_the_paired_test_and_its_correction(results):
    table = tables.summary(match(results)).set_index(["dataset", "system"]).loc["ml-1m"]
    ndcg_of = lambda name: np.load(results / name / "users.npz")["NDCG@10"].astype(np.float64)
    difference = ndcg_of("table-ml-1m-EASE-None-1") - ndcg_of("table-ml-1m-∞-AE,_all_users-None-1")
    t = difference.mean() / difference.std(ddof=1) * 10
    p = 2 * stats.t.sf(abs(t), 99)
    assert table.loc["∞-AE, all users", "p"] == pytest.approx(p, rel=1e-3), "the largest of three"
    assert summaries.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert summaries.holm([0.9, 0.8]) == pytest.approx([1, 1])
    one, other = np.array([1, 2, np.nan, 4.0]), np.array([1.5, 2, np.nan, 3])
    assert summaries.p_of_difference(one, one) == 1
    p = stats.ttest_rel([1, 2, 4], [1.5, 2, 3]).pvalue
    assert summaries.p_of_difference(one, other) == pytest.approx(p)


def test_tables_are_filled_between_their_markers(docs):
    tables = {"one": "| 1 |", "two": "| 2 \\g<0> |"}
    text = "a\n<!-- table: one -->\nold\n<!-- end -->\nb\n<!-- table: two -->\n<!-- end -->\n"
    filled = compare.fill(text, tables, "README.md", ["two"])
    assert filled == text.replace("old", "| 1 |").replace("two -->\n", "two -->\n| 2 \\g<0> |\n")
    assert compare.fill(filled, tables, "README.md") == filled
    for wrong, says in (
        ("<!-- table: three -->\n<!-- end -->", "has <!-- table: three -->, and the tables are one, two"),
        ("<!-- table: one -->\n", "needs its own"),
        ("<!-- end -->", "needs its own"),
        ("<!-- table: one -->\n<!-- table: two -->\n<!-- end -->", "needs its own"),
        (
            "<!-- table: one -->\n<!-- end -->",
            "no place for the table two: put the lines <!-- table: two -->",
        ),
    ):
        with pytest.raises(UserError, match=f"README.md.*{says}"):
            compare.fill(wrong, tables, "README.md", ["two"])


def test_a_page_that_has_lost_a_marker_is_named_and_nothing_is_written(results, docs, tmp_path):
    for page, marker in ((docs / "results.md", "learners"), (tmp_path / "README.md", "first")):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(f"<!-- table: {marker} -->\n", "").replace("<!-- end -->\n", "", 1))
        before = [path.read_bytes() for path in (docs / "results.md", tmp_path / "README.md")]
        with pytest.raises(UserError, match=f"^{page.name}.*"):
            compare.fill_pages(tables.to_markdown(match(results)))
        assert before == [path.read_bytes() for path in (docs / "results.md", tmp_path / "README.md")]
        page.write_text(text)
    compare.fill_pages(tables.to_markdown(match(results)))
    assert "\n| MVAE | all users |" in (docs / "results.md").read_text(encoding="utf-8")


@pytest.fixture
def recorded(docs, monkeypatch):
    """Runs of the project's own record."""
    with monkeypatch.context() as patch:
        patch.setattr(record, "DOCS", ROOT / "docs")
        return Runs(record.read_record())


def test_the_tables_of_the_pages_are_those_of_the_record(recorded, docs, tmp_path):
    """`python compare.py` fills them; an edited hyper_params.py is another plan, and has other tables."""
    matched = plan.match(recorded)
    pages = {tmp_path / "README.md": ROOT / "README.md", docs / "results.md": ROOT / "docs" / "results.md"}
    for copy, page in pages.items():
        copy.write_bytes(page.read_bytes())
    compare.fill_pages(tables.to_markdown(matched))
    for copy, page in pages.items():
        assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8"), (
            "python compare.py fills it"
        )
    compare.write(matched, docs)
    assert (docs / "results.tex").read_bytes() == (ROOT / "docs" / "results.tex").read_bytes()
    assert {planned.part for planned in plan.missing_runs(recorded)} <= {"table", "learners"}
    assert all(run.clean or run.revision.endswith(" with uncommitted changes") for run in recorded.runs)


def test_no_recorded_run_is_missing_when_distill_validates_at_other_steps(monkeypatch):
    monkeypatch.setattr(record, "DOCS", ROOT / "docs")
    for key in ("log_freq", "patience"):
        monkeypatch.setitem(hyper_params.hyper_params, key, hyper_params.hyper_params[key] + 7)
    recorded = Runs(record.read_record())
    planned = [run for run in plan.plan(recorded) if run.script == "distill" and run.dataset in plan.WHOLE]
    soft = [run for run in planned if run.system != plan.SPARSE.name]
    assert len(soft) > 40 and all(map(recorded.find, soft))


# ---- The figures ---------------------------------------------------------------------------------------


def test_the_figure_has_a_line_for_each_strategy(results):
    [panel] = figures.strategies(match(results))
    assert (panel.title, panel.users) == ("MovieLens-1M", 100)
    lines = panel.lines
    names = [
        "random users",
        "random interactions",
        "head users",
        "SVP-CF users",
        "Distill-CF",
        "∞-AE, all users",
        "EASE, all users",
    ]
    assert [name.partition(" (")[0] for name in lines] == names
    distilled = lines["Distill-CF (6 of 42 runs)"]
    assert list(distilled["x"]) == [10, 100] and distilled["HR@10"].tolist() == pytest.approx([22.1, 23.0])
    assert distilled["PSP@10 deviation"].tolist() == pytest.approx([1, 1])
    assert lines["∞-AE, all users (1 of 2 runs)"]["HR@10"].tolist() == [33]
    assert lines["EASE, all users"]["HR@10"].tolist() == [34]
    picture = plots.strategies([panel], "svg").decode()
    assert plots.strategies([panel], "svg").decode() == picture
    drawn = (*lines, panel.title, "PSP@10, %", "S, number of users", "users, % of all")
    assert all(f"<!-- {text} -->" in picture for text in drawn)


def test_a_figure_says_which_runs_it_lacks(results, monkeypatch):
    kinds = "pdf", "png", "svg"
    monkeypatch.setattr(figures, "KINDS", kinds)
    files, notes = figures.draw_all(match(results))
    files_of = lambda name: [f"{name}.{kind}" for kind in kinds]
    assert [note.partition(":")[0] for note in notes] == [
        ", ".join(files_of(name)) for name in ("results", "sizes", "noise", "stream")
    ]
    assert "random users (6 of 42 runs)" in notes[0] and "head users (2 of 14 runs)" in notes[0]
    assert "not drawn" in notes[-1]
    drawn = {*files_of("results"), *files_of("sizes"), *files_of("noise")}
    assert set(files) == drawn, "with ∞-AE on no noise"
    for planned in planned_of("synthetic users", results, part="stream")[:2]:
        path = finished_run(results, planned, 30.0)
        result = json.loads((path / "result.json").read_text())
        part = {"validation": result["val"], "test": result["test"]}
        (path / "result.json").write_text(json.dumps({**result, "parts": [part, part]}))
    files, notes = figures.draw_all(match(results))
    assert "synthetic users (2 of 3 seeds)" in notes[-1] and "random users (0 of 3 seeds)" in notes[-1]
    assert b"<!-- synthetic users (2 of 3 seeds) -->" in files["stream.svg"]
    assert b"<!-- random users (0 of 3 seeds) -->" in files["stream.svg"]


def test_a_point_of_fewer_seeds_is_hollow_and_said(results):
    delete(next(results.glob("strategies-ml-1m-random_users-10-2")))
    for planned in planned_of("∞-AE on Distill-CF, S = 500", results, at=0.1, part="noise")[:2]:
        finished_run(results, planned, 30.0)
    matched = match(results)
    [panel] = figures.strategies(matched)
    says = "random users (5 of 42 runs; hollow points lack seeds)"
    assert panel.lines[says]["missing"].tolist() == [1, 0]
    assert panel.lines["head users (2 of 14 runs)"]["missing"].tolist() == [0, 0]
    noisy = next(label for label in figures.noise(matched) if label.endswith("lack seeds)"))
    assert figures.noise(matched)[noisy]["missing"].tolist() == [1]
    files, notes = figures.draw_all(matched)
    assert says in notes[0] and noisy in notes[2]
    assert f"<!-- {says} -->".encode() in files["results.svg"]
    whole = {label: line.assign(missing=0) for label, line in panel.lines.items()}
    filled = plots.strategies([panel._replace(lines=whole)], "svg")
    assert files["results.svg"].count(b"fill: #ffffff; stroke:") > filled.count(b"fill: #ffffff; stroke:")


def test_no_mean_over_the_runs_that_have_a_metric(results):
    """Where one run lacks it, the others' mean would pass for that of all."""
    path = next(results.glob("strategies-ml-1m-Distill-CF-10-1"))
    test = json.loads((path / "result.json").read_text())["test"]
    edit(path / "result.json", test={**test, "PSP@10": None})
    [panel] = figures.strategies(match(results))
    line = panel.lines["Distill-CF (6 of 42 runs)"]
    assert line["HR@10"].notna().all() and line["PSP@10"].isna().tolist() == [True, False]


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


def test_the_figure_of_sizes_has_the_bytes_of_rows_written_out(results):
    """ml-1m of this file has 100 users, 50 items and 12,000 interactions, 120 a user."""
    first, *_ = planned_of(plan.SIZED.name, results, at=50, part="sizes")
    finished_run(results, first, 30.0)
    lines = figures.by_size(match(results))
    soft, ids, weights = np.zeros(50, np.uint8), np.zeros(120, np.uint16), np.zeros(120, np.uint8)
    row_of = {"soft": soft.nbytes, "ids": ids.nbytes, "sparse": ids.nbytes + weights.nbytes}
    assert {label: line["x"].tolist() for label, line in lines.items()} == {
        "Distill-CF, soft rows (6 of 21 runs)": [users * row_of["soft"] / 1000 for users in (10, 100)],
        "Distill-CF, sparse rows (1 of 15 runs; hollow points lack seeds)": [50 * row_of["sparse"] / 1000],
        "random users (6 of 21 runs)": [users * row_of["ids"] / 1000 for users in (10, 100)],
        "∞-AE, all users, items weighted (0 of 1 seeds)": [],
        "EASE, all users": [100 * row_of["ids"] / 1000],
    }
    soft = lines["Distill-CF, soft rows (6 of 21 runs)"]
    assert soft["NDCG@10"].tolist() == pytest.approx([22.1, 23.0])
    assert figures.by_size({}) == {}


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
    table = tables.learners(matched)
    assert "| EASE | 500 synthetic users | HR@100 | missing | 30.00 (1 of 3 seeds) |" in table
    assert "| EASE | all users | HR@100 | missing | 34.50 |" in table
    drawn = figures.noise(matched)["EASE (4 of 10 runs)"]
    assert drawn["x"].tolist() == [0, 10]
    assert drawn["NDCG@10"].tolist() == [34.5, 32], "of two runs of the same settings, the first met"
    assert not any(map(len, figures.stream(matched).values()))
    for planned, shift in zip(planned_of("synthetic users", results, part="stream"), (0, 2)):
        path = finished_run(results, planned, 30.0)
        result = json.loads((path / "result.json").read_text())
        parts = [
            {"validation": result["val"], "test": {**result["test"], "NDCG@10": ndcg + shift}}
            for ndcg in (20.0, 30.0)
        ]
        (path / "result.json").write_text(json.dumps({**result, "parts": parts}))
    drawn = figures.stream(match(results))["synthetic users (2 of 3 seeds)"]
    assert drawn["NDCG@10"].tolist() == [21, 31] and drawn["x"].tolist() == [1, 2]


# ---- Which runs are the planned ones -------------------------------------------------------------------


def test_what_is_missing_is_planned_and_half_written_runs_do_not_count(results, capsys):
    (next(results.glob("table-ml-1m-EASE*")) / "result.json").unlink()
    runs, _ = plan.read_runs(results)
    assert not any(planned.system == "EASE" for planned in made_of(results) if planned.part == "table")
    systems = [("table", name, "ml-1m") for name in ("EASE", "MF", "NeuMF")]
    missing = [planned for planned in plan.missing_runs(runs) if planned[:3] in systems]
    make_runs.show_plan(missing, match(results), {"data_dir": "somewhere", "results_dir": "results"})
    mf, neumf, ease, later, count = capsys.readouterr().out.splitlines()
    begin, end = "python baselines.py --dataset=ml-1m --model=", "--data_dir=somewhere"
    assert mf == begin + "mf --best_by=HR@100 --seed=3 '--grid=[{\"l2\": 0.5}]' " + end
    assert neumf == begin + "neumf --best_by=HR@100 --seed=1 " + end
    assert ease == begin + "ease --seed=1 " + end
    assert later == "and 2 whose settings or synthetic users come from one of these"
    assert count.startswith("5 runs are missing") and "about 0.0 hours" in count


def test_runs_of_a_data_set_that_nothing_is_known_of_are_missing():
    missing = plan.missing_runs(Runs([]))
    assert len([planned for planned in missing if planned.arguments]) > 200
    assert not any(plan.match(Runs([])).values())


def test_runs_of_the_table_and_the_figure_that_are_the_same_are_made_once(results):
    [first, *_] = planned_of("∞-AE on Distill-CF, S = 500", results)
    [second, *_] = planned_of("Distill-CF", results, at=500, part="strategies")
    assert first != second
    missing = plan.missing_runs(plan.read_runs(results)[0])
    assert (first in missing) + (second in missing) == 1
    finished_run(results, second, 33.0)
    assert {first, second} <= made_of(results).keys()


def test_a_new_setting_loses_no_run_and_a_changed_one_does(results, monkeypatch):
    """A run that is older than a setting is found as long as the plan leaves the setting at its default."""
    before = made_of(results).keys()
    distilled = {planned for planned in before if planned.script == "distill"}
    baselines = {planned for planned in before if planned.script == "baselines"}
    assert len(distilled) == 6 and len(baselines) == 6
    for key, value in (("a_new_number", 3), ("a_new_switch", False), ("a_new_text", "words")):
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


def test_a_recorded_run_whose_step_rehearsals_chose_is_the_planned_one(tmp_path):
    planned = planned_of("∞-AE on Distill-CF, S = 500", tmp_path)[0]
    path = finished_run(tmp_path, planned, 33.0, keep_step=60)
    assert Runs(record.read_folder(tmp_path)[0] + KNOWN).find(planned) is None, "else it was asked for"
    edit(path / "config.json", auto={"keep_step": "by rehearsals"})
    plan.keep(Runs([record.read_run(path)] + KNOWN))
    assert Runs(record.read_record() + KNOWN).find(planned).name == path.name


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
        ("result.json", {"wall_seconds": -1.0}),
        ("result.json", {"step_seconds": 1e300}),
        ("result.json", {"test": {**dict.fromkeys(METRICS, 1.0), "AUC": -1}}),
        ("result.json", {"test": {**dict.fromkeys(METRICS, 1.0), "NDCG@10": 1e308}}),
        ("result.json", {"test": {**dict.fromkeys(METRICS, 1.0), "NDCG@10": None}}),
        ("result.json", {"test": {**dict.fromkeys(METRICS, 1.0), "Recall@20": 101}}),
        ("result.json", {"val": dict.fromkeys(METRICS, True)}),
        ("result.json", {"choice": {"l2": "500"}}),
        ("result.json", {"best_step": -1}),
        ("result.json", {"steps": 1.5}),
        ("result.json", 3000 * "["),
        ("result.json", "\xff"),
        ("config.json", {"data": {"users": 0}}),
        ("config.json", {"auto": ["depth"]}),
        ("config.json", {"versions": {"jax": 1}}),
        ("config.json", {"devices": "1 x \x1b[31mcpu"}),
        ("config.json", {"settings": {"dataset": "../x"}}),
        ("config.json", {"settings": {"dataset": "ml-1m", "user_support": "10"}}),
        ("config.json", {"settings": {"seed": 1}}),
    ],
)
def test_a_damaged_run_is_named_and_left_out(results, name, change):
    path = next(results.glob("table-ml-1m-EASE*"))
    whole = json.loads((path / name).read_text())
    text = change if isinstance(change, str) else json.dumps({**whole, **change})
    (path / name).write_text(text, encoding="latin-1")
    runs, [note] = record.read_folder(results)
    assert note.startswith(f"left out: {path}/{name} ") and path.name not in [run.name for run in runs]
    assert len(runs) > 30


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
        tables.summary(match(results))


def test_a_run_that_was_altered_is_named_and_left_out(results, capsys):
    """Also where its figures remain possible; a run without sums, which is older, is taken as it is."""
    path = next(results.glob("table-ml-1m-EASE*"))
    edit(path / "config.json", sums="sums.json")
    Run(path, True, silent=False).finish(json.loads((path / "result.json").read_text()))
    assert path.name in [run.name for run in record.read_folder(results)[0]]
    metrics = json.loads((path / "result.json").read_text())["test"]
    users = dict(np.load(path / "users.npz"))
    for name, alter in (
        ("result.json", lambda file: edit(file, test={**metrics, "HR@10": 35.0})),
        ("config.json", lambda file: edit(file, git_revision="abd")),
        ("sums.json", lambda file: file.write_text("{")),
        ("sums.json", lambda file: file.unlink()),
    ):
        whole = (path / name).read_bytes()
        alter(path / name)
        runs, [note] = record.read_folder(results)
        assert path.name not in [run.name for run in runs] and note.startswith(f"left out: {path}/")
        assert "has been altered since the run ended" in note or "cannot be compared with sums.json" in note
        (path / name).write_bytes(whole)
    np.savez(path / "users.npz", **{key: values[::-1] for key, values in users.items()})  # of the same mean
    with pytest.raises(UserError, match="users.npz has been altered since the run ended"):
        tables.summary(match(results))
    compare.main(["--mine", f"--results_dir={results}", "--dataset=ml-1m"])
    assert f"left out: {path}/users.npz has been altered" in capsys.readouterr().out
    without_sums(path)
    tables.summary(match(results))


# ---- The record ----------------------------------------------------------------------------------------


def test_the_record_is_locked_while_runs_are_added(docs, monkeypatch):
    """Else, what another call adds between the reading of the record and its writing would be lost."""

    def write(*_):
        with pytest.raises(InUse), lock(docs / ".results.jsonl.lock", "another adds runs"):
            pass

    monkeypatch.setattr(record, "write_files", write)
    record.keep([], ())


def test_the_record_says_nothing_of_the_machine_and_counts_as_the_runs(results, docs, tmp_path):
    made = match(results)
    plan.keep(plan.read_runs(results)[0])
    kept = match(tmp_path / "nothing")
    assert {planned for planned, run in kept.items() if run} == made_of(results).keys()
    assert tables.to_markdown(kept) == tables.to_markdown(made)
    assert all(run.folder is None for run in kept.values() if run)
    text = (docs / "results.jsonl").read_text(encoding="utf-8")
    assert "secret" not in text and str(tmp_path) not in text and "data_dir" not in text
    names = [json.loads(line)["name"] for line in text.splitlines()]
    assert names == sorted(names) and len(names) == len({run.name for run in made.values() if run})
    assert len(np.load(docs / "results-users.npz").files) == 5, "of the table alone"
    plan.keep(plan.read_runs(results)[0])
    assert (docs / "results.jsonl").read_text(encoding="utf-8") == text


def test_a_record_that_has_been_altered_is_refused(results, docs):
    plan.keep(plan.read_runs(results)[0])
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
    whole = "\n".join(lines).encode() + b"\n"
    for altered in (whole[:-100], whole.replace(b"34.0", b"34.\xff", 1)):
        (docs / "results.jsonl").write_bytes(altered)
        with pytest.raises(UserError, match="the record of .* has been altered"):
            record.read_record()
    for junk in ("{", "", "{}"):
        (docs / "results.jsonl").write_text(junk + "\n")
        with pytest.raises(UserError, match="the record of line 1 has been altered"):
            record.read_record()
    impossible = lines[place].rpartition(', "sha256"')[0].replace("34.0", "341")
    for rest in (json.dumps({"name": "table-ml-1m-EASE-None-1", "result": {}})[:-1], impossible):
        # a line with the right sum that is not of a run
        (docs / "results.jsonl").write_text(f'{rest}, "sha256": "{record.digest(rest.encode())}"}}\n')
        with pytest.raises(
            UserError, match="the record of table-ml.* has been altered: it does not describe a finished run"
        ):
            record.read_record()


def test_users_of_the_record_that_have_been_altered_are_refused(results, docs):
    plan.keep(plan.read_runs(results)[0])
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
    missing = plan.missing_runs(plan.read_runs(results)[0])
    assert missing[0] == teacher and first in missing
    np.savez(folder / "distilled.npz", data=np.zeros(1))
    missing = plan.missing_runs(plan.read_runs(results)[0])
    assert teacher not in missing and first in missing


def test_a_learner_of_the_record_is_found_when_its_teacher_has_been_made_again(results, docs):
    """Under another name: what counts is that the two have the same settings."""
    teacher = planned_of("∞-AE on Distill-CF, S = 500", results)[0]
    folder = finished_run(results, teacher, 33.0, name="of-old")
    [first, second, _] = planned_of("MVAE", results, at="500 synthetic users", part="learners")
    assert "--distilled=of-old" in first.arguments and second.arguments is None
    finished_run(results, first, 20.0)
    plan.keep(plan.read_runs(results)[0])
    for path in (folder, next(results.glob("learners-*"))):
        delete(path)
    again = finished_run(results, teacher, 33.0, name="of-today")
    np.savez(again / "distilled.npz", data=np.zeros(1))
    runs, _ = plan.read_runs(results)
    learner = "learners", "MVAE", "ml-1m", "500 synthetic users"
    [first, _, _] = [planned for planned in plan.plan(runs) if planned[:4] == learner]
    assert "--distilled=of-today" in first.arguments and runs.find(first).result["test"]["NDCG@10"] == 20
    finished_run(results, planned_of("iALS", results, at="500 synthetic users", part="learners")[0], 21.0)
    plan.keep(plan.read_runs(results)[0])
    recorded = Runs(record.read_record())
    assert {"of-old", "of-today"} <= {run.name for run in recorded.runs}, (
        "the learner's teacher comes with it"
    )
    ials = [planned for planned in plan.plan(recorded) if planned[:4] == ("learners", "iALS", *learner[2:])]
    assert recorded.find(ials[0]).result["test"]["NDCG@10"] == 21


def test_run_keeps_what_a_clean_revision_has_made(results, docs, tmp_path, monkeypatch, capsys):
    """A run made with uncommitted changes is shown, and not recorded; the pages show the record alone."""
    systems = "∞-AE, all users, items weighted", "EASE", "PopRec"
    [weighted], [ease], [popularity] = (planned_of(name, results) for name in systems)
    monkeypatch.setattr(plan, "plan", lambda runs: [weighted, ease, popularity])
    for path in results.glob("*PopRec*"):
        delete(path)
    made = {"infinite_ae.py": (weighted, 34.5, "abc-dirty"), "baselines.py": (popularity, 14.0, "abd")}

    def run_to_the_end(words):
        planned, ndcg, revision = made.pop(words[1].name)
        assert not (docs / "results.jsonl").exists(), "written now, it would make the next runs unclean"
        finished_run(results, planned, ndcg, revision=revision)
        return 0, ""

    monkeypatch.setattr(make_runs, "run_to_the_end", run_to_the_end)
    compare.main(["--run", f"--results_dir={results}"])
    said = capsys.readouterr().out
    assert not made
    lines = (docs / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["revision"] for line in lines] == ["abc", "abd"]
    assert "| ∞-AE, all users, items weighted | NDCG@10 | missing | | **34.50** |" in said
    assert "not recorded, since the code that made them had uncommitted changes: table-ml-1m" in said
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "34.50" not in readme and "**34.00**" in readme
    assert "34.50" in (results / "compare" / "results.md").read_text(encoding="utf-8")
    by_hand = (docs / "results.md").read_text(encoding="utf-8")
    assert "34.50" not in by_hand and by_hand.startswith("By hand\n<!-- table: ndcg -->\n| NDCG@10 |")
    assert readme.startswith("Before\n<!-- table: ndcg -->\n| NDCG@10 |")
    assert "the record lacks" in said and "items weighted on ml-1m (0 of 1)" in said


def test_runs_of_old_with_uncommitted_changes_are_counted(results, docs, tmp_path, capsys):
    ease = next(results.glob("table-ml-1m-EASE*"))
    run = record.read_run(ease)._replace(revision="abc with uncommitted changes")
    record.keep([run], {run.name})
    assert not run.clean and not run._replace(revision=None).clean
    assert not run._replace(revision="a-dirty").clean and run._replace(revision="a").clean
    compare.main([f"--results_dir={tmp_path / 'nothing'}"])
    says = "1 of the 1 runs in these tables and figures were made at a revision with uncommitted changes"
    assert says in capsys.readouterr().out
    assert "1 of the 1 runs" in (docs / "results.md").read_text(encoding="utf-8")


def test_sigterm_ends_the_run_that_is_being_made_first(tmp_path):
    code = f"""import signal, sys; from paper import make_runs
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
shell = "echo $$ > {tmp_path}/.pid; mv {tmp_path}/.pid {tmp_path}/pid; exec sleep 60"
make_runs.run_to_the_end(["sh", "-c", shell])"""
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


# ---- The user's own runs -------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    """EASE; Distill-CF on 10 users (three seeds), on 100, at another temperature and split; two damaged."""
    folder, users = tmp_path / "own", np.random.default_rng(1).random(100)
    finished_run(folder, *planned_of("EASE", folder), 34.0, users, name="ease")
    for planned in planned_of("Distill-CF", folder, at=10, part="strategies"):
        seed = planned.seed
        finished_run(folder, planned, 20.0 + seed, users + seed * users**2, name=f"ten-{seed}")
    hundred = planned_of("Distill-CF", folder, at=100, part="strategies")[0]
    finished_run(folder, hundred, 30.0, users, name="hundred", seconds=30.0)
    finished_run(folder, hundred, 29.0, users, name="hundred.old1")
    finished_run(folder, hundred, 31.0, users, name="warm", gumbel_tau=5.0)
    finished_run(folder, hundred, 32.0, users, name="elsewhere", fingerprint="other")
    (finished_run(folder, hundred, 32.0, users, name="torn") / "result.json").write_text("{")
    (finished_run(folder, hundred, 32.0, users, name="userless") / "users.npz").unlink()
    auto = (
        "recipe",
        "train_steps",
        "loss",
        "score_scale",
        "learning_rate",
        "item_discount",
        "depth",
        "keep_prob",
    )
    for name in ("ten-1", "ten-2", "ten-3", "hundred", "hundred.old1"):  # as runs/recipes.py chose
        edit(folder / name / "config.json", auto=dict.fromkeys(auto, "recipe"))
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
    assert f"| {ease} | 1 | NDCG@10 | **34.00** |" in said and "counts the spread over seeds" in said
    users = lambda name: np.load(own / name / "users.npz")["NDCG@10"].astype(float)
    others = users("warm"), users("hundred"), np.array([users(f"ten-{seed}") for seed in (1, 2, 3)])
    alone = [summaries.p_of_difference(users("ease"), other) for other in others]
    p = table["p, paired over users, with the spread over seeds"]
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
    groups, _ = own_runs.group(own_runs.read(own, names)[0])
    [(label, line)] = own_runs.by_size(groups).items()
    assert label.startswith("∞-AE on Distill-CF") and "S =" not in label
    assert line.values.tolist() == [[10, 22, 1], [100, 30, 0]], "nor has it the run at another temperature"
    groups[0][:] = [run._replace(auto={**run.auto, "num_per_user": "as in the paper"}) for run in groups[0]]
    assert len(own_runs.by_size(groups)) == 1, "the others were given the same"


def test_mine_of_some_runs_and_of_one_data_set(own, capsys):
    compare.main(["--mine", f"--results_dir={own}", "--runs", f"ten-1,{own}/hundred,nothing"])
    said = capsys.readouterr().out
    assert "left out" in said and "there is no run nothing" in said and "EASE" not in said
    compare.main(["--mine", f"--results_dir={own}/none", f"--runs={own}/hundred"])
    assert (own / "none" / "compare" / "mine.md").exists()
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
        teacher = planned_of("∞-AE on Distill-CF, S = 500", results)[seed]
        finished_run(results, teacher, 33.0, name=f"teacher-{seed}")
        learner = planned_of("EASE", results, at="500 synthetic users", part="learners")[seed]
        finished_run(results, learner, 30.0 + seed, name=f"pupil-{seed}")
    compare.main(["--mine", f"--results_dir={results}", "--runs=teacher-0,teacher-1,pupil-0,pupil-1"])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| EASE")]
    assert "distilled=teacher-0" in line and "every seed its own | 2 | HR@100 | 30.50 ± 0.71" in line


def test_mine_labels_no_two_rows_alike(own, capsys):
    """Not when they differ in what a recipe chose, in best_by, or in a setting that one of them lacks."""
    [hundred, *_] = planned_of("Distill-CF", own, at=100, part="strategies")
    for name, ndcg, more in (("later", 28.0, {"loss": "softmax"}), ("by-hr", 27.0, {"best_by": "HR@100"})):
        finished_run(own, hundred, ndcg, name=name, **more)
    settings = json.loads((own / "hundred" / "config.json").read_text())["settings"]
    older = finished_run(own, hundred, 26.0, name="older")
    edit(older / "config.json", settings={key: value for key, value in settings.items() if key != "noise"})
    for name in ("later", "by-hr", "older"):
        edit(own / name / "config.json", auto=dict.fromkeys(settings, "recipe"))
    compare.main(["--mine", f"--results_dir={own}", "--runs=hundred,later,by-hr,older"])
    table = pd.read_csv(own / "compare" / "mine.csv")
    assert table["NDCG@10"].tolist() == [30, 28, 27, 26] and table["system"].nunique() == 4
    _, later, by_metric, older = table["system"]
    assert "loss=softmax" in later and "best_by=HR@100" in by_metric and "noise=unset" in older


def test_mine_says_which_runs_learnt_nothing(own, capsys):
    edit(own / "ten-2" / "result.json", best_step=0)
    edit(own / "warm" / "result.json", learnt=False)
    edit(own / "hundred" / "result.json", learnt=True, best_step=25)
    compare.main(["--mine", f"--results_dir={own}"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ∞-AE")]
    warm, hundred, ten = rows
    assert "LEARNT NOTHING with seed 2 | 3 |" in ten and "LEARNT NOTHING with seed 1 | 1 |" in warm
    assert "LEARNT NOTHING" not in hundred
