"""What a run can be resumed from: whole states of this run, and nothing that only looks like one."""

import json
import os
import re
import shutil

import pytest
import torch
from faults.conftest import EPOCHS, WORDS
from faults.digest import run_digest

from snnrepro import io
from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.runs import read_record, run_path
from snnrepro.train.checkpoint import Checkpoints


@pytest.fixture
def words(output):
    """Words of the run that was stopped in its last epoch."""
    return [*WORDS, "seed=1", f"runtime.output_dir={output}"]


@pytest.fixture
def folder(words):
    """Its folder."""
    return run_path(compose_run(words))


@pytest.fixture(scope="session")
def calm(made, tmp_path_factory):
    """What it ends with where nothing is damaged."""
    words = [*WORDS, "seed=1", f"runtime.output_dir={shutil.copytree(made, tmp_path_factory.mktemp('calm') / 'x')}"]
    assert main(["train", *words]) == 0
    return run_digest(run_path(compose_run(words)))


def change_newest(folder, change):
    """Changes the state of the newest checkpoint; its digest is right again."""
    checkpoints = Checkpoints(folder / "checkpoints")
    file = checkpoints.file(checkpoints.steps()[-1])
    state = torch.load(file, weights_only=True)
    change(state)
    torch.save(state, file)
    sidecar = json.loads(file.with_suffix(".json").read_text())
    io.write_json(
        file.with_suffix(".json"),
        {**sidecar, "sha256": io.sha256(file.read_bytes()), "bytes": file.stat().st_size},
    )


def buffers(state):
    return state["optimizer"]["state"]


def group(state):
    return state["optimizer"]["param_groups"][0]


STATES = {
    "another run": (lambda s: s.update(run="digits-x"), "run: it belongs to digits-x"),
    "another step": (lambda s: s.update(step=11), "step: it was saved after step 11"),
    "epoch -1": (lambda s: s.update(epoch=-1), "epoch: must be greater than or equal to 0"),
    "epoch 99": (lambda s: s.update(epoch=99), "epoch: 99, the run has 3"),
    "batch 99": (lambda s: s.update(batch=99), "batch: 99, an epoch has 5"),
    "batch 3": (lambda s: s.update(batch=3), "step: 12, but epoch 2 and batch 3"),
    "no timing": (lambda s: s.pop("timing"), "timing: is missing"),
    "surplus": (lambda s: s.update(more=1), "more: no such key"),
    "newer": (lambda s: s.update(format=99), "format 99 is not 1"),
    "seen 0": (lambda s: s["totals"].update(seen=0), "totals.seen: 0, 2 batches are 64 samples"),
    "a term": (lambda s: s["totals"].update(rmp=0.0), "totals.rmp: the run has no such term"),
    "final of another epoch": (lambda s: s["final"].update(epoch=1), "final: not that of epoch 2"),
    "no best": (lambda s: s.update(best=None), "best: is missing"),
    "best of the future": (lambda s: s["best"].update(step=99), "best: epoch"),
    "lines": (lambda s: s["lines"].pop(), "lines: line 2: epoch 2 is missing"),
    "no generators": (lambda s: s.update(rng=[{}]), "rng: not the states"),
    "generator of another size": (lambda s: s["rng"][0].update(torch=torch.zeros(3)), "rng: not the states"),
    "shape": (
        lambda s: s["model"].update({"head.fc.weight": torch.zeros(3)}),
        "model.head.fc.weight: float32 .3,., the",
    ),
    "dtype": (lambda s: s["model"].update({"sn1.tau_raw": torch.tensor(1)}), "model.sn1.tau_raw: int64 .*has float32"),
    "no tensor": (lambda s: s["model"].update({"sn1.tau_raw": 1.0}), "model.sn1.tau_raw: must be a dense tensor"),
    "missing": (lambda s: s["model"].pop("sn1.u_init"), "model.sn1.u_init: is missing"),
    "unknown": (lambda s: s["model"].update(x=torch.zeros(1)), "model.x: the network has no such tensor"),
    "nan": (
        lambda s: s["model"]["sn1.u_init"].fill_(float("nan")),
        "model.sn1.u_init: holds values that are not finite",
    ),
    "variance": (lambda s: s["model"]["stem.norm.running_var"].fill_(-1), "running_var: a variance of -1 is negative"),
    "threshold": (
        lambda s: s["model"]["sn1.v_threshold_raw"].fill_(-1e4),
        "v_threshold_raw: -10000 is a threshold of 0",
    ),
    "time constant": (lambda s: s["model"]["sn1.tau_raw"].fill_(-1e4), "tau_raw: -10000 is a time constant of inf"),
    "momentum": (
        lambda s: buffers(s)[0].update(momentum_buffer=torch.zeros(2)),
        "state.0.momentum_buffer: float32",
    ),
    "no momentum": (lambda s: buffers(s)[0].update(momentum_buffer=None), "momentum_buffer: must be a dense tensor"),
    "momentum renamed": (lambda s: buffers(s).update({0: {"momentum": torch.zeros(1)}}), "momentum: no such key"),
    "momentum of some": (lambda s: buffers(s).pop(3), "optimizer.state: not of all parameters"),
    "another decay": (
        lambda s: group(s).update(weight_decay=0.1),
        "param_groups.0.weight_decay",
    ),
    "another direction": (lambda s: group(s).update(maximize=True), "param_groups.0.maximize"),
    "scaler": (lambda s: s.update(scaler={"scale": 1.0}), "scaler: not that of runtime.precision=fp32"),
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_the_run_cannot_go_on_from_is_named(case, folder, words, capsys):
    """The checkpoint before it serves; where it is damaged as well, the run ends with one line."""
    change, message = STATES[case]
    change_newest(folder, change)
    for step in Checkpoints(folder / "checkpoints").steps()[:-1]:
        (folder / "checkpoints" / f"{step:08d}.pt").write_bytes(b"damaged")
    assert main(["train", *words]) == 5
    out, err = capsys.readouterr()
    assert re.search(rf"warning: .*00000012.pt: .*{message}.*; trying the one before", out), out
    assert err.count("\n") == 1 and "no valid checkpoint; remove the run's folder to start from zero" in err


@pytest.mark.slow
def test_control_unchanged_states_are_taken_and_the_one_before_ends_the_same(folder, words, calm, capsys):
    change_newest(folder, lambda state: None)
    assert main(["train", *words]) == 0
    assert "resuming at epoch 3, batch 2" in capsys.readouterr().out
    assert run_digest(folder) == calm


STRANGERS = ("._00000002.pt", "00000006 (copy).pt", "notes.pt", "abc.json", "-1.json", "1e3.json", "00000010.pt.bak")


@pytest.mark.slow
def test_strangers_beside_checkpoints_are_passed_over_and_stay(folder, words, calm):
    for name in STRANGERS:
        (folder / "checkpoints" / name).write_text("mine")
    (folder / "checkpoints" / "00000099.pt").write_text("a save that did not complete")
    (folder / "checkpoints" / "00000099.pt.tmp.4194304@elsewhere").write_text("left")
    assert main(["train", *words]) == 0
    assert run_digest(folder) == calm
    left = {path.name for path in (folder / "checkpoints").iterdir()}
    assert set(STRANGERS) <= left and not any("00000099" in name for name in left)
    assert main(["evaluate", f"run={folder.name}", words[-1]]) == 0


LINES = {
    "missing": lambda file, lines: file.unlink(),
    "torn": lambda file, lines: file.write_text("".join(lines)[:-50]),
    "no JSON": lambda file, lines: file.write_text("x\n" + lines[1]),
    "twice": lambda file, lines: file.write_text("".join([*lines, lines[1]])),
    "swapped": lambda file, lines: file.write_text("".join(lines[::-1])),
    "one missing": lambda file, lines: file.write_text(lines[1]),
    "nan": lambda file, lines: file.write_text("".join(lines).replace('"lr": 0.1', '"lr": NaN')),
    "another value": lambda file, lines: file.write_text("".join(lines).replace('"lr": 0.1', '"lr": 0.2')),
    "another encoding": lambda file, lines: file.write_bytes("".join(lines).encode("utf-16")),
    "pipe": lambda file, lines: (file.unlink(), os.mkfifo(file)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", LINES)
def test_damaged_lines_are_written_again_from_the_checkpoint(case, folder, words, calm):
    file = folder / "metrics.jsonl"
    LINES[case](file, file.read_text().splitlines(keepends=True))
    assert main(["train", *words]) == 0
    assert run_digest(folder) == calm


@pytest.mark.parametrize(("case", "code"), [("torn", 5), ("swapped", 5), ("one missing", 5), ("twice", 0)])
def test_a_checkpoint_of_an_older_version_needs_the_lines_in_the_file(case, code, folder, words, calm, capsys):
    def older(state):
        del state["format"], state["lines"]

    change_newest(folder, older)
    file = folder / "metrics.jsonl"
    LINES[case](file, file.read_text().splitlines(keepends=True))
    assert main(["train", *words]) == code
    if code:
        err = capsys.readouterr().err
        assert "metrics.jsonl: line" in err and err.count("\n") == 1
    else:
        assert run_digest(folder) == calm


@pytest.mark.parametrize("weights", ["final", "best"])
def test_evaluation_takes_checkpoints_of_the_run_only(weights, output, capsys):
    finished = run_path(compose_run([*WORDS, f"runtime.output_dir={output}"]))
    other = run_path(compose_run([*WORDS, "seed=1", f"runtime.output_dir={output}"]))
    record = read_record(finished)
    step = record["best"]["step"] if weights == "best" else 5 * EPOCHS
    for suffix in ("pt", "json"):
        source = next((other / "checkpoints").glob(f"*10.{suffix}"))
        shutil.copy(source, finished / "checkpoints" / f"{step:08d}.{suffix}")
    assert main(["evaluate", f"run={finished.name}", f"weights={weights}", f"runtime.output_dir={output}"]) == 5
    err = capsys.readouterr().err
    assert f"run: it belongs to {other.name}, not to {finished.name}" in err and err.count("\n") == 1


@pytest.mark.advice("best: is missing; use weights=final, or train the run again")
def test_a_record_without_its_best_epoch_has_its_last_weights(output, capsys):
    run = run_path(compose_run([*WORDS, f"runtime.output_dir={output}"]))
    # As the first version wrote it.
    record = json.loads((run / "record.json").read_text())
    del record["format"], record["best"]
    (run / "record.json").write_text(json.dumps(record))
    words = ["evaluate", f"run={run.name}", f"runtime.output_dir={output}"]
    assert main([*words, "weights=best"]) == 5
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "best: is missing" in err
    assert main([*words, re.search(r"use (weights=\w+)", err)[1]]) == 0
    shutil.rmtree(run)
    assert main(["train", *WORDS, f"runtime.output_dir={output}"]) == 0
    assert main([*words, "weights=best"]) == 0


def test_a_folder_under_another_name_is_refused_by_every_reader(output, capsys):
    place = f"runtime.output_dir={output}"
    run, other = (run_path(compose_run([*WORDS, f"seed={seed}", place])) for seed in (0, 5))
    shutil.copytree(run, other)
    commands = [["train", *WORDS, "seed=5", place], ["train", "-m", *WORDS, "seed=5", place],
                ["evaluate", f"run={other.name}", place], ["wandb-push", str(other)],
                ["evaluate", f"checkpoint={other}/checkpoints/{5 * EPOCHS:08d}.pt", place]]  # fmt: skip
    for words in commands:
        assert main(words) == 5
        err = capsys.readouterr().err
        assert "give the folder the name of its" in err and err.count("\n") == 1
    other.rename(run.with_name("copy"))
    assert main(["train", *WORDS, place]) == 0
    assert "finished before" in capsys.readouterr().out
