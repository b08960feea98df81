"""From hyper_params.py, a config file and the command line to one checked dict of settings.

Also the one place that turns a UserError into a line on stderr and an exit code.
"""
import argparse
import difflib
import json
import os
import re
import sys
from pathlib import Path

import hyper_params as defaults


class UserError(Exception):
    """Something the user can put right; its text is the one line they are shown."""


class Parser(argparse.ArgumentParser):
    """argparse, whose complaints are one line, too; --help shows the description as it stands."""

    def __init__(self, description, **more):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **more)

    def error(self, message):
        raise UserError(f"{message}; --help tells all")


def _choice(*words):
    return str, "one of " + ", ".join(words), lambda value: value in words


# Beyond these, single precision has nothing to calculate with.
SMALLEST, LARGEST, LARGEST_COUNT = 1e-30, 1e30, 2 ** 31 - 1

AT_LEAST_1 = (int, f"a whole number from 1 to {LARGEST_COUNT}", lambda value: 1 <= value <= LARGEST_COUNT)
COUNT_OR_ALL = (int, f"a whole number from 1 to {LARGEST_COUNT}, or -1 for all", lambda value: 1 <= value <= LARGEST_COUNT or value == -1)
NOT_NEGATIVE = (float, f"a number from 0 to {LARGEST}", lambda value: 0 <= value <= LARGEST)
POSITIVE = (float, f"a number above 0, from {SMALLEST} to {LARGEST}", lambda value: SMALLEST <= value <= LARGEST)
SWITCH = (bool, "true or false", lambda value: True)
TEXT = (str, "text", lambda value: value != "")

# What every key may be: its type, that in words, and a test.
RULES = {
    "dataset": (str, "the name of a folder under data_dir", lambda value: value not in ("", ".", "..") and "/" not in value),
    "data_dir": TEXT, "results_dir": TEXT, "repeats": _choice("keep", "drop"),
    "noise": (float, "a number from 0, below 1", lambda value: 0 <= value < 1),
    "depth": (int, "a whole number from 0 to 4", lambda value: 0 <= value <= 4), "normalize": SWITCH, "float64": SWITCH,
    "user_support": COUNT_OR_ALL, "num_per_user": AT_LEAST_1, "gumbel_tau": POSITIVE, "noise_groups": COUNT_OR_ALL,
    "objective": _choice("held_out", "reconstruct"),
    "history_discount": (float, "a number between 0 and 1, both included", lambda value: 0 <= value <= 1),
    "keep_prob": (float, "a number between 0 and 1", lambda value: 0 < value < 1),
    "item_discount": (float, "a number between -1 and 1, both included", lambda value: -1 <= value <= 1),
    "loss": _choice("auto", "softmax", "generalized", "squared"),
    "score_scale": (float, f"a number above 0, up to {LARGEST}, or -1 for one that suits the loss and user_support", lambda value: 0 < value <= LARGEST or value == -1),
    "cardinality_reg": NOT_NEGATIVE, "learn_lamda": SWITCH, "lamda": POSITIVE,
    "lamda_grid": (list, f"a list of one or more numbers from 0 to {LARGEST}, such as [0.1,1]",
                   lambda value: len(value) > 0 and all(_is_a(each, float) and 0 <= each <= LARGEST for each in value)),
    "learning_rate": POSITIVE, "cosine_decay": SWITCH, "batch_size": COUNT_OR_ALL,
    "train_steps": (int, f"a whole number from 1 to {LARGEST_COUNT}, or -1 for what suits user_support", lambda value: 1 <= value <= LARGEST_COUNT or value == -1),
    "accumulate_steps": AT_LEAST_1, "patience": AT_LEAST_1, "log_freq": AT_LEAST_1,
    "best_by": _choice("HR@10", "HR@100", "NDCG@10", "NDCG@100"), "validation_users": COUNT_OR_ALL, "eval_batch_size": AT_LEAST_1,
    "seed": (int, f"a whole number from 0 to {LARGEST_COUNT}", lambda value: 0 <= value <= LARGEST_COUNT),
    "resume": SWITCH, "paper": SWITCH, "distributed": SWITCH, "num_processes": COUNT_OR_ALL,
    "coordinator": (str, "host:port, or nothing where the launcher tells", lambda value: value == "" or value.rpartition(":")[2].isdigit()),
    "sampler": _choice("random", "head", "interactions", "svp_cf", "distilled", "distilled_hard"),
    "distilled": (str, "the folder of a run, or its name in results_dir", lambda value: True), "epochs": AT_LEAST_1,
    "memory": _choice("distilled", "random", "all"), "parts": AT_LEAST_1,
    "model": _choice("pop", "mf", "neumf", "mvae", "lightgcn", "ease"),
    "grid": (list, "a list of objects of settings to try", lambda value: all(isinstance(each, dict) for each in value)),
    "process_id": (int, "a whole number from 0, or -1 where the launcher tells", lambda value: -1 <= value <= LARGEST_COUNT),
}


def resolve(arguments, description, keys=None, overrides={}):
    """The settings of one run; with --help, prints the description and every key, and ends the process.

    Later ones win: hyper_params.py, what it has for the data set, and there for as many synthetic users, its `paper` dict where paper is true,
    --config=file.json, --key=value; --paper=true on the command line wins over the file, too.

    Args:
        arguments: the words after the script's name.
        keys: those the script has a use for; None: all.
        overrides: what it has otherwise than hyper_params.py.

    Returns:
        (settings, changed): the full dict, with what train_steps and loss stand for where they are left open, and the part of it that differs from
        hyper_params.py.

    Raises:
        UserError: an unknown key, a wrong type or an impossible value, said in one line.
    """
    if {"-h", "--help"} & set(arguments):
        print(f"{description.strip()}\n\nEvery key is set with --key=value, or many with --config=FILE.json. They are, from "
              f"hyper_params.py:\n\n{_listing(Path(defaults.__file__).read_text(encoding='utf-8'), keys, overrides)}")
        sys.exit(0)
    config, given = {}, {}
    for key, value in map(_split, arguments):
        if key == "config":
            config.update(_read_config(value))
        else:
            given[key] = _parse(key, value)
    recipes = [recipe for by_users in _checked_recipes().values() for recipe in by_users.values()]
    for source in (defaults.hyper_params, *defaults.for_dataset.values(), *recipes, defaults.paper, overrides, config, given):
        for key, value in source.items():
            _check(key, value)
    missing = RULES.keys() - defaults.hyper_params.keys() - defaults.infinite_ae.keys() - defaults.baselines.keys() - defaults.stream.keys()
    if missing:
        raise UserError(f"hyper_params.py has lost the key {min(missing)}")
    if config.get("paper") and given.get("paper") is False:
        raise UserError("--paper=false does not undo the paper's choices that the config file holds: change them there")
    paper = {**defaults.hyper_params, **config, **given}["paper"] and (keys is None or "paper" in keys)
    layers = [defaults.paper if paper else {}, config]
    if given.get("paper"):
        layers.reverse()
    asked = {**overrides, **layers[0], **layers[1], **given}
    settings = {key: float(value) if RULES[key][0] is float else value for key, value in _put(_base(asked, not overrides), asked).items()
                if keys is None or key in keys}
    if useless := given.keys() - settings.keys():
        raise UserError(f"{Path(sys.argv[0]).name} has no use for {min(useless)}; it takes {', '.join(settings)}")
    settings.update(_left_open(settings))
    expected = usual(settings, overrides)
    return settings, {key: value for key, value in settings.items() if value != expected[key]}


def usual(settings, overrides={}):
    """What all settings of such a run, on this data set and with this user_support, are when nobody says otherwise.

    Args:
        overrides: what the script has otherwise than hyper_params.py.
    """
    run = {key: settings[key] for key in ("dataset", "user_support") if key in settings}
    base = {**_base({**overrides, **run}, not overrides), **overrides}
    return {**base, **_left_open({**base, **run})}


def _base(asked, distils):
    """What hyper_params.py has for the data set and the number of users, before what is asked for.

    Args:
        asked: settings.
        distils: whether it is for distill.py; a recipe is for that alone, and holds unless another loss than its own is asked for.
    """
    run = {**defaults.hyper_params, **asked}
    recipe = _up_to(run["user_support"], defaults.recipes.get(run["dataset"], {})) if distils else None
    if recipe is None or run["loss"] not in ("auto", recipe.get("loss", "softmax")):
        recipe = {}
    return {**defaults.hyper_params, **defaults.for_dataset.get(run["dataset"], {}), **recipe}


def _put(base, asked):
    """What is asked for over what holds otherwise; a loss of "auto" asks for nothing."""
    return {**base, **{key: value for key, value in asked.items() if (key, value) != ("loss", "auto")}}


def _checked_recipes():
    """The recipes of hyper_params.py.

    Raises:
        UserError: they are not dicts by data set and by rising numbers of users.
    """
    for dataset, by_users in defaults.recipes.items():
        if not isinstance(by_users, dict) or not all(_is_a(most, float) and isinstance(recipe, dict) for most, recipe in by_users.items()) \
                or list(by_users) != sorted(by_users):
            raise UserError(f"recipes of {dataset}, in hyper_params.py, must be {{up to how many users: {{setting: value}}}}, the numbers rising")
    return defaults.recipes


def _left_open(settings):
    """What train_steps and loss stand for where they are left open."""
    found = {}
    if settings.get("train_steps") == -1:
        found["train_steps"] = _up_to(settings["user_support"], defaults.steps_for)
    if settings.get("loss") == "auto":
        found["loss"] = "softmax"
    return found


def _up_to(user_support, table):
    """What a table, whose keys are how many users a value is for at most, has for as many; None if they are more than all its keys."""
    return next((value for most, value in table.items() if user_support <= most), None)


def _listing(source, keys, overrides):
    """All that hyper_params.py, whose text source is, has of settings; or only these keys, with what a script has otherwise."""
    if keys is None:
        return source[source.index("hyper_params = {"):].strip()
    own = next((name for name, value in vars(defaults).items() if value is overrides), None)
    comments = {}
    for name in ("hyper_params", own):
        block = source.partition(f"\n{name} = {{\n")[2].partition("\n}")[0]
        comments |= re.findall(r'^    "(\w+)":[^#\n]*(#.*(?:\n {5,}#.*)*)', block, re.M)
    values = {key: json.dumps(value) if isinstance(value, str) else repr(value) for key, value in {**defaults.hyper_params, **overrides}.items()}
    return "\n".join(f"    {f'{json.dumps(key)}: {values[key]},':<26} {comments.get(key, '')}".rstrip() for key in values if key in keys)


def run_script(main, script=None):
    """Calls main(arguments) as a script: what goes wrong for the user is one line, which begins with the script's name, and an exit code."""
    script = script or Path(sys.argv[0]).stem
    try:
        main(sys.argv[1:])
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UserError, OSError) as error:  # OSError: a full disk, a folder that may not be written
        sys.exit(f"{script}: {' '.join(str(error).split())}")
    except MemoryError as error:
        sys.exit(f"{script}: out of memory ({error}); a smaller batch_size or eval_batch_size needs less")
    except KeyboardInterrupt:
        sys.stderr.write(f"{script}: interrupted\n")
        sys.exit(130)


def _split(argument):
    if not argument.startswith("--") or "=" not in argument:
        raise UserError(f"'{argument}' is not understood: settings are given as --key=value (--help lists them)")
    key, value = argument[2:].split("=", 1)
    return key, value


def _read_config(path):
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--config={path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"--config={path} must hold a JSON object of settings")
    # A run's own config.json can be given as it is.
    return config["settings"] if isinstance(config.get("settings"), dict) else config


def _parse(key, text):
    if key not in RULES:
        _check(key, text)
    if RULES[key][0] is str:
        return text
    try:
        return json.loads(text.lower() if RULES[key][0] is bool else text)
    except ValueError:
        return text  # _check says what it should have been


def _is_a(value, kind):
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def fits(value, rule):
    """Whether a value is what a rule such as those of RULES allows: (its type, that in words, a test)."""
    kind, _, holds = rule
    return _is_a(value, kind) and holds(value)


def _check(key, value):
    if key not in RULES:
        close = difflib.get_close_matches(key, RULES, 1)
        raise UserError(f"there is no setting '{key}'" + (f"; is it {close[0]}?" if close else "; --help lists them"))
    if not fits(value, RULES[key]):
        raise UserError(f"{key} must be {RULES[key][1]}, not {json.dumps(value)}")
