"""What a user types: right words run, wrong words end in one line and an exit code."""

import json

import pytest
import torch

from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.runs import RunLock, run_path


def run(capsys, *words) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


WRONG = [
    (["trian"], 2, "did you mean 'train'?"),
    (["train", "neuron.v_treshold=0.5"], 2, "did you mean 'neuron.v_threshold'?"),
    (["train", "++neuron.v_treshold=0.5"], 2, "did you mean 'neuron.v_threshold'?"),
    (["train", "neuron.v_threshold=-1"], 2, "neuron.v_threshold=-1.0"),
    (["train", "neuron.v_threshold=0"], 2, "neuron.v_threshold=0"),
    (["train", "neuron.v_threshold=nan"], 2, "neuron.v_threshold=nan"),
    (["train", "neuron.v_threshold=abc"], 2, "neuron.v_threshold"),
    (["train", "neuron=trgs"], 2, "did you mean 'trsg'?"),
    (["train", "neuron=as_sg,trsg"], 2, "add -m"),
    (["train", "-m", "neuron=as_sg,trgs"], 2, "did you mean 'trsg'?"),
    (["train", "-m", "neuron.v_threshold=0.5,-1"], 2, "neuron.v_threshold=-1"),
    (["train", "runtime.backend=triton"], 2, "runtime.backend=triton"),
    (["train", "dataset=cifar10", "dataset.root=/nowhere"], 4, "/nowhere"),
    (["train", "runtime.output_dir=/proc/none"], 5, "/proc/none"),
    (["train", "-m", "runtime.output_dir=/proc/none", "seed=0,1"], 5, "/proc/none"),
    (["evaluate", "run=none_such"], 5, "none_such"),
    (["evaluate", "rnu=none_such"], 2, "did you mean 'run'?"),
    (["evaluate", "checkpoint=/none.pt"], 5, "none.pt"),
    (["evaluate", "run=x", "timesteps=0"], 5, "no such run"),
    (["evaluate", "run"], 2, "KEY=VALUE"),
    (["evaluate", "run=x", "checkpoint=y"], 2, "either"),
    (["evaluate", "run=x", "weights=bst"], 2, "weights=bst"),
]
if not torch.cuda.is_available():
    WRONG.append((["train", "runtime.device=cuda"], 2, "no CUDA device"))


@pytest.mark.parametrize("words, code, text", WRONG, ids=[" ".join(w[0]) for w in WRONG])
def test_wrong_input_ends_in_one_line_and_its_exit_code(words, code, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got, _, err = run(capsys, *words)
    assert got == code
    assert err.startswith("error: ") and text in err
    assert err.count("\n") == 1 and "Traceback" not in err


def test_a_run_ends_with_a_record_and_is_found_again(tiny, capsys):
    code, out, _ = run(capsys, "train", *tiny)
    assert code == 0 and "done: synthetic-resnet19_mini-trsg-s0-" in out
    path = run_path(compose_run(tiny))
    record = json.loads((path / "record.json").read_text())
    assert record["status"] == "done" and record["config"]["neuron"]["v_threshold"] == 1.0
    assert set(record) >= {"final", "best", "learned", "config", "data", "provenance", "timing"}
    assert len(record["final"]["top1_per_timestep"]) == 2
    assert record["final"]["top1"] == record["final"]["top1_per_timestep"][-1]
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert set(lines[0]["firing_rate"]) == set(record["learned"])
    before = (path / "record.json").stat().st_mtime_ns
    code, out, _ = run(capsys, "train", *tiny)
    assert code == 0 and "finished before" in out
    assert (path / "record.json").stat().st_mtime_ns == before


def test_evaluate_reproduces_the_logged_number_and_other_timesteps(tiny, capsys):
    run(capsys, "train", *tiny)
    path = run_path(compose_run(tiny))
    folder = f"runtime.output_dir={path.parent.parent}"
    code, out, _ = run(capsys, "evaluate", f"run={path.name}", folder, "timesteps=1,2,4")
    assert code == 0 and "equal" in out and "DIFFERENT" not in out and "timesteps=4" in out
    record = json.loads((path / "record.json").read_text())
    for t, value in enumerate(record["final"]["top1_per_timestep"], start=1):
        assert f"timesteps={t}: top-1 {value:.4f} %" in out
    newest = sorted((path / "checkpoints").glob("*.pt"))[-1]
    code, out, _ = run(capsys, "evaluate", f"checkpoint={newest}")
    assert code == 0 and f"top-1 {record['final']['top1']:.4f}" in out


def test_two_writers_the_second_is_refused(tiny, capsys):
    with RunLock(run_path(compose_run(tiny))):
        code, _, err = run(capsys, "train", *tiny)
    assert code == 5 and "in use by process" in err


def test_divergence_is_a_status_with_the_layer_and_its_scalars(tiny, capsys, monkeypatch):
    from snnrepro.train import loop

    original = loop.build_task

    def poisoned(run):
        task, calls = original(run), iter(range(100))
        loss = task.loss
        task.loss = lambda logits, target: loss(logits, target) * (float("nan") if next(calls) == 7 else 1)
        return task

    monkeypatch.setattr(loop, "build_task", poisoned)
    code, out, _ = run(capsys, "train", *tiny)
    assert code == 3 and "diverged" in out
    path = run_path(compose_run(tiny))
    record = json.loads((path / "record.json").read_text())
    assert record["status"] == "diverged"
    for word in ("loss is not finite", "v_threshold=", "tau=", "u_init=", "layer"):
        assert word in record["diverged"]["message"]
    for file in (path / "checkpoints").glob("*.pt"):
        for tensor in torch.load(file, weights_only=True)["model"].values():
            assert torch.isfinite(tensor).all()
    code, _, _ = run(capsys, "train", *tiny)
    assert code == 3, "a diverged run is reported, not trained again"


@pytest.mark.slow
def test_a_sweep_ends_with_a_grid_and_skips_what_is_done(cli, tiny):
    words = ["train", "-m", *tiny, "epochs=1", "neuron=as_sg,trsg", "neuron.v_threshold=0.5,1.0"]
    first = cli(*words)
    assert first.returncode == 0, first.stderr
    grid = first.stdout[first.stdout.index("top-1 %") :].splitlines()
    assert grid[1].split() == ["neuron", "neuron.v_threshold=0.5", "neuron.v_threshold=1.0"]
    assert [line.split()[0] for line in grid[2:4]] == ["as_sg", "trsg"]
    assert "4 runs" in first.stdout
    second = cli(*words)
    assert second.returncode == 0 and "runs," not in second.stdout
    assert second.stdout.splitlines()[-4:] == first.stdout.splitlines()[-4:]


@pytest.mark.slow
def test_one_failing_job_does_not_stop_the_others(cli, tiny, tmp_path):
    blocked = compose_run([*tiny, "seed=1"])
    run_path(blocked).parent.mkdir(parents=True)
    run_path(blocked).write_text("a file where the folder should be")
    result = cli("train", "-m", *tiny, "seed=0,1,2")
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert "failed(5)" in result.stdout and "1 of 3 runs have no result" in result.stderr
    assert all(run_path(compose_run([*tiny, f"seed={seed}"])).joinpath("record.json").exists() for seed in (0, 2))


@pytest.mark.slow
def test_help_lists_groups_options_and_examples(cli):
    result = cli("train", "--help")
    assert result.returncode == 0
    for text in (
        "neuron: as_sg, bntt_original, diet_snn, imp,",
        "python train.py -m",
        "v_threshold: 1.0",
        "evaluate.py run=",
    ):
        assert text in result.stdout
    assert "_schema" not in result.stdout
