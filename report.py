"""One page on a run of distill.py: results/<run>/report.html, a file that needs neither a server nor a network.

    python report.py --run=results/<run>
    python report.py --run=/of/somebody/else/<run> --out=FOLDER    for a run that one may only read

It shows the settings, the learning curve, the metrics beside those of the other finished runs on the same data in the same
results folder (baselines among them), how the synthetic users differ from real ones, whether a history is copied (page/leak.py;
the figures are in leak.json beside the page), and every synthetic user with their top titles.
"""

import json
import math
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from scipy.stats import spearmanr

import hyper_params
from eval import METRICS
from lib.errors import Parser, UserError, run_script
from lib.files import ROOT, atomic
from page import leak
from page.charts import chart
from runs import recipes
from runs.folder import read_finished
from runs.synthetic_users import folder_of, load_dataset, open_distilled

MOST_RUNS = 20  # in the table of metrics
MOST_DOTS = 2000  # items in the picture of their popularity
TITLES_OF_ALL = 60_000  # that the page holds; of each synthetic user from 5 to 30
NOT_COMPARED = {
    "dataset",
    "model",
    "grid",
    "data_dir",
    "results_dir",
    "resume",
    "eval_batch_size",
    "distributed",
    "coordinator",
    "num_processes",
    "process_id",
}


def command_of(config):
    """The command that made a run, as words without its machine's folders: python, the script, its arguments."""
    try:
        _, script, *arguments = shlex.split(config["command"])
        return ["python", Path(script).name, *arguments]
    except ValueError:  # a config.json that is not of runs/lifecycle.py's making
        return ["?", "?"]


def runs_on_same_data(distilled, statistics):
    """The runs to compare: this one first, then the others of its folder on the same data, best first by validation.

    Returns:
        (a list of dicts of name, kind, note, metrics and own; how many more there are).
    """
    found = []
    for path in sorted(distilled.folder.resolve().parent.glob("*/result.json")):
        try:
            config, result = read_finished(path.parent)
        except UserError:
            continue  # some other script's, or damaged: it is not this one's to report
        if config["data_fingerprint"] != distilled.config["data_fingerprint"]:
            continue
        kind, own = Path(command_of(config)[1]).stem, path.parent == distilled.folder.resolve()
        expected = recipes.usual(
            config["settings"], statistics, kind if kind in hyper_params.takes else "distill"
        )
        other = {
            key: value
            for key, value in config["settings"].items()
            if key not in NOT_COMPARED and expected.get(key) != value
        }
        note = ", ".join(f"{key}={value}" for key, value in {**other, **result.get("choice", {})}.items())
        found.append(
            {
                "name": path.parent.name,
                "kind": config["settings"].get("model", kind),
                "note": note,
                "metrics": result["test"],
                "own": own,
                "order": (not own, kind == "distill", -(result["val"]["HR@100"] or 0)),
            }
        )
    found.sort(key=lambda run: run["order"])
    return found[:MOST_RUNS], len(found[MOST_RUNS:])


def curve(folder, result):
    """The learning curve as a chart; None, and a note on stderr, if metrics.jsonl does not hold one."""
    try:
        history = [
            json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        steps = [line["step"] for line in history]
        series = [
            (metric, steps, [line["validation"][metric] for line in history])
            for metric in ("HR@100", "NDCG@10")
        ]
        if not history or not all(
            math.isfinite(number) for _, *numbers in series for each in numbers for number in each
        ):
            raise ValueError("it is empty" if not history else "not all of it are numbers")
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(
            f"report: {folder}/metrics.jsonl cannot be read, so the page has no learning curve ({error})",
            file=sys.stderr,
        )
        return None
    best = result["best_step"]
    return chart(
        "Learning curve",
        "step",
        "validation, %",
        series,
        mark=None if best is None else (best, f"best: step {best}"),
    )


def effective_items(rows):
    """exp of the entropy of each row's weights, (S,): over how many items a user spreads; the length, of a 0/1 history."""
    shares = rows.astype(np.float64) / np.maximum(rows.sum(axis=1, keepdims=True, dtype=np.float64), 1e-30)
    return np.exp(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1))


def _shares(values, edges):
    """A histogram as steps that end at 0."""
    return np.append(np.histogram(values, edges)[0] / len(values) * 100, 0)


def differences(distilled, dataset):
    """How synthetic users differ from real ones: (table rows of what, synthetic, real; charts)."""
    rows, lengths = distilled.rows, np.diff(dataset.train.indptr)
    totals, spread = rows.sum(axis=1), effective_items(rows)
    weight, frequency = rows.mean(axis=0), dataset.frequency / dataset.users
    both = lambda values: f"{np.median(values):,.4g} ({values.min():,.4g} to {values.max():,.4g})"
    constant = weight.min() == weight.max() or frequency.min() == frequency.max()
    table = [
        ("users", f"{len(rows):,}", f"{dataset.users:,}"),
        (
            "entries above 0",
            f"{(rows > 0).mean():.2%}",
            f"{dataset.train.nnz / dataset.users / dataset.items:.2%}",
        ),
        ("length, the sum of the weights: median (least to most)", both(totals), both(lengths)),
        ("items it spreads over, exp(entropy): median (least to most)", both(spread), both(lengths)),
        ("a weight above 0: median (least to most)", both(rows[rows > 0]), "1"),
        (
            "popularity of items, synthetic against real: Spearman's ρ",
            "–" if constant else f"{spearmanr(weight, frequency).statistic:.3f}",
            "1",
        ),
    ]
    edges = np.geomspace(1, max(lengths.max(), spread.max(), totals.max(), 2) * 1.05, 40)
    histogram = chart(
        "How long histories are",
        "items (logarithmic)",
        "% of users",
        [
            ("real: length", edges, _shares(lengths, edges)),
            ("synthetic: sum of weights", edges, _shares(totals, edges)),
            ("synthetic: exp(entropy)", edges, _shares(spread, edges)),
        ],
        "steps",
        log_x=True,
    )
    order = np.argsort(-frequency, kind="stable")
    order = order[np.unique(np.linspace(0, len(order) - 1, min(MOST_DOTS, len(order))).astype(int))]
    dots = chart(
        "Popularity of items",
        "share of real users that have it (logarithmic)",
        "mean synthetic weight",
        [
            (
                "an item"
                if len(order) == dataset.items
                else f"an item ({len(order):,} of {dataset.items:,}, evenly by popularity)",
                frequency[order],
                weight[order],
            )
        ],
        "dots",
        log_x=True,
    )
    return table, [histogram, dots]


def browser(distilled, dataset, leaks):
    """What the page's list of synthetic users holds, for JSON: titles, and of each user the figures and (title, weight) pairs."""
    many = int(np.clip(TITLES_OF_ALL // len(distilled.rows), 5, 30))
    top = np.argsort(-distilled.rows, axis=1, kind="stable")[:, :many]
    used, places = np.unique(top, return_inverse=True)
    places = places.reshape(top.shape)
    titles = ["" for _ in used] if dataset.titles is None else [str(title) for title in dataset.titles[used]]
    names = [
        title if title.strip() else f"item {item}" for title, item in zip(titles, dataset.item_ids[used])
    ]
    nearest = lambda line: [
        value
        for measure in leak.MEASURES
        for value in (line[measure]["user"], round(line[measure]["value"], 3))
    ]
    return {
        "titles": names,
        "users": [
            [
                number,
                round(float(spread), 1),
                round(float(total), 2),
                line["start"],
                *nearest(line),
                [
                    [int(place), round(float(row[item]), 4)]
                    for place, item in zip(places[number], top[number])
                ],
            ]
            for number, (row, line, spread, total) in enumerate(
                zip(
                    distilled.rows,
                    leaks["synthetic_users"],
                    effective_items(distilled.rows),
                    distilled.rows.sum(axis=1),
                )
            )
        ],
    }


def render(distilled, dataset, leaks):
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(ROOT / "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {
        "separators": (",", ":")
    }  # and beyond ASCII as \u, so that no text ends the script
    statistics = recipes.statistics_of(dataset)
    runs, more = runs_on_same_data(distilled, statistics)
    table, charts = differences(distilled, dataset)
    curves = [each for each in (curve(distilled.folder, distilled.result),) if each]
    expected = recipes.usual(distilled.settings, statistics, "distill")
    return environment.get_template("page.html.jinja").render(
        run=distilled.folder.resolve().name,
        dataset=dataset,
        synthetic=len(distilled.rows),
        lamda=distilled.lamda,
        result=distilled.result,
        config=distilled.config,
        command=shlex.join(command_of(distilled.config)),
        settings=[
            (key, value, key in expected and expected[key] != value)
            for key, value in distilled.settings.items()
        ],
        metrics=METRICS,
        runs=runs,
        more=more,
        curves=curves,
        table=table,
        charts=charts,
        leaks=leaks,
        best={
            metric: max((run["metrics"].get(metric) or 0 for run in runs), default=0) for metric in METRICS
        },
        interactions=[int(part) for part in dataset.lengths.sum(axis=1)],
        browser=browser(distilled, dataset, leaks),
        nonce=distilled.digest[:24],
    )  # of the Content-Security-Policy: no script runs but the page's own


def prepare(folder):
    """The folder, made if needed.

    Raises:
        UserError: nothing can be written in it.
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
    parser.add_argument(
        "--data_dir", "--data-dir", help="where the data set lies now, if not where the run found it"
    )
    parser.add_argument("--out", help="the folder for the page and for leak.json, if not the run's own")
    given = parser.parse_args(arguments)
    distilled = open_distilled(folder_of(given.run))
    folder = prepare(Path(given.out or distilled.folder))
    dataset = load_dataset(distilled, given.data_dir)
    leaks = leak.check(distilled, dataset)
    page = render(distilled, dataset, leaks).encode()
    for name, content in (
        ("leak.json", json.dumps(leaks, indent=1, ensure_ascii=False).encode() + b"\n"),
        ("report.html", page),
    ):
        with atomic(folder / name) as file:
            file.write(content)
    seen, held_out = (leaks["references"][name]["jaccard"] for name in ("train", "held_out"))
    print(
        f"{seen['start']:,} of {len(distilled.rows):,} synthetic users have the history they began with as the nearest by their top items, "
        f"{held_out['start']:,} by what was held out of it"
    )
    print(f"written: {folder / 'report.html'} ({len(page) / 1e6:.1f} MB), {folder / 'leak.json'}")


if __name__ == "__main__":
    run_script(main)
