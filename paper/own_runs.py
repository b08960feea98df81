"""`compare.py --mine`: your finished runs of one data set; a table, a figure and a test over users."""

import json
from collections import Counter

from hyper_params import grids
from lib import plots
from lib.errors import UserError
from lib.files import write_files
from lib.metric_names import METRICS
from lib.settings import defaults
from paper.plan import TABLE
from paper.record import finished_folders, read_run
from paper.summaries import CAPTION, DEVIATIONS, P, cells, markdown, summarize, to_csv, with_deviations
from runs import recipes
from runs.reading import read_readable
from runs.synthetic_users import folder_of

NAMES = {system.in_paper: system.name for system in TABLE if system.in_paper}
NAMES |= {"infinite_ae": "∞-AE", "distill": "∞-AE on Distill-CF"}
# These stand in the table's columns or in the system's name.
SHOWN_ELSEWHERE = "model", "user_support", "seed", "dataset", "best_by"


COLUMNS = ["system", "runs", "chosen by", *METRICS, *DEVIATIONS, "seconds", "p"]  # of the CSV


def read_with_users(folder):
    """The FinishedRun of a folder; UserError as record.read_run and FinishedRun.ndcg_of_users."""
    run = read_run(folder)
    run.ndcg_of_users()
    return run


def read(results, names):
    """([FinishedRun] of the named runs, or of all in `results`; [a line on each that is left out])."""
    return read_readable(
        names or finished_folders(results), lambda name: read_with_users(folder_of(name, results))
    )


def select_comparable(runs, dataset, named):
    """(the runs that can be compared, [a line on each that is on other data]).

    Args:
        dataset: whose runs; None: there is one data set.
        named: whether the user has named the runs.

    Raises:
        UserError: no run is left; the runs are of several data sets and `dataset` is None; named runs are on
            different data.
    """
    counts = Counter(run.dataset for run in runs)
    counted = ", ".join(f"{name} ({count})" for name, count in counts.items())
    if dataset is None and len(counts) > 1:
        raise UserError(f"the runs are of several data sets, {counted}: --dataset=NAME picks one")
    runs = [run for run in runs if dataset in (None, run.dataset)]
    if not runs:
        raise UserError("no finished run can be compared" + (f": they are of {counted}" if counts else ""))
    [(most_common, _)] = Counter(run.data["fingerprint"] for run in runs).most_common(1)
    same = [run for run in runs if run.data["fingerprint"] == most_common]
    others = [run.name for run in runs if run.data["fingerprint"] != most_common]
    one, dataset = same[0].name, same[0].dataset
    if others and named:
        raise UserError(
            f"{one} and {others[0]} are on different data or splits of {dataset}: they cannot be compared"
        )
    return same, [
        f"left out: {name} is on other data or another split of {dataset} than {one}" for name in others
    ]


def group(runs):
    """([[runs that differ in nothing but the seed]], [a line on each that repeats a seed])."""
    by_name, groups, repeated = {run.name: run for run in runs}, {}, []

    def identity(run):
        settings = {key: value for key, value in run.settings.items() if key != "seed"}
        if teacher := by_name.get(settings.get("distilled")):
            settings["distilled"] = identity(teacher)
        return json.dumps([run.script, settings])

    for run in runs:
        members = groups.setdefault(identity(run), [])
        seed = run.settings.get("seed")
        if twin := next((other.name for other in members if other.settings.get("seed") == seed), None):
            repeated.append(f"left out: {run.name} has the settings and the seed of {twin}")
        else:
            members.append(run)
    return list(groups.values()), repeated


def labels(groups, with_size=True):
    """[label of each group], no two alike: the system, on how many users, and the settings to know it by.

    Args:
        groups: from `group`.
        with_size: whether to say on how many users.
    """
    described = [_describe(runs, groups, with_size) for runs in groups]
    distinct = []
    for label, (run, *_) in zip(described, groups):
        alike = [runs[0].settings for runs, other in zip(groups, described) if other == label]
        keys = sorted(set().union(*alike) - {"seed"})
        differing = [key for key in keys if len({json.dumps(other.get(key)) for other in alike}) > 1]
        # An older run lacks newer settings.
        more = [_setting(key, run.settings.get(key, "unset")) for key in differing]
        distinct.append(", ".join([label, *more]))
    return distinct


def _setting(key, value):
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def _describe(runs, groups, with_size):
    """The system of a group, and its settings that are not the default or not those of a group like it.

    A setting that was "auto" is left out: it follows from the data and the number of users.
    """
    run = runs[0]
    settings, model, users = run.settings, run.settings.get("model"), run.settings.get("user_support", -1)
    try:
        statistics = run.statistics
        usual = recipes.usual(settings, statistics, run.script) if statistics else defaults(run.script)
        usual |= {"grid": grids[model]} if "grid" in usual else {}
    except (KeyError, UserError):  # of a script, or with settings, that this version does not have
        usual = {}
    peers = [first.settings for first, *_ in groups if first.script == run.script]
    peers = [peer for peer in peers if peer.get("model") == model]

    def is_shown(key, value):
        if key in SHOWN_ELSEWHERE or key in run.auto or value == "":
            return False
        if key == "sampler":
            return users != -1
        return usual.get(key, value) != value or any(peer.get(key, value) != value for peer in peers)

    words = [NAMES.get(settings.get("model", run.script), run.script)]
    words += [("all users" if users == -1 else f"S = {users:,}")] if with_size else []
    words += [_setting(key, value) for key, value in settings.items() if is_shown(key, value)]
    if len({other.settings.get("distilled") for other in runs}) > 1:
        words.append("every seed its own")
    return ", ".join(words)


def learnt_nothing(runs):
    """What is added to the label of a group in which a run's best step is its start; "" for other groups."""
    idle = [run for run in runs if run.result.get("learnt") is False or run.result.get("best_step") == 0]
    seeds = ", ".join(str(run.settings.get("seed")) for run in idle)
    return f", LEARNT NOTHING with seed {seeds}" if idle else ""


def by_size(groups):
    """{label: what plots.lines draws} of runs of distill.py or infinite_ae.py on several numbers of users.

    The settings that a recipe chose by the number of users may differ, too.
    """
    lines = {}
    for runs in groups:
        first = runs[0]
        users = first.settings.get("user_support", -1)
        if first.script in ("distill", "infinite_ae") and (users != -1 or first.statistics):
            follows = {"seed", "user_support", *first.auto} - {"num_per_user"}  # it follows the data alone
            fixed = {key: value for key, value in first.settings.items() if key not in follows}
            x = first.statistics.users if users == -1 else users
            lines.setdefault(json.dumps([first.script, fixed]), {})[x] = runs
    sizes = [dict(sorted(line.items())) for line in lines.values() if len(line) > 1]
    names = labels([next(iter(runs_at.values())) for runs_at in sizes], with_size=False)
    return {name: with_deviations(runs_at, ("NDCG@10",)) for name, runs_at in zip(names, sizes)}


def tabulate(names, groups, title):
    """(the DataFrame of `summarize` with the columns COLUMNS, the best first; the same in Markdown).

    Args:
        names: the text that each group stands under.
        groups: [[FinishedRun of one seed each]], all on the same data.
        title: of the data.
    """
    systems = [
        {
            "system": name,
            "chosen by": runs[0].settings.get("best_by", ""),
            "seconds": sum(run.result["wall_seconds"] for run in runs) / len(runs),
        }
        for name, runs in zip(names, groups)
    ]
    table = summarize(systems, groups).sort_values("NDCG@10", ascending=False, kind="stable")
    rows = [
        [row["system"], f"{row['runs']}", row["chosen by"], *metrics, f"{row['seconds']:,.0f}", p]
        for (_, row), (metrics, p) in zip(table.iterrows(), cells(table))
    ]
    return table, f"{markdown([title, 'seeds', 'chosen by', *METRICS, 'seconds', P], rows)}\n\n{CAPTION}\n"


def show(results, dataset=None, runs=None):
    """Compares runs of the folder `results`: prints the table; writes it and the figure in results/compare/.

    Args:
        dataset: whose runs; needed if there are several data sets.
        runs: names or folders, separated by commas; None: all that have finished.

    Raises:
        UserError: as select_comparable.
    """
    readable, left_out = read(results, runs.split(",") if runs else None)
    for note in left_out:
        print(note)
    comparable, on_other_data = select_comparable(readable, dataset, runs is not None)
    groups, repeated = group(comparable)
    title = comparable[0].dataset
    names = [label + learnt_nothing(members) for label, members in zip(labels(groups), groups)]
    table, text = tabulate(names, groups, title)
    files = {"mine.md": text.encode(), "mine.csv": to_csv(table[COLUMNS])}
    if lines := by_size(groups):
        files["mine.png"] = plots.lines(lines, "NDCG@10", "users it is trained on", title, "png", log_x=True)
    folder = results / "compare"
    (folder / "mine.png").unlink(missing_ok=True)  # of an earlier comparison
    write_files(folder, files)
    print(text, end="")
    for note in on_other_data + repeated:
        print(note)
    no_figure = "" if lines else "; no figure, since no two runs differ in the number of users alone"
    print(f"written in {folder}: {', '.join(files)}{no_figure}")
