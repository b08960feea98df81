"""The layout: few commands at the top, and folders that import only what stands below them."""

import ast

from conftest import ROOT

# A folder or script may import from its own level and from those above it in this list.
LEVELS = [
    {"hyper_params"},
    {"lib"},
    {"data", "model"},
    {"eval"},
    {"runs"},
    {"rivals", "prep"},
    {"distill", "infinite_ae", "baselines", "recommend", "export"},
    {"stream", "speed", "page", "paper", "sweep"},
    {"bench", "report", "compare", "grid_search_distill"},
]
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}


def imported(path):
    """The project's folders and scripts that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        yield from {name.partition(".")[0] for name in names} & LEVEL_OF.keys()


def sources():
    """(folder or script, file) of all code."""
    for path in ROOT.glob("*.py"):
        yield path.stem, path
    for folder in LEVEL_OF:
        for path in (ROOT / folder).glob("*.py"):
            yield folder, path


def test_no_import_goes_upward_and_none_in_a_circle():
    arrows = {(name, other) for name, path in sources() for other in imported(path) if other != name}
    assert ("distill", "model") in arrows
    assert [arrow for arrow in arrows if LEVEL_OF[arrow[0]] < LEVEL_OF[arrow[1]]] == []
    beside = [arrow for arrow in arrows if LEVEL_OF[arrow[0]] == LEVEL_OF[arrow[1]]]
    assert [arrow for arrow in beside if arrow[::-1] in arrows] == []


def test_the_top_shows_what_is_run_and_what_the_paper_names():
    scripts = {path.stem for path in ROOT.glob("*.py")}
    assert len(scripts) <= 16 and scripts <= LEVEL_OF.keys()
    for folder in LEVEL_OF.keys() - scripts:
        [sentence] = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text())).splitlines()
        assert sentence.endswith("."), folder


def test_scripts_import_lib_start_before_anything_else():
    begin = 'if __name__ == "__main__":\n    import lib.start  # noqa: F401\n'
    scripts = [*ROOT.glob("*.py"), ROOT / "prep" / "preprocess.py"]
    scripts = [
        path for path in scripts if "run_script(" in path.read_text() or "run_job(" in path.read_text()
    ]
    assert len(scripts) == 11
    for path in scripts:
        text = path.read_text()
        first = ast.parse(text).body[1]
        assert ast.get_source_segment(text, first) in begin and begin in text, path
