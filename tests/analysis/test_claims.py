"""Claims: verdicts follow from margins, the paper's numbers give its verdicts, and a command makes what is missing."""

import json
import math

import pytest

from snnrepro.analysis.claims import OURS, judge, pooled, sparsity_curve
from snnrepro.analysis.claims_paper import PAPER
from snnrepro.analysis.command import main
from snnrepro.analysis.evidence import Jobs, Runs, claims_file, named_runs, names_like, paper_numbers
from snnrepro.errors import ConfigError

# What the research behind the claims found on the paper's own numbers; c6 at the resolution of the decoded points.
FALSE_ON_PAPER = {"c6", "c7", "c11", "c16", "c18", "c19", "c20", "c21", "c27"}


@pytest.mark.parametrize(
    ("margins", "verdict"),
    [
        ([1.0, 1.1, 0.9], "supported"),
        ([-1.0, -1.1, -0.9], "contradicted"),
        ([1.0, -1.0, 0.3], "inconclusive"),
        ([0.5, 0.5, 0.5], "supported"),
        ([0.0, 0.0, 0.0], "contradicted"),
        ([math.inf] * 3, "supported"),
        ([math.inf, -1.0, 2.0], "inconclusive"),
        ([math.nan, 1.0, 1.0], "inconclusive"),
        ([5.0], "inconclusive"),
    ],
)
def test_verdicts_follow_from_margins(margins, verdict):
    assert judge(margins).verdict == verdict


def test_the_test_is_the_one_sided_t_test():
    from scipy.stats import t

    margins = [0.4, 0.1, 0.9]
    mean, sd = sum(margins) / 3, (sum((m - sum(margins) / 3) ** 2 for m in margins) / 2) ** 0.5
    assert judge(margins).p == pytest.approx(t.sf(mean / (sd / 3**0.5), 2), rel=1e-9)


def test_every_claim_has_a_statistic_and_its_runs_exist():
    ids = [claim["id"] for claim in claims_file()["claims"]]
    assert ids == list(OURS) and set(PAPER) == set(ids)
    for claim in claims_file()["claims"]:
        assert names_like(claim["needs"]) or not claim["needs"]
        assert {"text", "where", "statistic"} <= set(claim)
    assert "frozen_hard_rs_sg_0.5" in named_runs()


@pytest.mark.parametrize("id", list(PAPER))
def test_verdict_on_the_papers_own_numbers(id):
    assert (PAPER[id](paper_numbers()) > 0) == (id not in FALSE_ON_PAPER)


class Fake(Runs):
    """Evidence made of a table of accuracies."""

    def __init__(self, tops):
        self.tops, self.seed = tops, 0

    def diverged(self, run):
        return self.tops.get(run) is None

    def top1(self, run):
        return self.tops.get(run) or 0.0


def test_a_claim_changes_with_its_data():
    tops = dict(zip(("base", "mp", "base_tebn", "mp_tebn", "base_tab", "mp_tab"), (1, 2, 3, 4, 5, 6), strict=True))
    assert OURS["c1"](Fake(tops)) == 1
    assert OURS["c1"](Fake(tops | {"mp_tab": 4.5})) == -0.5
    assert OURS["c2"](Fake({"mp": 76.0, "tr": 77.0, "mp_tr": 77.5})) == 0.5
    frozen = {f"frozen_{r}_{f}_{v}": 10.0 for r in ("soft", "hard") for f in ("as_sg", "rs_sg", "trsg")
              for v in (0.1, 0.5, 1.5, 2.0)}  # fmt: skip
    frozen |= {name: 12.0 for name in frozen if "trsg" in name}
    assert OURS["c16"](Fake(frozen)) == 2
    assert OURS["c16"](Fake(frozen | {"frozen_hard_rs_sg_1.5": 13.0})) == -1
    assert OURS["c16"](Fake(frozen | {"frozen_soft_rs_sg_0.1": None})) == 2, "a diverged run has accuracy 0"
    assert OURS["c12"](Fake({"frozen_soft_rs_sg_0.1": None})) == math.inf


def test_names_of_runs_match_their_words():
    all_jobs = Jobs("mini", [])
    run = all_jobs["frozen_hard_rs_sg_0.5", 2].run
    assert (run.neuron.reset, run.neuron.family, run.neuron.v_threshold, run.seed) == ("hard", "rs_sg", 0.5, 2)
    assert not run.neuron.learn_threshold and not run.neuron.mp_init.enabled
    assert all_jobs["mp_T2", 0].run.timesteps == 2
    with pytest.raises(ConfigError, match="--scale large"):
        Jobs("large", [])


@pytest.mark.slow
def test_the_command_makes_missing_runs_and_writes_verdicts(tmp_path, capsys):
    words = ["epochs=2", "model.stem_width=4", "model.widths=[4,4,8]", "model.blocks=[1,1,1]",
             "runtime.backend=reference", f"runtime.output_dir={tmp_path}"]  # fmt: skip
    assert main(["--only", "c4,c8,c17,c28", *words]) == 0
    out = capsys.readouterr().out
    assert "**not run: " in out and "1 supported, 0 contradicted, 0 inconclusive, 3 not run" in out
    assert main(["--only", "c4,c8,c17,c28", "--run", *words]) == 0
    first = capsys.readouterr().out
    assert "not run:" not in first and "0 not run" in first
    found = json.loads((tmp_path / "tables" / "claims_mini.json").read_text())
    assert all(len(row["margins"]) == 3 for row in found["claims"])
    # Nothing is trained or analysed twice.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*.json")}
    assert main(["--only", "c4,c8,c17,c28", "--run", *words]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*.json")} == before
    with pytest.raises(ConfigError, match="--only c99: no such claim"):
        main(["--only", "c99"])


def test_shares_are_pooled_by_active_neurons():
    layers = {"a": {"active": 30, "within_1V": [1.0, 0.5]}, "b": {"active": 10, "within_1V": [0.2, 0.1]}}
    assert pooled(layers, "within_1V") == pytest.approx([32 / 40, 16 / 40])


def test_a_run_that_diverged_is_no_point_of_a_curve(monkeypatch):
    e = Fake({f"sparse_{w}": 90.0 + w for w in (0.1, 0.3, 1.0, 3.0)} | {"sparse_10.0": None})
    monkeypatch.setattr(Fake, "rate", lambda self, run: pytest.fail(run) if self.diverged(run) else 0.1)
    assert [top1 for _, top1 in sparsity_curve(e, "sparse_{}")] == [90.1, 90.3, 91.0, 93.0]
