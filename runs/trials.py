"""Which recipe suits the data, and when to stop: rehearsals of a run on validation, before it begins.

A rehearsal is a run of distill.py on smaller batches that leaves nothing. It has all steps: after a third of
them another recipe may lead. Where validation is full, every candidate recipe has one rehearsal; the run
itself then chooses its step and lamda. Where validation is thin, train and validation interactions are
divided anew for every rehearsal. There, recipe, step and lamda are those with the best mean over the redrawn
divisions, since one thin validation would choose by chance. The test set has no part in it. All is fixed by
the data and the settings but for the seed: the same data under another name, and another seed, get the same
choice.
"""

import hashlib
import json
import math
import shutil
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from tqdm import tqdm
from typing_extensions import TypedDict

import data
from hyper_params import line, positive
from lib import devices
from lib.checks import read_json
from lib.errors import UserError
from lib.files import keep_arrays, write_files
from runs import recipes
from runs.batches import batch_users
from runs.folder import shaping
from runs.reading import place

FULL_SHARE, FULL_TARGETS = 0.9, 5000  # validation with fewer of the users, or fewer targets, is thin
MOST_BATCH = 1024  # users of a batch in a rehearsal
MOST_DRAWS = 6  # divisions of the interactions
SHARE_OF_RUN = 1.5  # what all rehearsals may cost, relative to the run
FREE = 3e11  # what they may cost at any rate: half a minute of two CPU cores
STEP = 1e8  # what a step costs beside its products
SURE = 2.0  # standard errors between the best two recipes from which no further draw is needed
CLEAR = 1.0  # standard errors by which another recipe than the likeliest must lead
LAMDAS = ("step", 0.01, 0.1, 1.0, 10.0, 100.0)  # to try where validation is thin; "step" is the step's own


class Choice(NamedTuple):
    """What the rehearsals chose; JSON keeps it."""

    recipe: str
    keep_step: int | str
    keep_lamda: float | str
    reason: str  # the recipes' NDCG@10 in the rehearsals
    quality: float  # NDCG@10 of the choice there
    popularity: float  # NDCG@10 of popularity there


class Kept(TypedDict):
    """What a Choice may be, in its file."""

    recipe: Literal[tuple(recipes.RECIPES)]
    keep_step: place | Literal["best"]
    keep_lamda: positive | Literal["best", "step"]
    reason: line
    quality: float
    popularity: float


def is_thin(dataset):
    """Whether validation asks too few of the users, or too little, to choose by.

    Of new users a part validates, drawn at random: that it is a part says nothing.
    """
    targets = dataset.asked.lengths[data.VALIDATION]
    asks_few = not dataset.new_users and (targets > 0).mean() < FULL_SHARE
    return bool(asks_few or targets.sum() < FULL_TARGETS)


def choose(settings, dataset, rehearse, popularity, check):
    """The Choice for the settings; None where there is nothing to choose.

    Args:
        settings: Settings of distill.py with its "auto".
        dataset: data.Dataset, with its noise.
        rehearse: (concrete settings, Dataset, lamdas as LAMDAS) -> {(step, lamda): NDCG@10 of every
            validation user}.
        popularity: (concrete settings, Dataset) -> NDCG@10 of every validation user.
        check: (concrete settings, Dataset); raises UserError for settings that cannot run.
    """
    statistics = recipes.statistics_of(dataset)
    names, thin = recipes.candidates(settings, statistics), is_thin(dataset)
    open_keys = [key for key in recipes.KEPT if settings[key] == "auto"]
    if len(names) == 1 and not (thin and open_keys):
        return None
    ready = {name: concrete(settings, statistics, name) for name in names}
    path = _path(settings, dataset, ready)
    if known := devices.share(_read(path)):
        return known
    run = recipes.resolve_auto({**settings, "recipe": names[0]}, statistics)[0]
    check(run, dataset)
    budget = max(SHARE_OF_RUN * _cost(run, dataset), FREE)
    costs = {name: _cost(settings, dataset) for name, settings in ready.items()}
    names = _affordable(costs, budget)
    if len(names) == 1 and not (thin and open_keys):
        return None
    silent = None if jax.process_index() == 0 else True
    if not silent:
        print(f"rehearsals on {dataset.name}: {', '.join(names)}. The choice stays in {path}", flush=True)
    rounds = MOST_DRAWS if thin else 1
    found, popular, left = {name: [] for name in names}, [], list(names)
    with tqdm(desc="rehearsals", unit="rehearsal", disable=silent, leave=False) as bar:
        for draw in range(rounds):
            divided = data.redraw(dataset, draw) if thin else dataset
            for name in left:
                bar.set_postfix_str(f"{name}, division {draw + 1}" if thin else name)
                make = partial(rehearse, ready[name], divided, LAMDAS if thin else LAMDAS[:1])
                found[name].append(_kept(path.with_suffix("") / f"{draw}-{name}.npz", make))
                budget -= costs[name]
                bar.update()
                if not silent:
                    _report(name, draw if thin else None, found[name][-1])
            popular.append(popularity(ready[names[0]], divided))
            left = _leaders(found, left)
            sure = draw and len(left) == 1  # one division alone decides nothing
            if sure or budget < sum(costs[name] for name in left):
                break
    name, first = left[0], names[0]
    if _best(found[name])[0] is None:  # no scores are finite: the run will say so
        return None
    if name != first and _best(found[first])[0] and _difference(found, name, first) < CLEAR:
        name = first
    choice = _conclude(found, name, popular, thin)
    if jax.process_index() == 0:
        write_files(path.parent, {path.name: json.dumps(choice._asdict(), indent=1).encode()})
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)  # another process may do so, too
    return choice


def _report(name, draw, curve):
    """Prints the best of a rehearsal, of a redrawn division or of the given one (None)."""
    at, value = _best([curve])
    best = f"validation NDCG@10 {value:.2f} at step {at[0]}, lamda {at[1]}" if at else "no finite scores"
    tqdm.write(f"  {name}{'' if draw is None else f', division {draw + 1}'}: {best}", file=sys.stdout)
    sys.stdout.flush()


def _kept(path, rehearse):
    """The curve that rehearse() returns, in a file until the choice is made: a killed command goes on there.

    With several processes there is no file, since all of them must take part in a rehearsal or none.
    """
    if jax.process_count() > 1:
        return rehearse()
    path.parent.mkdir(parents=True, exist_ok=True)

    def make():
        curve = rehearse()
        return {"at": np.array(json.dumps([*curve])), "values": np.stack([*curve.values()])}

    arrays = keep_arrays(path, "", make, lambda arrays: {"at", "values"} == set(arrays))
    return {tuple(at): values for at, values in zip(json.loads(str(arrays["at"])), arrays["values"])}


def _read(path):
    """The Choice in a file; None if there is none, or it is damaged: rehearsals make it again."""
    with suppress(UserError):
        return Choice(**read_json(path, Kept, ""))


def concrete(settings, statistics, name):
    """The Settings of a rehearsal of this recipe."""
    whole = recipes.resolve_auto({**settings, "recipe": name, "seed": 0}, statistics)[0]
    size = batch_users(whole["batch_size"], statistics.users)
    return recipes.Settings({**whole, "batch_size": min(size, MOST_BATCH)})


def _cost(settings, dataset):
    """What a run costs, about: B S J for each step, and what its synthetic users cost whatever B."""
    users, sampled = batch_users(settings["batch_size"], dataset.users), settings["sampled_items"]
    entries = users * recipes.batch_items(users, sampled, recipes.statistics_of(dataset))
    entries += recipes.ENTRIES_PER_ITEM * dataset.items
    return settings["train_steps"] * (entries * settings["user_support"] + STEP)


def _affordable(costs, budget):
    """The first of {recipe: cost of a rehearsal}, and the others that the rest of the budget pays for."""
    names, left = [], budget
    for name, cost in costs.items():
        if not names or cost <= left:
            names.append(name)
            left -= cost
    return names


def _mean_curve(rehearsals):
    """{(step, lamda): mean NDCG@10 over the rehearsals of a recipe}."""
    means = [{at: _mean(values) for at, values in curve.items()} for curve in rehearsals]
    return {at: float(np.mean([curve[at] for curve in means])) for at in means[0]}


def _mean(values):
    """The mean over users; NaN without a finite score."""
    return np.nanmean(values) if np.isfinite(values).any() else math.nan


def _best(rehearsals):
    """((step, lamda), the mean NDCG@10 there) of a recipe; where equal, the earlier."""
    curve = _mean_curve(rehearsals)
    finite = {at: value for at, value in curve.items() if math.isfinite(value)}
    at = max(finite, key=finite.get, default=None)
    return at, finite.get(at, -math.inf)


def _of_users(rehearsals):
    """NDCG@10 of every user at the recipe's best step and lamda, one rehearsal after another."""
    at, _ = _best(rehearsals)
    return np.concatenate([curve[at] for curve in rehearsals])


def _lead(found, one, other):
    """(by how much NDCG@10 the first of two recipes is above the second, its standard error), over users.

    In the divisions that both have rehearsed; 0 and 0 without two users.
    """
    pairs = min(len(found[one]), len(found[other]))
    lead = _of_users(found[one][:pairs]) - _of_users(found[other][:pairs])
    lead = lead[np.isfinite(lead)]
    return (lead.mean(), lead.std(ddof=1) / math.sqrt(len(lead))) if len(lead) > 1 else (0.0, 0.0)


def _difference(found, one, other):
    """How many standard errors the first of two recipes is above the second."""
    lead, error = _lead(found, one, other)
    return float(lead / error) if error else 0.0


def _leaders(found, names):
    """The recipes to go on with, the best first: at most two, and no second that is surely worse."""
    ranked = sorted(names, key=lambda name: -_best(found[name])[1])
    usable = [name for name in ranked if _best(found[name])[0] is not None] or ranked[:1]
    return [name for name in usable[:2] if name == usable[0] or _difference(found, usable[0], name) < SURE]


def _conclude(found, name, popularity, thin):
    """The Choice of a recipe."""
    (step, lamda), value = _best(found[name])
    count = len(found[name])
    over = f"over {count} redrawn validation{'s' * (count > 1)}" if thin else "in a rehearsal"
    usable = [other for other in found if other != name and _best(found[other])[0] is not None]
    leads = {other: _lead(found, other, name) for other in usable}
    compared = [f"{other} {lead:+.2f} ± {error:.2f}" for other, (lead, error) in leads.items()]
    reason = f"NDCG@10 {value:.2f} {over}"
    reason += f"; against it, where both were rehearsed, {', '.join(compared)}" if compared else ""
    if name == next(iter(found)) and any(lead > 0 for lead, _ in leads.values()):
        reason += f"; {name} is the likeliest here, and stays unless another leads by a standard error"
    kept = (step, lamda) if thin else ("best", "best")
    popular = float(_mean(np.concatenate(popularity)))
    return Choice(name, *kept, f"{reason}; popularity {popular:.2f}", value, popular)


def _path(settings, dataset, ready):
    """The file that keeps the choice for these data and settings."""
    shared = [{**shaping(concrete), "dataset": ""} for concrete in ready.values()]
    seed = settings["seed"] if settings["noise"] else None  # it draws the noise
    text = json.dumps([dataset.fingerprint, seed, shared, LAMDAS, CLEAR])
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Path(settings["results_dir"]) / f".rehearsals-{name}.json"
