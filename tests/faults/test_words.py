"""What people type behind ``=``: sweeps of every grammar, paths of every spelling, numbers without an end."""

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrepro import overrides
from snnrepro.cli import main
from snnrepro.compose import compose_run, composer, groups, keys
from snnrepro.errors import ConfigError
from snnrepro.overrides import TEXT_KEYS, parse
from snnrepro.sweep import expand, grid

FIG8, FIG9 = "experiment=figures/fig8", "experiment=figures/fig9"

SWEEPS = {
    "seed=0,1,2": ["0", "1", "2"],
    "seed=choice(3,1)": ["3", "1"],
    "seed=range(0,3)": ["0", "1", "2"],
    "seed=range(5,0,-2)": ["5", "3", "1"],
    "neuron.tau=range(1.5,3,0.5)": ["1.5", "2.0", "2.5"],
    "seed=sort(3,1,2)": ["1", "2", "3"],
    "seed=sort(3,1,2,reverse=true)": ["3", "2", "1"],
    "seed=int(1.0,2.0)": ["1", "2"],
    "seed=tag(a,choice(1,2))": ["1", "2"],
    "model.widths=[4,4,8],[8,8,16]": ["[4,4,8]", "[8,8,16]"],
    "neuron=glob(as*)": ["as_sg"],
    "neuron=glob([as*,rs*],exclude=r*)": ["as_sg"],
    "experiment=glob(table2/*)": [f"table2/{name}" for name in ("baseline", "mpinit", "mpinit_trsg", "trsg")],
}


@pytest.mark.parametrize("word", SWEEPS)
def test_a_sweep_has_the_values_of_its_grammar(word):
    jobs = expand(parse([word]))
    assert [job.words[0].partition("=")[2] for job in jobs] == SWEEPS[word]
    assert all(compose_run(job.words) == job.run for job in jobs)


def test_shuffled_values_are_all_there():
    assert sorted(job.run.seed for job in expand(parse(["seed=shuffle(range(0,5))"]))) == [0, 1, 2, 3, 4]


def test_glob_finds_every_option():
    assert [job.words[0] for job in expand(parse(["neuron=glob(*)"]))] == [f"neuron={n}" for n in groups()["neuron"]]


NO_SWEEP = {
    "seed=range(0,1000000000)": "stands for 1,000,000,000 values",
    "seed=shuffle(range(0,1000000000))": "stands for 1,000,000,000 values",
    "seed=range(0,3,0)": "does not end",
    "seed=range(0,inf)": "does not end",
    "seed=range(nan,3)": "does not end",
    "seed=range(0.0,1e300,1e-300)": "does not end",
    "seed=range(3,0)": "is empty",
    "seed=range(0,3),7": "a sweep inside a list",
    "seed=choice()": "empty choice is not legal",
    "seed=choice(": "not understood",
    "seed=nosuch(1)": "nosuch",
    "seed=glob(*)": "glob picks options of a group",
    "neuron=glob(zz*)": "matches none of as_sg",
    "neuron=range(0,1000000000)": "stands for 1,000,000,000 values",
    "neuron=as_sg,trgs": "did you mean 'trsg'?",
    "neuron=interval(0,1)": "an interval needs a program that picks",
    "neuron.v_threshold=interval(0.5,2)": "an interval needs a program that picks",
    "seed=int(interval(0,9))": "an interval needs a program that picks",
    "experiment=figures/fig9,null": "experiment=null: must be one of",
}


@pytest.mark.parametrize("multirun", [["-m"], []])
@pytest.mark.parametrize("word", NO_SWEEP)
def test_what_no_sweep_can_be_is_refused_with_its_word(word, multirun, capsys):
    assert main(["train", *multirun, word]) == 2
    err = capsys.readouterr().err
    assert NO_SWEEP[word] in err and err.count("\n") == 1 and word.partition("=")[0] in err


def test_combinations_are_counted_before_they_are_made(capsys):
    assert main(["train", "-m", "seed=range(0,4000)", "batch_size=range(1,4000)", "epochs=range(1,4000)"]) == 2
    assert "63,968,004,000 combinations" in capsys.readouterr().err


def test_several_experiments_bring_their_own_sweeps():
    alone = [len(expand(parse([word]))) for word in (FIG9, FIG8)]
    jobs = expand(parse([f"{FIG9},figures/fig8,table2/baseline"]))
    assert alone == [18, 10] and len(jobs) == sum(alone) + 1 == len({job.path for job in jobs})
    text = grid(jobs)
    for line in ("experiment=figures/fig9", "experiment=figures/fig8", "experiment=table2/baseline"):
        assert line in text.splitlines()
    assert text.count("waiting") == len(jobs)


def test_a_word_replaces_what_any_experiment_brings():
    jobs = expand(parse([f"{FIG9},figures/fig8", "neuron.v_threshold=0.7", "seed=0,1"]))
    assert len(jobs) == 2 * (6 + 10) and {job.run.neuron.v_threshold for job in jobs} == {0.7}
    assert grid(jobs).count("waiting") == len(jobs)


@pytest.mark.parametrize("multirun", [["-m"], []])
def test_several_values_without_m_name_the_way(multirun, capsys):
    assert main(["doctor", "seed=0,1"]) == 2
    assert "seed=0,1: several values make a sweep; with train.py add -m" in capsys.readouterr().err


PATHS = """/data/a=b|/data/set(1)|/data/a&b|/data/a b|/data/Müller|/data/日本|/data/it's|/data/q"x|[x]|{a}|1e3|0x1|true|
/a#b|/a:b|/a;b|/a\\b|/a\\|/$HOME|/a%b|/a*b?|/a!b|/a@b|/a+b|/a^b|/a<b>|/a~b|/a`b`|/a{b}|/a[0]|  /spaces  |\
-x|./~x|+1|off|nan""".replace("\n", "").split("|")


@pytest.mark.parametrize("text", PATHS)
@pytest.mark.parametrize("key", ["dataset.root", "logger.group"])
def test_free_text_is_taken_as_it_is_typed(key, text):
    run = compose_run(["dataset=cifar10", "logger=wandb", f"{key}={text}"])
    section, name = key.split(".")
    assert getattr(getattr(run, section), name) == text
    # Which the words of a sweep's job and Hydra's own quotes do not change.
    (override,) = parse([f"{key}={text}"])
    assert parse([override.input_line])[0].value() == override.value() == text
    assert compose_run(["dataset=cifar10", "logger=wandb", *shlex.split(overrides.quoted(key, text))]) == run


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0,${"), min_size=1))
def test_any_text_survives_quoting(text):
    (word,) = shlex.split(overrides.quoted("dataset.root", text))
    assert parse([word])[0].value() == text


@pytest.mark.parametrize("text", ["/data/a,b", "choice(1", '"unclosed', "'", "range(1"])
def test_where_a_path_means_something_else_the_message_has_the_quoting_that_works(text, capsys):
    assert main(["train", "dataset=cifar10", f"dataset.root={text}"]) == 2
    err = capsys.readouterr().err
    advice = err.rstrip("\n").partition("as one text")[2].lstrip(": ")
    assert err.count("\n") == 1 and compose_run(["dataset=cifar10", *shlex.split(advice)]).dataset.root == text


def test_a_sweep_over_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    jobs = expand(parse(["dataset=cifar10", "dataset.root=~/a,/data/b(1)"]))
    assert [job.run.dataset.root for job in jobs] == ["/home/me/a", "/data/b(1)"]


def test_home_is_the_same_everywhere(monkeypatch, tmp_path, capsys):
    from snnrepro import io

    home = tmp_path / "me"
    monkeypatch.setenv("HOME", str(home))
    for quote in ("", '"', "'"):
        words = [f"dataset.root={quote}~/data{quote}", f"runtime.output_dir={quote}~{quote}"]
        run = compose_run(["dataset=cifar10", *words])
        assert (run.dataset.root, run.runtime.output_dir) == (f"{home}/data", str(home))
    monkeypatch.setenv("SNNREPRO_CACHE", "~/cache")
    assert io.cache_home() == home / "cache"
    for words in (
        ["evaluate", "checkpoint=~/none.pt"],
        ["evaluate", "run=x", "runtime.output_dir=~"],
        ["evaluate", "run=x", 'runtime.output_dir="~"'],
        ["import-checkpoint", "~/none.pt"],
        ["wandb-push", "~/none"],
        ["train", "dataset=cifar10", "dataset.root=~/none", f"runtime.output_dir={tmp_path}"],
        ["data", "check", "cifar10", "dataset.root=~/none"],
    ):
        assert main(words) in (4, 5), words
        err = capsys.readouterr().err
        assert str(home) in err and "~" not in err.replace("~kriz", ""), words


NO_PATHS = {
    "runtime.output_dir=": "the name of a file or folder is needed",
    "runtime.output_dir=''": "the name of a file or folder is needed",
    "runtime.output_dir=null": "runtime.output_dir",
    "runtime.output_dir=~nosuchuser/x": "for a name that begins with ~ write ./~nosuchuser/x",
    f"runtime.output_dir={'x' * 300}": "too long for the file system (300 characters)",
    f"runtime.output_dir=/tmp/{'d/' * 1900}": "too long for the file system",
    f"runtime.output_dir=/tmp/{'dd/' * 300}": "too long for the file system",
}


@pytest.mark.parametrize("word", NO_PATHS, ids=lambda word: word[:40])
@pytest.mark.parametrize("command", [["train"], ["doctor"], ["evaluate", "run=x"]])
def test_what_no_path_can_be(command, word, capsys):
    assert main([*command, word]) in (2, 5)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and len(err) < 400
    assert NO_PATHS[word] in err or command[0] == "evaluate"


@pytest.mark.parametrize("key", ["checkpoint", "run"])
def test_names_that_are_too_long_for_other_commands(key, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", f"{key}={'x' * 300}"]) in (2, 5)
    assert capsys.readouterr().err.count("\n") == 1


NUMBERS = ("nan", "inf", "-1", "0", "1e300", "1" + "0" * 30, "9" * 5000, "", "[1,2]", "{a: 1}")
BASES = ([], ["dataset=dvs_cifar10", "optimizer=adamw", "loss=mps"])


@pytest.mark.parametrize("base", BASES, ids=" ".join)
def test_every_key_takes_or_refuses_every_number(base):
    """In one line that names the key: no value ends in anything else."""
    plain = [key for key in keys() if key not in groups() and key not in TEXT_KEYS]
    outcomes = {"taken": 0, "refused": 0}
    with composer() as make:
        for key in plain:
            for number in NUMBERS:
                try:
                    make([*base, f"{key}={number}"])
                    outcomes["taken"] += 1
                except ConfigError as error:
                    message = str(error)
                    assert "\n" not in message and len(message) < 500, (key, number)
                    assert key.rpartition(".")[2] in message, (key, number, message)
                    outcomes["refused"] += 1
    assert min(outcomes.values()) > len(plain) / 2


@pytest.mark.parametrize(
    "word", ["optimizer.lr=1e300", "norm.eps=1e300", f"epochs=1{'0' * 30}", "surrogate.gamma=1e39"]
)
def test_no_number_is_beyond_what_float32_and_counters_hold(word):
    with pytest.raises(ConfigError, match="and at most 1e"):
        compose_run([word])


@pytest.mark.parametrize("optimizer", groups()["optimizer"])
def test_the_largest_learning_rate_diverges_and_ends(optimizer, tiny, capsys):
    words = [*tiny, "epochs=1", f"optimizer={optimizer}", "optimizer.warmup_epochs=0", "optimizer.lr=1e30"]
    assert main(["train", *words]) == 3
    assert "diverged" in capsys.readouterr().out


def test_deep_brackets_and_other_words_nobody_means(capsys):
    for word in ("model.widths=" + "[" * 5000, "model.widths=" + "[" * 300 + "]" * 300, "=", "a", "seed=\n", "'"):
        assert main(["train", word]) == 2
        assert capsys.readouterr().err.count("\n") == 1
