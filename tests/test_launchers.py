"""Sweeps through Hydra's launchers: joblib, and submitit's local stand-in for Slurm."""

import pytest

from snnrepro import launchers
from snnrepro.compose import compose_run
from snnrepro.runs import read_record, run_path

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_sweep_elsewhere_ends_with_its_grid_and_resumes(cli, tiny, launcher):
    pytest.importorskip(launchers.LAUNCHERS[launcher][0])
    first, second = (run_path(compose_run([*tiny, f"seed={seed}"])) for seed in (0, 1))
    # In the place of a run's folder: this one fails, and the other's result still counts.
    second.parent.mkdir(parents=True)
    second.write_text("a file")
    words = ["train", "-m", f"hydra/launcher={launcher}", *tiny, "seed=0,1"]
    result = cli(*words)
    assert result.returncode == 1 and "1 of 2 runs have no result; the same command retries them" in result.stderr
    assert "Traceback" not in result.stderr.splitlines()[-1] and result.stdout.split()[-1] == "waiting"
    assert read_record(first)["status"] == "done"
    second.unlink()
    result = cli(*words)
    assert result.returncode == 0 and "finished before" in result.stdout + "".join(
        file.read_text() for file in first.parent.parent.rglob("*_log.out")
    )
    top1 = [f"{read_record(path)['final']['top1']:.2f}" for path in (first, second)]
    assert result.stdout.split()[-2:] == top1
    # A job that was stopped half-way goes on from its checkpoint.
    (second / "record.json").unlink()
    lines = (second / "metrics.jsonl").read_text()
    assert cli(*words).returncode == 0 and (second / "metrics.jsonl").read_text() == lines


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_runs_under_a_launcher_start_processes_of_their_own(cli, tiny, launcher):
    pytest.importorskip(launchers.LAUNCHERS[launcher][0])
    words = ["train", "-m", f"hydra/launcher={launcher}", *tiny, "epochs=1", "runtime.workers=1", "runtime.processes=2"]
    result = cli(*words, "seed=0,1")
    assert result.returncode == 0, result.stderr + result.stdout
    assert "waiting" not in result.stdout.splitlines()[-1]
