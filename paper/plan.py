"""Which runs the paper's table and figures are made of, and which of them are there.

It has five parts: the table of systems; the strategies, ∞-AE on ever more users picked or learnt; the
learners, other models on distilled users; noise in the train interactions; and a stream of users. A run can
serve more than one.

A planned run is found by its settings, one by one. A setting that is younger than a run, and that it does not
have, must stand at the value in hyper_params.py: the plan must not set it.
"""

import json
from typing import NamedTuple

import hyper_params
from lib.errors import UserError
from lib.settings import resolve
from paper import record
from runs import published, recipes
from runs.folder import shaping

DATASETS = {"magazine": "Amazon Magazine", "ml-1m": "MovieLens-1M"}
SEEDS, BUDGETS = (1, 2, 3), (10, 20, 50, 100, 200, 500, 1000)
SUMMARY = 500  # synthetic users, in the table and for other learners
# When the runs of MF, NeuMF, MVAE and LightGCN were made, and those of all parts but the table, every script
# but distill.py chose by this metric. With None in its place they are chosen by hyper_params.py's best_by, as
# the others, and `python compare.py --run` makes them again: 231 runs, which took 8.3 hours on two CPU cores.
CHOSEN_BEFORE = "HR@100"


class System(NamedTuple):
    """A row of the table or a line of a figure."""

    name: str
    script: str
    arguments: tuple = ()
    seeds: tuple = SEEDS
    best_by: str | None = None  # None: as in hyper_params.py
    tuned: bool = False  # the first seed tries a grid, and the others take what it has chosen
    in_paper: str | None = None  # its key in published.NDCG_AT_10

    @property
    def chosen_by(self):
        return self.best_by or hyper_params.hyper_params["best_by"]

    def paper(self, dataset):
        """Its NDCG@10 in the paper's table, or NaN."""
        return published.NDCG_AT_10[dataset].get(self.in_paper, float("nan"))


class Planned(NamedTuple):
    """A run that the comparison needs."""

    part: str  # "table", "strategies", "learners", "noise" or "stream"
    system: str
    dataset: str
    at: object  # what a line of the part goes over: users, a share of noise, a learner's data
    seed: int
    script: str
    arguments: tuple | None  # None: they are known once another run has finished
    teachers: tuple = ()  # names of runs, all of the same settings, whose synthetic users will do


def _baseline(name, model, *more, seeds=SEEDS, best_by=None):
    return System(name, "baselines", (f"--model={model}", *more), seeds, best_by, len(seeds) > 1, model)


EASE, MVAE = _baseline("EASE", "ease", seeds=SEEDS[:1]), _baseline("MVAE", "mvae", best_by=CHOSEN_BEFORE)
FULL = System("∞-AE, all users", "infinite_ae", seeds=SEEDS[:1], in_paper="infinite_ae")
# What its items' weights bring ∞-AE itself: on ML-1M's validation it gains nDCG@10 by them, with normalised rows.
WEIGHTED = System(
    "∞-AE, all users, items weighted", "infinite_ae", ("--normalize=true", "--item_discount=0.25"), SEEDS[:1]
)
DISTILLED = System(f"∞-AE on Distill-CF, S = {SUMMARY}", "distill", in_paper="distill")
# On ML-1M LightGCN would gain little, and slowly, from twice as many epochs.
LIGHTGCN = _baseline("LightGCN", "lightgcn", "--epochs=150", best_by=CHOSEN_BEFORE)
TABLE = (
    _baseline("PopRec", "pop", seeds=SEEDS[:1]),
    _baseline("MF", "mf", best_by=CHOSEN_BEFORE),
    _baseline("NeuMF", "neumf", best_by=CHOSEN_BEFORE),
    MVAE,
    LIGHTGCN,
    EASE,
    FULL,
    WEIGHTED,
    DISTILLED,
)

# Of few users a weaker ridge is the best, of many users with few interactions a stronger one: other grids
# than that for all. The head users are the same whatever the seed.
_FEW, _SPARSE = "--lamda_grid=[0.03, 0.1, 0.3, 1, 3, 10, 30]", "--lamda_grid=[0.1, 1, 10, 30, 100, 300, 1000]"
ALL = "all users"
STRATEGIES = (
    System("random users", "infinite_ae", ("--sampler=random", _FEW), best_by=CHOSEN_BEFORE),
    System("random interactions", "infinite_ae", ("--sampler=interactions", _SPARSE), best_by=CHOSEN_BEFORE),
    System("head users", "infinite_ae", ("--sampler=head", _FEW), SEEDS[:1], CHOSEN_BEFORE),
    System("SVP-CF users", "infinite_ae", ("--sampler=svp_cf", _FEW), best_by=CHOSEN_BEFORE),
    System("Distill-CF", "distill"),
)
EVERYONE = FULL._replace(name=ALL, best_by=CHOSEN_BEFORE)
# Fewer users have a smaller X'X, and soft weights a smaller one still; interactions that are mostly chance
# take a large l2.
_WIDE = [{"l2": l2} for l2 in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)]
LEARNT_FROM = {
    f"{SUMMARY} synthetic users": "distilled",
    f"{SUMMARY} synthetic users, interactions drawn": "distilled_hard",
    f"{SUMMARY} random users": "random",
}
EASE_BEFORE = EASE._replace(best_by=CHOSEN_BEFORE)
# Of each learner, on SUMMARY users and on all of them.
_EASE = System("EASE", "baselines", ("--model=ease", f"--grid={json.dumps(_WIDE)}"), best_by=CHOSEN_BEFORE)
LEARNERS = (_EASE, EASE_BEFORE), (MVAE, MVAE)
NOISE = (0, 0.02, 0.05, 0.1)
# Without noise, the first two know no chance: one seed.
NOISY = EASE_BEFORE, FULL._replace(best_by=CHOSEN_BEFORE), DISTILLED
STREAM = tuple(
    System(name, "stream", arguments, best_by=CHOSEN_BEFORE)
    for name, arguments in (
        ("everyone so far", ("--memory=all", "--normalize=false")),
        ("synthetic users", ("--memory=distilled",)),
        ("random users", ("--memory=random", "--normalize=false")),
    )
)
NOISE_DATASET = STREAM_DATASET = "ml-1m"


class Runs:
    """Finished runs, to be found by what the plan asks for.

    Args:
        runs: [record.Found]; of the same settings, the first is taken.
    """

    def __init__(self, runs):
        self.runs = runs
        self._statistics = {run.dataset: run.statistics for run in reversed(runs) if run.statistics}
        self._asked, self._answered = {}, {}

    def settings_of(self, planned):
        """(the settings that shape the run, all concrete; the keys of them that the plan sets).

        None if its arguments are not known yet, or nothing is known of its data.
        """
        if planned.arguments is None or planned.dataset not in self._statistics:
            return None
        key = planned.script, planned.arguments
        if key not in self._asked:
            settings, changed = resolve(planned.arguments, "", planned.script)
            settings, _ = recipes.resolve_auto(settings, self._statistics[planned.dataset])
            if "grid" in settings:
                settings["grid"] = settings["grid"] or hyper_params.grids[settings["model"]]
            self._asked[key] = shaping(settings), shaping(changed).keys()
        return self._asked[key]

    def all_of(self, planned):
        """[Found] of all runs that are the planned one."""
        if planned not in self._answered:
            asked = self.settings_of(planned)
            self._answered[planned] = [
                run
                for run in self.runs
                if asked and run.script == planned.script and _same(run.settings, *asked, planned.teachers)
            ]
        return self._answered[planned]

    def of(self, planned):
        """The Found run that is the planned one, or None."""
        return next(iter(self.all_of(planned)), None)


def _same(made, settings, set_by_plan, teachers):
    """Whether a run of the settings `made` is one of `settings`; `distilled` may be any of the teachers."""
    alike = lambda key, value: settings.get(key) == value or key == "distilled" and value in teachers
    return set_by_plan <= made.keys() <= settings.keys() and all(alike(*item) for item in made.items())


def find(results):
    """(Runs of the record, then of the folder `results`; a line on each of those that is damaged)."""
    found, damaged = record.read_folder(results)
    return Runs([*record.read_record(), *found]), damaged


# ---- The plan ------------------------------------------------------------------------------------------


def _plan_run(part, system, dataset, at, seed, runs, more_of=lambda seed: ((), ())):
    """The Planned run of a system; of a tuned one, the seeds after the first take what that one has chosen.

    Args:
        more_of: seed -> (further arguments, None if they are not known yet; teachers).
    """

    def of(seed, *choice):
        more, teachers = more_of(seed)
        by = (f"--best_by={system.best_by}",) if system.best_by else ()
        arguments = (f"--dataset={dataset}", *system.arguments, *by, *(more or ()), f"--seed={seed}", *choice)
        arguments = arguments if more is not None else None
        return Planned(part, system.name, dataset, at, seed, system.script, arguments, teachers)

    if not system.tuned or seed == system.seeds[0]:
        return of(seed)
    tried = runs.of(of(system.seeds[0]))
    if tried is None:
        return of(seed)._replace(arguments=None)
    return of(seed, "--grid=" + json.dumps([tried.result["choice"]]))


def teacher(dataset, seed, runs):
    """The Planned run of the table whose synthetic users other models learn from."""
    return _plan_run("table", DISTILLED, dataset, None, seed, runs)


def of_learner(system, dataset, data, seed, runs):
    """The Planned run of a model on distilled users, learnt by a run of the table, or on random ones."""

    def more_of(seed):
        arguments = f"--sampler={LEARNT_FROM[data]}", f"--user_support={SUMMARY}"
        if LEARNT_FROM[data] == "random":
            return arguments, ()
        sources = sorted(runs.all_of(teacher(dataset, seed, runs)), key=lambda run: not has_users(run))
        names = tuple(run.name for run in sources)
        return (*arguments, f"--distilled={names[0]}") if names else None, names

    return _plan_run("learners", system, dataset, data, seed, runs, more_of)


def has_users(run):
    """Whether a run's synthetic users are on this machine."""
    return run.folder is not None and (run.folder / "distilled.npz").exists()


def plan(runs):
    """Every Planned run, those of the table first.

    Args:
        runs: Runs; what some runs are to do follows from others.
    """

    def of_part(part, system, dataset, at=None, *arguments, seeds=None):
        return [
            _plan_run(part, system, dataset, at, seed, runs, lambda seed: (arguments, ()))
            for seed in seeds or system.seeds
        ]

    table = [run for dataset in DATASETS for system in TABLE for run in of_part("table", system, dataset)]
    strategies = [run for dataset in DATASETS for run in of_part("strategies", EVERYONE, dataset)]
    strategies += [
        run
        for dataset in DATASETS
        for budget in BUDGETS
        for system in STRATEGIES
        for run in of_part("strategies", system, dataset, budget, f"--user_support={budget}")
    ]
    learners = [
        of_learner(some, dataset, data, seed, runs)
        for dataset in DATASETS
        for some, _ in LEARNERS
        for data in LEARNT_FROM
        for seed in some.seeds
    ]
    learners += [
        run
        for dataset in DATASETS
        for _, everyone in LEARNERS
        for run in of_part("learners", everyone, dataset, ALL)
    ]
    noise = [
        run
        for share in NOISE
        for system in NOISY
        for run in of_part(
            "noise", system, NOISE_DATASET, share, f"--noise={share}", seeds=SEEDS if share else None
        )
    ]
    arrivals = [run for system in STREAM for run in of_part("stream", system, STREAM_DATASET)]
    return table + strategies + learners + noise + arrivals


def match(runs):
    """{Planned: its record.Found, or None where it has not been made}, of the whole plan.

    Raises:
        UserError: runs of one data set were made on different data.
    """
    matched = {planned: runs.of(planned) for planned in plan(runs)}
    for dataset in DATASETS:
        found = {
            run.data["fingerprint"]: run
            for planned, run in matched.items()
            if run and planned.dataset == dataset
        }
        if len(found) > 1:
            one, other = (run.folder or f"the record's {run.name}" for run in list(found.values())[:2])
            raise UserError(
                f"{one} and {other} are on different data or splits of {dataset}: they cannot be "
                "compared; move away what does not belong, or see your own runs with --mine"
            )
    return matched


def missing_of(runs):
    """The Planned runs that have not been made, once if two are the same; last, those of unknown arguments.

    Of a run of distill.py that is only kept with the code, the synthetic users are not on this machine: where
    others are to learn from them, it is missing, too, and comes first.
    """
    absent = [planned for planned in plan(runs) if runs.of(planned) is None]
    teachers = [
        teacher(planned.dataset, planned.seed, runs)
        for planned in absent
        if LEARNT_FROM.get(planned.at, "random") != "random"
    ]
    again = [
        planned for planned in teachers if (found := runs.all_of(planned)) and not any(map(has_users, found))
    ]
    known = {}
    for planned in again + absent:
        if planned.arguments is not None:
            settings = runs.settings_of(planned)
            key = json.dumps(settings[0]) if settings else tuple(sorted(planned.arguments))
            known.setdefault((planned.script, key), planned)
    return [*known.values(), *(planned for planned in absent if planned.arguments is None)]


def keep(matched):
    """Adds to the record the runs of clean revisions that it lacks; users' metrics of those of the table.

    It is written once, after the last run: written before, it would itself be an uncommitted change.
    """
    new = {run.name: run for run in matched.values() if run and run.folder and run.clean}
    of_table = {run.name for planned, run in matched.items() if run and planned.part == "table"}
    if new:
        record.keep(list(new.values()), of_table)
