"""The fused LIF layers as torch operators: opaque to ``torch.compile``, known to autograd, one per equation.

Four operators in two pairs, each a forward and its backward: ``lif`` and ``norm_lif``. ``backend`` names the
provider of the arithmetic (``compiled.py`` or ``triton_backend.py``); everything here is common to both.
Tensors are contiguous and in the layouts that ``functional.py`` makes. Autocast needs no rule: the input
comes in any floating dtype, membranes and sums are float32.
"""

from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import custom_op

from snnrepro.neurons.analytic import spikes_dtype
from snnrepro.neurons.dynamics import Dynamics


def provider(backend: str) -> ModuleType:
    """Returns the module that computes for ``backend``; imported on first use, Triton is heavy."""
    return import_module(
        {"compiled": "snnrepro.neurons.compiled", "triton": "snnrepro.neurons.triton_backend"}[backend]
    )


def is_plain(x: Tensor) -> bool:
    """Returns whether ``x`` is computed here and now, not traced: only tracing needs the operators."""
    return type(x) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_compiling()


@custom_op("snnrepro::snapshot", mutates_args=())
def snapshot(u_init: Tensor) -> Tensor:
    """Returns a copy of a buffer that moves before the backward reads it; no gradient.

    An operator, because a compiler drops a plain clone, or makes it again in the backward, from the moved buffer.
    """
    return u_init.clone()


@snapshot.register_fake
def _(u_init):
    return torch.empty_like(u_init)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty((), dtype=torch.float32), x.new_empty((), dtype=torch.int64)


def _spikes(x: Tensor, timesteps: int) -> Tensor:
    return x.new_empty(x.shape[1:], dtype=spikes_dtype(timesteps))


def lif(
    x: Tensor,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    timesteps: int,
    family: str,
    surrogate: str,
    gamma: float,
    reset: str,
    detach_reset: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (o (T, N), spikes (N,), u_sum, active_count) for x (T, N) or (1, N); see ``analytic.lif_forward``."""
    dyn = Dynamics(timesteps, family, surrogate, gamma, reset, detach_reset)
    o, spikes, u_sum, active_count = provider(backend).lif_forward(x, u_init, v_threshold, leak, dyn)
    return o, spikes, u_sum, active_count


lif_op = custom_op("snnrepro::lif", mutates_args=())(lif)


@lif_op.register_fake
def _(x, u_init, v_threshold, leak, timesteps, *_):
    return x.new_empty(timesteps, *x.shape[1:]), _spikes(x, timesteps), *_statistics(x)


def lif_backward(
    go: Tensor,
    x: Tensor,
    spikes: Tensor,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    timesteps: int,
    family: str,
    surrogate: str,
    gamma: float,
    reset: str,
    detach_reset: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of x and of the three scalars, (3,)."""
    dyn = Dynamics(timesteps, family, surrogate, gamma, reset, detach_reset)
    gx, scalars = provider(backend).lif_backward(go, x, spikes, u_init, v_threshold, leak, dyn)
    return gx, scalars


lif_backward_op = custom_op("snnrepro::lif_backward", mutates_args=())(lif_backward)


@lif_backward_op.register_fake
def _(go, x, *_):
    return torch.empty_like(x), x.new_empty(3, dtype=torch.float32)


def _lif_context(ctx, inputs, output):
    x, u_init, v_threshold, leak, *ctx.options = inputs
    _, spikes, u_sum, active_count = output
    ctx.mark_non_differentiable(spikes, u_sum, active_count)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, spikes, u_init, v_threshold, leak)


def _lif_gradient(ctx, go, *_):
    if go is None:
        return (None,) * (4 + len(ctx.options))
    backward = lif_backward if is_plain(go) else lif_backward_op
    gx, scalars = backward(go.contiguous(), *ctx.saved_tensors, *ctx.options)
    return gx, *scalars.unbind(0), *(None,) * len(ctx.options)


lif_op.register_autograd(_lif_gradient, setup_context=_lif_context)


class FusedLIF(torch.autograd.Function):
    """``lif`` without the operator around it, which takes longer to call than a small layer to compute."""

    @staticmethod
    def forward(ctx, *inputs):
        output = lif(*inputs)
        _lif_context(ctx, inputs, output)
        return output

    backward = staticmethod(once_differentiable(_lif_gradient))  # type: ignore[assignment]
