"""compare.py --data: six runs with one call, what it says of those that fail, and the verdict."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import shorten_rehearsals

import baselines
import compare
from lib.errors import IN_USE, UserError
from paper import make_runs, own_data, summaries
from paper.own_data import DISTILLED, EASE, EVERYONE

USERS = 500


# ---- The verdict ---------------------------------------------------------------------------------------


def ndcg_of(noise=1.0, users=USERS, **means):
    """{System: NDCG@10 of the users}, with exactly these means; differences have this deviation."""
    rng, ndcg = np.random.default_rng(0), {}
    taste = rng.normal(0, 10, users)
    for name, mean in means.items():
        values = taste + rng.normal(0, noise, users)
        ndcg[getattr(own_data, name)] = np.append(values - values.mean() + mean, np.nan)
    return ndcg


def verdict(ndcg, **more):
    return own_data.verdict(ndcg, USERS + 1, 50, **{"weight": 0.123, **more})


@pytest.mark.parametrize(
    "means, starts, words",
    [
        (  # better than all
            dict(POPULARITY=10, EASE=30, EVERYONE=32, RANDOM=25, DISTILLED=33.6),
            "Distilling is worth it here: {} 33.60, 5.0 % above ∞-AE on all 501 "
            "users (32.00; p < 0.001). They are 10.0 % of the 501 users, 10.0 times fewer, and the sum of "
            "their weights is 12.3 % of the train interactions.",
            "",
        ),
        (  # within 2 % of the best
            dict(POPULARITY=10, EASE=30, RANDOM=25, DISTILLED=29.6),
            "Distilling is worth it here only for the smaller number of users: {} 29.60, "
            "1.3 % below EASE on all 501 users (30.00; p < 0.001). They are 10.0 % of the 501 users, 10.0 ",
            "",
        ),
        (  # a lead that may be chance
            dict(POPULARITY=10, EASE=30, RANDOM=25, DISTILLED=30.04),
            "Distilling is worth it here only for the smaller number of users: {} 30.04, "
            "0.1 % above EASE on all 501 users (30.00; p = 0.",
            "which may be chance over 500 users",
        ),
        (
            dict(POPULARITY=10, EASE=30, RANDOM=25, DISTILLED=30),
            "Distilling is worth it here only for the smaller number of users: {} 30.00, "
            "the same as EASE on all 501 users (30.00; p = 1.000, which may be chance over",
            "",
        ),
        (  # more than 2 % below the best
            dict(POPULARITY=10, EASE=30, RANDOM=25, DISTILLED=27),
            "Distilling is not worth it here: {} 27.00, "
            "10.0 % below EASE on all 501 users (30.00; p < 0.001). Use EASE on all 501 users.",
            "",
        ),
        (  # below popularity
            dict(POPULARITY=10, EASE=30, RANDOM=5, DISTILLED=8),
            "Do not use the synthetic users: with NDCG@10 8.00, they rank worse than popularity among all "
            "501 users (10.00; p < 0.001). Use EASE on all 501 users.",
            "",
        ),
        (  # random users do as well, or better
            dict(POPULARITY=10, EASE=20, RANDOM=29.99, DISTILLED=30),
            "Distilling is not worth it here: {} 30.00, the same as ∞-AE on 50 random users (29.99; p = 0.",
            "may be chance over 500 users). As many random users do as well: ∞-AE on 50 random users. Use ",
        ),
        (
            dict(POPULARITY=10, EASE=40, RANDOM=30, DISTILLED=29),
            "Distilling is not worth it here: {} 29.00, 27.5 % below EASE on ",
            "As many random users do better: ∞-AE on 50 random users (30.00; p < 0.001). Use EASE on all",
        ),
        ({"DISTILLED": 8}, "No verdict", ""),
        ({"EASE": 8, "RANDOM": 5}, "No verdict", ""),
    ],
)
def test_the_verdict(means, starts, words):
    says = verdict(ndcg_of(**means))
    starts = starts.format("with 50 synthetic users, NDCG@10 is")
    assert says.startswith(starts) and words in says
    assert says.count("may be chance") == ("may be chance" in words + starts), "what is sure is called so"


def test_a_verdict_on_few_users_or_by_chance_says_so():
    means = dict(POPULARITY=28, EASE=30, RANDOM=26, DISTILLED=31)
    says = verdict(ndcg_of(noise=30.0, users=40, **means))
    assert "is worth it" not in says and "As many random users do as well" in says
    assert "They are not sure to rank better than popularity" in says
    assert "Only 40 users have test items, too few to rely on." in says
    assert "Only" not in verdict(ndcg_of(**means)) and "is worth it here" in verdict(ndcg_of(**means))


def test_synthetic_users_that_learnt_nothing_are_not_worth_it():
    ndcg = ndcg_of(POPULARITY=10, EASE=30, RANDOM=29, DISTILLED=31)
    says = verdict(ndcg, learnt=False)
    assert says.startswith("Distilling is not worth it") and "Distill-CF learnt nothing" in says


def test_synthetic_users_can_weigh_more_than_the_data():
    says = verdict(ndcg_of(POPULARITY=10, RANDOM=20, DISTILLED=30), weight=16.85)
    assert "the sum of their weights is 16.9 times the train interactions" in says


def test_no_verdict_where_all_is_zero():
    zeros = {system: np.zeros(5) for system in (EASE, DISTILLED)}
    assert "NDCG@10 of EASE on all 501 users is 0" in verdict(zeros)


def test_its_p_are_those_of_the_table():
    """Of the table's rows against its best one; whichever that is."""
    for own in (29.7, 30.3):
        ndcg = ndcg_of(noise=3, POPULARITY=29, EVERYONE=30, RANDOM=29.5, DISTILLED=own)
        best = DISTILLED if own > 30 else EVERYONE
        p = summaries.p_against(ndcg, best)[EVERYONE if best == DISTILLED else DISTILLED]
        assert 0.001 < p < 0.5 and f"p = {p:.3f}" in verdict(ndcg)


# ---- The command ---------------------------------------------------------------------------------------


@pytest.fixture
def scripts(monkeypatch):
    """The words of all scripts that are run, which run in this process. An item of `outcomes`, by number of
    the call, is returned or raised in its place."""
    called, outcomes = [], {}

    def run_to_the_end(words):
        _, script, *arguments = map(str, words)
        name = Path(script).stem
        called.append(" ".join([name, *arguments]))
        outcome = outcomes.get(len(called))
        if outcome:
            if isinstance(outcome, tuple):
                return outcome
            raise outcome
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        try:
            importlib.import_module(name).main(arguments)
        except UserError as error:
            return 1, f"{name}: {error}"
        return 0, ""

    monkeypatch.setattr(make_runs, "run_to_the_end", run_to_the_end)
    run_to_the_end.called, run_to_the_end.outcomes = called, outcomes
    return run_to_the_end


def test_one_call_after_a_kill_makes_what_is_missing(tiny_data, tmp_path, scripts, capsys, monkeypatch):
    shorten_rehearsals(monkeypatch)
    options = "--data=tiny", "--seed=3", f"--data_dir={tiny_data}", f"--results_dir={tmp_path}"
    scripts.outcomes[3] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        compare.main(options)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert len(before) == 2 and not (tmp_path / "compare").exists()

    scripts.called.clear(), scripts.outcomes.clear(), capsys.readouterr()
    compare.main(options)
    said = capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "made once"
    where = f"--data_dir={tiny_data} --results_dir={tmp_path}"
    assert scripts.called == [
        f"{script} --dataset=tiny {words}--seed=3 {where}"
        for script, words in (
            ("baselines", "--model=pop "),
            ("baselines", "--model=ease "),
            ("infinite_ae", ""),
            ("infinite_ae", "--normalize=true --item_discount=0.25 "),
            ("distill", ""),
            ("infinite_ae", f"{' '.join(own_data.RANDOM.arguments)} --user_support=37 "),
        )
    ]
    [config] = tmp_path.glob("distill-*/config.json")
    assert json.loads(config.read_text())["settings"]["user_support"] == 37
    assert "5 of 6: ∞-AE on 37 synthetic users (Distill-CF): test NDCG@10 " in said and " s so far" in said
    table = pd.read_csv(tmp_path / "compare" / "data-tiny.csv").set_index("system")
    assert len(table) == 6 and table["NDCG@10"].is_monotonic_decreasing and (table["seconds"] > 0).all()
    markdown = (tmp_path / "compare" / "data-tiny.md").read_text(encoding="utf-8")
    assert markdown in said and "| ∞-AE on 37 random users | 1 | NDCG@10 |" in said
    assert "37 synthetic users" in markdown.splitlines()[-1] and "one seed" in markdown
    assert (tmp_path / "compare" / "data-tiny.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_that_is_refused_does_not_stop_the_others(tiny_data, tmp_path, scripts, capsys, monkeypatch):
    """EASE for want of memory; ∞-AE on all users killed by the system; the others are left to fail here."""
    monkeypatch.setattr(baselines.psutil, "virtual_memory", lambda: type("", (), {"available": 10**5}))
    scripts.outcomes |= {3: (-9, "x"), 4: (1, "four"), 5: (1, "five"), 6: (1, "six")}
    compare.main(["--data=tiny", f"--data_dir={tiny_data}", f"--results_dir={tmp_path}"])
    lines = capsys.readouterr().out.splitlines()
    table = next(number for number, line in enumerate(lines) if line.startswith("| tiny"))
    below = "\n".join(lines[table:])
    assert "EASE on all 150 users: not made: baselines: ease needs 0.0 GiB for 150 users" in below
    assert "∞-AE on all 150 users: not made: infinite_ae.py was killed, most likely because memory" in below
    assert "(Distill-CF): not made: five" in below and "No verdict: it needs a run of Distill-CF" in below
    assert [line[:12] for line in lines[table + 2 :] if line.startswith("|")] == ["| popularity"]
    scripts.outcomes |= {7: (1, "one"), 8: (1, "two"), 9: (1, "x"), 10: (1, "x"), 11: (1, "x"), 12: (1, "x")}
    with pytest.raises(UserError, match="no run of tiny could be made"):
        compare.main(["--data=tiny", "--seed=5", f"--data_dir={tiny_data}", f"--results_dir={tmp_path}"])


@pytest.mark.parametrize(
    "outcome, words",
    [
        ((143, ""), "--model=pop .* was interrupted; the same command goes on"),
        ((IN_USE, "made by another"), "made by another"),
    ],
)
def test_a_run_that_is_stopped_or_made_elsewhere_ends_the_call(tiny_data, tmp_path, scripts, outcome, words):
    scripts.outcomes[1] = outcome
    with pytest.raises(UserError, match=words):
        compare.main(["--data=tiny", f"--data_dir={tiny_data}", f"--results_dir={tmp_path}"])
    assert len(scripts.called) == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--data=nothing"], "there is no data set .*nothing; .* has tiny, tiny-users. Run"),
        (["--data"], "--data needs a value"),
        (["--data=tiny", "--mine"], "--mine and --data do not go together"),
        (["--data=tiny", "--seed=x"], "seed must be a whole number"),
        (["--data=tiny", "--gumbel_tau=1"], "compare.py has no use for gumbel_tau"),
        (["--data=tiny", "--dataset=tiny"], "compare.py has no use for dataset"),
    ],
)
def test_wrong_options_end_it_before_anything_runs(tiny_data, tmp_path, scripts, arguments, words):
    with pytest.raises(UserError, match=words):
        compare.main([*arguments, f"--data_dir={tiny_data}", f"--results_dir={tmp_path}"])
    assert not scripts.called and not list(tmp_path.iterdir())
