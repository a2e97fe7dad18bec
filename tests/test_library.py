"""The package as a library: the layer's defaults are the configuration's, and the page's examples run."""

import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, env
from torch import nn

import snnrepro
from snnrepro import LIF, MPInit, TrSG, one_update, spiking_layers
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError
from snnrepro.neurons import functional
from snnrepro.neurons.mp_init import running_mean

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.S)


def test_the_page_runs(capsys):
    assert len(BLOCKS) == 3
    names = {}
    for block in BLOCKS:
        exec(block, names)
    assert names["loss"] < 0.5
    printed = capsys.readouterr().out
    assert re.search(r"sn1: V_thr \d\.\d{3}, tau \d\.\d{3}, starts at -?\d", printed) and "sn2" in printed
    assert len(list(spiking_layers(names["network"]))) == 2
    # Control: a state without the running means would start elsewhere.
    poor = {name: value for name, value in names["network"].state_dict().items() if "u_init" not in name}
    other = names["Network"]()
    other.load_state_dict(poor, strict=False)
    images = names["images"]
    assert not torch.equal(other.eval()(images), names["network"].eval()(images))


@pytest.mark.parametrize(("kind", "option"), [(LIF, "lif"), (TrSG, "trsg")])
def test_the_defaults_are_those_of_the_configuration(kind, option):
    run = compose_run([f"neuron={option}", "runtime.backend=reference"])
    configured, plain = run.neuron.factory(run)(), kind()
    names = ("family", "surrogate", "gamma", "reset", "detach_reset", "mp_init", "beta", "threshold_map", "input_scale")
    assert [getattr(plain, name) for name in names] == [getattr(configured, name) for name in names]
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in configured.named_parameters()]
    x = torch.randn(3, 5, 7).double()
    for layer in (plain, configured):
        layer.double()
    assert torch.equal(plain(x), configured(x)) and torch.equal(plain.u_init, configured.u_init)
    assert (plain.u_init != 0) == (option == "trsg")


@pytest.mark.parametrize(
    ("compiler", "steps", "expected"), [(True, 4, "compiled"), (False, 4, "reference"), (True, 33, "reference")]
)
def test_the_backend_fits_the_machine_and_the_window(compiler, steps, expected, monkeypatch):
    monkeypatch.setattr(functional, "_has_compiler", lambda: compiler)
    assert functional._fitting(torch.ones(steps, 2), steps) == expected
    assert LIF()(torch.ones(steps, 2)).shape == (steps, 2)
    assert functional._fitting(torch.ones(4, 2, device="meta"), 4) == ("compiled" if compiler else "reference")


def test_mp_init_moves_as_that_of_the_layer():
    layer, alone = TrSG(backend="reference", beta=0.3), MPInit(beta=0.3)
    for seed in range(3):
        x = 2 * torch.randn(4, 50, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(alone.start(), layer.u_init)
        result = layer.window(x)
        u = torch.full((50,), 1.0)
        u[: int(result.active_count)] = result.u_sum / result.active_count
        alone.update(u, torch.arange(50) < result.active_count)
        layer(x)
        assert alone.u_init.item() == pytest.approx(layer.u_init.item(), rel=1e-5)
    before = alone.u_init.clone()
    with torch.no_grad():
        alone.update(torch.ones(5), torch.ones(5, dtype=torch.bool))
    alone.eval().update(torch.ones(5), torch.ones(5, dtype=torch.bool))
    alone.train().update(torch.ones(5), torch.zeros(5, dtype=torch.bool))
    assert torch.equal(alone.u_init, before)


def test_parts_of_a_step_move_it_once():
    init, parts = MPInit(), [torch.full((4,), 2.0), torch.full((12,), 4.0)]
    with one_update():
        for u in parts:
            assert init.start() == 0
            init.update(u, u > 0)
    expected = running_mean(torch.zeros(()), torch.tensor(56.0), torch.tensor(16.0), 0.1)
    assert init.u_init == expected == pytest.approx(0.35)


def test_the_start_of_a_window_keeps_its_value_for_the_backward():
    init = MPInit()
    weight = torch.ones((), requires_grad=True)
    u = init.start() * weight
    init.update(torch.full((3,), 5.0), torch.ones(3, dtype=torch.bool))
    u.backward()
    assert weight.grad == 0 and init.u_init != 0


def test_impossible_values_are_named():
    with pytest.raises(ConfigError, match="beta=0: must be a finite number above 0"):
        MPInit(beta=0)
    with pytest.raises(ConfigError, match=r"beta=1\.5: must be a finite number above 0 and at most 1"):
        MPInit(beta=1.5)
    assert MPInit(beta=1).beta == 1
    with pytest.raises(ValueError, match="surrogate='square' is not one of rectangular"):
        LIF(surrogate="square")(torch.ones(2, 3))
    with pytest.raises(TypeError, match="v_treshold"):
        TrSG(v_treshold=1.0)
    with pytest.raises(AttributeError, match="no attribute 'LiF'"):
        _ = snnrepro.LiF


def test_the_package_itself_does_not_wait_for_torch():
    code = "import sys, snnrepro; assert 'torch' not in sys.modules; snnrepro.LIF; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=env(), check=True)


def test_a_layer_in_a_sequential_is_found_and_described():
    model = nn.Sequential(nn.Linear(3, 4), TrSG(), nn.Linear(4, 2), LIF())
    assert [name for name, _ in spiking_layers(model)] == ["1", "3"]
    assert "family=trsg" in repr(model) and "family=as_sg" in repr(model)
