"""docs/faults.md: every row names a test that exists and exit codes that the README knows."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = [
    [part.strip() for part in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "faults.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| input", "| ---"))
]


def test_there_are_rows():
    assert len(ROWS) > 60 and all(len(row) == 4 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[3].rpartition("::")[2].strip("`"))
def test_the_test_behind_a_row_exists(row):
    file, _, name = row[3].strip("`").partition("::")
    functions = {
        node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)
    }
    assert name in functions


def test_exit_codes_are_those_of_the_readme():
    line = re.search(r"Exit codes: (.+?)\n\n", (ROOT / "README.md").read_text(), re.S)
    known = {*re.findall(r"\b(\d+)\b", line[1]), "-"}
    assert {code for row in ROWS for code in row[2].split(", ")} <= known
