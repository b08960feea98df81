"""lib/settings.py: which value wins, and what is said about a bad one."""

import json

import pytest

import hyper_params
from lib import settings
from lib.errors import UserError
from lib.settings import resolve
from runs import recipes

DATA = recipes.Statistics(6040, 3706, 791_718)


def values(*arguments, script="distill"):
    return resolve(arguments, "", script)[0]


def settled(*arguments, script="distill"):
    return recipes.resolve_auto(values(*arguments, script=script), DATA)[0]


def other_value(key):
    """A value that a key may have and does not have in hyper_params.py."""
    known = {
        **hyper_params.baselines,
        **hyper_params.stream,
        **hyper_params.infinite_ae,
        **hyper_params.hyper_params,
    }
    candidates = (
        7,
        0.123,
        True,
        False,
        "somewhere",
        "host:1",
        "keep",
        "drop",
        "reconstruct",
        "squared",
        "HR@100",
        "head",
        "all",
        "mf",
        [0.5],
        [{}],
        0,
    )
    for value in candidates:
        try:
            if settings.check({key: value})[key] != known[key] and type(value) is not type(None):
                return settings.check({key: value})[key]
        except UserError:
            continue
    raise AssertionError(f"no other value for {key}")


def test_defaults_are_those_of_the_file_and_all_have_a_kind():
    found, changed = resolve([])
    assert found == hyper_params.hyper_params and changed == {}
    everything = {
        **hyper_params.hyper_params,
        **hyper_params.infinite_ae,
        **hyper_params.stream,
        **hyper_params.baselines,
    }
    assert hyper_params.kinds.keys() == everything.keys()


@pytest.mark.parametrize("script", ["distill", "infinite_ae", "stream", "baselines"])
def test_every_edit_of_the_file_holds(monkeypatch, tmp_path, script):
    """In the file, on the command line and in a config file alike: nothing overrules it without a word."""
    for key in hyper_params.takes[script]:
        value = other_value(key)
        if key == "paper":
            continue  # sets other keys: the tests of precedence
        with monkeypatch.context() as edit:
            block = (
                getattr(hyper_params, script, {})
                if script != "distill" and key in getattr(hyper_params, script)
                else hyper_params.hyper_params
            )
            edit.setitem(block, key, value)
            assert settled(script=script)[key] == value, f"{key}: an edit of the file is overruled"
            assert resolve([], "", script)[1] == {}, "what stands in the file is no change of it"
        text = f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
        assert settled(text, script=script)[key] == value and resolve([text], "", script)[1] == {key: value}
        (tmp_path / "config.json").write_text(json.dumps({key: value}))
        assert settled(f"--config={tmp_path / 'config.json'}", script=script)[key] == value


def test_what_the_file_says_wins_over_a_recipe(monkeypatch):
    monkeypatch.setitem(hyper_params.hyper_params, "item_discount", 0.5)
    monkeypatch.setitem(hyper_params.hyper_params, "learning_rate", 0.01)
    for users in (10, 50, 500):
        found = settled(f"--user_support={users}")
        assert (found["item_discount"], found["learning_rate"]) == (0.5, 0.01)


def test_later_sources_win(tmp_path):
    (tmp_path / "some.json").write_text(json.dumps({"seed": 3, "gumbel_tau": 2, "normalize": True}))
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"seed": 4}, "command": "…"}))
    found, changed = resolve(["--paper=true", "--seed=5", f"--config={tmp_path / 'some.json'}"])
    assert found["seed"] == 5, "the command line over the file"
    assert found["normalize"] is False and found["objective"] == "reconstruct", (
        "paper on the command line over the file"
    )
    assert found["gumbel_tau"] == 10.0 and isinstance(found["gumbel_tau"], float)
    assert values("--paper=true", "--normalize=true")["normalize"] is True, (
        "what is asked for over what paper means"
    )
    assert "seed" in changed and "dataset" not in changed
    assert values(f"--config={tmp_path / 'run.json'}")["seed"] == 4, "a run's own config.json"
    (tmp_path / "papers.json").write_text(json.dumps({"settings": {"paper": True, "depth": 2}}))
    assert values(f"--config={tmp_path / 'papers.json'}")["depth"] == 2, (
        "the file over what its own paper means"
    )
    with pytest.raises(UserError, match="--paper=false does not undo"):
        values(f"--config={tmp_path / 'papers.json'}", "--paper=false")


def test_paper_leaves_nothing_to_the_rules():
    assert "auto" not in [
        value for key, value in values("--paper=true").items() if key != "keep_prob"
    ]  # of no use there


def test_values_are_read_by_their_kind():
    assert values("--lamda_grid=[0, 2.5]")["lamda_grid"] == [0, 2.5]
    assert values("--float64=True")["float64"] is True
    assert (
        values("--learning_rate=1e-2")["learning_rate"]
        == values("--learning_rate=.01")["learning_rate"]
        == 0.01
    )
    assert values("--dataset=123")["dataset"] == "123"
    assert values("--seed", "7", "--dataset", "mine", "--batch_size", "-1") == values(
        "--seed=7", "--dataset=mine", "--batch_size=-1"
    )
    assert values("--normalize=auto")["normalize"] == "auto"


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--gumbel_tao=1", "there is no setting 'gumbel_tao'; is it gumbel_tau?"),
        ("--xyz=1", "there is no setting 'xyz'; --help lists them"),
        ("seed=1", "'seed=1' is not understood"),
        ("--seed", "--seed needs a value: --seed=VALUE"),
        ("--seed=one", 'seed must be a whole number from 0 to 2147483647, not "one"'),
        ("--seed=1.5", "not 1.5"),
        ("--seed=-1", "not -1"),
        ("--seed=true", "not true"),
        ("--gumbel_tau=0", "gumbel_tau must be a number from 1e-30 to 1e+30, not 0"),
        ("--gumbel_tau=NaN", "not NaN"),
        ("--gumbel_tau=1e999", "not Infinity"),
        ("--depth=5", "depth must be a whole number from 0 to 4 or auto, not 5"),
        ("--depth=-1", "not -1"),
        ("--num_per_user=0", "num_per_user must be a whole number from 1 to"),
        ("--user_support=0", "not 0"),
        ("--learning_rate=1" + 400 * "0", "learning_rate must be a number from"),
        ("--accumulate_steps=100000000000000000000", "from 1 to 2147483647"),
        ("--lamda=1e-300", "lamda must be a number from"),
        ("--lamda_grid=[1e300]", "a list of one or more numbers"),
        ("--keep_prob=1", "above 0 below 1"),
        ("--normalize=yes", 'true or false or auto, not "yes"'),
        ("--batch_size=0", "or -1, not 0"),
        ("--lamda_grid=[]", "a list of one or more numbers"),
        ('--lamda_grid=["a"]', "a list of one or more numbers"),
        ("--lamda_grid=" + 3000 * "[", "a list of one or more numbers"),
        ("--objective=copy", "one of held_out, reconstruct"),
        ("--dataset=../x", "the name of a folder"),
        ("--dataset=a\x1bb", "the name of a folder"),
        ("--config=/nowhere.json", "cannot be read"),
        ("--score_scale=-1", "score_scale must be"),
        ("--train_steps=-1", "train_steps must be"),
        ("--epochs=5", "distill.py has no use for epochs"),
    ],
)
def test_what_is_said_of_a_bad_value(argument, words):
    with pytest.raises(UserError) as caught:
        values(argument)
    assert words in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 800


def test_a_config_of_another_script_is_one_line(tmp_path):
    (tmp_path / "baseline.json").write_text(json.dumps({"settings": {**values(script="baselines")}}))
    with pytest.raises(UserError, match="distill.py has no use for distilled, which the config file has"):
        values(f"--config={tmp_path / 'baseline.json'}")


def test_a_bad_edit_of_the_file_is_named(monkeypatch):
    monkeypatch.setitem(hyper_params.hyper_params, "gumbel_tau", "warm")
    with pytest.raises(UserError, match='gumbel_tau must be a number from .*, not "warm"'):
        values()
    monkeypatch.delitem(hyper_params.hyper_params, "gumbel_tau")
    with pytest.raises(UserError, match="hyper_params.py has lost the key gumbel_tau"):
        values()
    monkeypatch.setitem(hyper_params.hyper_params, "gumbel_tao", 10.0)
    with pytest.raises(UserError, match="has lost the key gumbel_tau: is it 'gumbel_tao' there"):
        values()
    with pytest.raises(UserError, match="hyper_params.py has lost the key no_such"):
        settings.Settings(seed=1)["no_such"]


@pytest.mark.parametrize("key", list(hyper_params.kinds))
def test_a_key_that_is_lost_is_named_before_anything_is_made(monkeypatch, key):
    for block in (
        hyper_params.hyper_params,
        hyper_params.infinite_ae,
        hyper_params.stream,
        hyper_params.baselines,
    ):
        if key in block and (block is hyper_params.hyper_params or key in hyper_params.of_scripts):
            monkeypatch.delitem(block, key)
    with pytest.raises(UserError, match=f"has lost the key {key}"):
        values()


def test_an_unknown_key_of_paper_is_named(monkeypatch):
    monkeypatch.setitem(hyper_params.paper, "dpth", 1)
    with pytest.raises(UserError, match="there is no setting 'dpth'; is it depth"):
        values()


def test_an_edit_of_the_dict_holds_for_infinite_ae(monkeypatch):
    monkeypatch.setitem(hyper_params.hyper_params, "depth", 2)
    assert settled(script="infinite_ae")["depth"] == 2


def test_a_new_key_is_what_its_default_is(monkeypatch):
    settings.adapter.cache_clear()
    monkeypatch.setitem(hyper_params.hyper_params, "brand_new", 3)
    assert values("--brand_new=4")["brand_new"] == 4
    with pytest.raises(UserError, match="brand_new must be a whole number from 1"):
        values("--brand_new=much")
    settings.adapter.cache_clear()


@pytest.mark.parametrize(
    "arguments, script, note",
    [
        (["--lamda_grid=[1]"], "distill", "note: lamda_grid has no effect with learn_lamda=true"),
        (["--lamda=1", "--learn_lamda=false"], "distill", "note: lamda has no effect with learn_lamda=false"),
        (
            ["--keep_prob=0.3", "--objective=reconstruct"],
            "distill",
            "note: keep_prob has no effect with objective=reconstruct",
        ),
        (["--num_processes=2"], "distill", "note: num_processes has no effect with distributed=false"),
        (["--epochs=3"], "baselines", "note: epochs has no effect with model=ease"),
        (["--train_steps=3", "--memory=all"], "stream", "note: train_steps has no effect with memory=all"),
    ],
)
def test_a_key_without_effect_says_so(arguments, script, note):
    assert settings.without_effect(*resolve(arguments, "", script)) == [note]


def test_no_note_where_all_have_an_effect():
    assert settings.without_effect(*resolve(["--lamda_grid=[1]", "--learn_lamda=false", "--seed=3"])) == []


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit) as caught:
        values("--help")
    said = capsys.readouterr().out
    assert not caught.value.code and all(f'"{key}": ' in said for key in hyper_params.hyper_params)


def test_help_of_a_script_with_its_own_keys_and_defaults(capsys):
    with pytest.raises(SystemExit):
        values("--help", script="infinite_ae")
    said = capsys.readouterr().out
    assert all(f'    "{key}": ' in said for key in hyper_params.takes["infinite_ae"])
    assert (
        '    "user_support": -1,        # the users it is trained on: all, or this many, picked by the sampler\n'
        in said
    )
