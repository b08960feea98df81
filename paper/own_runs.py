"""`compare.py --mine`: one's own finished runs of one data set; a table, a figure and a test over users."""

import json
from collections import Counter

import pandas as pd

from eval import METRICS
from hyper_params import grids
from lib import plots
from lib.errors import UserError
from lib.files import atomic
from lib.settings import defaults
from paper.record import read_folder, read_run
from paper.summaries import (
    CAPTION,
    DEVIATIONS,
    MARKDOWN,
    P,
    cells,
    compare_with_best,
    line_of,
    markdown,
    to_csv,
    with_deviations,
)
from runs import recipes
from runs.synthetic_users import folder_of

NAMES = {
    "pop": "PopRec",
    "mf": "MF",
    "neumf": "NeuMF",
    "mvae": "MVAE",
    "lightgcn": "LightGCN",
    "ease": "EASE",
    "distill": "∞-AE on Distill-CF",
    "infinite_ae": "∞-AE",
}
IN_COLUMNS = ("model", "user_support", "seed", "dataset", "best_by")  # of the table, or in the system's name


def read(results, names):
    """([Found] of the runs named, or of all that have finished; [a line on each that is left out])."""
    found, left_out = ([], []) if names else read_folder(results)
    for name in names or ():
        try:
            found.append(read_run(folder_of(name, results)))
        except UserError as error:
            left_out.append(f"left out: {error}")
    whole = []
    for run in found:
        try:
            run.users()
            whole.append(run)
        except UserError as error:
            left_out.append(f"left out: {error}")
    return whole, left_out


def of_one_data_set(runs, dataset, named):
    """(the runs that can be compared, [a line on each that is on other data]).

    Raises:
        UserError: there are none; they are of several data sets, and none is chosen; runs given by name are
            on different data.
    """
    counts = Counter(run.dataset for run in runs)
    in_words = ", ".join(f"{name} ({count})" for name, count in counts.items())
    if dataset is None and len(counts) > 1:
        raise UserError(f"the runs are of several data sets, {in_words}: --dataset=NAME picks one")
    runs = [run for run in runs if dataset in (None, run.dataset)]
    if not runs:
        raise UserError("no finished run can be compared" + (f": they are of {in_words}" if counts else ""))
    prints = Counter(run.data["fingerprint"] for run in runs)
    most = next(run for run in runs if run.data["fingerprint"] == prints.most_common(1)[0][0])
    same = [run for run in runs if run.data["fingerprint"] == most.data["fingerprint"]]
    others = [run.name for run in runs if run.data["fingerprint"] != most.data["fingerprint"]]
    if others and named:
        raise UserError(
            f"{most.name} and {others[0]} are on different data or splits of {most.dataset}: "
            "they cannot be compared"
        )
    return same, [
        f"left out: {name} is on other data or another split of {most.dataset} than {most.name}"
        for name in others
    ]


def group(runs):
    """([[runs that differ in nothing but the seed]], [a line on each that repeats a seed])."""
    by_name, groups, repeated = {run.name: run for run in runs}, {}, []

    def identity(run):
        settings = {key: value for key, value in run.settings.items() if key != "seed"}
        if source := by_name.get(settings.get("distilled")):
            settings["distilled"] = identity(source)
        return json.dumps([run.script, settings])

    for run in runs:
        own = groups.setdefault(identity(run), [])
        if same := [other.name for other in own if other.settings.get("seed") == run.settings.get("seed")]:
            repeated.append(f"left out: {run.name} has the settings and the seed of {same[0]}")
        else:
            own.append(run)
    return list(groups.values()), repeated


def in_words(runs, groups, with_size=True):
    """The system of a group: what it is, on how many users, and its settings other than usual or a peer's.

    What was "auto" is left out: it follows from the data and the number of users.
    """
    run = runs[0]
    try:
        data, script = run.statistics, run.script
        usual = recipes.usual(run.settings, data, script) if data else defaults(script)
        usual |= {"grid": grids[run.settings["model"]]} if "grid" in usual else {}
    except (KeyError, UserError):  # of a script, or with settings, that this version does not have
        usual = {}
    kind, users = (run.script, run.settings.get("model")), run.settings.get("user_support", -1)
    peers = [peer.settings for peer, *_ in groups if (peer.script, peer.settings.get("model")) == kind]
    differs = lambda key, value: (
        users != -1
        if key == "sampler"
        else value != ""
        and (usual.get(key, value) != value or any(peer.get(key, value) != value for peer in peers))
    )
    words = [NAMES.get(run.settings.get("model", run.script), run.script)]
    words += [("all users" if users == -1 else f"S = {users:,}")] if with_size else []
    words += [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in run.settings.items()
        if key not in IN_COLUMNS and key not in run.auto and differs(key, value)
    ]
    if len({other.settings.get("distilled") for other in runs}) > 1:
        words.append("every seed its own")
    return ", ".join(words)


def by_size(groups):
    """{label: what plots.lines draws} of runs of distill.py or infinite_ae.py on several numbers of users.

    What a recipe chose by that number may differ, too.
    """
    found = {}
    for runs in groups:
        first = runs[0]
        users = first.settings.get("user_support", -1)
        if first.script in ("distill", "infinite_ae") and (users != -1 or first.statistics):
            follows = "seed", "user_support", *first.auto
            own = {key: value for key, value in first.settings.items() if key not in follows}
            x = first.statistics.users if users == -1 else users
            found.setdefault(json.dumps([first.script, own]), {})[x] = runs
    found = [dict(sorted(sizes.items())) for sizes in found.values() if len(sizes) > 1]
    smallest = [next(iter(sizes.values())) for sizes in found]
    return {
        in_words(runs, smallest, with_size=False): with_deviations(sizes, ("NDCG@10",))
        for runs, sizes in zip(smallest, found)
    }


def show(results, dataset=None, runs=None):
    """Compares runs in the folder `results`; prints the table, writes it and the figure in its compare/.

    Args:
        dataset: whose runs; needed if there are several data sets.
        runs: names or folders, separated by commas; without it, all that have finished.

    Raises:
        UserError: as of_one_data_set.
    """
    found, notes = read(results, runs.split(",") if runs else None)
    for note in notes:
        print(note)
    found, others = of_one_data_set(found, dataset, runs is not None)
    groups, repeated = group(found)
    lines = [
        {
            "system": in_words(own, groups),
            "chosen by": own[0].settings.get("best_by", ""),
            **line_of(own),
            "seconds": sum(run.result["wall_seconds"] for run in own) / len(own),
        }
        for own in groups
    ]
    compare_with_best(lines, groups)
    table = pd.DataFrame(lines).sort_values("NDCG@10", ascending=False, kind="stable")
    rows = [
        [line["system"], f"{line['runs']}", line["chosen by"], *metrics, f"{line['seconds']:,.0f}", p]
        for (_, line), (metrics, p) in zip(table.iterrows(), cells(table, MARKDOWN))
    ]
    head = [found[0].dataset, "seeds", "chosen by", *METRICS, "seconds", P]
    text = f"{markdown(head, rows)}\n\n{CAPTION}\n"
    columns = ["system", "runs", "chosen by", *METRICS, *DEVIATIONS, "seconds", "p"]
    files = {"mine.md": text.encode(), "mine.csv": to_csv(table[columns])}
    if drawn := by_size(groups):
        files["mine.png"] = plots.lines(
            drawn, "NDCG@10", "users it is trained on", found[0].dataset, "png", log_x=True
        )
    folder = results / "compare"
    folder.mkdir(exist_ok=True)
    (folder / "mine.png").unlink(missing_ok=True)  # of an earlier comparison
    for name, content in files.items():
        with atomic(folder / name) as file:
            file.write(content)
    print(text, end="")
    for note in others + repeated:
        print(note)
    print(
        f"written in {folder}: {', '.join(files)}"
        + ("" if drawn else "; no figure, since no two runs differ in their number of users alone")
    )
