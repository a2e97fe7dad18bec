"""A run on two ranks is the run of one process: losses, running means, evaluation, records; parts of a batch too."""

import json

import pytest
import torch
from conftest import TINY
from on_ranks import on_ranks

from snnrepro.build import build_dataset, build_model, build_task
from snnrepro.compose import compose_run
from snnrepro.data.loading import loader
from snnrepro.data.order import EpochOrder
from snnrepro.errors import ConfigError
from snnrepro.runs import run_path
from snnrepro.train.evaluation import evaluate
from snnrepro.train.loop import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.dist]
STEPS = 20


def steps_of(words, wide=False):
    """The losses of the first steps, and the state after them; ``wide``: computed in float64."""
    run = compose_run(words)
    torch.set_default_dtype(torch.float64 if wide else torch.float32)
    trainer = Trainer(run, run_path(run))
    torch.set_default_dtype(torch.float32)
    if wide:
        trainer.data.train.normalise = widened(trainer.data.train.normalise)
    trainer.model.train()
    losses, batches = [], iter(())
    while len(losses) < STEPS:
        batch = next(batches, None)
        if batch is None:
            trainer.order.epoch, trainer.batch = len(losses), 0
            batches = iter(loader(trainer.data.train, trainer.order, workers=0, pin_memory=False))
            batch = next(batches)
        measured = trainer.train_step(batch)
        trainer.batch += 1
        losses.append(list(measured.values()))
    return {"losses": losses, "state": dict(trainer.model.state_dict())}


def widened(normalise):
    return lambda images: normalise(images).double()


def of_rank(rank, ranks, words, wide):
    return steps_of(words, wide)


CASES = {
    "plain": [],
    "uneven last batch": ["batch_size=23"],
    "penalties": ["loss=rmp", "loss.sparsity.weight=3", "loss.sparsity.kind=target", "loss.sparsity.target=0.3"],
    "tab and clipping": ["norm=tab", "loss=tet", "optimizer.clip_grad=0.5"],
}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one_process(tmp_path, case):
    words = [*TINY, f"runtime.output_dir={tmp_path}", "model.dropout=0", *CASES[case]]
    alone = steps_of(words, wide=True)
    first, second = on_ranks(tmp_path, of_rank, words, True)
    torch.testing.assert_close(torch.tensor(first["losses"]), torch.tensor(alone["losses"]), rtol=0, atol=1e-6)
    assert first["losses"] == second["losses"]
    for name, value in alone["state"].items():
        assert torch.equal(first["state"][name], second["state"][name]), name
        torch.testing.assert_close(first["state"][name], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    moved = [name for name in alone["state"] if name.endswith("u_init")]
    assert moved and all(alone["state"][name] != 0 for name in moved)


@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_in_single_precision_until_a_rounding_flips_a_spike(tmp_path, backend):
    words = [*TINY, f"runtime.output_dir={tmp_path}", "model.dropout=0", f"runtime.backend={backend}"]
    alone = torch.tensor(steps_of(words)["losses"])
    first, second = (torch.tensor(found["losses"]) for found in on_ranks(tmp_path, of_rank, words, False))
    assert torch.equal(first, second)
    torch.testing.assert_close(first[:4], alone[:4], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(first[:, 0], alone[:, 0], rtol=0, atol=0.05)


def test_control_other_batches_give_other_losses(tmp_path):
    words = [*TINY, f"runtime.output_dir={tmp_path}", "model.dropout=0"]
    alone, other = steps_of(words)["losses"], steps_of([*words, "batch_size=30"])["losses"]
    assert max(abs(a[0] - b[0]) for a, b in zip(alone, other, strict=True)) > 1e-3


def test_parts_of_a_batch_add_up(tmp_path):
    """Without a norm over the batch there would be no difference at all; in evaluation mode there is none."""
    words = [*TINY, f"runtime.output_dir={tmp_path}", "model.dropout=0"]

    def step(parts):
        run = compose_run([*words, f"micro_batches={parts}"])
        trainer = Trainer(run, run_path(run))
        trainer.model.eval()
        for _, module in trainer.model.named_modules():
            if hasattr(module, "u_init"):
                module.train()
        batches = loader(trainer.data.train, trainer.order, workers=0, pin_memory=False)
        numbers = trainer.train_step(next(iter(batches)))
        return numbers, trainer.model.state_dict()

    (whole, state), (parts, state_of_parts) = step(1), step(3)
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-6) and parts["correct"] == whole["correct"]
    for name, value in state.items():
        torch.testing.assert_close(state_of_parts[name], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def eleven(rank, ranks, words):
    run = compose_run(words)
    data, task = build_dataset(run), build_task(run)
    model = build_model(run, in_shape=data.in_shape, num_classes=data.num_classes)
    test = data.test
    test.images, test.labels = test.images[:11], test.labels[:11]
    return evaluate(model, test, task, timesteps=4, device=torch.device("cpu"), runtime=run.runtime)


@pytest.mark.parametrize("batch", [1, 4, 256])
def test_evaluation_counts_every_sample_once(tmp_path, batch):
    torch.manual_seed(0)
    words = [*TINY, f"runtime.eval_batch_size={batch}"]
    ranks = on_ranks(tmp_path, seeded_eleven, words, ranks=3)
    alone = seeded_eleven(0, 1, words)
    for found in ranks:
        assert found["top1_per_timestep"] == alone["top1_per_timestep"] and found["top5"] == alone["top5"]
        assert found["firing_rate"] == alone["firing_rate"]
        assert found["loss"] == pytest.approx(alone["loss"], rel=1e-6)
    # Percent of 11, not of the 12 that padding would make of them.
    assert (alone["top5"] * 11 / 100) == pytest.approx(round(alone["top5"] * 11 / 100), abs=1e-6)


def seeded_eleven(rank, ranks, words):
    torch.manual_seed(0)
    return eleven(rank, ranks, words)


def test_ranks_share_every_batch_between_them():
    size, batch_size = 47, 10
    whole = [batch for batch in EpochOrder(size, seed=3, batch_size=batch_size)]
    for ranks in (2, 3, 7):
        shares = [list(EpochOrder(size, seed=3, batch_size=batch_size, rank=r, ranks=ranks)) for r in range(ranks)]
        assert [sum(parts, []) for parts in zip(*shares, strict=True)] == whole
        assert all(abs(len(a) - len(b)) <= 1 for parts in zip(*shares, strict=True) for a in parts for b in parts)


def test_too_small_a_batch_is_refused(tiny):
    run = compose_run([*tiny, "batch_size=53", "micro_batches=2"])  # 160 = 3 * 53 + 1
    with pytest.raises(ConfigError, match="last batch has 1 samples, too few for 1 processes with micro_batches=2"):
        Trainer(run, run_path(run))


@pytest.mark.parametrize("starter", ["runtime.processes", "torchrun"])
def test_a_run_on_two_processes_leaves_one_record(tmp_path, cli, starter):
    words = [*TINY, "model.dropout=0"]
    alone = cli("train", *words)
    assert alone.returncode == 0, alone.stderr
    record = next(tmp_path.glob("outputs/runs/*/record.json"))
    expected = json.loads(record.read_text())
    for file in record.parent.glob("**/*"):
        if file.is_file():
            file.unlink()
    if starter == "torchrun":
        found = cli("train", *words, through=["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"])
    else:
        found = cli("train", *words, "runtime.processes=2")
    assert found.returncode == 0, found.stderr
    (again,) = tmp_path.glob("outputs/runs/*/record.json")
    got = json.loads(again.read_text())
    assert got["provenance"]["processes"] == 2 and expected["provenance"]["processes"] == 1
    assert got["id"] == expected["id"]
    assert got["final"]["top1_per_timestep"] == pytest.approx(expected["final"]["top1_per_timestep"], abs=5.1)
    assert got["final"]["loss"] == pytest.approx(expected["final"]["loss"], rel=1e-3)
    assert len((again.parent / "metrics.jsonl").read_text().splitlines()) == 2
    assert found.stdout.count("done: ") == 1 and "2 processes" in found.stdout
    # The same command again reads the record.
    third = cli("train", *words, "runtime.processes=2")
    assert third.returncode == 0 and "finished before" in third.stdout
