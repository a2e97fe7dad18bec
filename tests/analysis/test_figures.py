"""Figures are drawn from what runs left behind, and say what is missing."""

import pytest

from snnrepro.analysis.figures import FIGURES, NOT_BUILT, main
from snnrepro.errors import ConfigError, StorageError


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


def test_every_figure_of_the_paper_is_drawn_or_says_why_not(tmp_path):
    assert {*FIGURES, *NOT_BUILT} == {str(number) for number in range(1, 20)}
    for number in ("12", "99"):
        with pytest.raises(ConfigError, match=f"figure {number}: "):
            main([number])


@pytest.mark.slow
def test_figures_from_runs(tmp_path, capsys):
    from snnrepro.analysis.command import main as claims

    words = ["epochs=2", "model.stem_width=4", "model.widths=[4,4,8]", "model.blocks=[1,1,1]",
             "runtime.backend=reference", f"runtime.output_dir={tmp_path}"]  # fmt: skip
    assert claims(["--only", "c8", "--run", *words]) == 0
    for number in ("4", "5", "6", "7", "10", "11", "13"):
        assert main([number, *words]) == 0, number
    assert len(list((tmp_path / "figures").glob("*.png"))) == 7
