"""Checkpoints: complete or absent, damage is found, nothing in them is executed."""

import os
import re

import pytest
import torch

from snnrepro import io
from snnrepro.errors import DivergedError, StorageError
from snnrepro.train.checkpoint import Checkpoints, load_file


def state(step: int, value: float = 0.0) -> dict:
    return {"run": "x", "step": step, "model": {"w": torch.full((100,), value)}}


def sidecar(file, **changes) -> dict:
    data = file.read_bytes()
    return {"format": 1, "sha256": io.sha256(data), "bytes": len(data), "step": int(file.stem), "run": "x", **changes}


@pytest.fixture
def saved(tmp_path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "x" / "checkpoints")
    for step in (1, 2):
        checkpoints.save(step, state(step), [])
    return checkpoints


def damage_half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = [damage_half, damage_bit, lambda file: file.write_bytes(b""), lambda file: file.write_text("hello")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_falls_back_and_says_why(saved, damage, capsys):
    damage(saved.file(2))
    assert saved.newest()["step"] == 1
    assert re.search(r"00000002.pt: (damaged|empty)", capsys.readouterr().out)


def test_no_valid_checkpoint_is_an_error_not_a_restart(saved):
    for step in (1, 2):
        damage_bit(saved.file(step))
    with pytest.raises(StorageError, match="no valid checkpoint"):
        saved.newest()


def test_a_flipped_bit_would_load_without_the_digest(saved):
    file = saved.file(2)
    data = bytearray(file.read_bytes())
    where = data.find(torch.zeros(100).numpy().tobytes())
    data[where + 2] ^= 64
    file.write_bytes(data)
    assert (torch.load(file, weights_only=True)["model"]["w"] != 0).any()
    with pytest.raises(StorageError, match="damaged"):
        load_file(file)


def test_newest_two_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in range(1, 7):
        checkpoints.save(step, state(step), keep=[2])
    assert checkpoints.steps() == [2, 5, 6]
    assert {p.suffix for p in tmp_path.iterdir()} == {".pt", ".json"}


def test_nothing_saved_is_none(tmp_path):
    assert Checkpoints(tmp_path / "none").newest() is None


class Crash(BaseException):
    """Ends the process at one point, in the test's imagination."""


@pytest.mark.parametrize("fault", [Crash, OSError(28, "No space left on device")])
def test_every_crash_point_leaves_a_resumable_run(tmp_path, monkeypatch, fault):
    """The n-th call that touches the disk fails, for every n until the save completes."""
    real = {name: getattr(os, name) for name in ("fsync", "replace", "open")}
    completed = False
    point = 0
    while not completed:
        point += 1
        folder = tmp_path / str(point) / "x" / "checkpoints"
        checkpoints = Checkpoints(folder)
        checkpoints.save(1, state(1), [])
        calls = iter(range(1, 1000))

        def failing(name):
            def call(*args, **kwargs):
                if next(calls) == point:  # noqa: B023
                    raise fault
                return real[name](*args, **kwargs)

            return call

        for name in real:
            monkeypatch.setattr(os, name, failing(name))
        try:
            checkpoints.save(2, state(2), [])
            completed = True
        except (Crash, StorageError):
            pass
        for name, function in real.items():
            monkeypatch.setattr(os, name, function)
        newest = Checkpoints(folder).newest()
        assert newest is not None and newest["step"] in (1, 2)
        assert not list(folder.glob("*.tmp.*"))
    assert point > 8, "the save touches the disk more often than that"


def test_non_finite_weights_are_never_written(saved):
    bad = state(3)
    bad["model"]["w"][7] = float("nan")
    with pytest.raises(DivergedError, match="w is not finite"):
        saved.save(3, bad, [])
    assert saved.steps() == [1, 2]


class Payload:
    """Runs code when unpickled without protection."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_malicious_checkpoint_is_refused_and_not_executed(tmp_path):
    file, marker = tmp_path / "00000001.pt", tmp_path / "executed"
    torch.save({"x": Payload(marker)}, file)
    io.write_json(file.with_suffix(".json"), sidecar(file))
    with pytest.raises(StorageError, match="refused"):
        load_file(file)
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists(), "control: without weights_only the payload runs"


def test_digest_check_is_what_finds_the_damage(saved):
    damage_half(saved.file(2))
    io.write_json(saved.file(2).with_suffix(".json"), sidecar(saved.file(2)))
    with pytest.raises(StorageError, match="refused"):
        load_file(saved.file(2))
