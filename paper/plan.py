"""Which runs the paper's table and figures need, and which of them have been made.

The plan has six parts: the table of systems; the strategies, ∞-AE on ever more users that are picked or
distilled; the sizes, sparse rows beside them; the learners, other models on distilled users; noise in the
train interactions; and a stream of users. One run can serve several parts.

A planned run is found by comparing its settings one by one. A run may lack a setting that is newer than it:
the run counts as made with the value in hyper_params.py, unless the plan sets that setting.
"""

import json
from typing import NamedTuple

import hyper_params
from lib.errors import UserError
from lib.settings import resolve
from paper import record
from runs import published, recipes
from runs.folder import shaping

DATASETS = {
    "magazine": "Amazon Magazine",
    "ml-1m": "MovieLens-1M",
    "ml-1m-new-users": "MovieLens-1M, new users",
    "douban": "Douban",
    "ml-latest-small": "MovieLens-latest-small",
    "ml-latest-small-last": "MovieLens-latest-small, last",
    "ml-100k-time": "MovieLens-100K, by time",
}
WHOLE = "magazine", "ml-1m"  # which have the models that learn by descent, and synthetic users for others
FEW_USERS = "ml-latest-small", "ml-latest-small-last", "ml-100k-time"  # too few for SUMMARY synthetic ones
SEEDS, BUDGETS = (1, 2, 3), (10, 20, 50, 100, 200, 500, 1000)
# The panels of the first figure: on how many users a model is trained, and how many seeds at most. A run on
# Douban takes minutes.
FIGURE = {"magazine": (BUDGETS, 3), "ml-1m": (BUDGETS, 3), "douban": ((10, 50, 100, 500), 1)}
SUMMARY = 500  # synthetic users, in the table and for other learners
# MF, NeuMF, MVAE, LightGCN, and all runs outside the table but those of distill.py and iALS, were made when
# this metric was the default of best_by. With None in its place they follow hyper_params.py as the others do,
# and `python compare.py --run` makes them again: 308 runs, which took 10.3 hours on two CPU cores.
CHOSEN_BEFORE = "HR@100"
# Not compared for distill.py: they only say at which steps a run looks at validation and when it gives up.
# Runs that were recorded with other defaults of these remain the planned ones.
ONLY_WHEN_TO_VALIDATE = ("log_freq", "patience", "validate_early")


class System(NamedTuple):
    """A row of the table or a line of a figure."""

    name: str
    script: str
    arguments: tuple = ()
    seeds: tuple = SEEDS
    best_by: str | None = None  # None: as in hyper_params.py
    tuned: bool = False  # the first seed tries a grid, and the others take the settings that it chose
    in_paper: str | None = None  # its key in published.NDCG_AT_10

    @property
    def chosen_by(self):
        return self.best_by or hyper_params.hyper_params["best_by"]

    def paper(self, dataset):
        """Its NDCG@10 in the paper's table, or NaN."""
        return published.NDCG_AT_10.get(dataset, {}).get(self.in_paper, float("nan"))


class PlannedRun(NamedTuple):
    part: str  # "table", "strategies", "sizes", "learners", "noise" or "stream"
    system: str
    dataset: str
    point: object  # where on the part's x axis: number of users, share of noise, a learner's train data
    seed: int
    script: str
    arguments: tuple | None  # None: not known until another run has finished
    teachers: tuple = ()  # names of runs with the same settings: `distilled` may be any of them


def _baseline(name, model, *more, seeds=SEEDS, best_by=None):
    return System(name, "baselines", (f"--model={model}", *more), seeds, best_by, len(seeds) > 1, model)


IALS = _baseline("iALS", "ials")
EASE, MVAE = _baseline("EASE", "ease", seeds=SEEDS[:1]), _baseline("MVAE", "mvae", best_by=CHOSEN_BEFORE)
FULL = System("∞-AE, all users", "infinite_ae", seeds=SEEDS[:1], in_paper="infinite_ae")
# Item weights and normalised rows raise the validation NDCG@10 of ∞-AE itself, too, on ML-1M.
_WEIGHTS = "--normalize=true", "--item_discount=0.25"
WEIGHTED = System("∞-AE, all users, items weighted", "infinite_ae", _WEIGHTS, SEEDS[:1])
_SIZE = (f"--user_support={SUMMARY}",)
DISTILLED_FEW = System("∞-AE on Distill-CF, S = U/4", "distill")  # as by default
DISTILLED = System(f"∞-AE on Distill-CF, S = {SUMMARY}", "distill", _SIZE, in_paper="distill")
SPARSE = System(f"∞-AE on Distill-CF, S = {SUMMARY}, sparse", "distill", (*_SIZE, "--rows=sparse"))
MF = _baseline("MF", "mf", best_by=CHOSEN_BEFORE)
# Twice as many epochs would gain LightGCN little on ML-1M, and take long.
LIGHTGCN = _baseline("LightGCN", "lightgcn", "--epochs=150", best_by=CHOSEN_BEFORE)
BY_DESCENT = (
    MF,
    _baseline("NeuMF", "neumf", best_by=CHOSEN_BEFORE),
    MVAE,
    _baseline("RecVAE", "recvae", "--epochs=80"),  # its authors train for 50
    LIGHTGCN,
)
TABLE = (
    _baseline("PopRec", "pop", seeds=SEEDS[:1]),
    *BY_DESCENT,
    _baseline("RP3beta", "rp3beta", seeds=SEEDS[:1]),
    IALS,
    _baseline("SVD-AE", "svd_ae", seeds=SEEDS[:1]),
    EASE,
    _baseline("EDLAE", "edlae", seeds=SEEDS[:1]),
    FULL,
    WEIGHTED,
    DISTILLED,
    DISTILLED_FEW,
    SPARSE,
)

# Few users need a weaker ridge than all users do, many users with few interactions a stronger one: each has a
# grid of its own. No seed changes the head users.
_FEW, _SPARSE = "--lamda_grid=[0.03, 0.1, 0.3, 1, 3, 10, 30]", "--lamda_grid=[0.1, 1, 10, 30, 100, 300, 1000]"
ALL = "all users"
RANDOM = System("random users", "infinite_ae", ("--sampler=random", _FEW), best_by=CHOSEN_BEFORE)
SOFT = System("Distill-CF", "distill")
STRATEGIES = (
    RANDOM,
    System("random interactions", "infinite_ae", ("--sampler=interactions", _SPARSE), best_by=CHOSEN_BEFORE),
    System("head users", "infinite_ae", ("--sampler=head", _FEW), SEEDS[:1], CHOSEN_BEFORE),
    System("SVP-CF users", "infinite_ae", ("--sampler=svp_cf", _FEW), best_by=CHOSEN_BEFORE),
    SOFT,
)
EVERYONE = FULL._replace(name=ALL, best_by=CHOSEN_BEFORE)
# Drawn by size beside the strategies of the same data.
SIZED = System("Distill-CF, sparse rows", "distill", ("--rows=sparse",))
SIZED_BUDGETS = (50, 100, 200, SUMMARY, 1000)
# Fewer users have a smaller X'X, and soft weights a smaller one still; interactions drawn from the logits are
# mostly chance and need a large l2.
_WIDE = [{"l2": l2} for l2 in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)]
LEARNT_FROM = {  # a learner's train data: its sampler, and whose synthetic users it takes
    f"{SUMMARY} synthetic users": ("distilled", DISTILLED),
    f"{SUMMARY} synthetic users, interactions drawn": ("distilled_hard", DISTILLED),
    f"{SUMMARY} sparse synthetic users": ("distilled", SPARSE),
    f"{SUMMARY} sparse synthetic users, all weights 1": ("distilled_hard", SPARSE),
    f"{SUMMARY} random users": ("random", None),
}
EASE_BEFORE = EASE._replace(best_by=CHOSEN_BEFORE)
_EASE = System("EASE", "baselines", ("--model=ease", f"--grid={json.dumps(_WIDE)}"), best_by=CHOSEN_BEFORE)
# Four settings, as for all users. A grid that is given does not grow: along dimensions that takes hours.
_MF = [
    {"dimensions": 128, "l2": l2, "negatives": 4, "learning_rate": 0.005, "batch_size": 8192}
    for l2 in (1e-3, 2e-3, 4e-3, 8e-3)
]
_LIGHTGCN = [
    {"dimensions": 64, "layers": layers, "l2": l2, "negatives": 4, "learning_rate": 0.02, "batch_size": 65536}
    for layers in (2, 3)
    for l2 in (3e-4, 1e-3)
]
OF_PAIRS = tuple(
    system._replace(arguments=(*system.arguments, f"--grid={json.dumps(grid)}"))
    for system, grid in ((MF, _MF), (LIGHTGCN, _LIGHTGCN))
)
# Each on SUMMARY users, and on all users.
LEARNERS = (_EASE, EASE_BEFORE), (IALS, IALS), (MVAE, MVAE), *zip(OF_PAIRS, (MF, LIGHTGCN))
NOISE = (0, 0.02, 0.05, 0.1)
# Nothing is random in the first two without noise: one seed.
NOISY = EASE_BEFORE, FULL._replace(best_by=CHOSEN_BEFORE), DISTILLED
STREAM = (
    System("everyone so far", "stream", ("--memory=all", "--normalize=false"), best_by=CHOSEN_BEFORE),
    System("synthetic users", "stream", ("--memory=distilled",), best_by=CHOSEN_BEFORE),
    System("random users", "stream", ("--memory=random", "--normalize=false"), best_by=CHOSEN_BEFORE),
)
SIZE_DATASET = NOISE_DATASET = STREAM_DATASET = "ml-1m"


def samples_of(learner):
    """The keys of LEARNT_FROM that a System can learn from: one that learns from pairs takes no weights."""
    weightless = learner in OF_PAIRS
    return [name for name, (sampler, _) in LEARNT_FROM.items() if not (weightless and sampler == "distilled")]


def systems_of(dataset):
    """The Systems of a data set's table."""
    without = [DISTILLED if dataset in FEW_USERS else DISTILLED_FEW]
    without += [] if dataset in WHOLE else [*BY_DESCENT, SPARSE]
    return tuple(system for system in TABLE if system not in without)


def concrete(script, arguments, statistics):
    """(all settings of a run with these arguments, none "auto"; {key: value} of those that they change).

    Args:
        statistics: recipes.Statistics of its data.
    """
    settings, changed = resolve(arguments, "", script)
    settings, _ = recipes.resolve_auto(settings, statistics)
    if "grid" in settings:
        settings["grid"] = settings["grid"] or hyper_params.grids[settings["model"]]
    return settings, changed


class Runs:
    """Finished runs, to be found by what the plan needs.

    Args:
        runs: [record.FinishedRun]; of runs with the same settings, `find` takes the first.
    """

    def __init__(self, runs):
        self.runs = runs
        self._statistics = {run.dataset: run.statistics for run in reversed(runs) if run.statistics}
        self._settings, self._matches = {}, {}

    def settings_of(self, planned, recipe=None):
        """(the settings that shape the run, all concrete; the keys among them that the plan sets).

        recipe: the one that rehearsals have chosen; None: the first that suits the data.

        None if the run's arguments are not known yet, or nothing is known of its data.
        """
        if planned.arguments is None or planned.dataset not in self._statistics:
            return None
        words = planned.arguments + ((f"--recipe={recipe}",) if recipe else ())
        key = planned.script, words
        if key not in self._settings:
            statistics = self._statistics[planned.dataset]
            settings, changed = concrete(planned.script, words, statistics)
            self._settings[key] = shaping(settings), shaping(changed).keys()
        return self._settings[key]

    def find_all(self, planned):
        """[FinishedRun] of all that are the planned run."""
        if planned not in self._matches:
            own_settings = lambda run: self.settings_of(
                planned, run.settings.get("recipe") if "recipe" in run.auto else None
            )
            self._matches[planned] = [
                run
                for run in self.runs
                if (run.script, run.dataset) == (planned.script, planned.dataset)
                and (settings := own_settings(run))
                and _is_planned(run, planned, *settings)
            ]
        return self._matches[planned]

    def find(self, planned):
        """The FinishedRun that is the planned run, or None."""
        return next(iter(self.find_all(planned)), None)


def _is_planned(run, planned, settings, set_by_plan):
    """Whether a run of the planned script has the planned settings, and knows those that the plan sets."""
    ignored = ()
    if run.script == "distill":
        ignored = *ONLY_WHEN_TO_VALIDATE, *(key for key in recipes.KEPT if key in run.auto)
    same = lambda key, value: (
        key in ignored or settings.get(key) == value or key == "distilled" and value in planned.teachers
    )
    known = set_by_plan <= run.settings.keys() <= settings.keys() | set(ignored)
    return known and all(same(*item) for item in run.settings.items())


def read_runs(results):
    """(Runs of the record, then of the folder `results`; [a line on each damaged run])."""
    runs, damaged = record.read_folder(results)
    return Runs([*record.read_record(), *runs]), damaged


# ---- The plan ------------------------------------------------------------------------------------------


def _plan_run(runs, part, system, dataset, point, arguments, seed):
    """A PlannedRun. Of a tuned system, the seeds after the first take the settings that the first one chose.

    Args:
        arguments: beside the system's; a learner on a sample gets its own.
    """

    def with_seed(seed, *choice):
        more, teachers = arguments, ()
        if part == "learners" and point in LEARNT_FROM:
            more, teachers = _learner_arguments(runs, dataset, point, seed)
        words = [f"--dataset={dataset}", *system.arguments]
        words += [f"--best_by={system.best_by}"] if system.best_by else []
        words += [*(more or ()), f"--seed={seed}", *choice]
        known = None if more is None else tuple(words)
        return PlannedRun(part, system.name, dataset, point, seed, system.script, known, teachers)

    if not system.tuned or seed == system.seeds[0]:
        return with_seed(seed)
    first = runs.find(with_seed(system.seeds[0]))
    if first is None:
        return with_seed(seed)._replace(arguments=None)
    return with_seed(seed, "--grid=" + json.dumps([first.result["choice"]]))


def _learner_arguments(runs, dataset, sample, seed):
    """(arguments, None if they are not known yet; names of the runs whose synthetic users will do)."""
    sampler, system = LEARNT_FROM[sample]
    arguments = f"--sampler={sampler}", f"--user_support={SUMMARY}"
    if system is None:
        return arguments, ()
    taught = runs.find_all(teacher(runs, system, dataset, seed))
    teachers = sorted(taught, key=lambda run: not has_users(run))
    names = tuple(run.name for run in teachers)
    return (*arguments, f"--distilled={names[0]}") if names else None, names


def teacher(runs, system, dataset, seed):
    """The PlannedRun of the table whose synthetic users other models learn from."""
    return _plan_run(runs, "table", system, dataset, None, (), seed)


def has_users(run):
    """Whether a run's synthetic users are on this machine."""
    return run.folder is not None and (run.folder / "distilled.npz").exists()


def plan(runs):
    """Every PlannedRun, those of the table first.

    Args:
        runs: Runs; what some planned runs are to do follows from finished ones.
    """
    # part, system, dataset, point, arguments beside the system's
    rows = [("table", system, dataset, None, ()) for dataset in DATASETS for system in systems_of(dataset)]
    for dataset, (budgets, seeds) in FIGURE.items():
        rows.append(("strategies", EVERYONE, dataset, None, ()))
        for budget in budgets:
            size = (f"--user_support={budget}",)
            of_panel = (system._replace(seeds=system.seeds[:seeds]) for system in STRATEGIES)
            rows += [("strategies", system, dataset, budget, size) for system in of_panel]
    for budget in SIZED_BUDGETS:
        rows.append(("sizes", SIZED, SIZE_DATASET, budget, (f"--user_support={budget}",)))
    for dataset in WHOLE:
        for on_sample, on_all in LEARNERS:
            rows += [("learners", on_sample, dataset, sample, ()) for sample in samples_of(on_sample)]
            rows.append(("learners", on_all, dataset, ALL, ()))
    for share in NOISE:
        for system in NOISY:
            seeded = system._replace(seeds=SEEDS) if share else system
            rows.append(("noise", seeded, NOISE_DATASET, share, (f"--noise={share}",)))
    rows += [("stream", system, STREAM_DATASET, None, ()) for system in STREAM]
    return [_plan_run(runs, *row, seed) for row in rows for seed in row[1].seeds]


def match(runs):
    """{PlannedRun: its FinishedRun, or None where it is missing}, of the whole plan.

    Raises:
        UserError: runs of one data set were made on different data.
    """
    matched = {planned: runs.find(planned) for planned in plan(runs)}
    for dataset in DATASETS:
        by_data = {run.data["fingerprint"]: run for run in matched.values() if run and run.dataset == dataset}
        if len(by_data) > 1:
            one, other = (run.folder or f"the record's {run.name}" for run in list(by_data.values())[:2])
            raise UserError(
                f"{one} and {other} are on different data or splits of {dataset}: they cannot be compared; "
                "move one of them out of the results folder, or compare your own runs with --mine"
            )
    return matched


def missing_runs(runs):
    """The PlannedRuns without a FinishedRun, each command once; last, those of unknown arguments.

    A learner needs the synthetic users of a run of distill.py. Where the record has that run and this machine
    does not have its synthetic users, the run is missing, too, and comes first.
    """
    missing = [planned for planned in plan(runs) if runs.find(planned) is None]
    teachers = [
        teacher(runs, system, planned.dataset, planned.seed)
        for planned in missing
        if (system := LEARNT_FROM.get(planned.point, (None, None))[1])
    ]
    without_users = [
        planned
        for planned in teachers
        if runs.find(planned) and not any(map(has_users, runs.find_all(planned)))
    ]
    by_settings, unknown = {}, []
    for planned in without_users + missing:
        if planned.arguments is None:
            unknown.append(planned)
            continue
        settings = runs.settings_of(planned)
        key = json.dumps(settings[0]) if settings else tuple(sorted(planned.arguments))
        by_settings.setdefault((planned.script, key), planned)
    return [*by_settings.values(), *unknown]


def keep(runs):
    """Adds to the record the planned runs of clean revisions that it lacks; of the table's, users' metrics.

    With a learner comes the run whose synthetic users it learnt from, even if the record has another one like
    it. It is called once, after the last run: a record written earlier would be an uncommitted change.

    Args:
        runs: Runs.
    """
    matched = match(runs)
    new = {run.name: run for run in matched.values() if run and run.folder and run.clean}
    teachers = {run.settings.get("distilled") for run in matched.values() if run}
    new |= {run.name: run for run in runs.runs if run.name in teachers and run.folder and run.clean}
    in_table = {run.name for planned, run in matched.items() if run and planned.part == "table"}
    if new:
        record.keep(list(new.values()), in_table | teachers)  # a teacher is a run of the table
