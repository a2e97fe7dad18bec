"""The fused LIF layers as torch operators: opaque to ``torch.compile``, known to autograd.

``lif`` here and ``norm_lif`` in ``norm_ops.py``, with the operators of their backwards. ``backend`` names the
provider of the arithmetic (``kernels/cpu`` or ``kernels/triton``); everything here is common to both.
Tensors are contiguous and in the layouts that ``functional.py`` makes. Autocast needs no rule: the input
comes in any floating dtype, membranes and sums are float32.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.library import CustomOpDef, custom_op

from snnrepro.errors import UserError
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.kernels.rows import spikes_dtype
from snnrepro.neurons.reparam import kernel_scalars, raw_gradients

# What ends the arguments of every operator: flags, then the fields of ``Dynamics``, the map of the scalars as in
# ``reparam.kernel_scalars``, and the provider. Backwards take the scalars that the forward found.
SCALARS = "Tensor u_init, Tensor v_threshold, Tensor leak"
RULES = (
    "int timesteps, str family, str surrogate, float gamma, str reset, bool detach_reset, "
    "str? threshold_map, str backend"
)

NO_TORCHSCRIPT = "spiking layers do not work in TorchScript (torch.jit); use torch.export.export(model, (x,))"

_KERNELS = {"compiled": "cpu", "triton": "triton"}


@cache
def _provider(backend: str) -> ModuleType:
    # Imported on first use: Triton is heavy.
    return import_module(f"snnrepro.neurons.kernels.{_KERNELS[backend]}.backend")


def require_supported() -> None:
    """Raises UserError under what sees neither kernels nor surrogates: TorchScript, transforms of functions."""
    if torch.compiler.is_compiling():
        return
    if torch.jit.is_tracing():
        raise UserError(NO_TORCHSCRIPT)
    if torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0:
        raise UserError(
            "spiking layers know reverse-mode gradients alone: use backward() or torch.autograd.grad, not "
            "torch.func.grad, vmap, jvp or forward_ad"
        )


def provided(function: str, tensors: Sequence[Tensor | None], rules: Sequence[Any], *flags: float) -> tuple:
    """Returns what the provider's ``function`` does; ``rules`` as in ``RULES``."""
    *dyn, _, backend = rules
    return tuple(getattr(_provider(backend), function)(*tensors, Dynamics(*dyn), *flags))


def define(name: str, arguments: str, results: int, function: Callable) -> CustomOpDef:
    """Returns ``function`` as the operator ``snnrepro::name``, with ``RULES`` behind its arguments."""
    returned = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"
    schema = f"({arguments}, {RULES}) -> {returned}"
    return custom_op(f"snnrepro::{name}", function, mutates_args=(), schema=schema)


def eager_or(operator: CustomOpDef, eager: Callable) -> Callable:
    """Returns a function that calls ``operator`` where torch has to know of it, else ``eager``.

    Calling an operator takes longer than a small layer takes to compute. A tensor without memory of its own (meta,
    fake, negated), and whoever looks on (a compiler, a counter of operations), need torch's dispatcher.
    """

    def call(x: Tensor, *rest: Any) -> Any:
        alone = not torch.compiler.is_compiling() and torch._C._len_torch_dispatch_stack() == 0
        plain = alone and type(x) in (Tensor, torch.nn.Parameter) and (x.is_cpu or x.is_cuda) and not x.is_neg()
        return (eager if plain else operator)(x, *rest)

    return call


def differentiable(operator: CustomOpDef, function: Callable, context: Callable, gradient: Callable) -> Callable:
    """Returns ``function`` with its gradient, which ``operator`` gets too; see ``eager_or``."""
    operator.register_autograd(gradient, setup_context=context)

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = function(*inputs)
            context(ctx, inputs, output)
            return output

        backward = staticmethod(once_differentiable(gradient))  # type: ignore[assignment]

    return eager_or(operator, Eager.apply)


def fake_forward(x: Tensor, timesteps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (o, spikes, u_sum, active_count) without values, for an input with steps of the shape of ``x[0]``."""
    spikes = x.new_empty(x.shape[1:], dtype=spikes_dtype(timesteps))
    u_sum, active_count = x.new_empty((), dtype=torch.float32), x.new_empty((), dtype=torch.int64)
    return x.new_empty(timesteps, *x.shape[1:]), spikes, u_sum, active_count


def statistics_context(ctx: Any, output: Sequence[Tensor]) -> Tensor:
    """Marks all but o as without gradient, and returns the packed spikes, for the backward."""
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    return output[1]


snapshot_op = custom_op("snnrepro::snapshot", Tensor.clone, mutates_args=(), schema="(Tensor u_init) -> Tensor")
snapshot_op.register_fake(torch.empty_like)
snapshot_op.register_autograd(lambda ctx, gradient: gradient)
# For the reference: a copy of a buffer that moves before the backward reads it. An operator, because a compiler drops a
# plain clone, or makes it again in the backward, from the moved buffer.
snapshot = eager_or(snapshot_op, Tensor.clone)


def _lif(x: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, *rules: Any) -> tuple[Tensor, ...]:
    scalars = kernel_scalars(u_init, v_threshold, leak, rules[-2])
    return *provided("lif_forward", (x, *scalars.unbind(0)), rules), scalars


def _lif_backward(go: Tensor, x: Tensor, spikes: Tensor, scalars: Tensor, *rules: Any) -> tuple[Tensor, Tensor]:
    gx, gscalars = provided("lif_backward", (go, x, spikes, *scalars.unbind(0)), rules)
    return gx, raw_gradients(gscalars, scalars, rules[-2])


def _context(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    x, _, _, _, *ctx.rules = inputs
    ctx.save_for_backward(x, statistics_context(ctx, output), output[-1])


def _gradient(ctx: Any, go: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    none = (None,) * len(ctx.rules)
    if go is None:
        return (None,) * 4 + none
    gx, gscalars = lif_backward(go.contiguous(), *ctx.saved_tensors, *ctx.rules)
    return gx, *gscalars.unbind(0), *none


def _three(x: Tensor) -> Tensor:
    return x.new_empty(3, dtype=torch.float32)


lif_op = define("lif", f"Tensor x, {SCALARS}", 5, _lif)
lif_op.register_fake(lambda x, u_init, v_threshold, leak, timesteps, *_: (*fake_forward(x, timesteps), _three(x)))
lif_backward_op = define("lif_backward", "Tensor go, Tensor x, Tensor spikes, Tensor scalars", 2, _lif_backward)
lif_backward_op.register_fake(lambda go, x, *_: (torch.empty_like(x), _three(x)))


def _lif_infer(x: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, *rules: Any) -> Tensor:
    *dyn, threshold_map, backend = rules
    scalars = kernel_scalars(u_init, v_threshold, leak, threshold_map)
    return _provider(backend).lif_infer(x, *scalars.unbind(0), Dynamics(*dyn))


lif_infer_op = define("lif_infer", f"Tensor x, {SCALARS}", 1, _lif_infer)
lif_infer_op.register_fake(lambda x, u_init, v_threshold, leak, timesteps, *_: x.new_empty(timesteps, *x.shape[1:]))

# o (T, N) alone, without gradient: nothing is kept for a backward.
lif_infer = eager_or(lif_infer_op, _lif_infer)
# Gradients of x, and of the three scalars as one tensor (3,).
lif_backward = eager_or(lif_backward_op, _lif_backward)
# (o (T, N), spikes (N,), u_sum, active_count, scalars) for x (T, N) or (1, N); see ``kernels``.
lif = differentiable(lif_op, _lif, _context, _gradient)
