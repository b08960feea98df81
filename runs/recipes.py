"""What an "auto" of hyper_params.py becomes: the one place where the data and the number of synthetic users decide.

Nothing depends on a data set's name: the same interactions under another name give the same run. A value that hyper_params.py or the
command line has is never changed. What the rules rest on stands in docs/experiments.md.
"""

import json
import math
from typing import NamedTuple

from lib.settings import Settings, defaults

SPARSE = 20  # train interactions a user, below which data are sparse
WELL_KNOWN = 100  # train interactions an item, from which a squared loss is the better one
LOW_TAU = 2  # below this temperature users must not share their noise, and need longer steps

PLAIN = {
    "loss": "softmax",
    "depth": 1,
    "normalize": True,
    "item_discount": 0.0,
    "keep_prob": 0.5,
    "learning_rate": 0.08,
}
RECIPES = {
    "plain": {},
    # What learns fast learns two interactions a user by heart; normalised rows make a user with one interaction count like one with many.
    "sparse": {"normalize": False, "learning_rate": 0.02},
    # A squared loss needs unpopular items to count more in the kernel.
    "well-known items": {"loss": "squared", "item_discount": 0.25},
    "well-known items, up to 50 users": {
        "loss": "squared",
        "item_discount": 0.25,
        "score_scale": 8.0,
        "learning_rate": 0.3,
    },
    # What few users can say is mostly what is popular: the loss that is sharpest about it, popular items counting more, a linear kernel.
    "well-known items, up to 20 users": {
        "loss": "generalized",
        "item_discount": -0.2,
        "depth": 0,
        "keep_prob": 0.6,
        "learning_rate": 0.5,
    },
}
FULL_DATA = {
    "depth": 1,
    "normalize": False,
    "item_discount": 0.0,
    "lamda_grid": [0.0, 1.0, 5.0, 20.0, 50.0, 100.0],
}  # the paper's


class Statistics(NamedTuple):
    """What the rules know of a data set; config.json keeps it."""

    users: int
    items: int
    interactions: int  # of train, before noise


def statistics_of(dataset):
    return Statistics(dataset.users, dataset.items, int(dataset.frequency.sum()))


def choose(data, user_support):
    """(name of a recipe, why) for data of these Statistics and this many synthetic users."""
    per_user, per_item = data.interactions / data.users, data.interactions / data.items
    if per_user < SPARSE:
        return "sparse", f"{per_user:.3g} train interactions a user, fewer than {SPARSE}"
    if per_item < WELL_KNOWN:
        return "plain", f"{per_item:.3g} train interactions an item, fewer than {WELL_KNOWN}"
    size = next((f", up to {most} users" for most in (20, 50) if user_support <= most), "")
    return "well-known items" + size, f"{per_item:.3g} train interactions an item, {WELL_KNOWN} or more"


def resolve_auto(settings, data, run=None):
    """The settings with every "auto" made concrete.

    Args:
        settings: of any script, as from settings.resolve.
        data: Statistics.
        run: what a run of distill.py, whose synthetic users ∞-AE is to be trained on, has for the keys of FULL_DATA; None without one.

    Returns:
        (Settings, {key that was "auto": why it is what it is}).
    """
    if "sampler" in settings:  # infinite_ae.py and baselines.py
        values, why = (
            (FULL_DATA, "the paper's, on real users")
            if run is None
            else (run, "as in the run of the synthetic users")
        )
        reasons = dict.fromkeys(values, why)
    else:
        values, reasons = _for_synthetic_users(settings, data)
    open_keys = [key for key, value in settings.items() if value == "auto"]
    return Settings({**settings, **{key: values[key] for key in open_keys}}), {
        key: reasons[key] for key in open_keys
    }


def _for_synthetic_users(settings, data):
    """(values, reasons) of distill.py and stream.py."""
    users, tau = settings["user_support"], settings["gumbel_tau"]
    name, because = choose(data, users)
    if settings["loss"] not in ("auto", RECIPES[name].get("loss", PLAIN["loss"])):
        name, because = "plain", f"loss={settings['loss']} is asked for, which '{name}' does not have"
    values = {**PLAIN, **RECIPES[name], "lamda_grid": FULL_DATA["lamda_grid"]}
    reasons = dict.fromkeys(values, f"recipe '{name}': {because}")
    if tau < LOW_TAU:  # where a draw sees only the items near the top, short steps change none of them
        values["learning_rate"] = min(5 * values["learning_rate"], max(0.4, values["learning_rate"]))
        reasons["learning_rate"] = f"gumbel_tau {tau:g}, below {LOW_TAU}"
    loss = values["loss"] if settings["loss"] == "auto" else settings["loss"]
    if "score_scale" not in values:
        values["score_scale"], reasons["score_scale"] = (
            score_scale(loss, users, data.interactions),
            f"{loss} loss, {users} synthetic users",
        )
    values["train_steps"], reasons["train_steps"] = (
        150 if users <= 100 else 100 if users <= 200 else 60,
        f"{users} synthetic users",
    )
    values["noise_groups"] = 1 if tau >= LOW_TAU else -1
    reasons["noise_groups"] = f"gumbel_tau {tau:g}, {'at least' if tau >= LOW_TAU else 'below'} {LOW_TAU}"
    return values, reasons


def usual(settings, data, script):
    """What all settings of such a run, on these Statistics and with this user_support, are when nobody says otherwise."""
    run = {key: settings[key] for key in ("dataset", "user_support") if key in settings}
    return resolve_auto({**defaults(script), **run}, data)[0]


def score_scale(loss, user_support, interactions):
    """The scale of the scores in a loss: 12 for a squared one up to 200 synthetic users, then 8; else of N train interactions
    max(1, min(1000, N / 700) / sqrt(S)), half of that for the generalized cross entropy.

    Few synthetic users need a sharp fit, with which many learn little data by heart. The rule and its numbers are those of the scales that
    validation preferred on ML-1M with S from 10 to 1,000, on ML-100K and on Magazine.
    """
    if loss == "squared":
        return 12.0 if user_support <= 200 else 8.0
    sharpest = 500 if loss == "generalized" else 1000
    return max(1.0, sharpest * min(1, interactions / 700_000) / math.sqrt(user_support))


def say(settings, reasons):
    """What each "auto" became, and why, in one line."""
    by_reason = {}
    for key, why in reasons.items():
        value = settings[key]
        text = (
            f"{value:.4g}"
            if isinstance(value, float)
            else value
            if isinstance(value, str)
            else json.dumps(value)
        )
        by_reason.setdefault(why, []).append(f"{key}={text}")
    return "auto: " + "; ".join(f"{', '.join(pairs)} ({why})" for why, pairs in by_reason.items())
