"""The LIF layer with its gradients written out: what the kernels compute, in C++ and in Triton.

``reference.py`` defines the forward and leaves the backward to autograd; here both are explicit, so that
nothing but the input and one packed integer per neuron is kept between them: the backward runs the membrane
again. Layers call the kernels; this is their blueprint in torch, and what tests hold them against. Bit t of
``spikes`` is the spike at step t (from 0); the backward takes it from there, so that it cannot disagree with the
forward.

With ``carry`` = dL/du at the end of a step and d = f'(z), for t = T..1:

    q     = dL/do * (v if trsg)   -   carry * (v if soft, m if hard; nothing if the reset is detached)
    dL/dm = q * dz/dm * d   +   carry * (1 if soft, 1 - s if hard)
    dL/dx = leak * dL/dm                         carry of step t-1 = (1 - leak) * dL/dm
    dL/dv = sum of  q * dz/dv * d  -  carry * s (soft, attached)  +  dL/do * s (trsg)
    dL/dleak = sum of  dL/dm * (x - u)           dL/du_init = sum of the last carry

Shapes: a layer's input is (T, N), or (1, N) when it is constant over the window. With a norm in front it is
(T, B, C, S), or (T, B, S, C) with ``channels_last``, and the current is ``y * scale + shift`` per channel,
plus an optional shortcut, itself normalised or not. ``norm`` holds rows (C,), see ``norm_rows``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.surrogates import SURROGATES

# Of one norm: mean, var, weight, bias, each (C,).
Norm = tuple[Tensor, Tensor, Tensor, Tensor]


def spikes_dtype(timesteps: int) -> torch.dtype:
    """Returns the integer type that holds one bit per step: uint8 up to T = 8, int16 up to 16, int32 up to 32."""
    return torch.uint8 if timesteps <= 8 else torch.int16 if timesteps <= 16 else torch.int32


def lif_forward(x: Tensor, u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics) -> tuple[Tensor, ...]:
    """Returns (o (T, N), spikes (N,), u_sum 0-d, active_count 0-d int64)."""
    return _forward(_steps(x, dyn), u_init, v_threshold, leak, dyn, x.dtype)


def lif_backward(
    go: Tensor,
    x: Tensor,
    spikes: Tensor,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    gamma: Tensor,
    dyn: Dynamics,
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of x, and of (u_init, v_threshold, leak) as one (3,) tensor."""
    grad_steps, scalars = _backward(go, _steps(x, dyn), spikes, u_init, v_threshold, leak, gamma, dyn)
    gx = torch.stack(_sum_if_constant(grad_steps, x))
    return gx.to(x.dtype), torch.stack([part.sum() for part in scalars])


def norm_rows(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: Tensor | float) -> Tensor:
    """Returns rows mean, scale, shift, invstd (4, C): y * scale + shift = weight * (y - mean) * invstd + bias."""
    invstd = 1 / (var + eps).sqrt()
    scale = weight * invstd
    return torch.stack([mean, scale, bias - mean * scale, invstd])


def statistics_rows(norm: Tensor, sum_g: Tensor, sum_gy: Tensor, share: Tensor | float) -> Tensor:
    """Returns rows k1, k0 (2, C) of gy = scale * g + k1 * (y - mean) + k0, which carry the gradient of the statistics.

    sum_g, sum_gy: (C,), of g = dL/dx and of g * (y - mean). share: the part of one value in a mean over the batch,
    0 for statistics that do not come from it.
    """
    _, scale, _, invstd = norm.unbind(0)
    factor = scale * -share
    return torch.stack([factor * invstd * invstd * sum_gy, factor * sum_g])


def norm_lif_forward(
    y: Tensor,
    norm: Tensor,
    shortcut: Tensor | None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    dyn: Dynamics,
    channels_last: bool,
) -> tuple[Tensor, ...]:
    """Returns what ``lif_forward`` does, for the current ``y * scale + shift (+ shortcut)``."""
    return _forward(_currents(y, norm, shortcut, dyn, channels_last), u_init, v_threshold, leak, dyn, y.dtype)


def norm_lif_reduce(
    go: Tensor,
    y: Tensor,
    spikes: Tensor,
    norm: Tensor,
    shortcut: Tensor | None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    gamma: Tensor,
    dyn: Dynamics,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    """Returns per channel the sums of g and of g * (y - mean), (2, C), and the scalars' gradients (3,); g = dL/dx."""
    currents = _currents(y, norm, shortcut, dyn, channels_last)
    grad_steps, scalars = _backward(go, currents, spikes, u_init, v_threshold, leak, gamma, dyn)
    mean = _per_channel(norm[0], channels_last)
    grad_steps = _sum_if_constant(grad_steps, y)
    centred = [g * (_state(y_t) - mean) for g, y_t in zip(grad_steps, y.unbind(0), strict=True)]
    sums = _total(grad_steps), _total(centred)
    # One axis first, the same for all: one loop nest then makes all sums.
    per_channel = [part.sum(1 if channels_last else 2).sum(0) for part in (*sums, *scalars)]
    return torch.stack(per_channel[:2]), torch.stack(per_channel[2:]).sum(1)


def norm_lif_backward(
    go: Tensor,
    y: Tensor,
    spikes: Tensor,
    norm: Tensor,
    k: Tensor,
    shortcut: Tensor | None,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    gamma: Tensor,
    dyn: Dynamics,
    channels_last: bool,
) -> tuple[Tensor, ...]:
    """Returns the gradient of y, see ``statistics_rows``, and with a shortcut also its gradient g."""
    currents = _currents(y, norm, shortcut, dyn, channels_last)
    grad_steps, _ = _backward(go, currents, spikes, u_init, v_threshold, leak, gamma, dyn)
    mean, scale, k1, k0 = (_per_channel(row, channels_last) for row in (*norm[:2], *k))
    gy_steps = [
        (g * scale + ((_state(y_t) - mean) * k1 + k0)).to(y.dtype)
        for g, y_t in zip(_sum_if_constant(grad_steps, y), y.unbind(0), strict=True)
    ]
    gy = torch.stack(gy_steps)
    if shortcut is None:
        return (gy,)
    return gy, torch.stack([g.to(shortcut.dtype) for g in _sum_if_constant(grad_steps, shortcut)])


def _state(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _per_channel(row: Tensor, channels_last: bool) -> Tensor:
    return row if channels_last else row[:, None]


def _steps(x: Tensor, dyn: Dynamics) -> list[Tensor]:
    steps = [_state(x_t) for x_t in x.unbind(0)]
    return steps * dyn.timesteps if len(steps) == 1 else steps


def _currents(y: Tensor, norm: Tensor, shortcut: Tensor | None, dyn: Dynamics, channels_last: bool) -> list[Tensor]:
    scale, shift = _per_channel(norm[1], channels_last), _per_channel(norm[2], channels_last)
    steps = [y_t * scale + shift for y_t in _steps(y, dyn)]
    if shortcut is None:
        return steps
    return [x_t + shortcut_t for x_t, shortcut_t in zip(steps, _steps(shortcut, dyn), strict=True)]


def _sum_if_constant(grad_steps: list[Tensor], x: Tensor) -> list[Tensor]:
    return [_total(grad_steps)] if x.shape[0] == 1 else grad_steps


def _total(steps: list[Tensor]) -> Tensor:
    return sum(steps[1:], start=steps[0])


def _reset(m: Tensor, s: Tensor, v_threshold: Tensor, dyn: Dynamics) -> Tensor:
    return m - v_threshold * s if dyn.reset == "soft" else m * (1 - s)


def _forward(
    x_steps: Sequence[Tensor], u_init: Tensor, v_threshold: Tensor, leak: Tensor, dyn: Dynamics, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    u: Tensor = u_init.expand(x_steps[0].shape)
    bits = torch.zeros_like(x_steps[0], dtype=torch.int32)
    o_steps = []
    for t, x in enumerate(x_steps):
        m = u + leak * (x - u)
        fires = m >= v_threshold
        s = fires.to(m.dtype)
        u = _reset(m, s, v_threshold, dyn)
        bits = bits | torch.where(fires, 1 << t, 0).to(torch.int32)
        o_steps.append((v_threshold * s if dyn.family == "trsg" else s).to(dtype))
    active = bits != 0
    u_sum = torch.where(active, u, 0).sum()
    return torch.stack(o_steps), bits.to(spikes_dtype(dyn.timesteps)), u_sum, active.sum()


def _backward(
    go: Tensor,
    x_steps: Sequence[Tensor],
    spikes: Tensor,
    u_init: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    gamma: Tensor,
    dyn: Dynamics,
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns dL/dx per step, and the per-neuron terms of the gradients of u_init, v_threshold and leak."""
    derivative = SURROGATES[dyn.surrogate].derivative
    bits = spikes.to(torch.int32)
    u: Tensor = u_init.expand(x_steps[0].shape)
    window = []
    for t, x in enumerate(x_steps):
        m = u + leak * (x - u)
        s = ((bits >> t) & 1).to(m.dtype)
        window.append((x, u, m, s))
        u = _reset(m, s, v_threshold, dyn)
    carry = grad_v = grad_leak = torch.zeros_like(u)
    grad_steps = []
    for (x, u, m, s), go_t in zip(reversed(window), reversed(go.unbind(0)), strict=True):
        g = _state(go_t)
        z = m - v_threshold if dyn.family == "as_sg" else m / v_threshold - 1
        q = v_threshold * g if dyn.family == "trsg" else g
        if not dyn.detach_reset:
            q = q - carry * (v_threshold if dyn.reset == "soft" else m)
        qd = q * derivative(z, gamma)
        if dyn.family != "as_sg":
            qd = qd / v_threshold
        # dz/dv is -1 for as_sg and -m / v**2 otherwise; qd carries one of the two divisions already.
        grad_v = grad_v - (qd if dyn.family == "as_sg" else qd * (m / v_threshold))
        if dyn.reset == "soft" and not dyn.detach_reset:
            grad_v = grad_v - carry * s
        if dyn.family == "trsg":
            grad_v = grad_v + g * s
        grad_m = qd + (carry if dyn.reset == "soft" else carry * (1 - s))
        grad_leak = grad_leak + grad_m * (x - u)
        grad_steps.append(leak * grad_m)
        carry = (1 - leak) * grad_m
    return grad_steps[::-1], [carry, grad_v, grad_leak]
