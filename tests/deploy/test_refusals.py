"""What cannot be made exact is refused, with the place where it stands."""

import pytest
import torch
from deploy.nets import Free, Skeleton, Unit
from lif_options import make_lif
from torch import nn
from torch.nn import functional as F

from snnrepro.deploy import absorb
from snnrepro.errors import AbsorptionError
from snnrepro.layers import per_step
from snnrepro.neurons import LIF


class OddConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).abs()


class Named(nn.Module):
    """Puts a function one level deeper, so that the message has a path to name."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class SmoothLIF(LIF):
    def forward(self, x, timesteps=None):
        return super().forward(x.sigmoid(), timesteps)


CASES = {
    "relu": (F.relu, "inner: relu of 'stem.sn' as steps has no absorption rule"),
    "product": (lambda x: x * x, "inner: mul of 'stem.sn'"),
    "attention": (lambda x: x @ x, "inner: matmul of 'stem.sn'"),
    "matmul": (lambda x: torch.matmul(x, x), "inner: matmul of 'stem.sn'"),
    "constant": (lambda x: x + 1, "inner: sum of 'stem.sn' as steps and int"),
    "in place": (lambda x: x.__iadd__(x), "inner: iadd of"),
    "cat": (lambda x: torch.cat([x, x], 2), "inner: cat of"),
    "branch": (lambda x: x if x.sum() else -x, "inner: sum of 'stem.sn' as steps has no absorption rule"),
    "truth": (lambda x: x if x else -x, "inner: bool of"),
    "step": (lambda x: x[0], "inner: indexing of"),
    "mean over batch": (lambda x: x.mean(1), "inner: mean over 1"),
    "flatten batch": (lambda x: x.flatten(1), "inner: flatten"),
    "size": (lambda x: x.expand(2, x.shape[1], x.shape[2] * 2), "inner: unsupported operand"),
    "constant instead": (lambda x: torch.ones(2, 3, 4, 8, 8), "fc: reads a Tensor that does not come from the input"),
    "relu module": (nn.ReLU(), "inner.function: relu of"),
    "changed conv": (OddConv(4, 4, 1), "inner.function: conv2d of"),
    "functional conv": (lambda x: F.conv2d(x.flatten(0, 1), torch.ones(4, 4, 1, 1)), "inner: conv2d of"),
    "batch norm": (nn.BatchNorm3d(4), "inner.function: BatchNorm3d has no eval_affine"),
    "conv on steps": (nn.Conv2d(4, 4, 1), "inner.function: reads 'stem.sn' as steps, which"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_with_the_place(case):
    function, message = CASES[case]
    model = Free(lambda model, x: model.inner(x), inner=Named(function))
    with pytest.raises(AbsorptionError, match=message) as caught:
        absorb(model)
    assert "\n" not in str(caught.value)


def test_other_padding_is_refused():
    model = Free(lambda model, x: per_step(model.conv, x), conv=nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(AbsorptionError, match="conv: padding_mode='reflect'"):
        absorb(model)


def test_a_changed_neuron_is_refused():
    model = Free(lambda model, x: model.sn(x), sn=make_lif(SmoothLIF))
    with pytest.raises(AbsorptionError, match="sn: sigmoid of"):
        absorb(model)


def test_no_spiking_layer_is_refused():
    class Plain(nn.Module):
        def forward(self, x, timesteps=None):
            return x[None].expand(2, *x.shape) if x.ndim == 4 else x

    with pytest.raises(AbsorptionError, match="no spiking layer"):
        absorb(Plain())


def test_an_image_that_goes_another_way_is_refused():
    class Fork(Skeleton):
        def __init__(self):
            super().__init__()
            self.one = Unit(4, 4)

        def forward(self, x, timesteps=None):
            self.static = x.ndim == 4
            return super().forward(x, timesteps)

        def body(self, x):
            return self.one(x) if self.static else x

    with pytest.raises(AbsorptionError, match="different ways"):
        absorb(Fork())


def test_numbers_that_leave_the_range_are_refused():
    model = Free(lambda model, x: x)
    with torch.no_grad():
        model.stem.conv.weight.fill_(1e30)
        model.stem.sn.v_threshold_raw.fill_(-40)
    with pytest.raises(AbsorptionError, match=r"stem.conv.weight: not finite in torch.float32"):
        absorb(model)
