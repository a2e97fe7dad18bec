"""The report page: complete, self-contained, every value with its runs and commands."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from stored_files import claim, record_of, table_of

from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.errors import StorageError
from snnrepro.identity import run_id
from snnrepro.report import page
from snnrepro.runs import run_path

STORED = Path(__file__).resolve().parents[2] / "outputs" / "tables"
VOID = {"meta", "img", "br", "link"}


class Checked(HTMLParser):
    """Fails on tags that do not match, and collects what points elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.titles = [], [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.sources += [attributes[name] for name in ("src", "href") if name in attributes]
        self.titles += [attributes["title"]] if "title" in attributes else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def output(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "figures").mkdir()
    shutil.copy(STORED / "table10_mini.json", tmp_path / "tables")
    (tmp_path / "tables" / "claims_mini.json").write_text(json.dumps({"scale": "mini", "claims": [claim()]}))
    (tmp_path / "tables" / "claims_mini.md").write_text("claims as Markdown\n")
    (tmp_path / "figures" / "fig19_mini.png").write_bytes(b"\x89PNG not really")
    return tmp_path


def test_page_is_whole_and_needs_nothing_else(output, capsys):
    assert main(["report", f"runtime.output_dir={output}"]) == 0
    assert "1 tables, 1 claims, 1 figures" in capsys.readouterr().out
    html = (output / "report_mini.html").read_text()
    found = Checked()
    found.feed(html)
    assert found.open == []
    assert all(source.startswith(("data:image/png;base64,", "runs/", "#")) for source in found.sources)
    assert [source for source in found.sources if source.startswith("#")] == ["#table10", "#claims", "#figures"]
    assert all(f"id='{source[1:]}'" in html for source in found.sources if source.startswith("#"))
    assert html.count("<th colspan='2'>V_thr = ") == 5
    assert "not numbers of the paper" in html and "a &lt; b &amp; c" in html and "0.5, 0.25, inf" in html
    table = json.loads((output / "tables" / "table10_mini.json").read_text())
    runs = [run for row in table["rows"] for cell in row["cells"] for run in cell["runs"]]
    assert len(found.titles) == 30 and runs[0]["run"] in found.titles[0]
    assert all(
        "python train.py runtime.precision=fp32 dataset=digits" in title and title.endswith(" seed=0")
        for title in found.titles
    )
    assert f"runs/{runs[0]['run']}/record.json" in found.sources
    assert "python train.py" in html and "neuron.v_threshold=0.1" in html
    markdown = (output / "report_mini.md").read_text()
    assert "Table 10" in markdown and "claims as Markdown" in markdown and "figures/fig19_mini.png" in markdown


def test_cost_counts_every_run_once(output):
    runs = [compose_run([f"seed={seed}", f"runtime.output_dir={output}"]) for seed in range(2)]
    for run, seconds in zip(runs, (1800.0, 900.0), strict=True):
        run_path(run).mkdir(parents=True)
        (run_path(run) / "record.json").write_text(json.dumps(record_of(run, seconds=seconds)))
    table = table_of()
    table["rows"][0]["cells"][0]["runs"][0]["run"] = run_id(runs[0])
    assert page.cost(output, [table, table], []) == (1, 0.5)
    assert page.cost(output, [table], [run_id(runs[1]), run_id(runs[0]), "not-made"]) == (2, 0.75)


def test_nothing_to_report_is_one_line(tmp_path):
    with pytest.raises(StorageError, match="no table of scale mini; make one first: snnrepro table NAME --scale mini"):
        page.main([f"runtime.output_dir={tmp_path}"])
