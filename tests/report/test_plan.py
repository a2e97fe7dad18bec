"""``snnrepro plan``: runs that are done, shared runs, hours measured and estimated."""

import pytest

from snnrepro.cli import main
from snnrepro.report import plan
from snnrepro.report.select import distinct_jobs, expand
from snnrepro.report.tables import load


def numbers(text, table):
    """(runs, done, left) and what is said of the hours."""
    line = next(line for line in text.splitlines() if line.startswith(table))
    _, runs, done, left, *hours = line.split(maxsplit=4)
    return (int(runs), int(done), int(left)), " ".join(hours)


@pytest.fixture(autouse=True)
def _read_again():
    plan._timings.cache_clear()


def test_counts_shared_runs_once_and_measures_where_it_can(tmp_path, record, capsys):
    words = [f"runtime.output_dir={tmp_path}"]
    assert main(["plan", "1", "table2", "--scale", "mini", *words]) == 0
    before = capsys.readouterr().out
    parts = [numbers(before, name) for name in ("table1 ", "table2 ", "together")]
    (one, _), (two, _), (together, hours) = parts
    assert one[1] == two[1] == 0 and max(one[0], two[0]) <= together[0] < one[0] + two[0]
    assert hours == f"{together[2]} runs of unknown cost, none of their kind has finished here"

    for job in distinct_jobs(expand(load("table1"), "mini", words))[:2]:
        record(job, 97.0, timing={"train_seconds": 720.0, "images_per_second": 1.0, "data_wait_share": 0.0})
    plan._timings.cache_clear()
    assert main(["plan", "1", "--scale", "mini", *words]) == 0
    (runs, done, left), hours = numbers(capsys.readouterr().out, "table1")
    assert (runs, done, left) == (one[0], 2, one[0] - 2)
    alike = sum(job.run.dataset.name == "digits" for job in distinct_jobs(expand(load("table1"), "mini", words))) - 2
    assert hours.startswith(f"{alike * 0.2:.1f} (measured here)") and "of unknown cost" in hours


def test_paper_scale_is_estimated_from_operations(tmp_path, capsys):
    assert main(["plan", "6", "4", f"runtime.output_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    (runs, _, _), hours = numbers(out, "table6")
    # 2.7e17 operations at 15 TFLOP/s are 5 hours a run.
    assert runs == 6 and hours.startswith("29 (estimate for an RTX 3090")
    assert numbers(out, "table4") == ((0, 0, 0), "0")


def test_an_unknown_table_is_named(capsys):
    assert main(["plan", "1", "99"]) == 2
    assert capsys.readouterr().err.startswith("error: table99: no such table; there are table1,")


def test_claims_and_figures_are_planned_too(tmp_path, capsys):
    assert main(["plan", "10", "claims", "figures", "--scale", "mini", f"runtime.output_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    (ten, _), (claims, _), (own, _), (together, _) = (
        numbers(out, f"{name} ") for name in ("table10", "claims", "figures", "together")
    )
    # The claims need all of Table 10, three seeds; Figs 12, 15, 16 add 97 runs, of which claims share 6.
    assert ten[0] == 78 and own[0] == 97 and together[0] == claims[0] + 91


def test_folders_that_are_no_runs_are_passed_over_with_one_line(tmp_path, record, capsys):
    words = [f"runtime.output_dir={tmp_path}"]
    first, second = distinct_jobs(expand(load("table1"), "mini", words))[:2]
    record(first, 97.0)
    for name in ("notes", ".DS_Store"):
        (tmp_path / "runs" / name).mkdir()
    (tmp_path / "runs" / "a file").write_text("")
    copy = record(second, 97.0).parent
    copy.rename(copy.with_name("a copy"))
    damaged = tmp_path / "runs" / "digits-old-s0-0123456789" / "record.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    assert main(["plan", "1", "--scale", "mini", *words]) == 0
    out, err = capsys.readouterr()
    assert numbers(out, "table1")[0][1] == 1
    assert err.startswith("warning: 2 folders of runs passed over, such as ") and err.count("\n") == 1


def test_a_damaged_record_of_the_plan_is_one_line(tmp_path, record, capsys):
    words = [f"runtime.output_dir={tmp_path}"]
    file = record(distinct_jobs(expand(load("table1"), "mini", words))[0], 97.0)
    file.write_text("{")
    assert main(["plan", "1", "--scale", "mini", *words]) == 5
    assert capsys.readouterr().err == (
        f"error: {file}: not JSON, line 1, column 2; remove the run's folder and train it again\n"
    )
