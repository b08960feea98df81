"""settings.py: which value wins, and what is said about a bad one."""
import json
import math

import pytest

import hyper_params
import settings
from settings import UserError, resolve


def values(*arguments):
    return resolve(arguments, "")[0]


def test_defaults_are_those_of_the_file_and_all_have_a_rule():
    found, changed = resolve([], "")
    assert found == {**hyper_params.hyper_params, "train_steps": 60, **hyper_params.recipes["ml-1m"][math.inf]} and changed == {} and settings.RULES.keys() == found.keys() | (
        hyper_params.infinite_ae.keys() | hyper_params.baselines.keys() | hyper_params.stream.keys())


def test_a_data_set_has_its_own_defaults(monkeypatch):
    monkeypatch.setattr(hyper_params, "for_dataset", {"special": {"learning_rate": 0.5, "normalize": False}})
    assert values("--dataset=special")["learning_rate"] == 0.5 != values("--dataset=other")["learning_rate"]
    assert values("--dataset=special", "--learning_rate=0.1")["learning_rate"] == 0.1
    assert values("--dataset=special", "--paper=true")["learning_rate"] == hyper_params.paper["learning_rate"]
    assert resolve(["--dataset=special"], "", ("dataset", "normalize"), {"normalize": True})[0] == {"dataset": "special", "normalize": True}


def test_a_recipe_follows_the_data_set_and_the_number_of_users(monkeypatch):
    few, many = {"loss": "generalized", "depth": 0}, {"loss": "squared", "item_discount": 0.5}
    monkeypatch.setattr(hyper_params, "recipes", {"special": {20: few, math.inf: many}})
    chosen = lambda *arguments: {key: values(*arguments)[key] for key in ("loss", "depth", "item_discount")}
    usual = {"loss": "softmax", "depth": 1, "item_discount": 0}
    assert chosen("--dataset=special", "--user_support=20") == {**usual, **few} and chosen("--dataset=special", "--user_support=21") == {**usual, **many}
    assert chosen("--dataset=other") == chosen("--dataset=special", "--paper=true") == usual
    assert chosen("--dataset=special", "--loss=softmax") == usual, "not what goes with another loss"
    assert chosen("--dataset=special", "--loss=squared", "--item_discount=0") == {**usual, "loss": "squared"}
    assert chosen("--dataset=special", "--loss=auto") == {**usual, **many}, "asks for nothing"
    monkeypatch.setitem(hyper_params.hyper_params, "loss", "softmax")
    assert chosen("--dataset=special") == usual, "the file may ask for another, too"


def test_what_is_usual_is_so_for_the_number_of_users(monkeypatch):
    monkeypatch.setattr(hyper_params, "recipes", {"special": {20: {"loss": "generalized", "depth": 0}}})
    assert resolve(["--dataset=special", "--user_support=10"], "")[1] == {"dataset": "special", "user_support": 10}
    assert resolve(["--dataset=special", "--user_support=10", "--loss=softmax"], "")[1] == {
        "dataset": "special", "user_support": 10, "loss": "softmax", "depth": 1}


def test_a_recipe_may_keep_the_softmax(monkeypatch):
    monkeypatch.setattr(hyper_params, "recipes", {"special": {20: {"depth": 2}}})
    chosen = lambda *arguments: tuple(values("--dataset=special", "--user_support=9", *arguments)[key] for key in ("loss", "depth"))
    assert chosen() == chosen("--loss=softmax") == ("softmax", 2) and chosen("--loss=squared") == ("squared", 1)


@pytest.mark.parametrize("recipes", [{"depth": 2}, {"20": {"depth": 2}}, {math.inf: {"depth": 2}, 20: {"depth": 0}}])
def test_wrong_recipes(monkeypatch, recipes):
    monkeypatch.setattr(hyper_params, "recipes", {"special": recipes})
    with pytest.raises(UserError, match="recipes of special, in hyper_params.py, must be"):
        values()


@pytest.mark.parametrize("overrides", [hyper_params.infinite_ae, hyper_params.stream])
def test_no_recipe_where_no_such_users_are_learned(monkeypatch, overrides):
    monkeypatch.setattr(hyper_params, "recipes", {"special": {math.inf: {"loss": "generalized", "depth": 0}}})
    keys = ("dataset", "user_support", "depth", *{"loss"} & overrides.keys())
    assert resolve(["--dataset=special", "--user_support=10"], "", keys, overrides)[0]["depth"] == 1


@pytest.mark.parametrize("users, steps", [(1, 150), (100, 150), (101, 100), (500, 60), (6040, 60)])
def test_train_steps_follow_the_number_of_users(users, steps):
    assert values(f"--user_support={users}")["train_steps"] == steps
    assert values(f"--user_support={users}", "--train_steps=7")["train_steps"] == 7
    assert values(f"--user_support={users}", "--paper=true")["train_steps"] == hyper_params.paper["train_steps"]


def test_later_sources_win(tmp_path):
    (tmp_path / "some.json").write_text(json.dumps({"seed": 3, "gumbel_tau": 2, "normalize": True}))
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"seed": 4}, "command": "…"}))
    found, changed = resolve(["--paper=true", "--seed=5", f"--config={tmp_path / 'some.json'}"], "")
    assert found["seed"] == 5, "the command line over the file"
    assert found["normalize"] is False and found["objective"] == "reconstruct", "paper on the command line over the file"
    assert found["gumbel_tau"] == 10.0 and isinstance(found["gumbel_tau"], float)
    assert values("--paper=true", "--normalize=true")["normalize"] is True, "what is asked for over what paper means"
    assert "seed" in changed and "depth" not in changed
    assert values(f"--config={tmp_path / 'run.json'}")["seed"] == 4, "a run's own config.json"
    (tmp_path / "papers.json").write_text(json.dumps({"settings": {"paper": True, "depth": 2}}))
    assert values(f"--config={tmp_path / 'papers.json'}")["depth"] == 2, "the file over what its own paper means"
    with pytest.raises(UserError, match="--paper=false does not undo"):
        values(f"--config={tmp_path / 'papers.json'}", "--paper=false")


def test_values_are_read_by_their_kind():
    assert values("--lamda_grid=[0, 2.5]")["lamda_grid"] == [0, 2.5]
    assert values("--float64=True")["float64"] is True
    assert values("--learning_rate=1e-2")["learning_rate"] == 0.01
    assert values("--dataset=123")["dataset"] == "123"


@pytest.mark.parametrize("argument, words", [
    ("--gumbel_tao=1", "there is no setting 'gumbel_tao'; is it gumbel_tau?"),
    ("--xyz=1", "there is no setting 'xyz'; --help lists them"),
    ("seed=1", "'seed=1' is not understood"), ("--seed", "'--seed' is not understood"),
    ("--seed=one", 'seed must be a whole number from 0 to 2147483647, not "one"'),
    ("--seed=1.5", "not 1.5"), ("--seed=-1", "not -1"), ("--seed=true", "not true"),
    ("--gumbel_tau=0", "gumbel_tau must be a number above 0, from 1e-30 to 1e+30, not 0"), ("--gumbel_tau=NaN", "not NaN"),
    ("--gumbel_tau=1e999", "not Infinity"),
    ("--depth=5", "depth must be a whole number from 0 to 4, not 5"), ("--depth=-1", "not -1"),
    ("--num_per_user=0", "num_per_user must be a whole number from 1 to"), ("--user_support=0", "not 0"),
    ("--learning_rate=1" + 400 * "0", "learning_rate must be a number above 0"), ("--accumulate_steps=100000000000000000000", "from 1 to 2147483647"),
    ("--lamda=1e-300", "lamda must be a number above 0"), ("--lamda_grid=[1e300]", "a list of one or more numbers"),
    ("--keep_prob=1", "between 0 and 1"), ("--normalize=yes", 'true or false, not "yes"'), ("--batch_size=0", "or -1 for all, not 0"),
    ("--lamda_grid=[]", "a list of one or more numbers"), ('--lamda_grid=["a"]', "a list of one or more numbers"),
    ("--objective=copy", "one of held_out, reconstruct"), ("--dataset=../x", "the name of a folder"),
    ("--config=/nowhere.json", "cannot be read"),
])
def test_what_is_said_of_a_bad_value(argument, words):
    with pytest.raises(UserError) as caught:
        values(argument)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_bad_edit_of_the_file_is_named(monkeypatch):
    monkeypatch.setitem(hyper_params.hyper_params, "gumbel_tau", "warm")
    with pytest.raises(UserError, match='gumbel_tau must be a number above 0, .*, not "warm"'):
        values()
    monkeypatch.delitem(hyper_params.hyper_params, "gumbel_tau")
    with pytest.raises(UserError, match="hyper_params.py has lost the key gumbel_tau"):
        values()


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit) as caught:
        values("--help")
    assert not caught.value.code and all(f'"{key}"' in capsys.readouterr().out for key in ["noise_groups"])


def test_help_of_a_script_with_its_own_keys_and_defaults(capsys):
    with pytest.raises(SystemExit):
        resolve(["--help"], "About.", ("data_dir", "depth", "user_support", "normalize", "lamda_grid", "seed"), hyper_params.infinite_ae)
    assert capsys.readouterr().out.partition("hyper_params.py:\n\n")[2] == """\
    "data_dir": "data",
    "depth": 1,                # hidden layers of the infinitely wide network, 1 to 4; or 0, which makes it linear
    "normalize": False,        # scale every row to the norm sqrt(I) before the kernel (the paper: False)
    "user_support": -1,        # the users it is trained on: all, or as many, picked by the sampler
    "lamda_grid": [0, 1, 5, 20, 50, 100],
    "seed": 42,
"""
