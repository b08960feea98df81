"""runs/folder.py: what a run writes can be read by others."""

import json
import math

from runs.folder import Run


def test_json_has_no_nan_and_no_infinity_wherever_it_stands(tmp_path):
    run, strict = (
        Run(tmp_path, 0.0, silent=False),
        lambda text: json.loads(text, parse_constant=lambda name: f"{name} is no JSON"),
    )
    given = {
        "a": [1.5, math.nan, {"b": (math.inf, [-math.inf])}],
        "c": math.nan,
        "d": True,
        "e": None,
        "f": "nan",
    }
    expected = {"a": [1.5, None, {"b": [None, [None]]}], "c": None, "d": True, "e": None, "f": "nan"}
    run.save_json("result.json", given)
    run.save_metrics([given, given])
    assert strict((tmp_path / "result.json").read_text()) == expected
    assert [strict(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [expected] * 2
