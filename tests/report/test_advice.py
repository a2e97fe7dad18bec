"""Advice about tables works: each message's own words are followed."""

import re
import shutil

import pytest
import yaml

from snnrepro import report
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError, DataError, StorageError
from snnrepro.report import machine, page, tables
from snnrepro.report.readme import replace_block
from snnrepro.report.select import distinct_jobs, expand

advice = pytest.mark.advice


@pytest.fixture
def started(monkeypatch, record):
    """Every run that is started ends at 97 %."""
    monkeypatch.setattr(report, "run_jobs", lambda jobs: [record(job) for job in jobs])


def table(*words: str) -> int:
    return report.main(["table1", "--scale", "mini", *words])


@advice("--readme quotes the table as it is; leave out", "name it: --readme README.md")
def test_a_table_is_quoted_and_checked_as_the_messages_say(small, words, started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("<!-- table1 mini -->\n<!-- end -->\n")
    line = ["--readme", "README.md", *words, "epochs=2"]
    with pytest.raises(ConfigError) as caught:
        table(*line)
    table(*[word for word in line if word not in str(caught.value).partition("leave out ")[2].split()])
    with pytest.raises(ConfigError) as caught:
        table("--check", *words)
    assert table("--check", *words, *str(caught.value).partition("name it: ")[2].split()) == 0


def test_a_damaged_table_is_written_again(small, words, started, tmp_path):
    (tmp_path / "README.md").write_text("<!-- table1 mini -->\n<!-- end -->\n")
    quoted = ["--readme", str(tmp_path / "README.md"), *words]
    stored = tmp_path / "outputs/tables/table1_mini.json"
    stored.parent.mkdir(parents=True)
    stored.write_text("{}")
    with pytest.raises(StorageError, match="write it again with the table command"):
        table("--check", *quoted)
    table(*quoted)
    assert table("--check", *quoted) == 0


@advice("{} sets {} itself; leave it out")
def test_a_word_that_the_table_sets_is_left_out(small, words):
    with pytest.raises(ConfigError, match="leave it out") as caught:
        expand(small, "mini", [*words, "seed=3"])
    given = [word for word in [*words, "seed=3"] if not str(caught.value).startswith(word)]
    expand(small, "mini", given)


def test_a_damaged_record_is_made_again_where_its_folder_is_removed(small, words, started, record):
    job = distinct_jobs(expand(small, "mini", words))[3]
    file = record(job)
    for content in ("{", "{}"):
        file.write_text(content)
        with pytest.raises(StorageError, match="remove the run's folder and train it again"):
            table(*words)
    shutil.rmtree(file.parent)
    assert table(*words) == 0 and file.exists()


@advice("nothing was started; snnrepro table {} --scale mini runs it", "make one first: {}")
def test_a_table_is_made_as_the_messages_say(small, words, started, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_has_gpu", lambda: False)
    with pytest.raises(DataError) as caught:
        report.main(["table1", *words, f"dataset.root={tmp_path}"])
    with pytest.raises(StorageError) as other:
        page.main(words)
    for message in (str(caught.value), str(other.value)):
        line = re.search(r"snnrepro table (\w+ --scale mini)", message)[1].replace("NAME", "table1").split()
        assert report.main([*line, *words]) == 0
    assert (tmp_path / "outputs/tables/table1_mini.json").exists(), "what a report is made of"


@advice("must occur once, found {}; close it with {}", "is not closed; add a line {}")
def test_markers_as_the_messages_say():
    with pytest.raises(ConfigError) as caught:
        replace_block("text\n", "table1", "mini", "new")
    marker, end = re.findall("<!-- .*? -->", str(caught.value))
    text = f"text\n{marker}\n"
    with pytest.raises(ConfigError) as caught:
        replace_block(text, "table1", "mini", "new")
    assert str(caught.value).endswith(f"add a line {end}")
    assert "new" in replace_block(f"{text}{end}\n", "table1", "mini", "new")


@advice("found {}; put it in quotes", "{}: {}: write KEY=VALUE")
@pytest.mark.parametrize("wrong, right", [("label: [yes]", "label: ['yes']"), ("run: [epochs]", "run: ['epochs=3']")])
def test_a_faulty_table_is_mended_as_the_message_says(small, wrong, right):
    path = tables.FOLDER / "table01.yaml"
    spec = yaml.safe_load(path.read_text())
    for text, valid in ((wrong, False), (right, True)):
        spec["rows"][0].update(yaml.safe_load(text))
        path.write_text(yaml.safe_dump(spec))
        if valid:
            tables.load("table1")
            continue
        with pytest.raises(ConfigError, match=r"put it in quotes|write KEY=VALUE"):
            tables.load("table1")


def test_the_command_of_a_run_that_a_plan_lists_is_that_run(small, words, capsys):
    table("--plan", *words)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "python train.py" in line]
    planned = {compose_run(line[2:]).neuron.family for line in lines}
    assert planned == {"trsg", "rs_sg"}
