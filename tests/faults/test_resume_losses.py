"""Runs with every loss resume exactly: what depends on the epoch comes from the epoch, not from the process."""

import pytest
from faults.digest import run_digest
from faults.test_resume import interrupted_and_resumed

from snnrepro.compose import compose_run
from snnrepro.runs import read_record, run_path
from snnrepro.tasks.penalties import MembraneDistance
from snnrepro.train.loop import Trainer

SPARSE = ["loss.sparsity.weight=0.1", "loss.sparsity.kind=target", "loss.sparsity.target=0.1"]


def undisturbed(words, tmp_path):
    run = compose_run([*words, f"runtime.output_dir={tmp_path}/undisturbed"])
    Trainer(run, run_path(run)).fit()
    record = read_record(run_path(run))
    assert record["status"] == "done" and record["final"]["epoch"] == 2
    return run_digest(run_path(run))


@pytest.mark.parametrize("neuron", ["lif", "trsg"])
@pytest.mark.parametrize("loss", ["ce", "tet", "lts", "rmp", "mps"])
def test_every_loss_trains_and_resumes_exactly(loss, neuron, tiny, tmp_path, monkeypatch):
    words = [*tiny, f"loss={loss}", f"neuron={neuron}", *SPARSE]
    assert interrupted_and_resumed(words, 7, monkeypatch) == undisturbed(words, tmp_path)


def test_control_a_schedule_that_the_process_remembers_shows(tiny, tmp_path, monkeypatch):
    calls = iter(range(10**6))
    monkeypatch.setattr(MembraneDistance, "cost", lambda self, value, progress: self.weight * next(calls) / 20 * value)
    words = [*tiny, "loss=rmp"]
    assert interrupted_and_resumed(words, 7, monkeypatch) != undisturbed(words, tmp_path)


def test_control_forgotten_totals_show(tiny, tmp_path, monkeypatch):
    words = [*tiny, *SPARSE]
    calm = undisturbed(words, tmp_path)
    original = Trainer.resume

    def forgetful(self):
        original(self)
        self.totals.pop("firing_rate", None)

    monkeypatch.setattr(Trainer, "resume", forgetful)
    assert interrupted_and_resumed(words, 7, monkeypatch) != calm
