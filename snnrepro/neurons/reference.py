"""The LIF layer as a plain loop over time: the definition of truth for every faster version.

Names follow the paper: input current ``x``, membrane before firing ``m``, spike ``s``, membrane after
reset ``u``, output ``o``. Suffixes give shapes: ``_TN`` is (T, ...neurons), ``_N`` one step of it. For
t = 1..T, with ``leak = 1 / tau`` and ``u[0] = u_init``:

    m = u + leak * (x - u)                                                       (Eq. 1)
    s = 1 if m >= v_threshold else 0                                             (Eq. 2)
    u = m - v_threshold * s   (soft)      or      m * (1 - s)   (hard)           (Eq. 3)
    o = v_threshold * s       (trsg)      or      s             (as_sg, rs_sg)

Two methods change the step, and only here. ``smoothing`` (MPS, Ding et al., ICLR 2025) charges from
``h = smoothing * h + (1 - smoothing) * u`` with ``h[0] = u_init`` in place of ``u``; ``membrane_norm`` (MPBN,
Guo et al., ICCV 2023) compares a normalised ``m`` with the threshold, while reset and memory keep ``m`` itself.

Backward, the spike's derivative is f'(z) dz with z = m - v_threshold (as_sg) or m / v_threshold - 1
(rs_sg, trsg); everything else is ordinary calculus, so autograd yields the analytic gradients with
respect to ``x``, ``u_init``, ``v_threshold`` and ``tau``.

The kernels (``kernels/``) have the backward written out, so that nothing but the input and one packed integer per
neuron is kept: the backward runs the membrane again, with the spikes of the forward (bit t is step t, from 0). With
``carry`` = dL/du at the end of a step and d = f'(z), for t = T..1:

    q     = dL/do * (v if trsg)   -   carry * (v if soft, m if hard; nothing if the reset is detached)
    dL/dm = q * dz/dm * d   +   carry * (1 if soft, 1 - s if hard)
    dL/dx = leak * dL/dm                         carry of step t-1 = (1 - leak) * dL/dm
    dL/dv = sum of  q * dz/dv * d  -  carry * s (soft, attached)  +  dL/do * s (trsg)
    dL/dleak = sum of  dL/dm * (x - u)           dL/du_init = sum of the last carry

With a norm in front the current is ``y * scale + shift`` per channel, plus an optional shortcut.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snnrepro.neurons.surrogates import SURROGATES, Surrogate


class LIFResult(NamedTuple):
    """What a LIF layer leaves behind after one window.

    o: output, (T, ...neurons), in the dtype of the input.
    u_sum: sum over active neurons of the membrane after the last reset, 0-d, no gradient; None where not asked for.
    active_count: number of active neurons (those with a spike in the window), 0-d, no gradient; None likewise.
    """

    o: Tensor
    u_sum: Tensor | None
    active_count: Tensor | None


class _Spike(torch.autograd.Function):
    """Forward: the comparison made by the caller. Backward: f'(z)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, fires: Tensor, surrogate: Surrogate, gamma: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.surrogate, ctx.gamma = surrogate, gamma
        return fires.to(z.dtype)

    @staticmethod
    def backward(ctx: Any, grad_s: Tensor) -> tuple[Tensor, None, None, None]:
        (z,) = ctx.saved_tensors
        return grad_s * ctx.surrogate.derivative(z, ctx.gamma), None, None, None


def lif_reference(
    x_TN: Tensor,
    u_init: Tensor,
    v_threshold: Tensor,
    tau: Tensor,
    *,
    timesteps: int,
    family: str,
    surrogate: str,
    gamma: float,
    reset: str,
    detach_reset: bool,
    smoothing: Tensor | None = None,
    membrane_norm: Callable[[Tensor], Tensor] | None = None,
    smooth: bool = False,
    record: list[tuple[Tensor, Tensor]] | None = None,
) -> LIFResult:
    """Returns the outputs of one LIF layer over a window, and its MP-Init statistics.

    x_TN: input current, (timesteps, ...neurons), or (1, ...neurons) for a current that is constant over
        the window. float64 is computed in float64, anything narrower in float32.
    u_init, v_threshold, tau: 0-d (or broadcastable to one step); differentiable.
    smoothing: 0-d in [0, 1), differentiable. membrane_norm: (...neurons) to the same shape.
    smooth: replaces the spike by the surrogate's primitive, for gradient checks only.
    record: receives (m, s) of every step, each (...neurons) and differentiable.
    """
    shape = SURROGATES[surrogate]
    state_dtype = torch.promote_types(x_TN.dtype, torch.float32)
    x_steps = x_TN.unbind(0) * (timesteps if x_TN.shape[0] == 1 else 1)
    leak = 1 / tau
    u_N = h_N = u_init.to(state_dtype).expand(x_TN.shape[1:])
    active_N = torch.zeros_like(x_steps[0], dtype=torch.bool)
    o_steps = []
    for x_N in x_steps:
        h_N = u_N if smoothing is None else smoothing * h_N + (1 - smoothing) * u_N
        m_N = h_N + leak * (x_N.to(state_dtype) - h_N)
        n_N = m_N if membrane_norm is None else membrane_norm(m_N)
        z_N = n_N - v_threshold if family == "as_sg" else n_N / v_threshold - 1
        fires_N = n_N >= v_threshold
        s_N = shape.primitive(z_N, gamma) if smooth else _Spike.apply(z_N, fires_N, shape, gamma)
        if record is not None:
            record.append((m_N, s_N))
        if reset == "soft":
            drop_N = v_threshold * s_N
            u_N = m_N - (drop_N.detach() if detach_reset else drop_N)
        else:
            u_N = m_N * (1 - (s_N.detach() if detach_reset else s_N))
        o_steps.append((v_threshold * s_N if family == "trsg" else s_N).to(x_TN.dtype))
        active_N = active_N | fires_N
    u_active_N = torch.where(active_N, u_N.detach(), 0)
    return LIFResult(torch.stack(o_steps), u_active_N.sum(), active_N.sum())
