"""Measures speed and memory, on generated data: how fast a routine is does not depend on who liked what.

    python bench.py                      ratios and growth; about four minutes on 2 cores
    python bench.py ratios               each fast routine beside a plain version of the same work
    python bench.py ratios --user_support=100      the same with other settings of distill.py
    python bench.py growth               a step by the users and by the items, prep.sh by the number of rows
    python bench.py netflix              from text of the Netflix Prize's size to test metrics; a quarter of
                                         an hour and 4 GB of disk
    python bench.py shop                 200,000 users with ten of 100,000 items each, 10,000 users tested
    python bench.py large-shop           a million users with ten of 500,000 items each
    python bench.py gpu                  checks a machine with an NVIDIA GPU; at most ten minutes

The data of the ratios have the size of MovieLens-1M. Both sides of a ratio are measured in the same process,
one after the other, so trust ratios more than seconds. The figures are also in results/bench.json, those of
`gpu` in results/bench-gpu.json and .md. docs/speed.md explains them.
"""

if __name__ == "__main__":
    import lib.start  # noqa: F401

import itertools
import json
from pathlib import Path

from lib import devices
from lib.errors import UserError, run_script
from lib.files import atomic
from lib.settings import resolve
from runs import recipes
from runs.folder import peak_rss_mb
from speed import ratios
from speed.generate import MOVIELENS_1M
from speed.gpu import gpu
from speed.growth import SHOPS, growth, netflix, shop

PARTS = "ratios", "growth", "netflix", *SHOPS, "gpu"


def show_ratios(settings, mesh, size):
    """Prints and returns the figures of speed.ratios, a dict a row.

    Args:
        size: (users, items, interactions) of the generated data.
    """
    users, items, interactions = size
    print(f"about {interactions:,} generated interactions of {users:,} users with {items:,} items;")
    print(f"{devices.describe(mesh)}; medians of {ratios.REPEATS}", flush=True)
    print(f"\n{'':50s} {'seconds':>8s} {'plain':>8s} {'ratio':>7s}   plain is")
    rows = []
    for row in ratios.measure(settings, mesh, size):
        figures = f"{row.seconds:8.3f} {row.plain_seconds:8.3f} {row.ratio:6.2f}x"
        print(f"{row.what:50s} {figures}   {row.plain_is}", flush=True)
        rows.append({**row._asdict(), "ratio": row.ratio})
    return rows


def main(arguments, size=MOVIELENS_1M):
    parts = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    settings, changed = resolve(arguments[len(parts) :], __doc__)
    parts = parts or ["ratios", "growth"]
    if unknown := set(parts) - set(PARTS):
        raise UserError(f"there is no benchmark '{min(unknown)}'; there are {', '.join(PARTS)}")
    if "gpu" in parts:
        if len(parts) > 1:
            raise UserError("gpu is run alone, because its checks need the devices: python bench.py gpu")
        return gpu(settings, changed)
    # The plain step has the softmax alone.
    settings, _ = recipes.resolve_auto(
        {**settings, "dataset": "generated", "loss": "softmax"}, recipes.Statistics(*size)
    )
    mesh = devices.start(settings["float64"])
    out = Path(settings["results_dir"]) / "bench.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {"device": devices.describe(mesh), "settings": settings}
    if "ratios" in parts:
        report["figures"] = show_ratios(settings, mesh, size)
    if "growth" in parts:
        report["growth"] = growth(settings, mesh)
    if "netflix" in parts:
        report["netflix"] = netflix()
    report |= {name: shop(name) for name in SHOPS if name in parts}
    report["peak_rss_mb"] = peak_rss_mb()
    with atomic(out) as file:
        file.write(json.dumps(report, indent=2).encode())
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    run_script(main)
