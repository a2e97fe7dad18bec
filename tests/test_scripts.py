"""The scripts beside the package."""

import importlib.util
import json
from pathlib import Path

import pytest
from scipy import stats
from stored_files import table_of

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "paired_test.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("paired_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(label, values, difference):
    runs = [{"value": value} for value in values]
    return {"label": [label], "cells": [{"difference": difference, "runs": runs}]}


def test_pairs_over_seeds_like_scipy(script):
    base, ours = [90.0, 91.0, 93.0], [91.0, 93.0, 94.5]
    document = {"columns": ["1"], "column_label": "t", "rows": [row("off", base, None), row("on", ours, 1.5)]}
    (line,) = script.paired(document)
    test = stats.ttest_rel(ours, base)
    low, high = test.confidence_interval()
    assert line == f"on, t = 1: +1.50 [{low:+.2f}, {high:+.2f}], p = {test.pvalue:.3f}, n = 3"


def test_diverged_seeds_are_left_out_and_one_pair_is_no_test(script):
    rows = [row("off", [90.0, None, 93.0], None), row("on", [91.0, 93.0, None], 1.0)]
    (line,) = script.paired({"columns": ["1"], "column_label": "t", "rows": rows})
    assert line == "on, t = 1: +1.00 (n = 1: no test)"


def test_wrong_files_end_in_one_line(script, tmp_path, capsys):
    assert script.main([str(tmp_path / "none.json")]) == 5
    (tmp_path / "a.json").write_text(json.dumps(table_of()))
    assert script.main([str(tmp_path / "a.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
