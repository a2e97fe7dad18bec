"""MP-Init (Algorithm 1): where the next window's membranes start.

After each training batch, ``u_init <- (1 - beta) * u_init + beta * batch_mean``, where ``batch_mean`` is
the mean membrane after the last reset over the active neurons of the layer (all samples, channels and
positions jointly, of all ranks). ``beta`` is the weight of the new batch. Algorithm 1 prints the two factors the other
way round, with 0.9 for the new batch; every program of the authors keeps 0.9 of the old mean, and so does the default.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.library import custom_op

from snnrepro.checks import in_range
from snnrepro.collectives import all_sum, world_size
from snnrepro.errors import UserError
from snnrepro.recompute import first_seen, in_region, repeated

# What the windows left behind that ``one_update`` holds back: (layer, sum, count) each. None: layers move at once.
_held_back: list[tuple[Any, Tensor, Tensor]] | None = None


def running_mean(u_init: Tensor, u_sum: Tensor, active_count: Tensor, beta: float | Tensor) -> Tensor:
    """Returns the updated ``u_init`` of one layer (0-d) or several (L,); unchanged where no neuron was active."""
    batch_mean = (u_sum / active_count).to(u_init.dtype)
    return torch.lerp(u_init, torch.where(active_count > 0, batch_mean, u_init), beta)


def start(layer: Any) -> Tensor:
    """Returns where a window of ``layer`` starts that will move its ``u_init``.

    Under gradient checkpointing a window that runs again starts from where it did. Raises UserError where that is lost.
    """
    if torch.compiler.is_compiling():
        return _start_op(layer.u_init)
    u_init = first_seen(layer, layer.u_init)
    if u_init is not None:
        return u_init
    if _held_back is not None and in_region():
        return layer.u_init
    raise UserError(
        "gradient checkpointing around a spiking layer with MP-Init: where its window started is not known any more; "
        "use use_reentrant=False, and where checkpoints are nested, neurons.one_update() around forward and backward"
    )


@custom_op("snnrepro::start", mutates_args=())
def _start_op(u_init: Tensor) -> Tensor:
    """Returns a copy. As an operator it sees what a graph cannot, which is traced once: whether it runs again."""
    if torch._C._current_graph_task_id() != -1:
        raise UserError(
            "gradient checkpointing around a spiking layer with MP-Init does not work together with torch.compile; "
            "leave one of them out"
        )
    return u_init.clone()


_start_op.register_fake(torch.empty_like)


@torch.no_grad()
def move(layer: Any, u_sum: Any, active_count: Any) -> None:
    """Moves ``layer.u_init`` with ``layer.beta`` by a window of all ranks, or holds it back for ``one_update``.

    A window that runs again under gradient checkpointing has done so already. u_sum, active_count: as in ``LIFResult``.
    """
    if repeated():
        return
    if _held_back is not None:
        _held_back.append((layer, u_sum, active_count))
        return
    u_sum, active_count = _of_all_ranks(u_sum, active_count)
    layer.u_init.copy_(running_mean(layer.u_init, u_sum, active_count, layer.beta))


@contextmanager
def one_update() -> Iterator[None]:
    """While entered, running means hold still; at its end each moves once, by all windows seen, of all ranks together.

    A step in several parts then counts as one, all layers share one message between ranks, and a few operations. After
    an error nothing moves.
    """
    global _held_back
    _held_back = []
    try:
        yield
        if _held_back:
            _move_together(_held_back)
    finally:
        _held_back = None


class MPInit(nn.Module):
    """The running mean of a layer's final membrane, for a neuron of your own; ``LIF`` has it built in.

    ``u = init.start()`` before a window, ``init.update(u, active)`` after its last reset. ``u_init`` is a buffer, 0-d:
    saved, restored and moved with the model. beta: the weight of the new batch, in (0, 1].
    """

    u_init: Tensor

    def __init__(self, beta: float = 0.1):
        super().__init__()
        in_range("beta", beta, 0, 1, open_low=True)
        self.beta = beta
        self.register_buffer("u_init", torch.zeros(()))

    def start(self) -> Tensor:
        """Returns where all membranes of a window start, 0-d; later updates do not reach its backward."""
        return start(self).clone() if self._moves else self.u_init

    def update(self, u: Tensor, active: Tensor) -> None:
        """Moves the mean, in training with gradients, by membranes ``u`` after the window's last reset.

        active: which neurons fired in the window, boolean, of the shape of ``u``.
        """
        if self._moves:
            move(self, torch.where(active, u.detach(), 0).sum(), active.sum())

    @property
    def _moves(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def extra_repr(self) -> str:
        return f"beta={self.beta}"


@torch.no_grad()
def _move_together(windows: Sequence[tuple[Any, Tensor, Tensor]]) -> None:
    sums: dict[Any, tuple[Tensor, Tensor]] = {}
    for layer, u_sum, active_count in windows:
        before = sums.get(layer)
        sums[layer] = (u_sum, active_count) if before is None else (before[0] + u_sum, before[1] + active_count)
    u_sum, active_count = _of_all_ranks(*(torch.stack(column) for column in zip(*sums.values(), strict=True)))
    u_inits = [layer.u_init for layer in sums]
    betas = [layer.beta for layer in sums]
    beta = betas[0] if len(set(betas)) == 1 else torch.tensor(betas).to(u_inits[0])
    moved = running_mean(torch.stack(u_inits), u_sum, active_count, beta)
    torch._foreach_copy_(u_inits, list(moved.unbind()))


def _of_all_ranks(u_sum: Tensor, active_count: Tensor) -> tuple[Tensor, Tensor]:
    if world_size() == 1:
        return u_sum, active_count
    # float64 holds any neuron count exactly; float32 stops at 2^24.
    u_sum, active_count = all_sum(torch.stack([u_sum.double(), active_count.double()]))
    return u_sum, active_count
