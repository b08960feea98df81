"""A page on one run of distill.py: results/<run>/report.html, a file that needs no server and no network.

    python report.py --run=results/<run>
    python report.py --run=results/<run> --out=FOLDER    writes it elsewhere, for a run that is read-only

The page shows the settings, the learning curve, the test metrics beside those of other runs on the same data
in the same results folder, how synthetic users differ from real ones, whether a user's history is copied
(page/leak.py, whose figures are in leak.json beside the page), and the top titles of every synthetic user.
"""

if __name__ == "__main__":
    import lib.start  # noqa: F401

import json
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from scipy.stats import spearmanr
from typing_extensions import TypedDict

import hyper_params
from lib import plots
from lib.errors import Parser, UserError, run_script
from lib.files import ROOT, write_files
from lib.metric_names import METRICS
from page import figures, leak
from runs import recipes
from runs.folder import NOT_SHAPING
from runs.reading import Altered, check_sum, place, read_finished, read_validations
from runs.synthetic_users import folder_of, load_dataset, open_distilled

MAX_RUNS = 20  # in the table of metrics
MAX_DOTS = 1000  # items in the picture of their popularity
MAX_TITLES = 60_000  # of all synthetic users together; of one synthetic user 5 to 30
# Settings that do not tell one run from another in the table of metrics, or stand there in words.
NOT_COMPARED = NOT_SHAPING - {"paper"} | {"dataset", "model", "user_support", "grid"}


class Point(TypedDict):
    """What the learning curve needs of a line of metrics.jsonl."""

    step: place
    lamda: hyper_params.from_zero
    loss: float | None
    validation: TypedDict("Drawn", dict.fromkeys(plots.CURVE_METRICS, float))


def command_of(config):
    """The command that made a run, as words without folders: python, the script, its arguments."""
    try:
        _, script, *arguments = shlex.split(config["command"])
        return ["python", Path(script).name, *arguments]
    except ValueError:  # config.json was edited by hand
        return ["?", "?"]


def runs_on_same_data(distilled, statistics):
    """The rows of the table of metrics: this run first, then others, the best by validation first.

    Args:
        statistics: recipes.Statistics of the data set.

    Returns:
        (a list of at most MAX_RUNS dicts of name, kind, note, metrics and own; how many are left out).
    """
    runs, this_folder = [], distilled.folder.resolve()
    for path in sorted(this_folder.parent.glob("*/result.json")):
        try:
            config, result = read_finished(path.parent)
        except Altered as error:
            print(f"report: left out: {error}", file=sys.stderr)
            continue
        except UserError:
            continue  # another program's folder, or a damaged one
        if config["data_fingerprint"] != distilled.config["data_fingerprint"]:
            continue
        settings, kind, own = config["settings"], Path(command_of(config)[1]).stem, path.parent == this_folder
        script = kind if kind in hyper_params.takes else "distill"
        usual = recipes.usual(settings, statistics, script)
        users, choice = settings.get("user_support"), result.get("choice", {})
        size = [] if users is None else ["all users" if users == -1 else f"S = {users:,}"]
        differs = lambda key, value: users != -1 if key == "sampler" else usual.get(key) != value
        unusual = {
            key: value for key, value in settings.items() if key not in NOT_COMPARED and differs(key, value)
        }
        row = {
            "name": path.parent.name,
            "kind": settings.get("model", kind),
            "note": ", ".join(size + [f"{key}={value}" for key, value in (unusual | choice).items()]),
            "metrics": result["test"],
            "own": own,
        }
        runs.append(((not own, kind == "distill", -(result["val"]["HR@100"] or 0)), row))
    rows = [row for _, row in sorted(runs, key=lambda run: run[0])]
    return rows[:MAX_RUNS], len(rows[MAX_RUNS:])


def curve(folder, result):
    """The learning curve as a <figure>; None, and a note on stderr, if metrics.jsonl does not hold one."""
    try:
        history = read_validations(folder, Point)
        check_sum(folder, "metrics.jsonl")
    except UserError as error:
        print(f"report: the page has no learning curve: {error}", file=sys.stderr)
        return None
    draw = lambda kind: plots.curve(history, result["best_step"], "", kind)
    return figures.inline("Learning curve", draw)


def effective_items(rows):
    """Over how many items each row spreads, (S,): exp of its weights' entropy; of a 0/1 row, its length.

    Args:
        rows: (S, I), not negative.
    """
    totals = rows.sum(axis=1, keepdims=True, dtype=np.float64)
    shares = rows.astype(np.float64) / np.maximum(totals, 1e-30)
    return np.exp(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1))


def differences(distilled, dataset):
    """How synthetic users differ from real ones.

    Returns:
        (table rows, each (quantity, synthetic, real) as text; [<figure>]).
    """
    rows, lengths = distilled.rows, np.diff(dataset.train.indptr)
    totals, spread = rows.sum(axis=1), effective_items(rows)
    weight, frequency = rows.mean(axis=0), dataset.frequency / dataset.users
    summary = lambda values: f"{np.median(values):,.4g} ({values.min():,.4g} to {values.max():,.4g})"
    constant = weight.min() == weight.max() or frequency.min() == frequency.max()
    rank_correlation = "–" if constant else f"{spearmanr(weight, frequency).statistic:.3f}"
    density = dataset.train.nnz / dataset.users / dataset.items
    table = [
        ("users", f"{len(rows):,}", f"{dataset.users:,}"),
        ("entries above 0", f"{(rows > 0).mean():.2%}", f"{density:.2%}"),
        ("length, the sum of the weights: median (minimum to maximum)", summary(totals), summary(lengths)),
        (
            "items it spreads over, exp(entropy): median (minimum to maximum)",
            summary(spread),
            summary(lengths),
        ),
        ("weights above 0: median (minimum to maximum)", summary(rows[rows > 0]), "1"),
        ("items' popularity, synthetic against real: Spearman's ρ", rank_correlation, "1"),
    ]
    order = np.argsort(-frequency, kind="stable")
    dots = order[np.unique(np.linspace(0, dataset.items - 1, min(MAX_DOTS, dataset.items)).astype(int))]
    shown = (
        "" if len(dots) == dataset.items else f", {len(dots):,} of {dataset.items:,}, evenly by popularity"
    )
    return table, [
        figures.inline("Lengths of histories", lambda kind: figures.lengths(lengths, totals, spread, kind)),
        figures.inline(
            f"Popularity of items{shown}",
            lambda kind: figures.popularity(frequency[dots] * 100, weight[dots], kind),
        ),
    ]


def browser(distilled, dataset, leaks):
    """The data of the page's list of synthetic users, for JSON.

    Args:
        leaks: as leak.check.

    Returns:
        {"titles": [str], "users": [[number, items it spreads over, sum of its weights, the real users it
        started from, (nearest real user, similarity) by each of leak.MEASURES,
        [[place in titles, weight], ...]]]}.
    """
    rows = distilled.rows
    count = int(np.clip(MAX_TITLES // len(rows), 5, 30))
    top = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    items, places = np.unique(top, return_inverse=True)
    titles = (
        ["" for _ in items] if dataset.titles is None else [str(title) for title in dataset.titles[items]]
    )
    names = [title if title.strip() else f"item {id}" for title, id in zip(titles, dataset.item_ids[items])]
    weights = np.take_along_axis(rows, top, axis=1)
    users = []
    for number, (line, spread, total, own_places, own_weights) in enumerate(
        zip(
            leaks["synthetic_users"],
            effective_items(rows),
            rows.sum(axis=1),
            places.reshape(top.shape),
            weights,
            strict=True,
        )
    ):
        nearest = []
        for measure in leak.MEASURES:
            nearest += [line[measure]["user"], round(line[measure]["value"], 3)]
        pairs = [[int(place), round(float(weight), 4)] for place, weight in zip(own_places, own_weights)]
        spread, total = round(float(spread), 1), round(float(total), 2)
        start = ", ".join(map(str, line["start"]))
        users.append([number, spread, total, start, *nearest, pairs])
    return {"titles": names, "users": users}


def render(distilled, dataset, leaks):
    """The page as text.

    Args:
        leaks: as leak.check.
    """
    environment = Environment(
        loader=FileSystemLoader(ROOT / "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # JSON stays ASCII (\u...), so that no title ends the script.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    statistics = recipes.statistics_of(dataset)
    runs, left_out = runs_on_same_data(distilled, statistics)
    table, differing = differences(distilled, dataset)
    usual = recipes.usual(distilled.settings, statistics, "distill")
    settings = [
        (key, value, key in usual and usual[key] != value) for key, value in distilled.settings.items()
    ]
    highest = lambda metric: max((run["metrics"].get(metric) or 0 for run in runs), default=0)
    return environment.get_template("page.html.jinja").render(
        run=distilled.folder.resolve().name,
        dataset=dataset,
        synthetic=len(distilled.rows),
        lamda=distilled.lamda,
        result=distilled.result,
        config=distilled.config,
        command=shlex.join(command_of(distilled.config)),
        settings=settings,
        metrics=METRICS,
        runs=runs,
        left_out=left_out,
        curve=curve(distilled.folder, distilled.result),
        table=table,
        differing=differing,
        leaks=leaks,
        best={metric: highest(metric) for metric in METRICS},
        interactions=[int(part) for part in dataset.lengths.sum(axis=1)],
        browser=browser(distilled, dataset, leaks),
        variables=figures.VARIABLES,
        nonce=distilled.digest[:24],  # of the Content-Security-Policy: no script runs but the page's own
    )


def prepare(folder):
    """The folder, made if needed.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): --out=FOLDER writes the page elsewhere"
        ) from error


def main(arguments):
    parser = Parser(__doc__, allow_abbrev=False)
    parser.add_argument(
        "--run", required=True, help="a finished run of distill.py: its folder, or its name in results_dir"
    )
    parser.add_argument("--data_dir", "--data-dir", help="where the data set lies, if it moved since the run")
    parser.add_argument("--out", help="the folder for report.html and leak.json; without it, the run's own")
    options = parser.parse_args(arguments)
    distilled = open_distilled(folder_of(options.run))
    folder = prepare(Path(options.out or distilled.folder))
    dataset = load_dataset(distilled, options.data_dir)
    leaks = leak.check(distilled, dataset)
    page = render(distilled, dataset, leaks).encode(errors="replace")  # a name may be no text
    leaks_as_json = json.dumps(leaks, indent=1, ensure_ascii=False).encode() + b"\n"
    write_files(folder, {"leak.json": leaks_as_json, "report.html": page})
    nearest = leaks["references"]["train"]["jaccard"]
    print(
        f"by their top items, {nearest['start']:,} of {len(distilled.rows):,} synthetic users are nearest to "
        f"a training history they started from; {nearest['near']:,} are nearer to one than 95 % of real users"
        f" are to another's; median overlap {nearest['synthetic']['50%']:.2f}, of real users "
        f"{nearest['real']['50%']:.2f}"
    )
    print(f"written: {folder / 'report.html'} ({len(page) / 1e6:.1f} MB), {folder / 'leak.json'}")


if __name__ == "__main__":
    run_script(main)
