"""The recorder, the gradients and the energy of networks, against plain computations."""

import numpy as np
import pytest
import torch
from lif_options import make_lif
from torch import nn

from snnrepro.analysis import recorder
from snnrepro.analysis.energy import RULE, count_operations
from snnrepro.analysis.gradients import gradient_statistics, step_cosines, step_gradients
from snnrepro.analysis.recorder import Recorder
from snnrepro.analysis.statistics import gradient_strength, gradient_variation
from snnrepro.build import build_model
from snnrepro.compose import compose_run
from snnrepro.deploy import absorb
from snnrepro.models.stem import Stem
from snnrepro.neurons import spiking_layers
from snnrepro.norms import TdBN
from snnrepro.tasks.losses import mean_logit_cross_entropy

WORDS = ["model.stem_width=4", "model.widths=[4,4,8]", "model.blocks=[1,1,1]"]


def network(*words):
    torch.manual_seed(0)
    run = compose_run([*WORDS, "runtime.backend=reference", *words])
    model = build_model(run, in_shape=(1, 8, 8), num_classes=10)
    for _ in range(3):
        model(torch.randn(16, 1, 8, 8), 4)
    return model.eval()


def test_record_of_one_layer_by_hand():
    """Two neurons over three steps, V = 1, tau = 2, soft reset: one fires at t = 2, the other never."""
    layer = make_lif(mp_init=False).eval()
    current = torch.tensor([[1.6, 0.2], [1.6, 0.4], [0.0, 0.6]])[:, None]
    with torch.no_grad(), Recorder(layer, 3) as recorder:
        layer(current)
    found = recorder.results()[""]
    assert found["firing_rate"] == [0.0, 0.5, 0.0] and found["active_share"] == 0.5
    # M of the active neuron: 0.8, 1.2, 0.1; U: 0.8, 0.2, 0.1. Inputs of both.
    assert found["potential"]["mean"] == pytest.approx([0.8, 1.2, 0.1])
    assert found["membrane"]["mean"] == pytest.approx([0.8, 0.2, 0.1])
    assert found["input"]["mean"] == pytest.approx([0.9, 1.0, 0.3])
    assert found["input"]["std"] == pytest.approx([0.7, 0.6, 0.3])
    assert found["within_1V"] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("backend", ["reference", "compiled"])
@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_batches_add_up_and_the_network_is_undisturbed(backend, reset):
    model = network(f"neuron.reset={reset}", f"runtime.backend={backend}")
    batches = torch.randn(3, 12, 1, 8, 8)
    plain = [model(x, 4).detach() for x in batches]
    with torch.no_grad(), Recorder(model, 4) as recorder:
        recorded = [model(x, 4) for x in batches]
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))
    spikes = {}
    for name, layer in spiking_layers(model):
        layer.register_forward_hook(lambda _l, _i, o, n=name: spikes.setdefault(n, []).append((o > 0).float()))
    with torch.no_grad():
        for x in batches:
            model(x, 4)
    for name, found in recorder.results().items():
        together = torch.cat([s.flatten(1) for s in spikes[name]], 1)
        assert found["firing_rate"] == pytest.approx(together.mean(1).tolist(), rel=1e-5)
        assert found["active_share"] == pytest.approx(together.any(0).float().mean().item(), rel=1e-5)
        assert all(0 <= tv <= 1 for tv in found["input"]["tv"])
        if reset == "soft":
            assert np.diff([found["within_1V"], found["within_2V"]], axis=0).min() >= 0


def test_memory_does_not_grow_with_batches():
    model = network()
    with torch.no_grad(), Recorder(model, 4) as recorder:
        model(torch.randn(8, 1, 8, 8), 4)
        sizes = [sum(c.numel() for c in layer.counts.values()) for layer in recorder.layers.values()]
        for _ in range(5):
            model(torch.randn(8, 1, 8, 8), 4)
    assert sizes == [sum(c.numel() for c in layer.counts.values()) for layer in recorder.layers.values()]


@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_windows_of_few_samples_make_the_same_record(backend, monkeypatch):
    model = network(f"runtime.backend={backend}")
    x = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found, parts = [], []
    for values in (recorder.VALUES_AT_A_TIME, 5 * 4 * 4 * 64):
        monkeypatch.setattr(recorder, "VALUES_AT_A_TIME", values)
        with torch.no_grad(), Recorder(model, 4) as watched:
            model(x, 4)
        found.append(watched.results())
        parts.append(len(list(recorder.windows(model.sn1, torch.zeros(1, 12, 4, 8, 8), 4))))
    assert parts == [1, 3]
    assert "potential" in found[0]["sn1"]
    for name, whole in found[0].items():
        assert whole.keys() == found[1][name].keys()
        for quantity in whole.keys() & set(recorder.QUANTITIES):
            assert found[1][name][quantity]["edges"] == whole[quantity]["edges"]
            # Potentials of a fused layer are rounded anew, and one may end up in the bin beside its own.
            assert np.abs(np.subtract(found[1][name][quantity]["counts"], whole[quantity]["counts"])).sum() <= 2
            assert found[1][name][quantity]["mean"] == pytest.approx(whole[quantity]["mean"], rel=1e-5, abs=1e-6)
        assert found[1][name]["firing_rate"] == whole["firing_rate"] and found[1][name]["active"] == whole["active"]


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 1, 8, 8, generator=generator), torch.randint(0, 10, (16,), generator=generator)


def test_gradient_statistics_are_those_of_autograd_and_leave_no_trace():
    model = network("neuron.learn_threshold=false")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = gradient_statistics(model, [batch(0), batch(1)], mean_logit_cross_entropy, 4)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training and all(p.grad is None for p in model.parameters())
    model.train()
    expected = []
    for x, y in (batch(0), batch(1)):
        model.load_state_dict(before)
        model.zero_grad()
        mean_logit_cross_entropy(model(x, 4), y).backward()
        expected.append(model.layer2[0].conv1.weight.grad.clone())
    name = "layer2.0.conv1"
    assert found["abs_str"][name] == pytest.approx(np.mean([gradient_strength(g) for g in expected]), rel=0.05)
    assert found["grad_cv"][name] == pytest.approx(np.mean([gradient_variation(g) for g in expected]), rel=0.05)


def test_at_a_threshold_of_one_the_families_have_one_gradient():
    results = [
        gradient_statistics(network(f"neuron.family={f}", "neuron.learn_threshold=false", "neuron.learn_tau=false"),
                            [batch()], mean_logit_cross_entropy, 4)
        for f in ("as_sg", "rs_sg", "trsg")
    ]  # fmt: skip
    for kind in ("abs_str", "grad_cv", "ratio_ag"):
        for name, value in results[0][kind].items():
            assert results[1][kind][name] == pytest.approx(value, rel=1e-4)
            assert results[2][kind][name] == pytest.approx(value, rel=1e-4)


def test_ratio_of_active_gradients_by_hand():
    """A window of one step: x is M/V - 1 for trsg, M - V for as_sg, and counts where |x| < gamma / 2."""
    current = torch.tensor([0.2, 0.7, 1.0, 1.4, 1.6, 2.6])[None, :, None, None]  # M = current / 2

    class Net(nn.Module):
        def __init__(self, family):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1, bias=False)
            self.conv.weight.data.fill_(1.0)
            self.lif = make_lif(family=family, v_threshold=0.5, mp_init=False)

        def forward(self, x, timesteps):
            return self.lif(self.conv(x.flatten(0, 1).unsqueeze(1)).unflatten(0, (1, 6)).flatten(2), timesteps)

    def ratio(family):
        labels = torch.zeros(6, dtype=torch.long)
        found = gradient_statistics(Net(family), [(current, labels)], lambda z, y: z.square().sum(), 1)
        return found["ratio_ag"]["lif"]

    # M: .1 .35 .5 .7 .8 1.3; trsg |M/.5 - 1| < .5: .35 .5 .7; as_sg |M - .5| < .5: .1 .35 .5 .7 .8
    assert ratio("trsg") == pytest.approx(50.0) and ratio("as_sg") == pytest.approx(100 * 5 / 6)


def test_parts_of_the_steps_add_up_to_the_gradient():
    model = network().train()
    conv = model.layer2[0].conv2
    x, y = batch()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parts = step_gradients(model, conv, x, y, mean_logit_cross_entropy, 4)
    model.load_state_dict(state)
    mean_logit_cross_entropy(model(x, 4), y).backward()
    torch.testing.assert_close(parts.sum(0), conv.weight.grad, rtol=1e-4, atol=1e-6)
    assert (parts[0] - parts[1]).abs().max() > 1e-6
    cosines = step_cosines(model, "layer2.0.conv2", [(x, y)], mean_logit_cross_entropy, 4)
    torch.testing.assert_close(cosines.diagonal(), torch.ones(4, dtype=torch.float64))
    assert "forward" not in conv.__dict__, "the convolution is as it was"


def test_energy_of_a_network_small_enough_to_count():
    """conv (3x3, 1 to 2) on a 4x4 image, LIF, linear 32 to 3, T = 2."""

    class Net(nn.Module):
        timesteps = 2

        def __init__(self):
            super().__init__()
            self.stem = Stem(nn.Conv2d(1, 2, 3, padding=1, bias=False), TdBN(2, eps=1e-5, momentum=0.1, scale=1.0))
            self.sn = make_lif(mp_init=False)
            self.fc = nn.Linear(32, 3)

        def forward(self, x, timesteps=None):
            y, timesteps = self.stem(x, 2 if timesteps is None else timesteps)
            return self.fc(self.sn(y, timesteps).flatten(2))

    torch.manual_seed(0)
    model = Net().eval()
    model.stem.conv.weight.data.abs_().mul_(3)
    network, x = absorb(model), torch.rand(5, 1, 4, 4) + 0.1
    total, layers = count_operations(network, [x], 2)
    with torch.no_grad():
        spikes = (model.sn(*model.stem(x, 2)) > 0).float()
    assert 0 < spikes.mean() < 1
    # The image is convolved once: 4 * 4 positions, 2 filters of 9; borders count as torch counts them.
    assert total.macs == 4 * 4 * 2 * 9
    additions = 2 * 32 * 3 * spikes.mean().item() + 2 * 32
    assert total.acs == pytest.approx(additions, rel=1e-6)
    assert total.millijoule == pytest.approx(1e-9 * (0.9 * additions + 4.6 * 288), rel=1e-6)
    # Control: the trained network emits V * S; counted as zeros and ones it would cost V times as much.
    assert model.sn.v_threshold.item() == pytest.approx(1.0)
    assert {entry["kind"] for entry in layers.values()} == {"MAC", "AC", "neuron"}


def _shown(images: torch.Tensor, **options) -> tuple:
    """Returns the counts of one mini network for these inputs, whose layers fire whatever is shown."""
    torch.manual_seed(0)
    words = ["model=resnet19_mini", "neuron.v_threshold=0.15", "runtime.backend=reference", *options.get("words", ())]
    model = build_model(compose_run(words), in_shape=images.shape[-3:], num_classes=10).eval()
    return count_operations(absorb(model), [images], 4)


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_a_layer_fed_by_the_image_counts_multiply_adds_whatever_it_shows(scale, frames):
    # A black or constant image, and frames of zeros and ones, once counted as spikes.
    shape = (4, 3, 1, 8, 8) if frames else (3, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    expected, layers = _shown(torch.randn(shape, generator=generator))
    dense = [name for name, entry in layers.items() if entry["kind"] == "MAC"]
    assert dense == ["stem.conv"] and expected.macs > 0
    for image in (torch.full(shape, scale), scale * torch.randint(0, 2, shape, generator=generator)):
        total, layers = _shown(image)
        assert total.macs == expected.macs
        assert [name for name, entry in layers.items() if entry["kind"] == "MAC"] == dense


def test_silent_and_averaged_spikes_stay_additions():
    """A layer that never sees a spike costs nothing, and no multiply-adds."""
    total, layers = _shown(torch.zeros(2, 1, 8, 8), words=["neuron.v_threshold=50"])
    assert total.acs == sum(entry["operations"] for entry in layers.values() if entry["kind"] == "neuron")
    assert layers["head.fc"]["kind"] == "AC" and layers["head.fc"]["rate"] == 0
    assert "MAC" in RULE and "\n" not in RULE
