"""What the spiking layers of a network do, gathered batch by batch in constant memory."""

import math
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from snnrepro.analysis.statistics import edges_of, histogram, ljung_box, noise_floor, total_variation
from snnrepro.neurons import LIF, spiking_layers
from snnrepro.neurons.current import as_tensor, part

# What is put into histograms: the input current I, the potential before firing M, the membrane after reset U.
QUANTITIES = ("input", "potential", "membrane")
# Values of one quantity that are held at a time (4 MB): a window of all samples would double a network's memory.
VALUES_AT_A_TIME = 1 << 20


class Window(NamedTuple):
    """What a spiking layer did in one window: input, potential, spikes and membrane after reset, each (T, neurons)."""

    current: Tensor
    m: Tensor
    s: Tensor
    u: Tensor
    v_threshold: float

    def quantities(self) -> dict[str, Tensor]:
        """Returns what is put into histograms; potentials and membranes of active neurons, as MP-Init sees them."""
        active = self.s.any(0)
        return dict(zip(QUANTITIES, (self.current, self.m[:, active], self.u[:, active]), strict=True))


class LayerRecord:
    """Sums over batches of one spiking layer; bins come from the last step of the first batch."""

    def __init__(self, timesteps: int):
        self.timesteps = timesteps
        self.edges: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.moments = {name: torch.zeros(timesteps, 3, dtype=torch.float64) for name in QUANTITIES}
        # Per step: spikes, active neurons, of these within one and two thresholds.
        self.totals = torch.zeros(timesteps, 4, dtype=torch.float64)
        self.neurons = 0
        # Independence over time: series not rejected, tested, constant; and the first for shuffled steps.
        self.series = torch.zeros(4, dtype=torch.float64)

    def add(self, parts: Callable[[], Iterator[Window]]) -> None:
        """Adds a batch, given as windows of its samples; ``parts`` may be called twice."""
        if len(self.edges) < len(QUANTITIES):
            self._set_edges(parts())
        for window in parts():
            self._add(window)

    def _set_edges(self, windows: Iterator[Window]) -> None:
        last: dict[str, list[Tensor]] = {name: [] for name in QUANTITIES if name not in self.edges}
        for window in windows:
            for name, values in window.quantities().items():
                if name in last:
                    last[name].append(values[-1].clone())
        for name, parts in last.items():
            together = torch.cat(parts)
            if together.numel():
                self.edges[name] = edges_of(together)
                self.counts[name] = torch.zeros(self.timesteps, len(self.edges[name]) + 1, dtype=torch.int64)

    def _add(self, window: Window) -> None:
        current, s = window.current, window.s
        quantities = window.quantities()
        for name, values in quantities.items():
            if values.numel():
                self.counts[name] += torch.stack([histogram(step, self.edges[name]) for step in values])
                wide = values.double()
                sums = [torch.full((len(wide),), wide.shape[1]), wide.sum(1).cpu(), wide.square().sum(1).cpu()]
                self.moments[name] += torch.stack(sums, 1)
        membrane = quantities["membrane"]
        within = [(membrane.abs() <= k * window.v_threshold).sum(1) for k in (1, 2)]
        active = torch.full((len(s),), membrane.shape[1], device=s.device)
        self.totals += torch.stack([s.sum(1), active, *within], 1).double().cpu()
        self.neurons += s.shape[1]
        # A current that is constant over the window has no stride, and nothing to test.
        if self.timesteps > 2 and current.stride(0):
            self._independence(current)

    def _independence(self, current: Tensor) -> None:
        p = ljung_box(current)
        valid = ~p.isnan()
        generator = torch.Generator(device=current.device).manual_seed(0)
        order = torch.rand(current.shape, generator=generator, device=current.device).argsort(0)
        shuffled = ljung_box(current.gather(0, order))
        found = [(p[valid] >= 0.05).sum(), valid.sum(), (~valid).sum(), (shuffled[valid] >= 0.05).sum()]
        self.series += torch.stack(found).double().cpu()

    def result(self) -> dict[str, Any]:
        """Returns the layer's statistics as plain values."""
        spikes, active, one, two = self.totals.unbind(1)
        found: dict[str, Any] = {
            "firing_rate": (spikes / self.neurons).tolist(),
            "active": int(active[-1]),
            "active_share": (active[-1] / self.neurons).item(),
            "within_1V": (one / active).nan_to_num(1.0).tolist(),
            "within_2V": (two / active).nan_to_num(1.0).tolist(),
        }
        for name, counts in self.counts.items():
            count, total, square = self.moments[name].unbind(1)
            mean = total / count
            tv = [total_variation(step, counts[-1]) for step in counts[:-1]]
            found[name] = {
                "edges": self.edges[name].tolist(),
                "counts": counts.tolist(),
                "mean": mean.tolist(),
                "std": (square / count - mean.square()).clamp(min=0).sqrt().tolist(),
                "tv": tv,
                "noise_floor": noise_floor(counts[-1], int(count[-1])),
            }
        kept, tested, constant, shuffled = self.series.tolist()
        if tested:
            found["ljung_box"] = {
                "not_rejected": 100 * kept / tested,
                "shuffled": 100 * shuffled / tested,
                "tested": int(tested),
                "constant": int(constant),
            }
        return found


class Recorder:
    """Records every spiking layer of ``model``, in evaluation mode, at each forward while entered.

    The layers' own outputs are untouched; potentials are computed a second time by the reference equations, layer by
    layer and few samples at a time.
    """

    def __init__(self, model: nn.Module, timesteps: int):
        self.layers = {name: LayerRecord(timesteps) for name, _ in spiking_layers(model)}
        self.model = model

    def __enter__(self) -> Self:
        def hook(record: LayerRecord) -> Callable:
            return lambda layer, inputs, options: record.add(lambda: windows(layer, *inputs, **options))

        self._handles = [
            layer.register_forward_pre_hook(hook(self.layers[name]), with_kwargs=True)
            for name, layer in spiking_layers(self.model)
        ]
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    def results(self) -> dict[str, dict[str, Any]]:
        """Returns the statistics of every layer by its name."""
        return {name: record.result() for name, record in self.layers.items() if record.neurons}


def windows(layer: LIF, x: Any, timesteps: int | None = None) -> Iterator[Window]:
    """Yields the window of a layer's forward, a few samples at a time."""
    steps, samples, *inner = x.shape
    at_a_time = max(1, VALUES_AT_A_TIME // ((timesteps or steps) * math.prod(inner)))
    for first in range(0, samples, at_a_time):
        yield window(layer, part(x, slice(first, first + at_a_time)), timesteps)


@torch.no_grad()
def window(layer: LIF, x: Any, timesteps: int | None = None) -> Window:
    """Returns the window of a layer's forward."""
    steps: list[tuple[Tensor, Tensor]] = []
    layer.window(x, timesteps, record=steps)
    x, v_threshold = as_tensor(x), layer.v_threshold
    m, s = (torch.stack(part).flatten(1) for part in zip(*steps, strict=True))
    u = m - v_threshold * s if layer.reset == "soft" else m * (1 - s)
    return Window(x.flatten(1).expand(len(m), -1), m, s, u, v_threshold.item())
