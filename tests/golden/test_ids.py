"""Names of runs, as they were when the rule was made: one that moves orphans every finished run of that kind.

Where a change of results moves all of them (``NUMERICS``), write them anew: ``python -m golden.test_ids`` in tests/.
"""

import json
from dataclasses import field, make_dataclass
from pathlib import Path

import pytest

from snnrepro import registry
from snnrepro.compose import compose_run, composer
from snnrepro.config_values import to_plain
from snnrepro.identity import first_id, id_of, in_identity, names_of, run_id
from snnrepro.schema import later

FILE = Path(__file__).with_name("ids.json")
FIRST = json.loads(Path(__file__).with_name("first_config.json").read_text())
WORDS = [
    "", "seed=7", "timesteps=2", "neuron=lif", "neuron=rs_sg neuron.v_threshold=0.5", "neuron=imp", "neuron=ltmd",
    "neuron=mps runtime.backend=reference", "neuron.reset=hard surrogate=arctan", "norm=tebn", "norm=tab",
    "norm=mpbn", "norm=bntt", "loss=tet", "loss=mps", "loss=rmp loss.sparsity.weight=0.1", "optimizer=adamw",
    "optimizer=lamb optimizer.clip_grad=1", "model=cnn7_mini", "model=sew_resnet34_mini", "dataset=cifar10",
    "dataset=cifar100 runtime=gpu", "dataset=imagenet model=sew_resnet34", "dataset=dvs_cifar10",
    "dataset=dvs_cifar10 dataset.split=random_seeded dataset.split_seed=3", "experiment=table2/mpinit_trsg",
]  # fmt: skip


def ids() -> dict[str, str]:
    with composer() as make:
        return {words: run_id(make(words.split())) for words in WORDS}


def test_no_name_moves():
    stored = json.loads(FILE.read_text())
    assert len(stored) >= 25 and ids() == stored
    assert len(set(stored.values())) == len(stored)


@pytest.fixture
def grown(monkeypatch):
    """Returns the default's configuration as it was stored before LIF got two keys more, which it has afterwards.

    One may be left out, the value 0 of the other one means what runs did before.
    """
    plain = to_plain(compose_run([]))
    lif = registry.options("neuron")["lif"]
    more = [("boost", float | None, field(default=None)), ("noise", float, later(as_before=0.0))]
    schema = make_dataclass("Grown", more, bases=(lif,), slots=True, kw_only=True)
    monkeypatch.setitem(registry._registered["neuron"], "lif", schema)
    return plain


def test_a_key_that_is_added_moves_no_name(grown):
    before = json.loads(FILE.read_text())[""]
    for added in ({}, {"boost": None}, {"noise": 0.0}, {"boost": None, "noise": 0.0}):
        assert id_of({**grown, "neuron": {**grown["neuron"], **added}}) == before
    # The control: used, they make other runs.
    for added in ({"boost": 1.0}, {"noise": 0.5}):
        assert id_of({**grown, "neuron": {**grown["neuron"], **added}}) != before


@pytest.mark.parametrize("word", ["runtime.device=cpu", "runtime.workers=3", "logger=wandb", "runtime.threads=1",
                                  "dataset.root=/x", "dataset.download=true"])  # fmt: skip
def test_where_and_how_a_run_executes_is_no_part_of_it(word):
    data = ["dataset=cifar10"]
    assert run_id(compose_run([*data, word])) == run_id(compose_run(data))
    assert not in_identity(word.partition("=")[0])


@pytest.mark.parametrize("word", ["runtime.precision=bf16", "neuron.mp_init.beta=0.2", "seed=1", "batch_size=7",
                                  "dataset.flip=false", "loss.sparsity.weight=1"])  # fmt: skip
def test_what_changes_results_is(word):
    data = ["dataset=cifar10"]
    assert run_id(compose_run([*data, word])) != run_id(compose_run(data))
    assert in_identity(word.partition("=")[0])


def test_a_run_of_the_first_rule_is_known_under_both_names():
    config = FIRST["config"]
    assert first_id(config) == FIRST["id"] != id_of(config)
    assert {FIRST["id"], id_of(config)} <= names_of(config)
    assert id_of(config) == id_of({**config, "logger": {"name": "wandb", "project": "x"}})
    assert FIRST["id"] not in names_of({**config, "seed": config["seed"] + 1})


@pytest.mark.parametrize("config", [{}, {"model": 3}, {**FIRST["config"], "model": {"arch": "nosuch", "name": "x"}}])
def test_what_is_no_configuration_has_no_name_of_today(config):
    assert len(names_of(config)) <= 3


if __name__ == "__main__":
    FILE.write_text(json.dumps(ids(), indent=1) + "\n")
