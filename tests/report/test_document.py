"""The statistics of a filled table."""

from dataclasses import replace

import numpy as np
import pytest

from snnrepro.report.document import document
from snnrepro.report.select import distinct_jobs, expand

VALUES = [97.1, 96.4, 98.0, 91.0, 92.5, 93.1, 40.0, 41.0, 45.0]


@pytest.fixture
def fill(small, words, record):
    """Returns the document of the small table after its nine runs got these values (None: diverged, "": missing)."""

    def make(values=VALUES, scale="mini", extra=(), table=small):
        cells = expand(table, scale, [*words, *extra])
        for job, value in zip(distinct_jobs(cells), values, strict=True):
            if value != "":
                record(job, value)
        return document(table, scale, cells, [*words, *extra])

    return make


def test_mean_and_sample_deviation_agree_with_numpy(fill):
    cell = fill()["rows"][0]["cells"][1]
    assert cell["mean"] == pytest.approx(np.mean(VALUES[3:6]), abs=1e-12)
    assert cell["std"] == pytest.approx(np.std(VALUES[3:6], ddof=1), abs=1e-12)
    assert cell["std"] != pytest.approx(np.std(VALUES[3:6]), abs=1e-3)
    assert [run["value"] for run in cell["runs"]] == VALUES[3:6]
    assert [run["seed"] for run in cell["runs"]] == [0, 1, 2]


def test_mini_values_are_compared_with_the_baseline_column_and_never_with_the_paper(fill):
    filled = fill()
    (trsg_1, trsg_2), (rs_1, rs_2), later = (row["cells"] for row in filled["rows"])
    assert filled["difference_to"] == "V_thr = 1.0"
    assert trsg_2["difference"] == pytest.approx(np.mean(VALUES[3:6]) - np.mean(VALUES[:3]))
    assert rs_2["difference"] == pytest.approx(42.0 - np.mean(VALUES[:3]))
    assert [cell["difference"] for cell in (trsg_1, rs_1, *later)] == [None] * 4


def test_paper_scale_values_are_compared_with_the_paper(fill):
    filled = fill(scale="paper")
    differences = [cell["difference"] for row in filled["rows"] for cell in row["cells"]]
    assert filled["difference_to"] == "the paper"
    # The recorded best epochs are half a point better.
    assert differences[0] == pytest.approx(np.mean(VALUES[:3]) + 0.5 - 76.5)
    assert differences[3] == pytest.approx(42.0 + 0.5 - 71.25)
    # nothing printed, diverged in the paper, not run
    assert [differences[i] for i in (1, 2, 4, 5)] == [None] * 4


def test_a_changed_experiment_is_not_compared_with_the_paper(fill):
    filled = fill(scale="paper", extra=["epochs=7"])
    assert (filled["changes"], filled["difference_to"]) == (["epochs=7"], "V_thr = 1.0")


def test_another_precision_still_is_compared_with_the_paper(fill):
    filled = fill(scale="paper", extra=["runtime.precision=bf16"])
    assert (filled["changes"], filled["difference_to"]) == (["runtime.precision=bf16"], "the paper")


def test_rows_are_compared_with_the_baseline_row_above(fill, small):
    first, second, _ = small.rows
    columns = tuple(replace(column, baseline=False) for column in small.columns)
    table = replace(small, rows=(replace(first, baseline=True), second), columns=columns)
    filled = fill(table=table)
    assert filled["difference_to"] == "the baseline row"
    assert [cell["difference"] for cell in filled["rows"][0]["cells"]] == [None, None]
    assert filled["rows"][1]["cells"][1]["difference"] == pytest.approx(42.0 - np.mean(VALUES[3:6]))


def test_diverged_and_missing_runs_are_counted_and_leave_the_mean_to_the_others(fill):
    filled = fill([97.0, None, 98.0, None, None, None, "", "", 50.0])
    (some, all_), (_, missing), _ = (row["cells"] for row in filled["rows"])
    assert (some["mean"], some["n"], some["diverged"], some["missing"]) == (97.5, 2, 1, 0)
    assert (all_["mean"], all_["std"], all_["n"], all_["diverged"], all_["difference"]) == (None, None, 0, 3, None)
    assert (missing["mean"], missing["std"], missing["n"], missing["missing"]) == (50.0, None, 1, 2)
    assert [run["status"] for run in some["runs"]] == ["done", "diverged", "done"]


def test_the_document_names_runs_commands_and_commits(fill):
    filled = fill()
    cell = filled["rows"][1]["cells"][1]
    assert filled["commits"] == ["c0ffee"]
    assert cell["words"] == [
        "runtime.precision=fp32",
        "dataset=digits",
        "neuron.learn_threshold=false",
        "neuron.family=rs_sg",
        "neuron.v_threshold=2.0",
    ]
    assert all(run["run"].startswith("digits-resnet19_mini-rs_sg-s") for run in cell["runs"])
    assert "output_dir" not in str(filled)


def test_a_column_may_have_a_metric_of_its_own(fill, small):
    columns = (small.columns[0], replace(small.columns[1], metric="final.top1_per_timestep.0"))
    filled = fill(table=replace(small, columns=columns))
    assert filled["rows"][0]["cells"][1]["mean"] == pytest.approx(np.mean(VALUES[3:6]) - 3)
