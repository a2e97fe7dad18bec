"""``snnrepro table``, with runs that are recorded instead of trained."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from snnrepro import report
from snnrepro.errors import ConfigError, DataError, StorageError
from snnrepro.report import machine
from snnrepro.report.select import distinct_jobs, expand


@pytest.fixture
def started(monkeypatch, record):
    """The ids of the runs that the command started; every one ends at 97 %."""
    ids: list[str] = []

    def run_jobs(jobs):
        for job in jobs:
            ids.append(job.path.name)
            record(job, 97.0)

    monkeypatch.setattr(report, "run_jobs", run_jobs)
    return ids


@pytest.fixture
def nothing_starts(monkeypatch):
    monkeypatch.setattr(report, "run_jobs", lambda jobs: pytest.fail(f"started {len(jobs)} runs"))


def test_the_first_command_runs_what_is_missing_and_the_second_only_renders(small, words, started, tmp_path, capsys):
    assert report.main(["table1", *words, "--scale", "mini"]) == 0
    assert len(started) == len(set(started)) == 9
    folder = tmp_path / "outputs" / "tables"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(first) == ["table1_mini.csv", "table1_mini.json", "table1_mini.md"]
    assert "9 distinct runs, 0 done, 9 missing" in capsys.readouterr().out
    assert report.main(["table1", "--scale", "mini", *words]) == 0
    assert len(started) == 9
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert first["table1_mini.md"].decode() in capsys.readouterr().out


def test_only_missing_runs_are_started(small, words, started, record):
    jobs = distinct_jobs(expand(small, "mini", words))
    for job in jobs[:7]:
        record(job, 50.0)
    report.main(["table1", "--scale", "mini", *words])
    assert started == [job.path.name for job in jobs[7:]]


def test_failed_runs_leave_gaps_and_an_exit_code(small, words, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(report, "run_jobs", lambda jobs: None)
    assert report.main(["table1", "--scale", "mini", *words]) == 1
    assert "9 of 9 runs have no result; the same command retries them" in capsys.readouterr().out
    cell = json.loads((tmp_path / "outputs/tables/table1_mini.json").read_text())["rows"][0]["cells"][0]
    assert (cell["mean"], cell["missing"]) == (None, 3)


def test_the_plan_lists_commands_and_starts_nothing(small, words, nothing_starts, capsys, tmp_path):
    assert report.main(["table1", "--plan", "--scale", "mini", "epochs=2", *words]) == 0
    out = capsys.readouterr().out
    commands = [line.strip() for line in out.splitlines() if line.startswith("  python train.py")]
    assert len(commands) == 9
    assert "not run: later: dataset not built yet" in out
    assert commands[0] == (
        "python train.py runtime.precision=fp32 dataset=digits neuron.learn_threshold=false neuron.v_threshold=1.0 "
        f"neuron.family=trsg epochs=2 {words[0]} seed=0"
    )
    assert not (tmp_path / "outputs").exists()


def test_paper_scale_starts_nothing_without_gpu_and_data(small, words, nothing_starts, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(machine, "_has_gpu", lambda: False)
    with pytest.raises(
        DataError, match=r"no CUDA GPU; .*cifar.*nothing was started; snnrepro table table1 --scale mini runs"
    ) as info:
        report.main(["table1", *words, f"dataset.root={tmp_path}"])
    assert info.value.exit_code == 4
    assert "9 distinct runs, 0 done, 9 missing\nnot run: later: dataset not built yet\ncost: hours" in (
        capsys.readouterr().out
    )
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(("gpu", "data"), [(True, False), (False, True)])
def test_paper_scale_needs_both_gpu_and_data(small, words, nothing_starts, monkeypatch, gpu: bool, data: bool):
    def load_data(run):
        if not data:
            raise DataError("cifar: missing")

    monkeypatch.setattr(machine, "_has_gpu", lambda: gpu)
    monkeypatch.setattr(machine, "_load_data", load_data)
    with pytest.raises(DataError, match="cannot run here: " + ("cifar: missing;" if gpu else "no CUDA GPU; nothing")):
        report.main(["table1", *words])


def test_paper_scale_runs_where_gpu_and_data_are(small, words, started, monkeypatch):
    monkeypatch.setattr(machine, "_has_gpu", lambda: True)
    monkeypatch.setattr(machine, "_load_data", lambda run: None)
    assert report.main(["table1", *words]) == 0
    assert len(started) == 9


def test_data_that_a_run_downloads_is_not_asked_for(small, words, started, monkeypatch):
    monkeypatch.setattr(machine, "_has_gpu", lambda: True)
    monkeypatch.setattr(machine, "_load_data", lambda run: pytest.fail("asked for data"))
    assert report.main(["table1", "dataset.download=true", *words]) == 0


def test_paper_scale_renders_finished_runs_anywhere(small, words, nothing_starts, monkeypatch, record, tmp_path):
    monkeypatch.setattr(machine, "lacking", lambda runs: pytest.fail("asked for a GPU"))
    jobs = distinct_jobs(expand(small, "paper", words))
    for job in jobs:
        record(job, 76.0)
    assert report.main(["table1", *words]) == 0
    assert "| +0.00 |" in " ".join((tmp_path / "outputs/tables/table1_paper.md").read_text().split())


def test_paper_scale_shows_what_is_done_before_it_gives_up(small, words, nothing_starts, monkeypatch, record, tmp_path):
    monkeypatch.setattr(machine, "_has_gpu", lambda: False)
    monkeypatch.setattr(machine, "_load_data", lambda run: None)
    record(distinct_jobs(expand(small, "paper", words))[0], 76.0)
    with pytest.raises(DataError, match="no CUDA GPU"):
        report.main(["table1", *words])
    assert "76.00 (n = 1)" in (tmp_path / "outputs/tables/table1_paper.md").read_text()


def test_a_changed_experiment_never_replaces_the_table(small, words, started, tmp_path):
    report.main(["table1", "--scale", "mini", *words])
    report.main(["table1", "--scale", "mini", "epochs=2", *words])
    names = sorted(path.name for path in (tmp_path / "outputs/tables").glob("*.json"))
    assert len(started) == 18
    assert len(names) == 2 and names[0] == "table1_mini.json"
    assert json.loads((tmp_path / "outputs/tables" / names[1]).read_text())["changes"] == ["epochs=2"]


def test_a_damaged_record_is_named(small, words, nothing_starts, record):
    file = record(distinct_jobs(expand(small, "mini", words))[3])
    file.write_text(file.read_text()[:20])
    with pytest.raises(StorageError, match=str(file)):
        report.main(["table1", "--scale", "mini", *words])


def _readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text("x\n<!-- table1 mini -->\n<!-- end -->\n")
    return path


def test_readme_is_written_and_checked_without_runs(small, words, started, tmp_path, capsys, monkeypatch):
    path = _readme(tmp_path)
    arguments = ["table1", "--scale", "mini", "--readme", str(path), *words]
    report.main(["table1", "--scale", "mini", *words])
    assert report.main([*arguments, "--check"]) == 1
    assert "differs from" in capsys.readouterr().out
    assert report.main(arguments) == 0
    monkeypatch.setattr(report, "expand", lambda *_: pytest.fail("the check needs the stored table only"))
    assert report.main([*arguments, "--check"]) == 0
    path.write_text(path.read_text().replace("97.00", "97.01", 1))
    assert report.main([*arguments, "--check"]) == 1


def test_check_needs_a_file_and_a_stored_table(small, words, tmp_path):
    with pytest.raises(ConfigError, match=r"--readme README\.md"):
        report.main(["table1", "--scale", "mini", "--check", *words])
    arguments = ["table1", "--scale", "mini", "--check", "--readme", str(_readme(tmp_path)), *words]
    with pytest.raises(StorageError, match=r"table1_mini.json: cannot read"):
        report.main(arguments)
    (tmp_path / "outputs/tables").mkdir(parents=True)
    (tmp_path / "outputs/tables/table1_mini.json").write_text("{}")
    with pytest.raises(StorageError, match=r"table1_mini.json: .*: is missing; write it again with the table command"):
        report.main(arguments)


def test_readme_refuses_a_changed_experiment(small, words, nothing_starts, tmp_path):
    with pytest.raises(ConfigError, match="leave out epochs=2"):
        report.main(["table1", "--scale", "mini", "--readme", str(_readme(tmp_path)), "epochs=2", *words])


@pytest.mark.parametrize(("extra", "expected"), [([], 0), (["logger=wandb"], 1)])
def test_the_table_goes_to_wandb_where_the_logger_is_wandb(small, words, started, monkeypatch, extra, expected):
    logged = []
    monkeypatch.setattr(report.tracking, "log_table", lambda name, columns, rows, **_: logged.append((name, len(rows))))
    report.main(["table1", "--scale", "mini", *extra, *words])
    assert logged == [("table1_mini", 6)] * expected


def test_an_unknown_table_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"tabel10: no such table; .*'table10'"):
        report.main(["tabel10", "--scale", "mini"])


def test_an_unknown_scale_ends_with_exit_code_2(small, capsys):
    with pytest.raises(SystemExit) as info:
        report.main(["table1", "--scale", "tiny"])
    assert info.value.code == 2
    assert "tiny" in capsys.readouterr().err


def test_finding_that_nothing_has_to_run_does_not_import_torch(words):
    code = "import sys, snnrepro.report as r; r.main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "table2", "--scale", "mini", "--plan", *words]
    assert subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("name", ["table4", "table5", "table11"])
def test_a_table_without_a_run_is_written_all_the_same(name, nothing_starts, tmp_path):
    assert report.main([name, "--scale", "mini", f"runtime.output_dir={tmp_path}"]) == 0
    assert "network not built yet" in (tmp_path / "tables" / f"{name}_mini.md").read_text()
