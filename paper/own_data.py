"""`compare.py --data=NAME`: is distilling worth it on this data set? The runs that tell, and a verdict."""

import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import data
from lib import plots
from lib.errors import UserError
from lib.files import write_files
from lib.settings import resolve, to_arguments
from paper import plan, record
from paper.make_runs import make_run, stop_on_sigterm
from paper.own_runs import COLUMNS, learnt_nothing, tabulate
from paper.summaries import p_against, p_text, to_csv
from runs import recipes
from runs.synthetic_users import open_distilled

POPULARITY = plan.System("popularity among all {users:,} users", "baselines", ("--model=pop",))
EASE = plan.EASE._replace(name="EASE on all {users:,} users")
EVERYONE = plan.FULL._replace(name="∞-AE on all {users:,} users")
WEIGHTED = plan.WEIGHTED._replace(name="∞-AE on all {users:,} users, items weighted")
DISTILLED = plan.System("∞-AE on {synthetic:,} synthetic users (Distill-CF)", "distill")
# The users that the synthetic ones start as, with a grid of lamda for few users.
RANDOM = plan.STRATEGIES[0]._replace(name="∞-AE on {synthetic:,} random users", best_by=None)
SYSTEMS = POPULARITY, EASE, EVERYONE, WEIGHTED, DISTILLED, RANDOM

CLOSE = 0.02  # how far below the best NDCG@10 a system may be, relative to it, to be worth its size
CERTAIN = 0.05  # with this p or more, a difference may be chance
FEW_USERS = 100  # the t-test is rough with fewer


class Made(NamedTuple):
    """The runs of a data set."""

    runs: dict  # {System: its FinishedRun}
    failures: dict  # {System: the reason why it has no run}
    data: recipes.Statistics
    synthetic: int  # S

    def label(self, system):
        return system.name.format(users=self.data.users, synthetic=self.synthetic)


def make(settings, options):
    """Makes the runs that are not there yet, and says how each ended; Made.

    Args:
        settings: dataset, seed and repeats of all runs.
        options: data_dir and results_dir.

    Raises:
        UserError: the data set cannot be read; a run was interrupted, or another process is making it.
    """
    dataset = data.load(settings["dataset"], options["data_dir"], settings["repeats"])
    statistics, fingerprint = recipes.statistics_of(dataset), dataset.fingerprint
    del dataset  # the runs need the memory

    def words_of(system, *more):
        return f"--dataset={settings['dataset']}", *system.arguments, *more, f"--seed={settings['seed']}"

    distilled, _ = plan.concrete(DISTILLED.script, words_of(DISTILLED), statistics)
    made = Made({}, {}, statistics, distilled["user_support"])
    stop_on_sigterm()
    began = time.monotonic()
    for number, system in enumerate(tqdm(SYSTEMS, unit="run", disable=None), 1):
        label = made.label(system)
        tqdm.write(f"{number} of {len(SYSTEMS)}: {label}: begins", file=sys.stdout)
        sys.stdout.flush()
        words = words_of(system, *((f"--user_support={made.synthetic}",) if system == RANDOM else ()))
        run = plan.PlannedRun(
            "data", label, settings["dataset"], None, settings["seed"], system.script, words
        )
        failure = make_run(run, options)
        if not failure:
            try:
                made.runs[system] = _finished(run, options["results_dir"], fingerprint)
            except UserError as error:
                failure = str(error)
        if failure:
            made.failures[system] = failure
            end = f"not made: {failure}"
        else:
            result = made.runs[system].result
            end = f"test NDCG@10 {result['test']['NDCG@10']:.2f}, {result['wall_seconds']:.0f} s"
        so_far = f"{time.monotonic() - began:.0f} s so far"
        tqdm.write(f"{number} of {len(SYSTEMS)}: {label}: {end}; {so_far}", file=sys.stdout)
        sys.stdout.flush()
    return made


def _finished(planned, results, fingerprint):
    """The FinishedRun of a PlannedRun on the data of this fingerprint."""
    runs, _ = record.read_folder(Path(results))
    found = plan.Runs([run for run in runs if run.data["fingerprint"] == fingerprint]).find(planned)
    if found is None:
        raise UserError(f"it has ended, and its run is not in {results}")
    found.ndcg_of_users()  # raises if they are missing or damaged
    return found


# ---- The verdict ---------------------------------------------------------------------------------------


def verdict(ndcg, users, synthetic, weight, learnt=True):
    """Whether distilling is worth it, in a few short sentences.

    A difference may be chance unless paper.summaries.p_of_difference, Holm-corrected, is below CERTAIN.

    Args:
        ndcg: {System: NDCG@10 of every user on the test set in percent, (U,); NaN without targets}.
        users, synthetic: U and S.
        weight: the sum of the synthetic users' weights, over the number of train interactions.
        learnt: whether a step of distill.py was better than its start.
    """
    others = [system for system in ndcg if system != DISTILLED]
    if DISTILLED not in ndcg or not others:
        return "No verdict: it needs a run of Distill-CF and one of another system."
    mean = {system: np.nanmean(values, dtype=np.float64) for system, values in ndcg.items()}
    best, own = max(others, key=mean.get), mean[DISTILLED]
    label = lambda system: system.name.format(users=users, synthetic=synthetic)
    if mean[best] == 0:
        return f"No verdict: NDCG@10 of {label(best)} is 0, and no other system has more."
    tested, lead = int(np.isfinite(ndcg[DISTILLED]).sum()), round(own / mean[best] - 1, 3)
    p = p_against(ndcg, DISTILLED)
    # The table has the p of all systems against the best of them.
    p_best = p[best] if own >= mean[best] else p_against(ndcg, best)[DISTILLED]

    def named(system, p):
        chance = "" if p < CERTAIN else f", which may be chance over {tested:,} users"
        number = p_text(p) if p < 0.001 else f"= {p_text(p) or 'unknown'}"
        return f"{label(system)} ({mean[system]:.2f}; p {number}{chance})"

    def again(system):
        """In full, unless the first sentence says so of the best."""
        return label(system) if system == best else named(system, p[system])

    side = f"{100 * abs(lead):.1f} % {'above' if lead > 0 else 'below'}" if lead else "the same as"
    place = f"with {synthetic:,} synthetic users, NDCG@10 is {own:.2f}, {side} {named(best, p_best)}."
    instead = f"Use {label(best)}."
    doubts = []
    if not learnt:
        doubts.append("Distill-CF learnt nothing: its synthetic users are the real users it began with.")
    elif RANDOM in ndcg and not (own > mean[RANDOM] and p[RANDOM] < CERTAIN):
        do = "do better" if own < mean[RANDOM] and p[RANDOM] < CERTAIN else "do as well"
        doubts.append(f"As many random users {do}: {again(RANDOM)}.")
    if POPULARITY in ndcg and not p[POPULARITY] < CERTAIN:
        doubts.append(f"They are not sure to rank better than {again(POPULARITY)}.")
    if POPULARITY in ndcg and own <= mean[POPULARITY]:
        rank = "worse than" if p[POPULARITY] < CERTAIN else "no better than"
        place = f"with NDCG@10 {own:.2f}, they rank {rank} {named(POPULARITY, p[POPULARITY])}."
        sentences = [f"Do not use the synthetic users: {place}", instead]
    elif lead < -CLOSE or doubts:
        sentences = [f"Distilling is not worth it here: {place}", *doubts, instead]
    else:
        why = "" if lead > 0 and p_best < CERTAIN else " only for the smaller number of users"
        share = f"{100 * weight:.1f} % of" if weight < 1 else f"{weight:.1f} times"
        sentences = [
            f"Distilling is worth it here{why}: {place}",
            f"They are {100 * synthetic / users:.1f} % of the {users:,} users, {users / synthetic:.1f} times "
            f"fewer, and the sum of their weights is {share} the train interactions.",
        ]
    if tested < FEW_USERS:
        sentences.append(f"Only {tested:,} users have test items, too few to rely on.")
    return " ".join([*sentences, "All of this is one seed; --seed=N makes another."])


# ---- The command ---------------------------------------------------------------------------------------


def show(options, name, seed=None):
    """Makes the runs of a data set; prints the table, what failed and the verdict; writes them and a figure.

    Args:
        options: data_dir and results_dir, which gets the files in compare/.
        name: of the data set.
        seed: of all runs, as text; None: that of hyper_params.py.

    Raises:
        UserError: as `make`; or no run could be made.
    """
    settings, _ = resolve(to_arguments({"dataset": name} | ({} if seed is None else {"seed": seed})))
    made = make(settings, options)
    if not made.runs:
        raise UserError(f"no run of {name} could be made; the reasons stand above")
    labels = {system: made.label(system) + learnt_nothing([run]) for system, run in made.runs.items()}
    table, text = tabulate(labels.values(), [[run] for run in made.runs.values()], name)
    weight, learnt = 0.0, True
    if distilled := made.runs.get(DISTILLED):
        weight = float(open_distilled(distilled.folder).rows.sum()) / made.data.interactions
        learnt = not learnt_nothing([distilled])
    ndcg = {system: run.ndcg_of_users() for system, run in made.runs.items()}
    says = verdict(ndcg, made.data.users, made.synthetic, weight, learnt)
    notes = [f"{made.label(system)}: not made: {reason}" for system, reason in made.failures.items()]
    text += "".join(f"\n{line}\n" for line in [*notes, says])
    values = {made.label(system): run.result["test"]["NDCG@10"] for system, run in made.runs.items()}
    values = dict(sorted(values.items(), key=lambda pair: -pair[1]))
    stem, folder = f"data-{name}", Path(options["results_dir"]) / "compare"
    files = {
        f"{stem}.md": text.encode(),
        f"{stem}.csv": to_csv(table[COLUMNS]),
        f"{stem}.png": plots.bars(values, "NDCG@10", name),
    }
    write_files(folder, files)
    print(f"\n{text}\nwritten in {folder}: {', '.join(files)}")
