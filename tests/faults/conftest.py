"""A finished and an unfinished run, made once, and a fresh copy of them for each test."""

import shutil
from pathlib import Path

import pytest
from conftest import TINY
from faults.test_resume import StopAfter

from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.errors import Stopped
from snnrepro.runs import run_path
from snnrepro.train import loop
from snnrepro.train.loop import Trainer

EPOCHS = 3
WORDS = [*TINY, f"epochs={EPOCHS}"]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with the finished run seed=0, absorbed, and seed=1, stopped in its last epoch."""
    output = tmp_path_factory.mktemp("made")
    place = f"runtime.output_dir={output}"
    assert main(["train", *WORDS, place]) == 0
    folder = run_path(compose_run([*WORDS, place]))
    assert main(["evaluate", f"run={folder.name}", "absorb=true", place]) == 0
    run = compose_run([*WORDS, place, "seed=1"])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop, "StopRequest", StopAfter)
        StopAfter.after, StopAfter.trainer = 5 * (EPOCHS - 1) + 2, Trainer(run, run_path(run))
        StopAfter.trainer.fit()
    return output


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    """A copy of the output folder."""
    return Path(shutil.copytree(made, tmp_path / "outputs"))
