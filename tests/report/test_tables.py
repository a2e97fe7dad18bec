"""The table files: the paper's numbers, and what is refused in a file."""

import pytest
import yaml

from snnrepro.errors import ConfigError
from snnrepro.report import tables
from snnrepro.report.tables import DIVERGED, load, names, read


def test_names_are_in_the_order_of_the_paper():
    assert names().index("table2") < names().index("table10")


def test_load_reads_every_table():
    assert [load(name).name for name in names()] == names()


def test_table10_prints_one_divergence_and_leaves_gaps_at_threshold_one():
    table = load("table10")
    printed = {row.label: row.paper for row in table.rows}
    assert [column.label for column in table.columns] == ["0.1", "0.5", "1.0", "1.5", "2.0"]
    assert printed["soft", "rs_sg"] == (DIVERGED, 76.12, None, 71.43, 5.43)
    assert printed["hard", "trsg"] == (68.94, 76.33, 75.72, 73.86, 68.42)
    gaps = [(label, i) for label, values in printed.items() for i, value in enumerate(values) if value is None]
    assert gaps == [((reset, family), 2) for reset in ("soft", "hard") for family in ("as_sg", "rs_sg")]
    assert sum(value == DIVERGED for values in printed.values() for value in values) == 1


def test_table2_prints_mean_and_deviation_of_eight_rows():
    printed = [(row.label[0], row.paper[0], row.std[0]) for row in load("table2").rows]
    cifar = [(75.55, 0.06), (76.09, 0.04), (77.15, 0.06), (77.66, 0.15)]
    dvs = [(76.60, 0.20), (77.37, 0.20), (80.83, 0.64), (81.43, 0.40)]
    assert printed == [("CIFAR-100", *v) for v in cifar] + [("DVS-CIFAR10", *v) for v in dvs]
    assert all(row.not_run is None for row in load("table2").rows)


@pytest.mark.parametrize(("name", "hint"), [("tabel10", "table10"), ("table02", "table2"), ("2", "")])
def test_load_names_the_nearest_table(name: str, hint: str):
    with pytest.raises(ConfigError, match=f"{name}: no such table; there are table1, table2, .*{hint}"):
        load(name)


@pytest.fixture
def changed(small, tmp_path):
    """Reads the small table after a change of its file."""
    path = tables.FOLDER / "table01.yaml"

    def read_changed(change) -> tables.Table:
        spec = yaml.safe_load(path.read_text())
        change(spec)
        path.write_text(yaml.safe_dump(spec))
        return read("table1", path)

    return read_changed


def test_an_unchanged_file_is_accepted(changed, small):
    assert changed(lambda spec: None) == small


BAD = {
    "unknown key": (lambda s: s.update(colums=[]), "colums: no such key; did you mean 'columns'"),
    "missing key": (lambda s: s.pop("metric"), "metric is missing"),
    "unknown row key": (lambda s: s["rows"][0].update(papr=1), r"rows\[0\]: papr: .*'paper'"),
    "too few printed": (lambda s: s["rows"][1].update(paper=[1.0]), r"rows\[1\].paper: 2 values are needed"),
    "odd printed": (lambda s: s["rows"][1].update(paper=["dvi", 1.0]), r"rows\[1\].paper: 'dvi'"),
    "nan printed": (lambda s: s["rows"][1].update(paper=[float("nan"), 1.0]), r"rows\[1\].paper: nan"),
    "std not a number": (lambda s: s["rows"][1].update(std=["div", 1.0]), r"rows\[1\].std: numbers"),
    "bare yes as label": (lambda s: s["rows"][1].update(label=[True]), r"rows\[1\].label: .*in quotes"),
    "labels missing": (lambda s: s.update(row_labels=["a", "b"]), r"rows\[0\].label: 2 labels"),
    "no scale": (lambda s: s["scales"].pop("mini"), "scales: mini is missing"),
    "word without value": (lambda s: s.update(run=["neuron"]), "run: 'neuron': write KEY=VALUE"),
    "words for one scale": (lambda s: s.update(run={"mini": []}), "run: paper is missing"),
    "neither run nor not_run": (lambda s: s["rows"][0].pop("run"), r"rows\[0\]: either run or not_run"),
    "equal seeds": (lambda s: s.update(seeds=[0, 0]), "seeds: distinct"),
    "two baselines": (lambda s: s["rows"][0].update(baseline=True), "baseline: either one column"),
    "no rows": (lambda s: s.update(rows=[]), "rows: a list is needed"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_faulty_file_is_refused_naming_file_and_key(changed, case: str):
    change, message = BAD[case]
    with pytest.raises(ConfigError, match=f"table01.yaml: .*{message}"):
        changed(change)


def test_a_file_that_is_not_yaml_is_refused(small):
    (tables.FOLDER / "table01.yaml").write_text("rows: [")
    with pytest.raises(ConfigError, match=r"table01.yaml: cannot read"):
        load("table1")
