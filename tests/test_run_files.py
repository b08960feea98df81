"""runs/folder.py: the JSON of a run's folder."""

import json
import math

from runs.folder import Run


def test_json_has_no_nan_and_no_infinity_wherever_it_stands(tmp_path):
    """NaN and Infinity, which Python writes but JSON does not have, become null."""
    run = Run(tmp_path, 0.0, silent=False)
    read = lambda text: json.loads(text, parse_constant=lambda name: f"{name} is no JSON")
    values = {
        "a": [1.5, math.nan, {"b": (math.inf, [-math.inf])}],
        "c": math.nan,
        "d": True,
        "e": None,
        "f": "nan",
    }
    expected = {"a": [1.5, None, {"b": [None, [None]]}], "c": None, "d": True, "e": None, "f": "nan"}
    run.save_json("result.json", values)
    run.save_metrics([values, values])
    assert read((tmp_path / "result.json").read_text()) == expected
    assert [read(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [expected] * 2
