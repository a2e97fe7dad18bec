"""From a table to runs, and from records to values."""

import json
from dataclasses import replace

import pytest
from stored_files import evaluated

from snnrepro.compose import composer
from snnrepro.errors import ConfigError, StorageError
from snnrepro.identity import run_id
from snnrepro.report.select import Outcome, changes, distinct_jobs, expand, missing_jobs, outcome, same_experiment
from snnrepro.report.tables import SCALES, load


@pytest.fixture(scope="module")
def table10():
    return load("table10")


@pytest.fixture(scope="module")
def cells10(table10):
    return expand(table10, "mini", [])


def test_table10_has_78_distinct_runs_at_three_seeds(cells10):
    assert len(cells10) == 2 * 3 * 5
    assert sum(len(cell.jobs) for cell in cells10) == 90
    ids = [run_id(job.run) for job in distinct_jobs(cells10)]
    assert len(ids) == len(set(ids)) == 2 * (3 * 4 + 1) * 3


def test_table10_families_share_their_runs_at_threshold_one_only(cells10):
    for reset in (0, 15):
        for column in range(5):
            shared = {tuple(cells10[reset + row + column].jobs) for row in (0, 5, 10)}
            assert len(shared) == (1 if column == 2 else 3)
    assert all(job.run.neuron.family == "trsg" for job in cells10[2].jobs.values())


def test_table10_runs_are_what_their_labels_say(table10, cells10):
    places = [(row, column) for row in table10.rows for column in table10.columns]
    for (row, column), cell in zip(places, cells10, strict=True):
        for seed, job in zip(table10.seeds, cell.jobs.values(), strict=True):
            neuron = job.run.neuron
            assert job.run.seed == seed and job.run.dataset.name == "digits"
            assert (neuron.reset, neuron.v_threshold) == (row.label[0], float(column.label))
            assert neuron.family == row.label[1] or neuron.v_threshold == 1.0
            assert not (neuron.learn_threshold or neuron.learn_tau or neuron.mp_init.enabled)


def test_jobs_carry_the_command_line_of_their_run(cells10):
    with composer() as make:
        for cell in cells10[::7]:
            for id, job in cell.jobs.items():
                assert run_id(make(job.words)) == run_id(job.run) == id


def test_table2_rows_are_the_named_experiments():
    names = ("baseline", "mpinit", "trsg", "mpinit_trsg")
    cells = expand(load("table2"), "paper", [])
    with composer() as make:
        for name, cell in zip(names, cells[:4], strict=True):
            run = make([f"experiment=table2/{name}"])
            assert run_id(run) == next(iter(cell.jobs))
            assert (run.dataset.name, run.timesteps) == ("cifar100", 4)
    settings = [(j.run.neuron.mp_init.enabled, j.run.neuron.family) for c in cells[:4] for j in c.jobs.values()][::3]
    assert settings == [(False, "as_sg"), (True, "as_sg"), (False, "trsg"), (True, "trsg")]
    for cell in cells[4:]:
        run = next(iter(cell.jobs.values())).run
        assert (run.dataset.name, run.model.name, run.timesteps) == ("dvs_cifar10", "resnet19", 10)


def test_words_may_differ_between_scales(small):
    row = replace(small.rows[0], words={"paper": ("timesteps=6",), "mini": ("timesteps=2",)})
    runs = {scale: next(iter(expand(replace(small, rows=(row,)), scale, [])[0].jobs.values())).run for scale in SCALES}
    assert (runs["paper"].timesteps, runs["mini"].timesteps) == (6, 2)
    assert (runs["paper"].dataset.name, runs["mini"].dataset.name) == ("cifar100", "digits")


@pytest.mark.parametrize("word", ["neuron.v_threshold=3", "neuron.family=as_sg", "seed=7", "dataset=synthetic"])
def test_expand_refuses_words_that_the_table_sets(small, word: str):
    with pytest.raises(ConfigError, match=r"table1 sets .* itself; leave it out"):
        expand(small, "mini", [word])


@pytest.mark.parametrize(
    ("word", "message"),
    [("epoch=1", "epoch: no such key; did you mean 'epochs'"), ("epochs=0", "table1, trsg, 1.0: epochs=0")],
)
def test_expand_refuses_words_that_do_not_fit(small, word: str, message: str):
    with pytest.raises(ConfigError, match=message):
        expand(small, "mini", [word])


def test_expand_applies_words_to_every_run(small):
    assert {job.run.epochs for job in distinct_jobs(expand(small, "mini", ["epochs=3"]))} == {3}


@pytest.mark.parametrize(
    ("word", "changed", "same"),
    [
        ("runtime.output_dir=x", False, True),
        ("dataset.root=x", False, True),
        ("logger=wandb", False, True),
        ("logger.project=x", False, True),
        ("runtime=gpu", False, True),
        ("runtime.backend=reference", False, True),
        ("runtime.precision=bf16", True, True),
        ("epochs=1", True, False),
        ("++epochs=1", True, False),
        ("dataset.flip=true", True, False),
    ],
)
def test_words_are_told_apart_by_what_they_change(word: str, changed: bool, same: bool):
    assert changes([word]) == ([word] if changed else [])
    assert same_experiment([word]) is same


def test_a_table_finds_the_runs_of_train_in_the_precision_that_is_asked_for():
    ids = {
        precision: next(iter(expand(load("table2"), "paper", extra)[0].jobs))
        for precision, extra in {"fp32": ["runtime=gpu"], "bf16": ["runtime=gpu", "runtime.precision=bf16"]}.items()
    }
    with composer() as make:
        words = ["dataset=cifar100", "timesteps=4", "neuron=lif"]
        assert run_id(make(words)) == run_id(make([*words, "runtime=gpu", "runtime.precision=fp32"])) == ids["fp32"]
        assert run_id(make([*words, "runtime=gpu"])) == ids["bf16"] != ids["fp32"]


@pytest.fixture
def run(small, words):
    """The job of the small table's first run."""
    return next(iter(expand(small, "mini", words)[0].jobs.values()))


def test_outcome_reads_the_metric(run, record):
    assert outcome(run, "final.top1") == Outcome("missing", None, None, None)
    record(run, 96.5)
    assert outcome(run, "final.top1") == Outcome("done", 96.5, 97.0, "c0ffee")
    assert outcome(run, "final.top1_per_timestep.0").value == 93.5
    record(run, None)
    assert outcome(run, "final.top1") == Outcome("diverged", None, None, "c0ffee")


def test_a_diverged_run_has_no_value_even_where_its_record_has_one(run, record):
    record(run, 12.0, status="diverged", diverged={"message": "loss is not finite", "epoch": 1, "step": 3})
    assert outcome(run, "final.top1").value is None


FINAL = {"epoch": 10, **evaluated()}
DAMAGE = {
    "status missing": ({"status": None}, "status: must be"),
    "unknown status": ({"status": "ok"}, "status: must be 'done' or 'diverged', found 'ok'"),
    "another run": ({"id": "digits-other"}, "it belongs to digits-other"),
    "no final": ({"final": None}, "final: is missing"),
    "metric missing": ({"final": {**FINAL, "top1": None}}, "final.top1: must be a valid number, found null"),
    "value is text": ({"final": {**FINAL, "top1": "97"}}, "final.top1: must be a valid number, found '97'"),
    "value is nan": ({"final": {**FINAL, "top1": float("nan")}}, "final.top1: must be .*, found nan"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_record_is_refused_naming_the_file(run, record, case: str):
    change, message = DAMAGE[case]
    record(run, **change)
    with pytest.raises(StorageError, match=rf"record.json.*{message}.*remove the run's folder"):
        outcome(run, "final.top1")


@pytest.mark.parametrize("text", ["", '{"id": ', "[]", '{"id": "x"}'])
def test_a_truncated_record_is_refused_naming_the_file(run, record, text: str):
    record(run).write_text(text)
    with pytest.raises(StorageError, match=r"record.json.*remove the run's folder"):
        outcome(run, "final.top1")


def test_missing_jobs_are_those_without_record(small, words, record):
    cells = expand(small, "mini", words)
    jobs = distinct_jobs(cells)
    assert len(missing_jobs(jobs)) == len(jobs) == 9
    record(jobs[0])
    record(jobs[4], None)
    assert [run_id(job.run) for job in missing_jobs(jobs)] == [
        run_id(job.run) for i, job in enumerate(jobs) if i not in (0, 4)
    ]
    assert json.loads((jobs[0].path / "record.json").read_text())["status"] == "done"


def test_a_record_of_an_older_version_has_a_value_and_no_best_epoch(run, record):
    file = record(run, 96.5)
    content = json.loads(file.read_text())
    del content["best"], content["format"]
    file.write_text(json.dumps(content))
    assert outcome(run, "final.top1") == Outcome("done", 96.5, None, "c0ffee")
