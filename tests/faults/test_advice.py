"""Advice in a message works: it is taken out of the text, followed, and the same command then succeeds.

A test that follows a message's advice says so with ``pytest.mark.advice("part of the message")``, wherever it is; the
first test here finds messages whose advice nobody follows.
"""

import re
from contextlib import contextmanager

import pytest
from conftest import without
from faults.messages import ADVICE, changed, followed, settings_in, templates

from snnrepro.cli import main
from snnrepro.compose import compose_run, composer, keys, parse
from snnrepro.errors import ConfigError, UserError
from snnrepro.sweep import expand

advice = pytest.mark.advice

# Parts of messages whose advice no test can follow, and why.
NOT_FOLLOWED = {
    "torchrun: {} processes on {} GPUs; start one for each": "needs fewer GPUs than processes, and at least one",
    "runtime.backend=compiled: made for CPUs": "needs a GPU",
    "reinstall scikit-learn": "installs a package",
    "unpack all archives": "ImageNet: 150 GB",
    "unpack its archive": "ImageNet: 150 GB",
    "sort val by class": "ImageNet: 150 GB",
    "holds train/ and val/": "ImageNet: 150 GB; tests/data/test_imagenet.py reads such folders",
    "install g++, or use runtime.backend=reference": "installs a compiler",
    # What is wrong lies outside of the program.
    "check the path, its rights and the disk": "a disk or its rights",
    "cannot start a run: {}; check {}, memory and limits": "limits of the machine",
    "its list does not match its digest; reinstall snnrepro": "installs a package",
    "on Windows use WSL": "another system",
}


def test_advice_of_every_message_is_followed_by_a_test():
    messages = templates()
    given = {text: place for text, place in messages.items() if ADVICE.search(text)}
    assert len(given) > 50, "the messages are not found any more"
    known = [*followed(), *NOT_FOLLOWED]
    left = [f"{place}: {text}" for text, place in given.items() if not any(part in text for part in known)]
    assert not left, "follow these in a test with pytest.mark.advice, or say in NOT_FOLLOWED why not:\n" + "\n".join(
        left
    )
    stale = [part for part in known if not any(part in text for text in messages)]
    assert not stale, f"no message says this any more: {stale}"


@pytest.mark.parametrize("source, is_advice", [
    ("x: wrong; use y=1", True), ("x: wrong; the same command resumes", True), ("x: damaged", False),
    ("x=3: must be a finite number above 0", False), ("x: the checkpoint's neurons are a: neuron={}", True),
])  # fmt: skip
def test_control_advice_is_told_from_other_text(source, is_advice):
    assert bool(ADVICE.search(source)) == is_advice


def test_control_an_error_with_new_advice_is_noticed(tmp_path):
    (tmp_path / "new.py").write_text("def f(x):\n    raise DataError(f'{x}: odd; ' f'use {x}=2')\n")
    assert templates(tmp_path) == {"{}: odd; use {}=2": "new.py:2"}


@contextmanager
def refused(kind=UserError):
    """Yields a list that holds the message of the error that the block must raise."""
    message: list[str] = []
    with pytest.raises(kind) as caught:
        yield message
    message.append(str(caught.value))
    assert "\n" not in message[0]


def follow(words: list[str]) -> None:
    """Composes a command line that is refused, then again with each setting that the message advises."""
    with refused(ConfigError) as message:
        compose_run(words)
    settings = settings_in(message[0])
    assert settings, f"no KEY=VALUE in: {message[0]}"
    for setting in settings:
        compose_run(changed(words, setting))


SETTINGS = [
    pytest.param(
        ["neuron=ltmd", "neuron.family=trsg"], marks=advice("use neuron.family=as_sg or neuron.threshold_map=softplus")
    ),
    pytest.param(["neuron=trsg", "neuron.learn_u_init=true"], marks=advice("add neuron.mp_init.enabled=false")),
    pytest.param(["norm=mpbn", "runtime.backend=compiled"], marks=advice("norm=mpbn needs runtime.backend=reference")),
    pytest.param(
        ["neuron=mps", "runtime.backend=auto"], marks=advice("neuron.smoothing needs runtime.backend=reference")
    ),
    pytest.param(["norm=mpbn", "loss=rmp"], marks=advice("use loss=ce")),
    pytest.param(
        ["model=sew_resnet34_mini", "model.connect=and", "neuron=trsg"],
        marks=advice("use model.connect=add or neuron=rs_sg"),
    ),
    pytest.param(["norm.alpha_v_threshold=true", "neuron=trsg"], marks=advice("add neuron.learn_threshold=false")),
]


@pytest.mark.parametrize("words", SETTINGS, ids=" ".join)
def test_settings_that_a_message_advises(words):
    follow(words)


UNUSED = ["norm=tebn norm.share_affine=true", "dataset=digits dataset.size=16", "loss=ce loss.tet_weight=0.1",
          "optimizer=adamw optimizer.momentum=0.9", "model=resnet34_mini model.head=tet",
          "loss.sparsity.target=0.1", "dataset=dvs_cifar10 dataset.split_seed=1"]  # fmt: skip


@advice("{}: {} does not use it, {} would; leave it out")
@advice("loss.sparsity.kind={} does not use it; leave it out")
@advice("dataset.split={} does not use it; leave it out")
@pytest.mark.parametrize("line", UNUSED)
def test_a_key_that_is_not_used_is_left_out(line):
    words = line.split()
    with refused(ConfigError) as message:
        compose_run(words)
    key = message[0].partition("=")[0]
    assert message[0].endswith("; leave it out")
    compose_run(without(words, key))


@advice("comes with an option of its own; choose one with {}=OPTION")
@pytest.mark.parametrize("word", ["loss.name=lts", "model.arch=cnn7", "optimizer.name=adamw", "dataset.name=cifar10"])
def test_a_name_that_comes_with_an_option(word):
    with refused(ConfigError) as message:
        compose_run([word])
    group = re.search(r"choose one with (\w+)=OPTION", message[0])[1]
    compose_run([f"{group}={word.partition('=')[2]}"])


@advice("{}={}: must be one of {}{}")
@pytest.mark.parametrize("word", ["neuron=nonsuch", "surrogate=nonsuch", "neuron.reset=nonsuch",
                                  "surrogate.name=nonsuch", "runtime.device=nonsuch",
                                  "optimizer.schedule=nonsuch"])  # fmt: skip
def test_every_option_of_a_list_is_one(word):
    with refused(ConfigError) as message:
        compose_run([word])
    options = re.search(r"must be one of ([^;]*)", message[0])[1].split(", ")
    assert len(options) > 1
    with composer() as make:
        for option in options:
            with refused_only_for_other_reasons(word.partition("=")[0]):
                make([word.replace("nonsuch", option)])


@contextmanager
def refused_only_for_other_reasons(key: str):
    """Lets errors about other keys pass: an option may need more words, which its own message says."""
    try:
        yield
    except ConfigError as error:
        assert not str(error).startswith(f"{key}="), error


@pytest.mark.parametrize(
    "word, right",
    [
        pytest.param("+neuron.tau=3", "neuron.tau=3", marks=advice("the key exists already; write it without '+'")),
        pytest.param("+neuron=lif", "neuron=lif", marks=advice("the group exists already; write it without '+'")),
        pytest.param("~neuron.tau", "neuron.tau=3", marks=advice("keys cannot be removed; set a value instead")),
        pytest.param("neuron.tau", "neuron.tau=3", marks=advice("not understood; write GROUP=OPTION or KEY=VALUE")),
    ],
)
def test_words_that_are_written_otherwise(word, right):
    with refused(ConfigError):
        compose_run([word])
    compose_run([right])


@advice("snnrepro --help lists them")
def test_help_lists_the_commands(capsys):
    assert main(["nonsuch"]) == 2
    assert "; snnrepro --help lists them" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "evaluate run=RUN_ID" in capsys.readouterr().out


@advice("several values make a sweep; with train.py add -m")
def test_a_sweep_is_one_with_m(tiny, capsys):
    words = ["train", *tiny, "epochs=1", "seed=0,1"]
    assert main(words) == 2
    assert "seed=0,1: several values make a sweep; with train.py add -m" in capsys.readouterr().err
    assert len(expand(parse(words[1:]))) == 2


def test_nearest_names_exist():
    for word in ("neuron.v_treshold=1", "optimiser.lr=1", "neuron.mp_init.betta=0.5"):
        with refused(ConfigError) as message:
            compose_run([word])
        assert re.search("did you mean '([^']*)'", message[0])[1] in keys()
