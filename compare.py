"""The paper's table and figures, from finished runs; and comparisons on your own data.

    python compare.py          fills the tables of README.md and docs/results.md; draws the figures
    python compare.py --plan   lists the missing runs, as commands that make them
    python compare.py --run    makes the missing runs, one after another, then the tables; killed, it goes on
    python compare.py --mine   compares your own runs of one data set: a table, a figure, a test over users,
                               in results_dir/compare/; --dataset=NAME and --runs=a,b,c pick the runs
    python compare.py --data=NAME    is distilling worth it on your data set? Makes the runs that tell, of
                               popularity, EASE, ∞-AE on all users and on random ones, and Distill-CF, with
                               --seed=N; then the table, a figure and a verdict. Killed, it goes on

paper/plan.py says which runs the paper's table needs. Finished runs are those of results_dir, and those of
the record that docs/ keeps (paper/record.py). --run adds new runs to the record, except those of a revision
with uncommitted changes. README.md and docs/ show the record alone; what is missing is shown as missing. All
runs of a data set must be on the same interactions and the same split.
"""

if __name__ == "__main__":
    import lib.start  # noqa: F401

import re
from pathlib import Path

from lib.errors import UserError, run_script
from lib.files import write_files
from lib.metric_names import METRICS
from lib.settings import resolve, split
from paper import figures, make_runs, own_data, own_runs, plan, record, tables
from paper.summaries import DEVIATIONS, to_csv

README = Path(__file__).parent / "README.md"
TITLES = {
    "ndcg": "NDCG@10",
    **plan.DATASETS,
    "learners": "Synthetic users for other models",
    "sizes": "Sizes of what they are trained on",
}


def fill(text, by_name, name, required=()):
    """The text with the tables between its `<!-- table: NAME -->` and `<!-- end -->`.

    Args:
        by_name: {table's name: Markdown}.
        name: of the file that has the text.
        required: names of tables that it must have.

    Raises:
        UserError: a marker is missing, is that of no table, or has no end.
    """

    def to_table(match):
        if match[1] not in by_name:
            raise UserError(f"{name} has <!-- table: {match[1]} -->, and the tables are {', '.join(by_name)}")
        return f"<!-- table: {match[1]} -->\n{by_name[match[1]]}\n<!-- end -->"

    block = r"<!-- table: ([^\s>]+) -->\n(?:(?!<!-- table).)*?<!-- end -->"
    filled, count = re.subn(block, to_table, text, flags=re.S)
    if not text.count("<!-- table: ") == text.count("<!-- end -->") == count:
        raise UserError(f"{name}: every <!-- table: NAME --> needs its own <!-- end -->")
    for table in required:
        if f"<!-- table: {table} -->" not in text:
            raise UserError(
                f"{name} has no place for the table {table}: put the lines <!-- table: {table} --> and "
                "<!-- end --> where it belongs"
            )
    return filled


def fill_pages(by_name):
    """Fills the tables of README.md and docs/results.md, and leaves the text around them.

    Raises:
        UserError: as `fill`.
    """
    pages = (README, ("first",)), (record.DOCS / "results.md", ("ndcg", *plan.DATASETS, "learners", "sizes"))
    texts = {
        path: fill(path.read_text(encoding="utf-8"), by_name, path.name, required) for path, required in pages
    }
    for path, text in texts.items():
        write_files(path.parent, {path.name: text.encode()})


def write(matched, folder):
    """Writes figures, LaTeX and CSV; (names of the files, [a line on each figure that lacks runs])."""
    files, notes = figures.draw_all(matched)
    columns = ["dataset", "system", "chosen by", "settings", "runs", "seeds"]
    columns += [*METRICS, *DEVIATIONS, "paper", "p"]
    files |= {
        "results.tex": tables.to_latex(matched).encode(),
        "results.csv": to_csv(tables.summary(matched)[columns]),
    }
    write_files(folder, files)
    return sorted(files), notes


# ---- The command line ----------------------------------------------------------------------------------

OWN_KEYS = {"--mine": ("dataset", "runs"), "--data": ("data", "seed")}  # beside those of hyper_params.py


def main(arguments):
    modes = [word for word in arguments if word in ("--plan", "--run", "--mine")]
    rest = [word for word in arguments if word not in modes]
    modes += ["--data"] * any(word.partition("=")[0] == "--data" for word in rest)
    if len(modes) > 1:
        instead = "; --mine takes --dataset=NAME" if modes == ["--mine", "--data"] else ""
        raise UserError(f"{modes[0]} and {modes[1]} do not go together{instead}")
    mode, which = modes[0] if modes else None, {}
    if mode in OWN_KEYS and not {"-h", "--help"} & set(rest):
        which = {key: text for key, text in split(rest) if key in OWN_KEYS[mode]}
        rest = [f"--{key}={text}" for key, text in split(rest) if key not in which]
    options, _ = resolve(rest, __doc__, "compare")
    results = Path(options["results_dir"])
    if mode == "--mine":
        return own_runs.show(results, **which)
    if mode == "--data":
        return own_data.show(options, which["data"], which.get("seed"))
    runs, damaged = plan.read_runs(results)
    matched, failed = plan.match(runs), []
    if mode == "--plan":
        print("".join(f"{note}\n" for note in damaged), end="")
        return make_runs.show_plan(plan.missing_runs(runs), matched, options)
    if mode == "--run":
        failed = make_runs.make(options)
        plan.keep(plan.read_runs(results)[0])
        runs, damaged = plan.read_runs(results)
        matched = plan.match(runs)
    show(runs, matched, damaged, results)
    if failed:
        raise UserError(f"{len(failed)} runs failed")


def show(runs, matched, damaged, results):
    """Writes the record's tables in README.md and docs/, prints those of all runs, says what is missing."""
    recorded = plan.match(plan.Runs([run for run in runs.runs if run.folder is None]))
    fill_pages(tables.to_markdown(recorded))
    names, notes = write(recorded, record.DOCS)
    shown = tables.to_markdown(matched)
    print("\n\n".join(shown[name] for name in ("ndcg", *plan.DATASETS)))
    for note in damaged + notes:
        print(note)
    print(f"filled: README.md and docs/results.md; written in {record.DOCS}: {', '.join(names)}")
    absent = [
        f"{row.system} on {row.dataset} ({row.runs} of {row.seeds})"
        for row in tables.summary(recorded).itertuples()
        if row.runs < row.seeds
    ]
    if absent:
        print(f"the record lacks {', '.join(absent)}: --plan lists the commands that make them")
    new = {run.name: run for run in matched.values() if run and run.folder}.values()
    if clean := [run.name for run in new if run.clean]:
        print(f"shown, and not in the record yet: {', '.join(clean)}; --run adds them")
    if unclean := [run.name for run in new if not run.clean]:
        print(
            "shown, and not recorded, since the code that made them had uncommitted changes: "
            f"{', '.join(unclean)}; to record such runs, commit, delete these folders of {results}, and "
            "call --run again"
        )
    if new:
        folder = results / "compare"
        write(matched, folder)
        blocks = [f"{title}\n\n{shown[name]}\n" for name, title in TITLES.items()]
        write_files(folder, {"results.md": "\n".join(blocks).encode()})
        print(f"the tables and figures with these runs are in {folder}")


if __name__ == "__main__":
    run_script(main)
