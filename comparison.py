"""Which runs the comparison is made of, which of them are there, and what of them is kept with the code.

It has five parts: the table of systems; the strategies, ∞-AE on ever more users picked or learnt; the learners, other models
on distilled users; noise in the train interactions; and a stream of users. A run can serve more than one.
"""
import io
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

import baselines
import distill
import hyper_params
import infinite_ae
import stream
from eval import METRICS
from job import PER_USER
from runs import atomic, identity, read_npz, shaping
from settings import UserError, resolve

DOCS = Path(__file__).parent / "docs"
KEPT = DOCS / "results"
DATASETS = {"magazine": "Amazon Magazine", "ml-1m": "MovieLens-1M"}
SEEDS, BUDGETS = (1, 2, 3), (10, 20, 50, 100, 200, 500, 1000)
SUMMARY = 500  # synthetic users, in the table and for other learners
SCRIPTS = {"distill": (None, {}), "infinite_ae": (infinite_ae.KEYS, hyper_params.infinite_ae), "stream": (stream.KEYS, hyper_params.stream),
           "baselines": (baselines.KEYS, hyper_params.baselines)}


class System(NamedTuple):
    """A row of the table or a line of a figure."""
    name: str
    script: str
    arguments: tuple
    paper: dict = {}     # its NDCG@10 in the paper's table, by data set
    seeds: tuple = SEEDS
    tuned: bool = False  # the first seed tries a grid, and the others take what it has chosen


class Wanted(NamedTuple):
    """A run that the comparison needs."""
    part: str                # "table", "strategies", "learners", "noise" or "stream"
    system: str
    dataset: str
    at: object               # what a line of the part goes over: users, a share of noise, what a learner is trained on
    seed: int
    script: str
    arguments: tuple | None  # None: they are known once another run has finished

    def identity(self):
        """The same for the same script and the same settings that shape the result; None for arguments that are not known yet."""
        if self.arguments is None:
            return None
        settings, _ = resolve(self.arguments, "", *SCRIPTS[self.script])
        if self.script == "baselines":
            settings["grid"] = settings["grid"] or hyper_params.grids[settings["model"]]
        return self.script, identity(settings)


class Found(NamedTuple):
    """A finished run."""
    folder: Path
    fingerprint: str    # of its data
    result: dict

    def users(self):
        """{metric: (U,)} of the test set.

        Raises:
            UserError: they cannot be read, or are not those that result.json has the means of.
        """
        remedy = f"delete {self.folder}, and make the run again"
        users = read_npz(self.folder / "users.npz", remedy)
        for name in PER_USER:
            values = users.get(name, np.empty(0))
            sound = values.ndim == 1 and values.dtype.kind == "f" and np.isfinite(values).any()
            if not sound or abs(np.nanmean(values, dtype=np.float64) - self.result["test"][name]) > 0.01:
                raise UserError(f"{self.folder}/users.npz does not have the {name} that result.json has the mean of; {remedy}")
        return users


def _baseline(name, model, *more, seeds=SEEDS):
    return System(name, "baselines", (f"--model={model}", *more), baselines.PAPER_NDCG_AT_10[model], seeds, tuned=len(seeds) > 1)


EASE, MVAE = _baseline("EASE", "ease", seeds=SEEDS[:1]), _baseline("MVAE", "mvae")
FULL = System("∞-AE, all users", "infinite_ae", (), infinite_ae.PAPER_NDCG_AT_10, SEEDS[:1])
# What its items' weights bring ∞-AE itself: on ML-1M's validation it gains nDCG@10 by them, with normalised rows.
WEIGHTED = System("∞-AE, all users, items weighted", "infinite_ae", ("--normalize=true", "--item_discount=0.25"), seeds=SEEDS[:1])
DISTILLED = System(f"∞-AE on Distill-CF, S = {SUMMARY}", "distill", (), distill.PAPER_NDCG_AT_10)
LIGHTGCN = _baseline("LightGCN", "lightgcn", "--epochs=150")  # on ML-1M it would gain little, and slowly, for twice as many
TABLE = (_baseline("PopRec", "pop", seeds=SEEDS[:1]), _baseline("MF", "mf"), _baseline("NeuMF", "neumf"), MVAE, LIGHTGCN,
         EASE, FULL, WEIGHTED, DISTILLED)

# Of few users a weaker ridge is the best, of many users with few interactions each a stronger one: other grids than that for all.
# The head users are the same whatever the seed.
_FEW, _SPARSE = "--lamda_grid=[0.03, 0.1, 0.3, 1, 3, 10, 30]", "--lamda_grid=[0.1, 1, 10, 30, 100, 300, 1000]"
STRATEGIES = (
    System("random users", "infinite_ae", ("--sampler=random", _FEW)), System("random interactions", "infinite_ae", ("--sampler=interactions", _SPARSE)),
    System("head users", "infinite_ae", ("--sampler=head", _FEW), seeds=SEEDS[:1]), System("SVP-CF users", "infinite_ae", ("--sampler=svp_cf", _FEW)),
    System("Distill-CF", "distill", ()),
)
# Fewer users have a smaller X'X, and soft weights a smaller one still; interactions that are mostly chance take a large l2.
_WIDE = [{"l2": l2} for l2 in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)]
LEARNERS = (System("EASE", "baselines", ("--model=ease", "--grid=" + json.dumps(_WIDE))),
            System("MVAE", "baselines", ("--model=mvae",), tuned=True))
LEARNT_FROM = {f"{SUMMARY} synthetic users": "distilled", f"{SUMMARY} synthetic users, interactions drawn": "distilled_hard",
               f"{SUMMARY} random users": "random"}
NOISE, NOISY = (0.02, 0.05, 0.1), tuple(system._replace(seeds=SEEDS) for system in (EASE, FULL, DISTILLED))
STREAM = (System("everyone so far", "stream", ("--memory=all", "--normalize=false")), System("synthetic users", "stream", ("--memory=distilled",)),
          System("random users", "stream", ("--memory=random", "--normalize=false")))
NOISE_DATASET = STREAM_DATASET = "ml-1m"


def of_table(system, dataset, seed, found):
    """The Wanted run of a row of the table.

    Args:
        found: as `find` returns it.
    """
    arguments = f"--dataset={dataset}", *system.arguments, f"--seed={seed}"
    return _as_tuned(Wanted("table", system.name, dataset, None, seed, system.script, arguments), system, found,
                     lambda: of_table(system, dataset, system.seeds[0], found))


def _as_tuned(wanted, system, found, first):
    """The run, and if another seed has tried the grid for it, with what that one has chosen; `first` gives that seed's Wanted."""
    if not system.tuned or wanted.seed == system.seeds[0] or wanted.arguments is None:
        return wanted
    tried = found.get(first().identity())
    return wanted._replace(arguments=tried and (*wanted.arguments, "--grid=" + json.dumps([tried.result["choice"]])))


def teacher(dataset, seed, found):
    """The Wanted run of the table whose synthetic users other models learn from, and the Found one, or None."""
    wanted = of_table(DISTILLED, dataset, seed, found)
    return wanted, found.get(wanted.identity())


def of_learner(system, dataset, data, seed, found):
    """The Wanted run of a model on distilled users, which a run of the table has learnt, or on random ones."""
    arguments = f"--dataset={dataset}", *system.arguments, f"--sampler={LEARNT_FROM[data]}", f"--user_support={SUMMARY}", f"--seed={seed}"
    if LEARNT_FROM[data] != "random":
        _, source = teacher(dataset, seed, found)
        arguments = source and (*arguments, f"--distilled={source.folder.name}")
    return _as_tuned(Wanted("learners", system.name, dataset, data, seed, system.script, arguments), system, found,
                     lambda: of_learner(system, dataset, data, system.seeds[0], found))


def plan(found):
    """Every Wanted run, those of the table first.

    Args:
        found: as `find` returns it; what some runs are to do follows from others.
    """
    table = [of_table(system, dataset, seed, found) for dataset in DATASETS for system in TABLE for seed in system.seeds]
    strategies = [Wanted("strategies", system.name, dataset, budget, seed, system.script,
                         (f"--dataset={dataset}", *system.arguments, f"--user_support={budget}", f"--seed={seed}"))
                  for dataset in DATASETS for budget in BUDGETS for system in STRATEGIES for seed in system.seeds]
    learners = [of_learner(system, dataset, data, seed, found) for dataset in DATASETS for system in LEARNERS for data in LEARNT_FROM
                for seed in system.seeds]
    noise = [Wanted("noise", system.name, NOISE_DATASET, share, seed, system.script,
                    (f"--dataset={NOISE_DATASET}", *system.arguments, f"--noise={share}", f"--seed={seed}"))
             for share in NOISE for system in NOISY for seed in system.seeds]
    arrivals = [Wanted("stream", system.name, STREAM_DATASET, None, seed, system.script, (f"--dataset={STREAM_DATASET}", *system.arguments, f"--seed={seed}"))
                for system in STREAM for seed in system.seeds]
    return table + strategies + learners + noise + arrivals


def find(folders):
    """{identity: Found} of the finished runs in some folders; of the same settings, the first one met.

    Raises:
        UserError: a file of a run is damaged.
    """
    found = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*/result.json"))):
        try:
            config, result = json.loads((path.parent / "config.json").read_text()), json.loads(path.read_text())
            key = config.get("script"), identity(config["settings"])
            found.setdefault(key, Found(path.parent, _checked(config["data_fingerprint"], str), _checked_result(result)))
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path.parent} holds a damaged config.json or result.json ({error}); delete it, and make the run again") from error
    return found


def _checked(value, kind):
    if not isinstance(value, kind) or isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{json.dumps(value)[:40]} where {kind.__name__} belongs")
    return value


def _checked_result(result):
    """A result.json with the metrics that are compared, once all that the comparison reads of it is what it should be."""
    for part in result.get("parts", []):
        _checked(part["test"]["NDCG@10"], float)
    _checked(result.get("choice", {}), dict)
    _checked(result["wall_seconds"], float)
    return {**result, "test": {name: _checked(result["test"][name], float) for name in METRICS}}


def match(found):
    """{Wanted: Found}, of those in the plan that have been made.

    Raises:
        UserError: runs of one data set were made on different data.
    """
    made = {each: found[key] for each in plan(found) if (key := each.identity()) in found}
    for dataset in DATASETS:
        runs = {run.fingerprint: run for each, run in made.items() if each.dataset == dataset}
        if len(runs) > 1:
            one, other = list(runs.values())[:2]
            raise UserError(f"{one.folder} and {other.folder} are on different data or splits of {dataset}: they cannot be compared; "
                            "delete what does not belong")
    return made


def missing_of(found):
    """The Wanted runs that have not been made, each once; those whose arguments are not known last.

    Of a run of distill.py that is only kept with the code, the synthetic users are not there: where others are to learn
    from them, it is missing, too, and comes first.
    """
    absent = [each for each in plan(found) if each.identity() not in found]
    teachers = [teacher(each.dataset, each.seed, found) for each in absent if each.part == "learners" and LEARNT_FROM[each.at] != "random"]
    again = [wanted for wanted, source in teachers if source and not (source.folder / "distilled.npz").exists()]
    known = {each.identity(): each for each in again + absent if each.arguments is not None}
    return [*known.values(), *(each for each in absent if each.arguments is None)]


def keep_all(made):
    """Keeps what has not been kept yet, every user's metrics only where the table's tests need them."""
    of_table = {run.folder for each, run in made.items() if each.part == "table"}
    for run in made.values():
        if not (KEPT / run.folder.name / "result.json").exists():
            keep(run, run.folder in of_table)


def keep(run, with_users):
    """Copies the small files of a run to where they are kept with the code, without what belongs to this machine."""
    folder = KEPT / run.folder.name
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((run.folder / "config.json").read_text())
    config = {"script": config["script"], "settings": shaping(config["settings"]),
              **{key: config[key] for key in ("data_fingerprint", "devices", "versions", "git_revision")}}
    files = {"config.json": json.dumps(config, indent=1).encode() + b"\n"}
    if with_users:
        users = io.BytesIO()
        np.savez_compressed(users, **run.users())
        files["users.npz"] = users.getvalue()
    # result.json last: with it the run is there.
    for name, content in {**files, "result.json": (run.folder / "result.json").read_bytes()}.items():
        with atomic(folder / name) as file:
            file.write(content)
