"""The value of every "auto" in hyper_params.py, from the size of the data and the number of synthetic users.

Where the rules leave several recipes, runs/trials.py tries them. No rule depends on a data set's name: the
same interactions under another name give the same run. A rule never changes a value that hyper_params.py or
the command line sets. docs/experiments.md has the measurements behind the rules.
"""

import json
import math
from typing import NamedTuple

from lib.settings import Settings, defaults, is_open

SPARSE = 20  # data with fewer train interactions per user are sparse
WELL_KNOWN = 100  # from this many train interactions per item on, a squared loss is better
UNSURE = 2  # up to this factor away from WELL_KNOWN, the softmax may be better, or the squared loss
MOST_USERS, MOST_DRAWS = 500, 200  # the paper's user_support and num_per_user
LEAST_SHARE = 4  # real users for a synthetic one: with fewer, there is little to distil
ITEMS_PER_DRAW = 5  # with fewer, the sum of the draws nears 1 at every item, where nothing is learnt
TUNED_ITEMS_PER_DRAW = 18  # ML-1M's, for which the squared and the generalized loss got their score_scale
LARGEST_BATCH, SMALLEST_BATCH = 4096, 256  # real users
BATCH_ENTRIES = 4 * 10**7  # users times items of a batch, at most: memory and time of a step
SAMPLED_ITEMS = 4096  # beside the items of a batch's users, where these are few
ENTRIES_PER_ITEM = 250  # then, a batch costs about as much as the synthetic users themselves, whatever I
VALIDATED, LEAST_VALIDATED = 10_000, 2000  # users of a validation: the second where items are many
VALIDATED_SCORES = 2 * 10**8  # users times items of a validation, at most, between the two
LOW_TAU = 2  # below this temperature users must not share their noise, and need a higher learning rate

PLAIN = {
    "loss": "softmax",
    "depth": 1,
    "normalize": True,
    "item_discount": 0.0,
    "keep_prob": 0.5,
    "learning_rate": 0.08,
    "shared_moment": False,
    "start": "users",
    "start_users": 1,
    "lamda": 0.01,
}
RECIPES = {
    "plain": {},
    # A high learning rate memorises two interactions per user. Normalised rows would give a user with one
    # interaction the weight of a user with many.
    "sparse": {"normalize": False, "learning_rate": 0.02},
    # Half of a few interactions say too little of a user; of items that few users have, little can be learnt.
    "gentle": {"normalize": False, "learning_rate": 0.02, "keep_prob": 0.8, "shared_moment": True},
    # Where little can be learnt, this is not below popularity. Few draws leave popular items below 1.
    "popular": {"start": "popularity", "normalize": False, "num_per_user": 10, "train_steps": 20},
    # A squared loss needs a kernel in which unpopular items count more.
    "squared": {"loss": "squared", "item_discount": 0.25},
    "squared-few": {"loss": "squared", "item_discount": 0.25, "score_scale": 8.0, "learning_rate": 0.3},
    # So few users express little but popularity. Hence a loss that ignores improbable targets, a kernel in
    # which popular items count more, and no hidden layer.
    "generalized-few": {
        "loss": "generalized",
        "item_discount": -0.2,
        "depth": 0,
        "keep_prob": 0.6,
        "learning_rate": 0.5,
    },
    # For rows="sparse". Each score is the sum of few large weights, and needs no scale.
    "interactions": {
        "loss": "squared",
        "item_discount": 0.25,
        "score_scale": 1.5,
        "shared_moment": True,
        "start_users": 4,
        "lamda": 1.0,
        "train_steps": 120,
    },
}
KEPT = ("keep_step", "keep_lamda")  # rehearsals may choose these, beside the recipe
# The paper's choices for real users.
FULL_DATA = {
    "depth": 1,
    "normalize": False,
    "item_discount": 0.0,
    "lamda_grid": [0.0, 1.0, 5.0, 20.0, 50.0, 100.0],
}


class Statistics(NamedTuple):
    """The size of a data set, on which the rules depend; config.json keeps it."""

    users: int
    items: int
    interactions: int  # in train, before noise
    new_users: bool = False  # whether validation and test ask users whom train does not have

    @property
    def per_user(self):
        return self.interactions / self.users

    @property
    def per_item(self):
        return self.interactions / self.items


def statistics_of(dataset):
    """The Statistics of a data.Dataset."""
    interactions = int(dataset.frequency.sum())
    return Statistics(dataset.users, dataset.items, interactions, bool(dataset.new_users))


def candidates(settings, data):
    """[names of the recipes that suit data of these Statistics, the likeliest first].

    A recipe that `settings` names is the only one. Where they name a loss, recipes with another are left out.
    """
    if settings.get("recipe", "auto") != "auto":
        return [settings["recipe"]]
    if settings.get("rows") == "sparse":
        return ["interactions"]
    users = _user_support(settings, data)
    known = data.per_item / WELL_KNOWN
    if known >= 1:
        few = "generalized-few" if users <= 20 else "squared-few"
        names = [few] if users <= 50 else ["squared", "plain"][: 2 if known < UNSURE else 1]
    elif data.per_user < SPARSE:
        names = ["sparse", "gentle", "popular", "plain"]
    else:
        names = ["plain", "squared"][: 2 if known > 1 / UNSURE else 1]
    loss = settings["loss"]
    names = [name for name in names if loss in ("auto", RECIPES[name].get("loss", PLAIN["loss"]))]
    return names or ["plain"]


def resolve_auto(settings, data, of_run=None, choice=None):
    """The settings with every "auto" replaced.

    Args:
        settings: Settings of any script, from lib.settings.resolve.
        data: Statistics.
        of_run: {key of FULL_DATA: value} of the run of distill.py on whose synthetic users the ∞-AE is to be
            trained; None for real users.
        choice: trials.Choice, where rehearsals chose; None: the first of `candidates`.

    Returns:
        (Settings, {key that was "auto": the reason for its value}).
    """
    if "sampler" in settings:  # infinite_ae.py and baselines.py
        values = {"user_support": -1, **(FULL_DATA if of_run is None else of_run)}
        reason = "the paper's, on real users" if of_run is None else "as in the run of the synthetic users"
        reasons = dict.fromkeys(values, reason)
    else:
        values, reasons = _for_synthetic_users(settings, data, choice)
    values["validation_users"] = min(VALIDATED, max(LEAST_VALIDATED, VALIDATED_SCORES // data.items))
    reasons["validation_users"] = f"{data.items:,} items, {data.per_user:.3g} of them a user"
    open_keys = [key for key, value in settings.items() if is_open(key, value)]
    chosen = {key: values[key] for key in open_keys}
    return Settings({**settings, **chosen}), {key: reasons[key] for key in open_keys}


def _for_synthetic_users(settings, data, choice):
    """({key: value}, {key: reason}) for distill.py and stream.py."""
    values, reasons = _sizes(data)
    for key, value in batch_sizes(settings, data).items():
        values[key], reasons[key] = value, f"{data.items:,} items, {data.per_user:.3g} of them a user"
    users, tau = _user_support(settings, data), settings["gumbel_tau"]
    name = choice.recipe if choice else candidates(settings, data)[0]
    loss = RECIPES[name].get("loss", PLAIN["loss"]) if settings["loss"] == "auto" else settings["loss"]
    recipe = {**PLAIN, **RECIPES[name], "lamda_grid": FULL_DATA["lamda_grid"]}
    if "num_per_user" in recipe:
        recipe["num_per_user"] = min(recipe["num_per_user"], values["num_per_user"])
    values |= {"recipe": name, **recipe, **dict.fromkeys(KEPT, "best")}
    reasons |= dict.fromkeys(recipe, f"recipe '{name}'") | dict.fromkeys(KEPT, "on validation")
    size = f"{data.per_user:.3g} train interactions a user, {data.per_item:.3g} an item"
    reasons["recipe"] = choice.reason if choice else size
    if choice and choice.keep_step != "best":
        values |= {key: getattr(choice, key) for key in KEPT}
        reasons |= dict.fromkeys(KEPT, choice.reason)
    if tau < LOW_TAU:  # a draw depends on the largest logits alone, which small updates do not reorder
        rate = values["learning_rate"]
        values["learning_rate"] = max(rate, min(5 * rate, 0.4))
        reasons["learning_rate"] = f"gumbel_tau {tau:g}, below {LOW_TAU}"
    if "score_scale" not in values:
        values["score_scale"] = score_scale(loss, users, data)
        reasons["score_scale"] = f"{loss} loss, {users} synthetic users" + ", new ones asked" * data.new_users
    draws = values["num_per_user"] if settings["num_per_user"] == "auto" else settings["num_per_user"]
    share = data.items / draws / TUNED_ITEMS_PER_DRAW
    if (
        loss != "softmax" and share < 1 and settings.get("rows") != "sparse"
    ):  # X_syn and so the scores grow with n / I
        values["score_scale"] *= share
        reasons["score_scale"] += f", {draws} draws of {data.items} items"
    if "train_steps" not in values:
        values["train_steps"] = 150 if users <= 100 else 100 if users <= 200 else 60
        reasons["train_steps"] = f"{users} synthetic users"
    values["noise_groups"] = 1 if tau >= LOW_TAU else -1
    reasons["noise_groups"] = f"gumbel_tau {tau:g}, {'at least' if tau >= LOW_TAU else 'below'} {LOW_TAU}"
    return values, reasons


def _user_support(settings, data):
    """S; "auto" follows the data, and -1 is all users."""
    given = settings["user_support"]
    return {"auto": _sizes(data)[0]["user_support"], -1: data.users}.get(given, given)


def _sizes(data):
    """({key: value}, {key: reason}) of how many synthetic users and draws there are."""
    draws = max(1, data.items // ITEMS_PER_DRAW)
    values = {"user_support": MOST_USERS, "num_per_user": min(MOST_DRAWS, draws)}
    reasons = dict.fromkeys(values, "as in the paper")
    if data.users < LEAST_SHARE * MOST_USERS:
        values["user_support"] = max(1, data.users // LEAST_SHARE)
        reasons["user_support"] = f"a quarter of the {data.users:,} users"
    if draws < MOST_DRAWS:
        reasons["num_per_user"] = f"{data.items} items, of which a draw needs {ITEMS_PER_DRAW}"
    return values, reasons


def batch_sizes(settings, data):
    """{key: value} of how many users a batch has, and how many items beside its own."""

    def size(sampled):
        """As many users as BATCH_ENTRIES allow."""
        if settings["batch_size"] != "auto":
            return data.users if settings["batch_size"] == -1 else settings["batch_size"]
        users = BATCH_ENTRIES // data.items
        if sampled != -1:  # users * (users * per_user + sampled) = entries
            entries, half = min(BATCH_ENTRIES, ENTRIES_PER_ITEM * data.items), sampled / data.per_user / 2
            users = max(users, int(math.sqrt(half**2 + entries / data.per_user) - half))
        return max(SMALLEST_BATCH, min(LARGEST_BATCH, users))

    sampled = settings["sampled_items"]
    if sampled == "auto":
        most = batch_items(min(size(SAMPLED_ITEMS), data.users), SAMPLED_ITEMS, data)
        sampled = SAMPLED_ITEMS if most <= data.items / 2 else -1
    return {"sampled_items": sampled, "batch_size": size(sampled)}


def batch_items(users, sampled_items, data):
    """About the most items J that a batch of so many users has."""
    return data.items if sampled_items == -1 else min(data.items, int(users * data.per_user) + sampled_items)


def usual(settings, data, script):
    """The default Settings for a run's data set, number of users and what rehearsals choose."""
    kept = "dataset", "user_support", "recipe", *KEPT
    run = {key: settings[key] for key in kept if key in settings}
    return resolve_auto({**defaults(script), **run}, data)[0]


def score_scale(loss, user_support, data):
    """The scale of the scores in a loss.

    For the squared loss it is 12 up to 200 synthetic users, then 8; for new users always 12. For the softmax
    it is max(1, min(1000, N / 700) / sqrt(S)), for the generalized cross entropy max(1, half of that).

    Few synthetic users need a close fit; many would memorise small data with it. The rule fits the scales
    that validation preferred on ML-1M with S from 10 to 1,000, on ML-100K and on Magazine.

    Args:
        loss: "softmax", "generalized" or "squared".
        user_support: S.
        data: Statistics; N of them.
    """
    if loss == "squared":  # a close fit learns train users by heart, which serves them, but nobody new
        return 12.0 if user_support <= 200 or data.new_users else 8.0
    largest = 500 if loss == "generalized" else 1000
    return max(1.0, largest * min(1, data.interactions / 700_000) / math.sqrt(user_support))


def say(settings, reasons):
    """A line with the value of each key that was "auto", grouped by reason."""
    by_reason = {}
    for key, reason in reasons.items():
        value = settings[key]
        text = value if isinstance(value, str) else json.dumps(value)
        text = f"{value:.4g}" if isinstance(value, float) else text
        by_reason.setdefault(reason, []).append(f"{key}={text}")
    return "auto: " + "; ".join(f"{', '.join(pairs)} ({reason})" for reason, pairs in by_reason.items())
