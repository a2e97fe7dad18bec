"""What a reader sees."""

import csv
import io
import json
from dataclasses import replace

import pytest

from snnrepro.report import select
from snnrepro.report.document import document
from snnrepro.report.render import flat_rows, markdown, ours, scale_label, to_csv
from snnrepro.report.select import distinct_jobs, expand


@pytest.fixture
def filled(small, words, record):
    """The small table at mini scale: 97.5 ± 0.71 with one divergence, all diverged, nothing."""
    cells = expand(small, "mini", words)
    for job, value in zip(distinct_jobs(cells), [97.0, None, 98.0, None, None, None], strict=False):
        record(job, value)
    return document(small, "mini", cells, words)


@pytest.mark.parametrize(
    ("n", "diverged", "std", "text"),
    [
        (3, 0, 0.1, "97.20 ± 0.10"),
        (2, 1, 0.1, "97.20 ± 0.10, div. (1/3)"),
        (1, 2, None, "97.20, div. (2/3)"),
        (0, 3, None, "div."),
        (0, 0, None, "-"),
        (1, 0, None, "97.20 (n = 1)"),
        (0, 2, None, "div. (2/2) (n = 0)"),
        (1, 1, None, "97.20, div. (1/2) (n = 1)"),
    ],
)
def test_ours_tells_spread_divergence_and_gaps(n, diverged, std, text):
    assert ours({"mean": 97.2 if n else None, "std": std, "n": n, "diverged": diverged}, 3) == text


def _grids(text: str) -> dict[str, list[list[str]]]:
    """Returns the cells of every grid by its title."""
    grids: dict[str, list[list[str]]] = {}
    title = ""
    for line in text.splitlines():
        if line.endswith(":"):
            title = line[:-1]
        if line.startswith("|"):
            grids.setdefault(title, []).append([item.strip() for item in line.strip("|").split("|")])
    return grids


def test_markdown_shows_ours_and_the_paper_in_grids_of_their_own(filled):
    grids = _grids(markdown(filled))
    mine, difference, paper = grids.values()
    assert list(grids) == [
        "ours, digits",
        "ours, difference to V_thr = 1.0",
        "paper, other data: not comparable with digits",
    ]
    assert mine[0] == ["family", "V_thr = 1.0", "V_thr = 2.0"]
    assert mine[2:] == [
        ["trsg", "97.50 ± 0.71, div. (1/3)", "div."],
        ["rs_sg", "97.50 ± 0.71, div. (1/3)", "-"],
        ["later", "-", "-"],
    ]
    assert paper[2:] == [["trsg", "76.50 ± 0.50", ""], ["rs_sg", "div.", "71.25"], ["later", "1.00", "2.00"]]
    assert [row[1:] for row in difference[2:]] == [["", ""]] * 3


def test_markdown_labels_the_scale_and_explains_rows_without_runs(filled):
    text = markdown(filled)
    assert "Scale: **mini: digits, not paper numbers**" in text
    assert "Not run (later): dataset not built yet." in text
    assert "For tests." in text


def test_the_label_tells_a_changed_experiment(filled):
    filled["changes"] = ["epochs=1"]
    assert scale_label(filled) == "mini: digits, not paper numbers; changed: epochs=1"


def test_paper_scale_shows_the_difference_to_the_paper(small, words, record):
    cells = expand(small, "paper", words)
    for job in distinct_jobs(cells):
        record(job, 76.0)
    grids = _grids(markdown(document(small, "paper", cells, words)))
    difference = "ours, best epoch, difference to the paper"
    assert list(grids) == ["ours, last epoch, CIFAR-100", "ours, best epoch", difference, "paper"]
    assert grids["ours, last epoch, CIFAR-100"][2][1] == "76.00 ± 0.00"
    assert grids["ours, best epoch"][2:] == [
        ["trsg", "76.50 ± 0.00", "76.50 ± 0.00"],
        ["rs_sg", "76.50 ± 0.00", "76.50 ± 0.00"],
        ["later", "-", "-"],
    ]
    assert grids[difference][2:4] == [["trsg", "+0.00", ""], ["rs_sg", "", "+5.25"]]


def test_the_last_epoch_alone_where_the_table_says_so(small, words, record):
    table = replace(small, scales=small.scales | {"paper": replace(small.scales["paper"], epoch="last")})
    cells = expand(table, "paper", words)
    for job in distinct_jobs(cells):
        record(job, 76.0)
    grids = _grids(markdown(document(table, "paper", cells, words)))
    assert list(grids) == ["ours, CIFAR-100", "ours, difference to the paper", "paper"]
    assert grids["ours, difference to the paper"][2:4] == [["trsg", "-0.50", ""], ["rs_sg", "", "+4.75"]]


def test_a_metric_of_an_analysis_has_no_best_epoch(small, words, record, monkeypatch):
    monkeypatch.setattr(select, "_source", lambda *_: {"analysis": {"energy": 2.0}})
    table = replace(small, metric="analysis.energy")
    cells = expand(table, "paper", words)
    record(distinct_jobs(cells)[0], 76.0)
    filled = document(table, "paper", cells, words)
    assert filled["rows"][0]["cells"][0]["mean"] == 2.0
    assert all(cell["best"] is None for row in filled["rows"] for cell in row["cells"])


def test_a_table_with_one_column_stands_side_by_side(small, words, record):
    rows = tuple(replace(row, paper=row.paper[:1], std=row.std[:1]) for row in small.rows)
    table = replace(small, columns=(replace(small.columns[0], label="", baseline=False),), rows=rows)
    cells = expand(table, "mini", words)
    for job in distinct_jobs(cells):
        record(job, 97.0)
    (grid,) = _grids(markdown(document(table, "mini", cells, words))).values()
    assert grid[0] == ["family", "ours, digits", "paper, other data: not comparable with digits", "n"]
    assert grid[2] == ["trsg", "97.00 ± 0.00", "76.50 ± 0.50", "3"]


def test_a_stored_document_renders_the_same(filled):
    stored = json.loads(json.dumps(filled, allow_nan=False))
    assert (markdown(stored), to_csv(stored)) == (markdown(filled), to_csv(filled))


def test_csv_has_one_line_per_cell_with_unrounded_numbers_and_run_ids(filled):
    lines = list(csv.DictReader(io.StringIO(to_csv(filled))))
    assert len(lines) == 6
    first, second = lines[0], lines[1]
    assert (first["family"], first["V_thr"], first["paper"], first["scale"]) == (
        "trsg",
        "1.0",
        "76.5",
        "mini: digits, not paper numbers",
    )
    assert float(first["ours_std"]) == filled["rows"][0]["cells"][0]["std"]
    assert (first["best"], first["best_std"]) == ("", "")
    assert (first["n"], first["diverged"], second["ours"], second["difference"]) == ("2", "1", "", "")
    assert first["runs"].split() == [run["run"] for run in filled["rows"][0]["cells"][0]["runs"]]


def test_flat_rows_fit_their_header(filled):
    columns, rows = flat_rows(filled)
    assert {len(row) for row in rows} == {len(columns)} == {len(set(columns))}


def test_other_quantities_have_four_digits():
    cell = {"n": 3, "diverged": 0, "mean": 0.000588862, "std": 1.234567e-5, "metric": "analysis.energy.millijoule"}
    assert ours(cell, 3) == "0.0005889 ± 1.235e-05"
    assert ours(cell | {"metric": "final.top1", "mean": 97.2, "std": 0.1}, 3) == "97.20 ± 0.10"
