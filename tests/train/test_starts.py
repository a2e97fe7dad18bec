"""Averaged weights, weights to start from, and learning rates per step."""

import math
import shutil

import pytest
import torch
from faults.digest import run_digest
from faults.test_resume import interrupted_and_resumed

from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError, StorageError
from snnrepro.runs import read_config, read_record, run_path
from snnrepro.train.checkpoint import Checkpoints, load_file, load_weights
from snnrepro.train.loop import Trainer, train
from snnrepro.train.optim import learning_rate


def newest(run):
    checkpoints = Checkpoints(run_path(run) / "checkpoints")
    return checkpoints.file(checkpoints.steps()[-1])


def test_the_average_is_the_sum_over_the_steps(tiny, monkeypatch):
    """Against float64, of every parameter and buffer."""
    run = compose_run([*tiny, "ema_decay=0.7"])
    trainer, seen = Trainer(run, run_path(run)), []
    expected = {name: value.double() for name, value in trainer.model.state_dict().items()}
    update = trainer.average.update

    def watched(model):
        update(model)
        seen.append(1)
        for name, value in model.state_dict().items():
            averaged = 0.7 * expected[name] + 0.3 * value.double()
            expected[name] = averaged if value.is_floating_point() else value.double()

    monkeypatch.setattr(trainer.average, "update", watched)
    record = trainer.fit()
    assert len(seen) == trainer.step == 2 * len(trainer.order)
    for name, value in trainer.average.model.state_dict().items():
        assert torch.allclose(value.double(), expected[name], atol=1e-6), name
    moved = [
        not torch.equal(a, b) for a, b in zip(trainer.model.parameters(), trainer.evaluated.parameters(), strict=True)
    ]
    assert all(moved)
    assert record["learned"]["sn1"]["u_init"] == trainer.average.model.sn1.u_init.item()


def test_the_average_is_what_is_evaluated_resumed_and_loaded(tiny, tmp_path, monkeypatch, capsys):
    words = [*tiny, "ema_decay=0.5"]
    whole = compose_run([*words, f"runtime.output_dir={tmp_path}/undisturbed"])
    record = train(whole)
    assert interrupted_and_resumed(words, 7, monkeypatch) == run_digest(run_path(whole))
    state = load_file(newest(whole))
    model = Trainer(compose_run(tiny), tmp_path / "none").model
    load_weights(model, newest(whole))
    assert all(torch.equal(value, state["ema"][name]) for name, value in model.state_dict().items())
    capsys.readouterr()
    assert main(["evaluate", f"run={run_path(whole).name}", f"runtime.output_dir={tmp_path}/undisturbed"]) == 0
    assert "equal" in capsys.readouterr().out
    plain = train(compose_run(tiny))
    assert plain["id"] != record["id"] and plain["final"]["loss"] != record["final"]["loss"]


def test_a_checkpoint_with_or_without_an_average_is_of_another_run(tiny):
    run = compose_run([*tiny, "ema_decay=0.5"])
    trainer = Trainer(run, run_path(run))
    trainer.save()
    trainer.average = None
    other = Trainer(run, run_path(run))
    state = load_file(newest(run))
    del state["ema"]
    other.checkpoints.save(0, state, [])
    with pytest.raises(StorageError, match="no valid checkpoint"):
        other.resume()


def test_a_run_starts_from_another_ones_weights_and_says_what_does_not_fit(tiny, capsys, tmp_path):
    source = compose_run(tiny)
    train(source)
    name = run_path(source).name
    run = compose_run([*tiny, f"init_from={name}", "seed=5", "epochs=1"])
    trainer = Trainer(run, run_path(run))
    trainer.resume()
    for key, value in load_file(newest(source))["model"].items():
        assert torch.equal(trainer.model.state_dict()[key], value)
    out = capsys.readouterr().out
    total = len(trainer.model.state_dict())
    assert f"{total} of {total} tensors" in out and "not taken" not in out
    # Another width: the stem's channels fit, the rest is named.
    wider = compose_run([*tiny, "model.widths=[4,4,6]", f"init_from={newest(source)}"])
    trainer = Trainer(wider, run_path(wider))
    before = trainer.model.head.fc.weight.clone()
    trainer.resume()
    out = capsys.readouterr().out
    assert "not taken: head.fc.weight, (10, 8) in the file, (10, 6) in the network" in out
    assert torch.equal(trainer.model.head.fc.weight, before)
    assert torch.equal(trainer.model.stem.conv.weight, load_file(newest(source))["model"]["stem.conv.weight"])


def test_the_content_names_the_run_not_the_place(tiny, tmp_path, capsys):
    source = compose_run(tiny)
    train(source)
    by_name = compose_run([*tiny, "seed=1", f"init_from={run_path(source).name}"])
    copy = tmp_path / "copy.pth"
    shutil.copy(newest(source), copy)
    by_file = compose_run([*tiny, "seed=1", f"init_from={copy}"])
    assert run_path(by_name) == run_path(by_file) != run_path(compose_run([*tiny, "seed=1"]))
    torch.save({"state_dict": load_file(newest(source))["model"]}, copy)
    foreign = compose_run([*tiny, "seed=1", f"init_from={copy}"])
    assert run_path(foreign) != run_path(by_file)
    record = train(foreign)
    assert record["config"]["init_sha256"] == foreign.init_sha256
    # A finished run stays what it is when the file is gone.
    copy.unlink()
    assert read_record(run_path(foreign)) == record and read_config(run_path(foreign)).init_sha256
    assert main(["evaluate", f"run={run_path(foreign).name}", f"runtime.output_dir={tmp_path}"]) == 0


@pytest.mark.advice("is found by itself; give init_from=RUN_ID or a file")
@pytest.mark.advice("bring those back, or start another run with init_from")
@pytest.mark.advice("tensors fits model={}; use its model")
def test_wrong_weights_are_one_line(tiny, tmp_path, capsys):
    train(compose_run(tiny))
    name = run_path(compose_run(tiny)).name
    for word, says in {
        f"init_from={name[:-1]}x": f"no finished run in .*; did you mean '{name}'",
        f"init_from={tmp_path}/gone.pt": "gone.pt: cannot read: No such file or directory",
    }.items():
        with pytest.raises(StorageError, match=f"{says}.*; give init_from=RUN_ID of a finished run, or a file"):
            compose_run([*tiny, word])
    with pytest.raises(ConfigError, match="init_sha256=ab: is found by itself"):
        compose_run([*tiny, "init_sha256=ab"])
    file = tmp_path / "w.pt"
    torch.save({"other": torch.zeros(3)}, file)
    words = [*tiny, f"init_from={file}", "seed=2"]
    with pytest.raises(StorageError, match="none of its 1 tensors fits model=resnet19_mini; use its model"):
        train(compose_run(words))
    first = compose_run(words)
    torch.save({"stem.conv.weight": torch.zeros(4, 1, 3, 3)}, file)
    with pytest.raises(StorageError, match="other weights than this run is named after"):
        train(first)
    assert main(["train", *words]) == 0, "another run"
    assert "1 of " in capsys.readouterr().out


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_rate_per_step_is_that_of_finer_epochs(schedule):
    words = ["optimizer.warmup_epochs=2", "optimizer.lr=0.4", f"optimizer.schedule={schedule}", "epochs=10"]
    run = compose_run([*words, "optimizer.schedule_per=step", "optimizer.min_lr=0.1"])
    rates = [learning_rate(epoch, batch, 5, 10, run.optimizer) for epoch in range(10) for batch in range(5)]
    assert rates[:10] == pytest.approx([0.04 * step for step in range(1, 11)])
    angles = [math.pi * (step - 10) / 40 for step in range(10, 50)]
    decayed = [0.1 + 0.3 * (1 + math.cos(angle)) / 2 for angle in angles]
    assert rates[10:] == pytest.approx(decayed if schedule == "cosine" else [0.4] * 40)
    per_epoch = compose_run(words).optimizer
    assert len({learning_rate(3, batch, 5, 10, per_epoch) for batch in range(5)}) == 1


def test_the_trainer_sets_the_rate_of_every_step_also_after_a_resume(tiny, tmp_path, monkeypatch):
    words = [*tiny, "optimizer.schedule_per=step", "epochs=2"]
    whole = compose_run([*words, f"runtime.output_dir={tmp_path}/undisturbed"])
    trainer, seen = Trainer(whole, run_path(whole)), []
    step = trainer.optimizer.step
    monkeypatch.setattr(
        trainer.optimizer, "step", lambda: (seen.append(trainer.optimizer.param_groups[0]["lr"]), step())
    )
    trainer.fit()
    count = len(trainer.order)
    assert seen == [learning_rate(e, b, count, 2, whole.optimizer) for e in range(2) for b in range(count)]
    assert len(set(seen)) == 2 * count
    assert interrupted_and_resumed(words, 3, monkeypatch) == run_digest(run_path(whole))


def test_a_floor_above_the_rate_is_refused():
    with pytest.raises(
        ConfigError, match=r"optimizer\.min_lr=1\.0: must be a finite number at least 0 and at most 0\.5"
    ):
        compose_run(["optimizer.lr=0.5", "optimizer.min_lr=1"])
