"""Fig. 19: how fast membranes forget where they started, by simulation of one LIF neuron; no training."""

import torch

from snnrepro.analysis.statistics import histogram, total_variation

# The paper states neither the input nor the bins: these reproduce its 72 plotted values (see the figure's data).
SAMPLES, STEPS = 100_000, 10
MEAN = 0.6
EDGES = torch.linspace(-0.5, 1.5, 51, dtype=torch.float64)
PANELS = {
    "fig19a": {f"Vthr_{v}": {"v_threshold": v, "tau": 2.0, "spread": 0.4} for v in (0.5, 0.75, 1.0, 2.0)},
    "fig19b": {f"tau_{tau}": {"v_threshold": 1.0, "tau": tau, "spread": 0.2} for tau in (1.1, 1.33, 2.0, 3.0)},
}


def forgetting(v_threshold: float, tau: float, spread: float, seed: int, start: float = 0.0) -> list[float]:
    """Returns the total variation (9,) between the membranes U[0..8] and U[9] of a neuron under random input.

    Input: Normal(0.6, spread^2) at every step, soft reset, U[0] = start. Histogram: EDGES, what lies outside left out.
    """
    generator = torch.Generator().manual_seed(seed)
    u = torch.full((SAMPLES,), start, dtype=torch.float64)
    counts = [histogram(u, EDGES)[1:-1]]
    for _ in range(STEPS - 1):
        current = MEAN + spread * torch.randn(SAMPLES, generator=generator, dtype=torch.float64)
        m = u + (current - u) / tau
        u = m - v_threshold * (m >= v_threshold)
        counts.append(histogram(u, EDGES)[1:-1])
    return [total_variation(count, counts[-1]) for count in counts[:-1]]


def panels(seed: int) -> dict[str, dict[str, list[float]]]:
    """Returns both panels of Fig. 19: panel, curve, nine values."""
    return {
        panel: {name: forgetting(**case, seed=seed) for name, case in cases.items()} for panel, cases in PANELS.items()
    }
