"""The statistics of the paper's figures and tables, each a function of tensors; nothing here knows a network."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Fig. 19: 50 bins of width 0.04; for a layer, as many between the outer thousandths of its reference step.
BINS = 50


def edges_of(values: Tensor) -> Tensor:
    """Returns bin edges (BINS + 1,) between the 0.1 and 99.9 percent quantiles of ``values``, float64."""
    flat = values.flatten().double()
    # torch's quantile is limited to 16 million values, and a stride of a large sample is a sample.
    flat = flat[:: max(1, flat.numel() // 1_000_000)]
    low, high = torch.quantile(flat, torch.tensor([0.001, 0.999], dtype=torch.float64))
    if high <= low:
        low, high = low - 0.5, low + 0.5
    return torch.linspace(low.item(), high.item(), BINS + 1, dtype=torch.float64)


def histogram(values: Tensor, edges: Tensor) -> Tensor:
    """Returns counts (len(edges) + 1,), int64: below the first edge, between edges, from the last edge on."""
    where = torch.bucketize(values.flatten().double(), edges.to(values.device), right=True)
    return torch.bincount(where, minlength=len(edges) + 1).cpu()


def total_variation(p: Tensor, q: Tensor) -> float:
    """Returns half the sum of |p - q| of two histograms, each normalised to 1 first; NaN where one is empty."""
    p, q = p.double(), q.double()
    return 0.5 * (p / p.sum() - q / q.sum()).abs().sum().item()


def noise_floor(p: Tensor, count: int) -> float:
    """Returns the total variation to expect between two samples of ``count`` values of one law with histogram ``p``."""
    share = p.double() / p.double().sum()
    return (share / (math.pi * count)).sqrt().sum().item()


def ljung_box(series: Tensor) -> Tensor:
    """Returns p-values (N,) of the Ljung-Box test at lag 1 for ``series`` (n, N); NaN where a series is constant."""
    n = len(series)
    deviation = series.double() - series.double().mean(0)
    total = deviation.square().sum(0)
    r = (deviation[1:] * deviation[:-1]).sum(0) / total
    q = n * (n + 2) * r.square() / (n - 1)
    # The upper tail of chi-squared with one degree of freedom; rounding may leave a constant series a little variance.
    p = torch.erfc((q / 2).sqrt())
    return torch.where(total > 1e-12 * series.double().square().sum(0), p, torch.nan)


def gradient_strength(gradient: Tensor) -> float:
    """Returns AbsStr, the mean of |g| (paper Sec. 5.2)."""
    return gradient.double().abs().mean().item()


def gradient_variation(gradient: Tensor) -> float:
    """Returns GradCV, the coefficient of variation of |g|; 0 where all of it is 0."""
    size = gradient.double().abs()
    mean = size.mean()
    return (size.std(correction=0) / mean).item() if mean > 0 else 0.0


def share_within(x: Tensor, half_width: float) -> float:
    """Returns the share of |x| < half_width; of the surrogate's argument and half its window this is RatioAG."""
    return (x.abs() < half_width).double().mean().item()


def cosine_matrix(vectors: Tensor) -> Tensor:
    """Returns the cosines (T, T) between the rows of ``vectors`` (T, D), float64."""
    unit = F.normalize(vectors.double(), dim=1)
    return unit @ unit.T


def class_shares(logits: Tensor) -> Tensor:
    """Returns which share of samples every class is predicted for at every step, (T, K), for logits (T, N, K)."""
    predicted = F.one_hot(logits.argmax(-1), logits.shape[-1])
    return predicted.double().mean(1)


def silhouette(points: Tensor, labels: Tensor) -> float:
    """Returns how well classes are separated among ``points`` (N, D): scikit-learn's silhouette score."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(points.cpu().numpy(), labels.cpu().numpy()))


def gap_at_matched(upper: Sequence[Sequence[float]], lower: Sequence[Sequence[float]]) -> float:
    """Returns the smallest of ``upper - lower`` where both are defined, between points (x, y) joined by lines.

    Both are broken lines, so the smallest difference lies at a corner of one of them. Raises ValueError where the
    ranges do not overlap.
    """
    a, b = sorted(map(tuple, upper)), sorted(map(tuple, lower))
    low, high = max(a[0][0], b[0][0]), min(a[-1][0], b[-1][0])
    corners = sorted({low, high, *(x for x, _ in (*a, *b) if low <= x <= high)})
    if low > high:
        raise ValueError("no common range")
    return min(_between(a, x) - _between(b, x) for x in corners)


def _between(points: Sequence[Sequence[float]], x: float) -> float:
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= x <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[0][1]
