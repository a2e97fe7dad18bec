"""Figures are drawn from what runs left behind, and say what is missing."""

import os

import pytest

from snnrepro.analysis import figures
from snnrepro.analysis.evidence import Jobs, Runs, jobs_of_figures, named_runs, names_like
from snnrepro.analysis.figures import FIGURES, main
from snnrepro.errors import ConfigError, StorageError
from snnrepro.identity import run_id
from snnrepro.overrides import parse
from snnrepro.sweep import expand


def test_simulated_figures_need_no_run(tmp_path, capsys):
    for number in ("3", "19"):
        assert main([number, f"runtime.output_dir={tmp_path}"]) == 0
        png, svg = (tmp_path / "figures" / f"fig{int(number):02d}_mini.{kind}" for kind in ("png", "svg"))
        assert png.read_bytes().startswith(b"\x89PNG") and "<svg" in svg.read_text()[:1000]
    assert "forgetting, simulated" in capsys.readouterr().out


def test_a_missing_run_is_one_line_with_its_command(tmp_path, capsys):
    with pytest.raises(
        StorageError, match="figure 6: run base is missing; snnrepro claims --scale mini --run makes it"
    ):
        main(["6", f"runtime.output_dir={tmp_path}"])
    assert main(["all", f"runtime.output_dir={tmp_path}"]) == 0
    assert capsys.readouterr().out.count("is missing") == len(FIGURES) - 2


def test_every_figure_of_the_paper_is_drawn():
    assert set(FIGURES) == {str(number) for number in range(1, 20)}
    with pytest.raises(ConfigError, match="figure 99: there are 1, 2, "):
        main(["99"])


@pytest.mark.parametrize("number", ["9", "15", "16"])
def test_grids_of_initial_values_ask_for_runs_that_have_a_name(number, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Runs, "top1", lambda self, run: float(asked.append(run) or len(asked)))
    assert main([number, f"runtime.output_dir={tmp_path}"]) == 0
    named = named_runs()
    assert set(asked) <= set(named) and len(set(asked)) == len(asked) == {"9": 18, "15": 72, "16": 36}[number]
    # Each panel varies what it says: three values, everything else equal.
    for first, *others in zip(*[iter(asked)] * 3, strict=True):
        assert [len(set(named[first]) - set(named[other])) for other in others] == [1, 1]
    assert (tmp_path / "figures" / f"fig{int(number):02d}_mini.png").stat().st_size > 10_000


def test_runs_of_figures_are_made_once(tmp_path, monkeypatch):
    jobs = Jobs("mini", [f"runtime.output_dir={tmp_path}"])
    # At V_thr = 1 and tau = 2 a shape's two sweeps are one run, and for the rectangle it is one of Fig. 9.
    assert [len(jobs_of_figures(jobs, number)) for number in (["12"], ["15"], ["16"])] == [1, 60, 36]
    assert len(jobs_of_figures(jobs)) == 97
    of_fig9 = {jobs[name, 0].path for name in names_like(["trained_*_1.0"])}
    assert len(of_fig9 & {job.path for job in jobs_of_figures(jobs, ["16"])}) == 6
    started = []
    monkeypatch.setattr(figures, "run_jobs", started.extend)
    with pytest.raises(StorageError, match="figure 12: run base_dvs is missing; snnrepro figure 12 --scale mini --run"):
        main(["12", "--run", f"runtime.output_dir={tmp_path}"])
    assert [job.run.dataset.name for job in started] == ["digits_dvs"] and started[0].run.timesteps == 10
    assert Jobs("paper", [])["base_dvs", 0].run.dataset.name == "dvs_cifar10"


@pytest.mark.parametrize(
    ("experiment", "names"),
    [
        ("fig8", ["sparse_mp_tr_*", "sparse_tr_*"]),
        ("fig9", ["trained_*"]),
        ("fig15_v_threshold", ["shape_arctan_*_v*", "shape_sigmoid_*_v*"]),
        ("fig15_tau", ["shape_arctan_*_tau*", "shape_sigmoid_*_tau*"]),
        ("fig16", ["shape_rectangular_*_tau*", "shape_triangular_*_tau*"]),
        ("fig17", ["sparse_frozen_*"]),
    ],
)
def test_the_sweep_of_a_figure_is_an_experiment(experiment, names):
    swept = {run_id(job.run) for job in expand(parse([f"experiment=figures/{experiment}", "epochs=10"]))}
    assert swept == {run_id(job.run) for job in Jobs("mini", []).of(names_like(names), [0])}


def test_words_replace_what_an_experiment_sweeps():
    jobs = expand(parse(["experiment=figures/fig9", "neuron.reset=soft", "neuron.v_threshold=0.1,0.2"]))
    assert {(job.run.neuron.reset, job.run.neuron.v_threshold) for job in jobs} == {("soft", 0.1), ("soft", 0.2)}
    assert len(jobs) == 6


@pytest.mark.slow
def test_figures_from_runs(tmp_path, capsys):
    from snnrepro.analysis.command import main as claims

    words = ["epochs=2", "model.stem_width=4", "model.widths=[4,4,8]", "model.blocks=[1,1,1]",
             "runtime.backend=reference", f"runtime.output_dir={tmp_path}"]  # fmt: skip
    assert claims(["--only", "c8", "--run", *words]) == 0
    for number in ("4", "5", "6", "7", "10", "11", "13"):
        assert main([number, *words]) == 0, number
    assert len(list((tmp_path / "figures").glob("*.png"))) == 7


def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_figure(tmp_path, monkeypatch):
    def full(_file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"fig03_mini.png: cannot write: No space left on device"):
        main(["3", f"runtime.output_dir={tmp_path}"])
    assert list((tmp_path / "figures").iterdir()) == []
