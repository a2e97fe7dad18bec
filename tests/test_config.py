"""The configuration: every key is typed, ranged, read; every file composes."""

import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest
import yaml

from snnrepro import options, registry
from snnrepro.compose import CONFIG_DIR, compose_run, composer, groups, keys
from snnrepro.config import GROUPS, RunConfig
from snnrepro.config_values import from_plain, to_plain
from snnrepro.errors import ConfigError
from snnrepro.identity import run_id
from snnrepro.neurons.surrogates import SURROGATES
from snnrepro.runs import read_config, write_config

REFUSED = {
    "neuron.v_treshold=0.5": "did you mean 'neuron.v_threshold'?",
    "+neuron.v_treshold=0.5": "did you mean 'neuron.v_threshold'?",
    "++neuron.v_treshold=0.5": "did you mean 'neuron.v_threshold'?",
    "+neuron.v_threshold=0.5": "write it without '+'",
    "~neuron.tau": "cannot be removed",
    "neuron.v_threshold=-1": "neuron.v_threshold",
    "neuron.v_threshold=0": "neuron.v_threshold",
    "neuron.v_threshold=nan": "neuron.v_threshold",
    "neuron.v_threshold=inf": "neuron.v_threshold",
    "neuron.v_threshold=abc": "neuron.v_threshold",
    "neuron.v_threshold=1/2": "neuron.v_threshold",
    "neuron.v_threshold=null": "neuron.v_threshold",
    "neuron.tau=1": "neuron.tau",
    "neuron.reset=softt": "did you mean 'soft'?",
    "neuron.family=trgs": "did you mean 'trsg'?",
    "neuron.mp_init.beta=1.5": "neuron.mp_init.beta",
    "neuron.learn_tau=maybe": "neuron.learn_tau",
    "neuron=trgs": "did you mean 'trsg'?",
    "surrogate=triangle": "did you mean 'triangular'?",
    "surrogate.gamma=0": "surrogate.gamma",
    "dataset=cifar": "did you mean 'cifar10'?",
    "dataset.download=true": "dataset.name=digits does not use it, cifar10 and",
    "datset=digits": "did you mean 'dataset'?",
    "optimizer.lr=0": "optimizer.lr",
    "optimizer=adamm": "did you mean 'adamw'?",
    "optimizer.betas=[0.9,0.9]": "optimizer.name=sgd does not use it, adamw and lamb would",
    "optimizer.warmup_epochs=30": "must be below epochs=30",
    "norm.alpha_v_threshold=true": "neuron.learn_threshold=false",
    "model.widths=[16,32]": "model.widths",
    "model.head=offical": "did you mean 'official'?",
    "loss.tet_weight=0.1": "loss.name=ce does not use it",
    "loss.sparsity.target=0.1": "loss.sparsity.kind=l1 does not use it",
    "loss.sparsity.kind=target": "loss.sparsity.kind=target needs a value",
    "loss.sparsity.kind=l2": "did you mean 'l1'?",
    "loss.sparsity.weight=-1": "loss.sparsity.weight",
    "loss=tte": "did you mean 'tet'?",
    "epochs=0": "epochs",
    "epochs=1.5": "epochs",
    "timesteps=0": "timesteps",
    "batch_size=-4": "batch_size",
    "seed=-1": "seed",
    "runtime.precision=fp8": "runtime.precision",
    "runtime.backend=tritn": "did you mean 'triton'?",
    "runtime.workers=-1": "runtime.workers",
    "neuron._target_=os.system": "no such key",
    "experiment=none_such": "experiment=none_such",
    "epochs": "KEY=VALUE",
    "epochs=[1": "KEY=VALUE",
}


@pytest.mark.parametrize("word", REFUSED)
def test_a_wrong_override_is_refused_in_one_line_with_its_key(word):
    with pytest.raises(ConfigError) as caught:
        compose_run([word])
    message = str(caught.value)
    assert REFUSED[word] in message
    assert "\n" not in message
    key = re.sub(r"^[+~]*", "", word).split("=")[0]
    assert key in message


def test_valid_neighbours_of_the_refused_overrides_are_accepted():
    run = compose_run(["neuron.v_threshold=0.5", "neuron.reset=hard", "++neuron.tau=3", "optimizer=adamw", "epochs=3"])
    assert (run.neuron.v_threshold, run.neuron.reset, run.neuron.tau) == (0.5, "hard", 3.0)
    assert (run.optimizer.name, run.epochs) == ("adamw", 3)


@pytest.mark.parametrize("group, option", [(g, o) for g, names in groups().items() for o in names])
def test_every_option_of_every_group_composes(group, option):
    compose_run([f"{group}={option}"])


def test_presets_differ_as_designed():
    with composer() as make:
        lif, trsg = make(["neuron=lif"]).neuron, make(["neuron=trsg"]).neuron
        assert (lif.family, lif.v_threshold, lif.tau, lif.reset) == ("as_sg", 1.0, 2.0, "soft")
        assert not (lif.learn_threshold or lif.learn_tau or lif.mp_init.enabled)
        assert trsg.family == "trsg" and trsg.learn_threshold and trsg.learn_tau and trsg.mp_init.enabled
        assert trsg.mp_init.beta == 0.1
        for family in ("as_sg", "rs_sg"):
            other = make([f"neuron={family}"]).neuron
            assert other.family == family
            other.family = "trsg"
            assert other == trsg


def test_a_dataset_brings_its_recipe_and_the_command_line_wins():
    with composer() as make:
        run = make(["dataset=cifar100"])
        assert (run.model.name, run.epochs, run.batch_size, run.optimizer.lr) == ("resnet19", 200, 64, 0.02)
        run = make(["dataset=cifar100", "model=cnn7", "epochs=3", "optimizer=adamw"])
        assert (run.model.name, run.epochs, run.optimizer.name) == ("cnn7", 3, "adamw")


def test_no_default_lives_in_the_schema():
    def check(schema: type) -> None:
        for field in fields(schema):
            # None: the key may be left out. A later key stands for what was before it.
            assert (
                field.default in (None, MISSING, field.metadata.get("as_before")) and field.default_factory is MISSING
            ), f"{schema}.{field.name}"
            if is_dataclass(field.type):
                check(field.type)

    check(RunConfig)
    for group in GROUPS:
        for schema in registry.options(group).values():
            check(schema)


def test_plain_and_yaml_round_trips(tmp_path):
    run = compose_run(["dataset=cifar10"])
    assert from_plain(to_plain(run)) == run
    folder = tmp_path / run_id(run)
    write_config(folder, run)
    assert read_config(folder) == run


def test_keys_that_other_programs_rely_on_exist():
    promised = """
        dataset model neuron surrogate norm loss optimizer logger seed epochs timesteps batch_size
        neuron.v_threshold neuron.tau neuron.family neuron.reset neuron.detach_reset neuron.learn_threshold
        neuron.learn_tau neuron.mp_init.enabled neuron.mp_init.beta surrogate.gamma optimizer.lr dataset.root
        runtime.device runtime.precision runtime.backend runtime.output_dir
    """
    assert set(promised.split()) <= set(keys())


def test_options_match_what_is_implemented():
    assert set(options.SURROGATES) == set(SURROGATES) == set(groups()["surrogate"])
    for group in ("dataset", "norm", "loss", "logger", "surrogate"):
        assert set(registry.options(group)) == set(groups()[group])


def test_no_yaml_names_code_to_run():
    for path in CONFIG_DIR.rglob("*.yaml"):
        assert "_target_" not in path.read_text(), path


def test_every_yaml_key_has_one_meaning_in_the_schema():
    """A key in a group file that the schema lacks would be refused at composition: the control."""
    values = yaml.safe_load((CONFIG_DIR / "neuron" / "trsg.yaml").read_text())
    assert values.pop("defaults") == ["_lif", "_self_"]
    assert set(values) == {field.name for field in fields(registry.options("neuron")["lif"])} - {"smoothing", "kind"}


def test_no_key_of_an_option_is_null_in_a_file():
    for path in CONFIG_DIR.rglob("*/*.yaml"):
        assert not re.search(r": null\b", path.read_text()), path


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("neuron=imp neuron.mp_init.enabled=true", "IMP and MP-Init both set the first membrane"),
        ("norm=mpbn runtime.backend=compiled", "norm=mpbn needs runtime.backend=reference"),
        ("neuron=mps runtime.backend=auto", "neuron.smoothing needs runtime.backend=reference"),
        ("norm=mpbn loss=rmp", "would count them twice"),
        ("neuron=ltmd neuron.family=trsg", "use neuron.family=as_sg or"),
        ("neuron=ltmd neuron.v_threshold=1.0", "neuron.v_threshold=1.0: must be"),
        ("neuron.smoothing=1.0", "neuron.smoothing=1.0: must be"),
    ],
)
def test_choices_that_exclude_each_other_say_why(words, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        compose_run(words.split())


@pytest.mark.parametrize("neuron", sorted(set(groups()["neuron"]) - {"imp"}))
def test_every_neuron_composes_with_mp_init(neuron):
    assert compose_run([f"neuron={neuron}", "neuron.mp_init.enabled=true"]).neuron.mp_init.enabled


def test_package_never_evaluates_or_unpickles():
    for path in Path(CONFIG_DIR.parent, "snnrepro").rglob("*.py"):
        text = path.read_text()
        for banned in ("import pickle", "eval(", "exec(", "yaml.load(", "instantiate(", "weights_only=False"):
            found = re.search(rf"(?<![.\w]){re.escape(banned)}", text)
            assert found is None, f"{path}: {banned}"


@pytest.mark.parametrize("plain", [None, [1], "text", 3])
def test_what_is_no_mapping_is_refused_in_one_line(plain):
    with pytest.raises(ConfigError, match=rf"a mapping of keys, not a {type(plain).__name__}"):
        from_plain(plain)
