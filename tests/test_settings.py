"""lib/settings.py: which source of a value wins, and the message on a wrong one."""

import ast
import json
import re

import pytest

import hyper_params
from lib import settings
from lib.errors import UserError
from lib.settings import resolve
from runs import recipes

DATA = recipes.Statistics(6040, 3706, 791_718)
BLOCKS = hyper_params.hyper_params, hyper_params.infinite_ae, hyper_params.stream, hyper_params.baselines
SCRIPTS = "distill", "infinite_ae", "stream", "baselines"


def values(*arguments, script="distill"):
    return resolve(arguments, "", script)[0]


def resolved(*arguments, script="distill"):
    return recipes.resolve_auto(values(*arguments, script=script), DATA)[0]


def other_value(key):
    """A value that a key may have and does not have in hyper_params.py."""
    known = {key: value for block in reversed(BLOCKS) for key, value in block.items()}
    texts = (
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
        "users",
        "sparse",
    )
    candidates = 7, 0.123, True, False, *texts, [0.5], [{}], ["AUC"], 0
    for value in candidates:
        try:
            value = settings.check({key: value})[key]
        except UserError:
            continue
        if value != known[key]:
            return value
    raise AssertionError(f"no other value for {key}")


def test_defaults_are_those_of_the_file_and_all_have_a_kind():
    assert resolve([]) == (hyper_params.hyper_params, {})
    assert hyper_params.kinds.keys() == {key for block in BLOCKS for key in block}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_edit_of_the_file_holds(monkeypatch, tmp_path, script):
    """A value holds in the file, on the command line and in a config file alike."""
    for key in hyper_params.takes[script]:
        value = other_value(key)
        if key == "paper":
            continue  # sets other keys: the tests of precedence
        with monkeypatch.context() as edit:
            own = getattr(hyper_params, script, {})  # hyper_params has no block "distill"
            block = own if key in own else hyper_params.hyper_params
            edit.setitem(block, key, value)
            assert resolved(script=script)[key] == value, f"{key}: an edit of the file is overruled"
            assert resolve([], "", script)[1] == {}, "a value of the file is no change"
        argument = settings.to_argument(key, value)
        assert resolved(argument, script=script)[key] == value
        assert resolve([argument], "", script)[1] == {key: value}
        (tmp_path / "config.json").write_text(json.dumps({key: value}))
        assert resolved(f"--config={tmp_path / 'config.json'}", script=script)[key] == value


def test_the_file_wins_over_a_recipe(monkeypatch):
    monkeypatch.setitem(hyper_params.hyper_params, "item_discount", 0.5)
    monkeypatch.setitem(hyper_params.hyper_params, "learning_rate", 0.01)
    for users in (10, 50, 500):
        chosen = resolved(f"--user_support={users}")
        assert (chosen["item_discount"], chosen["learning_rate"]) == (0.5, 0.01)


def test_stronger_sources_win(tmp_path):
    def config(content):
        (tmp_path / "config.json").write_text(json.dumps(content))
        return f"--config={tmp_path / 'config.json'}"

    argument = config({"seed": 3, "gumbel_tau": 2, "normalize": True})
    of_paper, changed = resolve(["--paper=true", "--seed=5", argument])
    assert of_paper["seed"] == 5, "the command line wins over the config file"
    assert of_paper["normalize"] is False and of_paper["objective"] == "reconstruct", (
        "the paper's choices, asked for on the command line, win over the config file"
    )
    assert of_paper["gumbel_tau"] == 10.0 and isinstance(of_paper["gumbel_tau"], float)
    assert values("--paper=true", "--normalize=true")["normalize"] is True, "so does a key over the paper's"
    assert "seed" in changed and "dataset" not in changed
    argument = config({"settings": {"seed": 4}, "command": "…"})
    assert values(argument)["seed"] == 4 == values(f"--config={tmp_path}")["seed"], "a run's own config.json"
    argument = config({"settings": {"paper": True, "depth": 2}})
    assert values(argument)["depth"] == 2 and values(argument)["objective"] == "reconstruct", (
        "the config file wins over the paper's choices that it asks for"
    )
    with pytest.raises(UserError, match="--paper=false does not undo"):
        values(argument, "--paper=false")


def test_paper_leaves_nothing_to_the_rules():
    auto = [key for key, value in values("--paper=true").items() if value == "auto"]
    assert auto == ["keep_prob", "lamda"], "which have no effect there"


def test_chosenare_read_by_their_kind():
    assert values("--lamda_grid=[0, 2.5]")["lamda_grid"] == [0, 2.5]
    assert values("--float64=True")["float64"] is True
    for text in ("1e-2", ".01"):
        assert values(f"--learning_rate={text}")["learning_rate"] == 0.01
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
        ("--batch_size=0", "or -1 or auto, not 0"),
        ("--lamda_grid=[]", "a list of one or more numbers"),
        ('--lamda_grid=["a"]', "a list of one or more numbers"),
        ("--lamda_grid=" + 3000 * "[", "a list of one or more numbers"),
        ("--objective=copy", "one of held_out, reconstruct"),
        ("--dataset=../x", "the name of a folder"),
        ("--dataset=a\x1bb", "the name of a folder"),
        ("--config=/nowhere.json", "cannot be read"),
        ("--score_scale=-1", "score_scale must be"),
        ("--train_steps=-1", "train_steps must be"),
        *(
            (f"--{key}={value}", f"distill.py has no use for {key}, a setting of ")
            for key, value in {
                **dict.fromkeys(("epochs", "parts"), 5),
                **dict.fromkeys(("model", "sampler", "memory", "distilled"), "ease"),
                "grid": "[]",
            }.items()
        ),
        ("--seed=--", 'not "--"'),
        ("--seed=" + 5000 * "x", "seed must be a whole number"),
        ("--dataset=a\x9bb", "the name of a folder"),
        ("--data_dir=a\x1bb", "data_dir must be one line of text"),
        ("--results_dir=a\udce9", "results_dir must be one line of text"),
        ("--" + 5000 * "x" + "=1", "there is no setting 'xxx"),
        (5000 * "x ", "is not understood"),
    ],
)
def test_the_message_on_a_wrong_value(argument, words):
    with pytest.raises(UserError) as caught:
        values(argument)
    assert words in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 800


def test_a_config_of_another_script_gives_the_keys_that_both_take(tmp_path, capsys):
    made = values("--seed=7", "--paper=true", "--depth=2")
    (tmp_path / "config.json").write_text(json.dumps({"settings": made}))
    chosen, changed = resolve([f"--config={tmp_path}"], "", "infinite_ae")
    assert chosen.keys() == set(hyper_params.takes["infinite_ae"])
    assert changed == {
        key: made[key]
        for key in ("seed", "depth", "normalize", "item_discount", "best_by", "validation_users")
    } | {"user_support": 500, "lamda_grid": made["lamda_grid"]}
    [line] = capsys.readouterr().err.splitlines()
    ignored = sorted(made.keys() - chosen.keys())
    assert line == f"note: infinite_ae.py ignores these keys of the config file: {', '.join(ignored)}"
    assert "paper" in ignored, "infinite_ae.py takes the paper's kernel anyway"


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"data_dir": "a\\u0000b"}', "data_dir must be one line of text"),
        ('{"results_dir": "\\ud800"}', "results_dir must be one line of text"),
        ('{"seed": ' + 3000 * "[" + 3000 * "]" + "}", "is damaged (it is nested too deeply)"),
        ("[1]", "is damaged (it is [1]); --config="),
        ('{"lamda": 1' + 400 * "0" + "}", "lamda must be a number"),
        ("\x00", "is damaged ("),
    ],
)
def test_the_message_on_a_wrong_config(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError) as caught:
        values(f"--config={tmp_path / 'a.json'}")
    assert words in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 800


def test_a_config_that_the_system_does_not_give_is_not_called_damaged(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match=f"^{tmp_path}/config.json cannot be read: Is a directory$"):
        values(f"--config={tmp_path}")


def test_a_config_with_a_key_that_no_script_has_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 7, "validation_users": 10000, "gumbel_tao": 1}))
    with pytest.raises(UserError) as caught:
        values(f"--config={tmp_path}", script="infinite_ae")
    assert str(caught.value) == f"--config={tmp_path}: there is no setting 'gumbel_tao'; is it gumbel_tau?"


def test_a_wrong_edit_of_the_file_is_named(monkeypatch):
    monkeypatch.setitem(hyper_params.hyper_params, "gumbel_tau", "warm")
    with pytest.raises(UserError, match='gumbel_tau must be a number from .*, not "warm"'):
        values()
    monkeypatch.delitem(hyper_params.hyper_params, "gumbel_tau")
    with pytest.raises(UserError, match="hyper_params.py has lost the key gumbel_tau"):
        values()
    monkeypatch.setitem(hyper_params.hyper_params, "gumbel_tao", 10.0)
    with pytest.raises(UserError, match="has lost the key gumbel_tau: rename 'gumbel_tao' to it"):
        values()
    with pytest.raises(UserError, match="hyper_params.py has lost the key no_such"):
        settings.Settings(seed=1)["no_such"]


@pytest.mark.parametrize("key", list(hyper_params.kinds))
def test_a_lost_key_is_named_before_a_run_begins(monkeypatch, key):
    for block in BLOCKS:
        if key in block and (block is hyper_params.hyper_params or key in hyper_params.of_one_script):
            monkeypatch.delitem(block, key)
    with pytest.raises(UserError, match=f"has lost the key {key}"):
        values()


def test_an_unknown_key_of_paper_is_named(monkeypatch):
    monkeypatch.setitem(hyper_params.paper, "dpth", 1)
    with pytest.raises(UserError, match="there is no setting 'dpth'; is it depth"):
        values()


def test_an_edit_of_the_dict_holds_for_infinite_ae(monkeypatch):
    monkeypatch.setitem(hyper_params.hyper_params, "depth", 2)
    assert resolved(script="infinite_ae")["depth"] == 2


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


def test_no_note_where_every_key_has_an_effect():
    assert settings.without_effect(*resolve(["--lamda_grid=[1]", "--learn_lamda=false", "--seed=3"])) == []


@pytest.mark.parametrize("script", hyper_params.takes)
def test_help_lists_every_key_once_with_its_value(capsys, script):
    with pytest.raises(SystemExit) as caught:
        values("--help", script=script)
    printed = capsys.readouterr().out.partition("\npaper = {")[0]
    listed = re.findall(r'^    ("\w+": .+?),(?: +#|$)', printed, re.M)
    assert ast.literal_eval(f"{{{', '.join(listed)}}}") == values(script=script)
    assert len(listed) == len(hyper_params.takes[script]) and not caught.value.code


def test_help_of_a_script_has_the_comments_of_its_own_keys(capsys):
    with pytest.raises(SystemExit):
        values("--help", script="infinite_ae")
    lines = capsys.readouterr().out.splitlines()
    place = lines.index('    "user_support": -1,        # how many users to train on; -1: all')
    assert lines[place + 1].startswith('    "sampler": "random",       # which users: "random"; ')
    assert lines[place + 2].startswith(31 * " " + "# ")
