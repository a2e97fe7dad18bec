"""The benchmark's own honesty: how it divides, whom it refuses to time, what it writes."""

import json
import sys
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.bench import __main__ as bench  # noqa: E402
from scripts.bench import gate, gpu, harness, report, variants  # noqa: E402
from scripts.bench.harness import BOTH, INFERENCE, NotRun, Variant, compare, interleave, paired, pairs_of, settle  # noqa: E402
from scripts.bench.workloads_cpu import step_run  # noqa: E402


class FakeClock:
    """Time that passes only where a run says so."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def run(self, name, *seconds):
        durations = iter(seconds)

        def call():
            self.order.append(name)
            self.now += next(durations)

        return call

    def measure(self, run):
        return harness.wall(run, clock=lambda: self.now)


def test_rounds_are_interleaved_and_timed_by_the_clock():
    clock = FakeClock()
    samples = interleave({"a": clock.run("a", 1, 2, 3), "b": clock.run("b", 4, 5, 6)}, 3, clock.measure)
    assert clock.order == ["a", "b", "a", "b", "a", "b"]
    assert samples == {"a": [1, 2, 3], "b": [4, 5, 6]}


def test_a_ratio_is_formed_within_each_round():
    # The machine slows down threefold after the first round: the ratio of every round stays 2.
    assert paired([2.0, 6.0, 6.0], [1.0, 3.0, 3.0]) == {"median": 2, "p20": 2, "p80": 2}
    # Here the ratio of the medians would be 1.
    assert paired([1.0, 2.0, 4.0], [2.0, 1.0, 2.0])["median"] == 2


def test_warm_up_ends_when_three_medians_agree_and_not_before():
    times = [9, 8, 7, 6, 5, 4, 3, 2, 1.5, *[1] * 30]
    clock = FakeClock()
    # Samples 9 to 17 are 1.5 and eight times 1: the median of the first three of them is 1 already.
    assert settle(clock.run("a", *times), clock.measure, at_least=1, at_most=30) == 17
    restless = (float(2 ** (i % 4)) for i in count())
    assert settle(lambda: None, lambda run: next(restless), at_least=1, at_most=12) == 12
    assert settle(lambda: None, lambda run: 1.0, at_least=11, at_most=30) == 11


def test_only_equal_semantics_are_divided():
    rows = [
        Variant("ours", "full"),
        Variant("ours", "full", "bf16"),
        Variant("ours", "full", "fp32", INFERENCE),
        Variant("ours", "like-for-like"),
        Variant("loop", "full"),
        Variant("library", "like-for-like"),
        Variant("other", "own"),
        Variant("other", "own", "bf16"),
        Variant("ReLU", "floor"),
    ]
    named = [(a.name, b.name) for a, b in pairs_of(rows)]
    assert named == [
        ("ours, full", "ours, full, bf16"),
        ("loop, full", "ours, full"),
        ("library, like-for-like", "ours, like-for-like"),
        ("other, own", "ours, like-for-like"),
        ("ours, full", "ReLU, floor"),
        ("ours, like-for-like", "ReLU, floor"),
    ]


def test_a_refused_or_broken_variant_is_printed_and_not_timed(capsys):
    calls = []

    def prepare(row):
        if row.kind == "absent":
            raise ImportError("no such library")
        if row.kind == "foreign":
            raise NotRun("no such instruction")
        return lambda: calls.append(row.kind)

    rows = [Variant(kind, "full") for kind in ("ours", "wrong", "absent", "foreign")]
    table = compare("t", rows, prepare, rounds=2, refused={("wrong", "full", "fp32"): "spikes differ"})
    assert calls == ["ours"] * 3
    assert [row["status"] for row in table["rows"]] == [
        "timed",
        "failed the gate: spikes differ",
        "not run: no such library",
        "not run: no such instruction",
    ]
    assert len(table["rows"][0]["samples"]) == 2 and table["ratios"] == []
    assert "failed the gate" in capsys.readouterr().out


def inputs(t=4, neurons=2000):
    torch.manual_seed(0)
    return torch.randn(t, neurons) + 0.5


@pytest.mark.parametrize("semantics", gate.CLAIMS)
@pytest.mark.parametrize("precision", gate.DTYPES)
def test_the_reference_passes_the_gate(semantics, precision):
    x = inputs().to(gate.DTYPES[precision])
    verdict = gate.check(*gate.layer_pair(variants.LOOP, semantics, "cpu"), x, precision)
    assert verdict.passed, verdict.reason


class Wrong(nn.Module):
    """A layer that is wrong in one way."""

    def __init__(self, layer, fault):
        super().__init__()
        self.layer, self.fault = layer, fault

    def forward(self, x):
        o = self.layer(x * 1.001 if self.fault == "spikes" else x)
        if self.fault == "gradient":
            return o + 1e-3 * (x - x.detach())
        if self.fault == "repeat":
            # Too small for the tolerance, different every time.
            return o * (1 + 1e-6 * torch.rand(()))
        return o


@pytest.mark.parametrize(
    ("fault", "reason"), [("spikes", "away from the threshold"), ("gradient", "gradient"), ("repeat", "repeats differ")]
)
def test_a_wrong_layer_is_refused(fault, reason):
    layer, exact = gate.layer_pair(variants.LOOP, "like-for-like", "cpu")
    verdict = gate.check(Wrong(layer, fault), exact, inputs(), "fp32")
    assert not verdict.passed and reason in verdict.reason
    assert gate.check(Wrong(layer, None), exact, inputs(), "fp32").passed


def test_a_spike_decided_by_rounding_is_counted_and_forgiven():
    layer, exact = gate.layer_pair(variants.LOOP, "like-for-like", "cpu")
    x = inputs()
    # A membrane of 1 - 1e-9 in float64 is 1 in float32: only there it spikes.
    assert gate.check(Wrong(layer, None), exact, x, "fp32").near_threshold == 0
    with torch.no_grad():
        exact.get_buffer("v_threshold_raw").add_(1e-9)
    x[0, 0] = 2.0
    verdict = gate.check(layer, exact, x, "fp32")
    assert verdict.passed and verdict.near_threshold == 1


def test_one_failure_refuses_a_variant_everywhere(monkeypatch, capsys):
    answers = iter([gate.Verdict(True), gate.Verdict(False, "because"), gate.Verdict(True)])
    monkeypatch.setattr(gate, "check", lambda *_: next(answers))
    rows = [Variant(variants.LOOP, "full"), Variant(variants.RELU, "floor")]
    entries = gate.run_gate(rows, timesteps={"fp32": (2, 4)}, neurons=8)
    assert gate.refused(entries) == {(variants.LOOP, "full", "fp32"): "layer, T=4: because"}
    assert "FAILED plain loop" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [variants.SJ_LIF, variants.SJ_PLIF])
def test_spikingjelly_is_like_for_like_in_fp32_and_falls_back_in_bf16(kind):
    pytest.importorskip("spikingjelly", reason="spikingjelly is not installed: pip install '.[bench]'")
    layer, exact = gate.layer_pair(kind, "like-for-like", "cpu")
    assert gate.check(layer, exact, inputs(), "fp32").passed
    assert not gate.check(layer, exact, inputs().bfloat16(), "bf16").passed
    assert "fall-back" not in variants.spikingjelly_path(layer, inputs())
    assert "fall-back" in variants.spikingjelly_path(layer, inputs().bfloat16())


def test_flexsn_computes_trsg():
    pytest.importorskip("spikingjelly", reason="spikingjelly is not installed: pip install '.[bench]'")
    layer, exact = gate.layer_pair(variants.SJ_FLEX, "triangular, no MP-Init", "cpu")
    assert gate.check(layer, exact, inputs(), "fp32").passed


@pytest.mark.parametrize("kind", [variants.RELU, variants.SJ_LIF, variants.SNNTORCH])
def test_stand_ins_train_the_same_network(kind):
    if kind != variants.RELU:
        pytest.importorskip(
            "snntorch" if kind == variants.SNNTORCH else "spikingjelly", reason=f"{kind} needs pip install '.[bench]'"
        )
    words = ["model=resnet19_mini", "timesteps=2"]
    reference = variants.build(variants.LOOP, "own", words, in_shape=(1, 8, 8))
    model = variants.build(kind, "own", words, in_shape=(1, 8, 8))
    weights = reference.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items() if name in weights)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 2, 10)
    before = model.stem.conv.weight.clone()
    step_run(model, Variant(kind, "own"), torch.randn(2, 1, 8, 8), torch.tensor([0, 1]))()
    assert not torch.equal(before, model.stem.conv.weight)


def document(**changes):
    torch.manual_seed(0)
    rows = [Variant("ours", "full", mode=BOTH), Variant("loop", "full", mode=BOTH), Variant("wrong", "full", mode=BOTH)]
    fake = iter([1.0] * 2 + [2e-3, 4e-3] * 3)
    table = compare(
        "a table",
        rows,
        lambda row: lambda: None,
        rounds=3,
        measure=lambda run: next(fake),
        refused={("wrong", "full", "fp32"): "spikes differ"},
    )
    verdict = {"kind": "wrong", "semantics": "full", "precision": "fp32", "subject": "layer", "passed": False}
    return {
        "machine": report.machine(),
        "gate": [verdict | {"reason": "spikes differ", "near_threshold": 0}],
        "tables": [table],
        "memory": {"batch": 2, "rows": [{"kind": "ours", "semantics": "full", "peak_above_idle": 3e6}], "ratios": {}},
        "first_use": {"cold": 12.0, "warm": 0.1},
        "gpu": gpu.NOT_RUN,
        "kernels": None,
    } | changes


def test_the_report_is_written_whole_and_reads_like_its_json(tmp_path, capsys):
    stem = tmp_path / "new" / "run.v1"
    report.write(stem, document())
    assert sorted(p.name for p in stem.parent.iterdir()) == ["run.v1.json", "run.v1.md"]
    stored = json.loads((stem.parent / "run.v1.json").read_text())
    ours, loop, wrong = stored["tables"][0]["rows"]
    assert (ours["samples"], loop["samples"], "samples" in wrong) == ([2e-3] * 3, [4e-3] * 3, False)
    assert stored["tables"][0]["ratios"][0]["median"] == 2
    assert {"torch", "spikingjelly"} <= set(stored["machine"]["versions"]) and stored["machine"]["threads"] >= 1
    text = (stem.parent / "run.v1.md").read_text()
    assert "failed the gate: spikes differ" in text and "| ours, full | 3 |" in text and "| empty | 12.0 |" in text
    assert text == report.markdown(stored)


def test_without_a_gpu_the_report_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(["--only", "gpu", "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run.json").read_text())["gpu"] == "GPU: not run"
    assert "GPU: not run" in (tmp_path / "run.md").read_text()
    assert "GPU: not run" in capsys.readouterr().out


def test_wrong_words_end_before_anything_runs(capsys):
    for words in (["--only", "lif,blok"], ["--rounds", "0"]):
        with pytest.raises(SystemExit) as end:
            bench.main(words)
        assert end.value.code == 2
    assert "blok" in capsys.readouterr().err


@pytest.mark.parametrize("mode", [BOTH, INFERENCE])
def test_rows_of_one_gpu_table_have_names_and_partners_of_their_own(mode):
    rows = gpu.rows(mode)
    assert len({row.name for row in rows}) == len(rows)
    partnered = {row for pair in pairs_of(rows) for row in pair}
    assert {row for row in rows if row.kind != variants.OURS} <= partnered


def test_known_traffic_of_the_gpu_kernels():
    assert gpu.moved_bytes(variants.OURS, "fp32", 4) == 20.5
    assert gpu.moved_bytes(variants.OURS, "bf16", 4) == 10.5
    assert gpu.moved_bytes(variants.SJ_LIF, "fp32", 4) == 28
    assert gpu.moved_bytes(variants.SJ_PLAN, "bf16", 4) == 14
    assert gpu.moved_bytes(variants.LOOP, "fp32", 4) is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.slow
def test_peak_memory_is_of_the_step_alone():
    from scripts.bench.child import run_child

    small, large = (
        run_child("memory", {"kind": variants.RELU, "semantics": "floor", "batch": batch})["peak_above_idle"]
        for batch in (1, 4)
    )
    # Gradients cost the same; maps of 17 layers and 4 steps grow with the batch.
    assert 20e6 < small < large < 2e9
    with pytest.raises(RuntimeError, match="memory ended with"):
        run_child("memory", {"kind": "no such neuron", "semantics": "none", "batch": 1})
