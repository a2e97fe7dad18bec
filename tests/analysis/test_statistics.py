"""Every statistic against another implementation, and a control that it can fail."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cityblock
from sklearn.metrics.pairwise import cosine_similarity
from statsmodels.stats.diagnostic import acorr_ljungbox

from snnrepro.analysis import simulation
from snnrepro.analysis.evidence import paper_numbers
from snnrepro.analysis.statistics import (
    class_shares,
    cosine_matrix,
    edges_of,
    gap_at_matched,
    gradient_strength,
    gradient_variation,
    histogram,
    ljung_box,
    noise_floor,
    share_within,
    silhouette,
    total_variation,
)

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def test_histogram_is_numpys_with_both_tails():
    values, edges = normal(5000), torch.linspace(-1, 1, 21, dtype=torch.float64)
    counts = histogram(values, edges)
    inner, _ = np.histogram(values[values < 1], edges)
    assert counts[1:-1].tolist() == inner.tolist()
    assert (counts[0], counts[-1]) == ((values < -1).sum(), (values >= 1).sum())
    assert counts.sum() == 5000
    assert histogram(torch.tensor([-1.0, 1.0, 0.95]), edges)[[1, -2, -1]].tolist() == [1, 1, 1], (
        "edges belong to the right"
    )


def test_bins_lie_between_the_outer_thousandths():
    values = normal(200_000)
    low, high = np.quantile(values, [0.001, 0.999])
    edges = edges_of(values)
    assert len(edges) == 51 and edges[0].item() == pytest.approx(low) and edges[-1].item() == pytest.approx(high)
    constant = edges_of(torch.zeros(10))
    assert (constant[1:] > constant[:-1]).all()


def test_total_variation_is_half_the_city_block_distance():
    p, q = histogram(normal(1000), edges_of(normal(1000))), histogram(normal(1500) + 1, edges_of(normal(1000)))
    expected = cityblock(p.double() / p.sum(), q.double() / q.sum()) / 2
    assert total_variation(p, q) == pytest.approx(expected, rel=1e-12)
    assert total_variation(p, 7 * p) == pytest.approx(0, abs=1e-15) and total_variation(p, q) > 0.3
    apart = torch.tensor([1, 0]), torch.tensor([0, 5])
    assert total_variation(*apart) == 1


@pytest.mark.parametrize("count", [1000, 100_000])
def test_noise_floor_is_what_two_samples_of_one_law_show(count):
    edges = torch.linspace(-3, 3, 51, dtype=torch.float64)
    pairs = [(histogram(normal(count), edges), histogram(normal(count), edges)) for _ in range(30)]
    seen = np.mean([total_variation(p, q) for p, q in pairs])
    assert noise_floor(pairs[0][0], count) == pytest.approx(seen, rel=0.15)


def test_ljung_box_is_statsmodels():
    series = normal(10, 40).cumsum(0) * 0.3 + normal(10, 40)
    expected = [acorr_ljungbox(column, lags=[1])["lb_pvalue"].item() for column in series.T.numpy()]
    np.testing.assert_allclose(ljung_box(series).numpy(), expected, rtol=1e-9)
    constant = series.clone()
    constant[:, 3] = 0.1
    assert ljung_box(constant).isnan().nonzero().tolist() == [[3]]


def test_ljung_box_accepts_independent_series_and_rejects_dependent_ones():
    independent = normal(10, 50_000)
    accepted = (ljung_box(independent) >= 0.05).double().mean().item()
    assert accepted == pytest.approx(0.945, abs=0.005)  # the null rate at n = 10, not 0.95
    walk = torch.zeros(10, 50_000, dtype=torch.float64)
    for t in range(10):
        walk[t] = (0.6 * walk[t - 1] if t else 0) + normal(50_000)
    dependent = (ljung_box(walk) >= 0.05).double().mean().item()
    assert dependent == pytest.approx(0.845, abs=0.02) and dependent < accepted - 0.05


def test_gradient_statistics_are_scipys():
    g = normal(8, 3, 3, 3)
    assert gradient_strength(g) == pytest.approx(abs(g.numpy()).mean(), rel=1e-12)
    assert gradient_variation(g) == pytest.approx(stats.variation(abs(g.numpy()).ravel(), ddof=0), rel=1e-12)
    assert gradient_variation(torch.zeros(5)) == 0 and gradient_variation(torch.ones(5)) == 0
    assert gradient_variation(g) != pytest.approx(stats.variation(g.numpy().ravel()), rel=1e-2), "control: of |g|"


def test_share_within_is_strict():
    x = torch.tensor([-0.5, -0.4, 0.0, 0.49, 0.5, 3.0])
    assert share_within(x, 0.5) == pytest.approx(3 / 6)


def test_cosines_are_scikit_learns():
    vectors = normal(4, 30)
    np.testing.assert_allclose(cosine_matrix(vectors), cosine_similarity(vectors), atol=1e-12)


def test_class_shares_and_separation_by_hand():
    logits = torch.tensor([[[1.0, 2.0, 0.0], [3.0, 2.0, 0.0]], [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]])
    assert class_shares(logits).tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    apart = torch.cat([normal(20, 2), normal(20, 2) + 50])
    labels = torch.arange(40) // 20
    assert silhouette(apart, labels) > 0.9 > 0.3 > silhouette(normal(40, 2), labels)


def test_gap_at_matched_rates():
    upper, lower = [(0.1, 70.0), (0.3, 76.0)], [(0.0, 60.0), (0.2, 72.0), (0.4, 75.0)]
    # Corners at 0.1 (70 - 66), 0.2 (73 - 72), 0.3 (76 - 73.5).
    assert gap_at_matched(upper, lower) == pytest.approx(1.0)
    assert gap_at_matched(lower, upper) == pytest.approx(-4.0)
    with pytest.raises(ValueError, match="no common range"):
        gap_at_matched([(0.0, 1.0), (0.1, 2.0)], [(0.2, 1.0), (0.3, 1.0)])


def slow_neuron(v, tau, spread, seed, count):
    """One neuron at a time, in plain Python."""
    rng = np.random.default_rng(seed)
    values = np.zeros((10, count))
    for n in range(count):
        u = 0.0
        for t in range(1, 10):
            m = (1 - 1 / tau) * u + rng.normal(0.6, spread) / tau
            u = m - v if m >= v else m
            values[t, n] = u
    return values


def test_figure_19_reproduces_the_papers_72_values():
    printed = paper_numbers()
    runs = [simulation.panels(seed) for seed in range(5)]
    worst = 0.0
    for panel, curves in simulation.PANELS.items():
        for name in curves:
            ours = np.mean([run[panel][name] for run in runs], 0)
            assert len(ours) == len(printed[panel][name]) == 9
            worst = max(worst, abs(ours - printed[panel][name]).max())
    assert worst < 0.008
    # Control: another spread of the input is another figure.
    other = simulation.forgetting(1.0, 2.0, 0.3, seed=0)
    assert abs(np.array(other) - printed["fig19a"]["Vthr_1.0"]).max() > 0.05


def test_the_simulation_is_a_loop_over_neurons():
    values = slow_neuron(0.75, 2.0, 0.4, 1, 4000)
    last = histogram(torch.from_numpy(values[9]), simulation.EDGES)[1:-1]
    slow = [total_variation(histogram(torch.from_numpy(row), simulation.EDGES)[1:-1], last) for row in values[:9]]
    fast = simulation.forgetting(0.75, 2.0, 0.4, seed=0)
    np.testing.assert_allclose(slow[:3], fast[:3], atol=0.06)  # 4,000 neurons: the noise floor is 0.06


def test_a_start_at_the_running_mean_forgets_nothing_much():
    """What MP-Init does: the distance at t = 1 shrinks when the start is where membranes end."""
    assert simulation.forgetting(1.0, 2.0, 0.4, seed=0, start=0.45)[1] < simulation.forgetting(1.0, 2.0, 0.4, seed=0)[1]
