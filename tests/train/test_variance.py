"""One sample at one pixel: refused before training where a norm would take its variance, by measurement."""

import pytest
import torch

from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError
from snnrepro.runs import run_path
from snnrepro.train.loop import Trainer
from snnrepro.train.variance import values_per_sample

# 160 training images of 8 x 8 pixels, of which the last stage leaves 1 x 1.
NET = ["dataset=synthetic", "model=resnet34_mini", "model.widths=[4,4,4,4]", "model.blocks=[1,1,1,1]", "epochs=1",
       "timesteps=1", "runtime.threads=1"]  # fmt: skip
NORMS = {
    "tdbn": ([], {1: 1, 2: 2}),
    "tebn": (["norm=tebn"], {1: 1, 2: 2}),
    "bntt": (["norm=bntt", "neuron=lif"], {1: 1, 2: 1}),
    "tab": (["norm=tab"], {1: 1, 2: 1}),
    "mpbn": (["norm=mpbn"], {1: 1, 2: 1}),
}


def trainer(tmp_path, *words):
    run = compose_run([*NET, f"runtime.output_dir={tmp_path}", *words])
    return Trainer(run, run_path(run))


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("norm", NORMS)
def test_how_many_values_a_sample_gives(tmp_path, norm, backend):
    words, expected = NORMS[norm]
    if norm == "mpbn" and backend == "auto":
        pytest.skip("the membrane's norm has no kernel")
    for steps, values in expected.items():
        t = trainer(tmp_path, *words, f"timesteps={steps}", f"runtime.backend={backend}")
        before = {name: tensor.clone() for name, tensor in t.model.state_dict().items()}
        state = torch.get_rng_state()
        assert values_per_sample(t.model, t.data, steps) == values
        assert all(torch.equal(before[name], tensor) for name, tensor in t.model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("norm", NORMS)
def test_a_lone_sample_is_refused_where_a_norm_cannot_take_it(tmp_path, norm):
    words, expected = NORMS[norm]
    for steps, values in expected.items():
        words = [*words, f"timesteps={steps}", "batch_size=159", "runtime.backend=reference"]
        if values > 1:
            trainer(tmp_path, *words)
            continue
        with pytest.raises(ConfigError, match="batch_size=159: the last batch has 1 sample, and a batch norm cannot"):
            trainer(tmp_path, *words)


CASES = [(159, 1, "1 sample, "), (1, 1, "1 sample, "), (53, 1, "1 sample, "), (157, 2, "3 samples for micro_batches=2"),
         (157, 3, "3 samples for micro_batches=3")]  # fmt: skip


@pytest.mark.parametrize("batch_size, parts, says", CASES)
def test_the_advice_works(tmp_path, capsys, batch_size, parts, says):
    words = [*NET, f"runtime.output_dir={tmp_path}", "runtime.backend=reference", f"micro_batches={parts}"]
    assert main(["train", *words, f"batch_size={batch_size}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"batch_size={batch_size}: the last batch has {says}" in err
    assert not list(tmp_path.rglob("record.json"))
    advice = err.split("; ")[-1].split()[0]
    trainer(tmp_path, f"micro_batches={parts}", "runtime.backend=reference", advice)


def test_the_advised_batch_size_trains(tmp_path, capsys):
    words = [*NET, f"runtime.output_dir={tmp_path}", "runtime.backend=reference"]
    assert main(["train", *words, "batch_size=159"]) == 2
    advice = capsys.readouterr().err.split("; ")[-1].split()[0]
    assert advice == "batch_size=158" or advice == "batch_size=160"
    assert main(["train", *words, advice]) == 0


def test_a_lone_sample_of_several_pixels_is_trained_on(tmp_path, tiny):
    assert main(["train", *tiny, "timesteps=1", "batch_size=159", "epochs=1"]) == 0


def test_a_norm_that_is_made_by_a_black_image_learns_nothing_from_it(tmp_path):
    for name, buffer in trainer(tmp_path, "norm=mpbn", "runtime.backend=reference").model.named_buffers():
        if "membrane_norm" in name:
            assert not name.endswith("running_var") or (buffer == 1).all()
            assert not name.endswith("running_mean") or (buffer == 0).all()
