"""Advice about runs, their folders and their evaluation works: each message's own words are followed."""

import re
import shutil
import tomllib

import pytest
import torch
from conftest import ROOT
from faults.messages import changed, settings_in, templates
from lif_options import make_lif

from snnrepro import distributed, io, sweep
from snnrepro.analysis.run import analyse
from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.data.loading import _Loader
from snnrepro.data.order import EpochOrder
from snnrepro.errors import ConfigError, DataError, StorageError, UserError
from snnrepro.jobs import Job
from snnrepro.launchers import LAUNCHERS
from snnrepro.runs import RunLock, run_path
from snnrepro.runtime import resolve_backend, resolve_device
from snnrepro.temporal_norms import BNTT, TAB, TEBN
from snnrepro.train.checkpoint import Checkpoints
from snnrepro.train.guards import require_parts
from snnrepro.train.loop import Trainer, train

advice = pytest.mark.advice


def says(capsys, code: int, words: list[str]) -> str:
    """Returns what a command prints, which ends with ``code``."""
    capsys.readouterr()
    assert main(words) == code
    out, err = capsys.readouterr()
    return out + err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Words and folder of a run that is finished."""
    words = ["dataset=synthetic", "model.stem_width=4", "model.widths=[4,4,8]", "model.blocks=[1,1,1]", "epochs=1",
             "runtime.threads=1", "runtime.backend=reference",
             f"runtime.output_dir={tmp_path_factory.mktemp('outputs')}"]  # fmt: skip
    assert main(["train", *words]) == 0
    return words, run_path(compose_run(words))


WRONG_WORDS = [
    pytest.param(["run"], lambda w: ["run={run}"], marks=advice("write KEY=VALUE; the keys are")),
    pytest.param([], lambda w: ["run={run}"], marks=advice("give either run=RUN_ID or checkpoint=FILE")),
    pytest.param(["absorb=false"], lambda w: ["checkpoint={file}"], marks=advice("give either run=RUN_ID or")),
    pytest.param(["run={run}", "weights=x"], None, marks=advice("weights={}: must be one of {}")),
    pytest.param(["run={run}", "absorb=x"], None),
    pytest.param(["run={run}", "timesteps=0"], None, marks=advice("write whole numbers from 1 to 1024, such as")),
    pytest.param(["run={run}", "timesteps=1,"], None, marks=advice("write whole numbers from 1 to 1024, such as")),
    pytest.param(["run={run}x"], None),
]


@pytest.mark.parametrize("words, repair", WRONG_WORDS)
def test_evaluate_as_its_message_says(trained, capsys, words, repair):
    _, path = trained
    names = {"run": path.name, "file": sorted((path / "checkpoints").glob("*.pt"))[-1]}
    folder = f"runtime.output_dir={path.parent.parent}"
    words = [word.format(**names) for word in words] or [folder]
    message = says(capsys, 5 if words[0].endswith("x") else 2, ["evaluate", *words, folder])
    if repair is not None:
        words = [word.format(**names) for word in repair(words)]
    elif "did you mean" in message:
        words = ["run=" + re.search("did you mean '([^']*)'", message)[1]]
    elif "must be" in message:
        options = re.split(", | or ", re.search(r"must be (?:one of )?(.*)", message)[1])
        words = [words[0], f"{words[1].partition('=')[0]}={options[-1]}"]
    else:
        words = changed(words, settings_in(message.partition("such as")[2] and ": " + message)[-1] + ",2,4")
    assert "top-1" in says(capsys, 0, ["evaluate", *words, folder])


@advice("not finished; train it first, or give checkpoint=FILE")
def test_an_unfinished_run_is_evaluated_from_a_checkpoint_or_when_it_is_trained(trained, tmp_path, capsys):
    words, path = trained
    words = changed(words, f"runtime.output_dir={tmp_path}")
    unfinished = run_path(compose_run(words))
    shutil.copytree(path, unfinished)
    (unfinished / "record.json").unlink()
    evaluate = ["evaluate", f"run={path.name}", f"runtime.output_dir={tmp_path}"]
    assert "train it first, or give checkpoint=FILE" in says(capsys, 5, evaluate)
    file = sorted((unfinished / "checkpoints").glob("*.pt"))[-1]
    says(capsys, 0, ["evaluate", f"checkpoint={file}"])
    says(capsys, 0, ["train", *words])
    says(capsys, 0, evaluate)


@advice("not a finished run; train it first", "remove the run's folder and train it again")
def test_a_run_is_analysed_when_it_is_trained(trained, tmp_path):
    words = changed(trained[0], f"runtime.output_dir={tmp_path}")
    run = compose_run(words)
    path = run_path(run)
    with pytest.raises(StorageError, match="train it first"):
        analyse(path)
    train(run)
    checkpoints = Checkpoints(path / "checkpoints")
    for step in checkpoints.steps():
        checkpoints.file(step).unlink()
    with pytest.raises(StorageError, match="remove the run's folder and train it again"):
        analyse(path)
    shutil.rmtree(path)
    train(run)
    assert analyse(path)["timesteps"] == run.timesteps


@advice("no valid checkpoint; remove the run's folder to start from zero")
def test_a_run_without_a_valid_checkpoint_starts_from_zero(trained, tmp_path, capsys):
    words = changed(trained[0], f"runtime.output_dir={tmp_path}")
    path = run_path(compose_run(words))
    shutil.copytree(trained[1], path)
    (path / "record.json").unlink()
    for file in (path / "checkpoints").glob("*.pt"):
        file.write_bytes(b"")
    message = says(capsys, 5, ["train", *words])
    folder = re.search(r"error: (\S*)/checkpoints: no valid checkpoint", message)[1]
    shutil.rmtree(folder)
    says(capsys, 0, ["train", *words])


@advice("in use by {}; wait or stop it", "check the folder and its rights")
def test_a_run_that_is_held_starts_when_it_is_free(trained, tmp_path, capsys):
    words = changed(trained[0], f"runtime.output_dir={tmp_path}")
    path = run_path(compose_run(words))
    with RunLock(path):
        assert "wait or stop it" in says(capsys, 5, ["train", *words])
    lock = path / "run.lock"
    lock.unlink()
    lock.mkdir()
    assert f"{lock}: cannot lock" in says(capsys, 5, ["train", *words])
    lock.rmdir()
    says(capsys, 0, ["train", *words])


@advice("check the folder, its rights and the disk")
def test_a_file_is_written_when_its_folder_is_one(tmp_path):
    blocked = tmp_path / "runs"
    blocked.write_text("a file where a folder should be")
    for write in (lambda: io.make_dir(blocked / "x"), lambda: io.write_atomic(blocked / "x" / "f", "text")):
        with pytest.raises(StorageError, match="check the folder, its rights and the disk"):
            write()
    blocked.unlink()
    io.write_atomic(blocked / "x" / "f", "text")


@advice("runs have no result; the same command retries them")
def test_a_sweep_with_a_failed_run_is_completed_by_the_same_command(tiny, monkeypatch):
    run = compose_run([*tiny, "epochs=1"])

    def sweep_once(outcome):
        jobs = [Job(tiny, run)]
        monkeypatch.setattr(sweep, "run_jobs", outcome)
        sweep.run_sweep(jobs)
        sweep.conclude(jobs)

    def failing(jobs):
        jobs[0].status = "failed"

    def working(jobs):
        train(run)
        jobs[0].refresh()

    with pytest.raises(UserError, match="1 of 1 runs have no result; the same command retries them"):
        sweep_once(failing)
    sweep_once(working)


@advice("too few for {} processes with micro_batches={}; {}", "a batch norm cannot take the variance of one value; {}")
def test_another_batch_size_has_a_last_batch_that_is_large_enough(tiny):
    with pytest.raises(ConfigError, match="the last batch has 1 samples") as caught:
        Trainer(run := compose_run([*tiny, "batch_size=53", "micro_batches=2"]), run_path(run))
    (setting,) = settings_in(str(caught.value).partition("; ")[2])
    require_parts(EpochOrder(160, seed=0, batch_size=int(setting.removeprefix("batch_size="))), 2)


@advice("norm={} was made for {} steps; use at most {}")
@pytest.mark.parametrize("make", [TEBN, BNTT, lambda *a, **k: TAB(*a, share_affine=False, **k)])
def test_a_norm_with_rows_for_every_step_takes_as_many_as_it_says(make):
    norm = make(3, 2, eps=1e-5, momentum=0.1)
    with pytest.raises(ConfigError, match="use at most") as caught:
        norm(torch.zeros(5, 2, 3, 4, 4))
    steps = int(str(caught.value).rpartition(" ")[2])
    assert norm(torch.zeros(steps, 2, 3, 4, 4)).shape[0] == steps


@advice("holds at most {} steps; use runtime.backend=reference")
def test_more_steps_than_a_kernel_holds_run_by_the_reference():
    with pytest.raises(ConfigError) as caught:
        make_lif(backend="compiled")(torch.zeros(33, 2))
    (setting,) = settings_in(str(caught.value))
    make_lif(backend=setting.removeprefix("runtime.backend="))(torch.zeros(33, 2))


@advice("compiling the LIF kernels failed, see {}")
def test_where_kernels_cannot_be_compiled_the_reference_works(monkeypatch, tmp_path):
    monkeypatch.setenv("SNNREPRO_CACHE", str(tmp_path))
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(UserError) as caught:
        make_lif(backend="compiled")(torch.zeros(7, 2))
    (setting,) = re.findall(r"runtime\.backend=\w+", str(caught.value))
    make_lif(backend=setting.removeprefix("runtime.backend="))(torch.zeros(7, 2))


@advice("use runtime.device=cpu", "needs a CUDA device; use runtime.backend=auto", "or use runtime.backend=auto")
def test_devices_and_backends_that_a_message_advises_run_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    resolve_backend.cache_clear()
    for resolve in (resolve_device, lambda name: resolve_backend(name, "cpu")):
        for name in ("cuda",) if resolve is resolve_device else ("triton", "compiled"):
            with pytest.raises(ConfigError) as caught:
                resolve(name)
            for setting in settings_in(str(caught.value)):
                resolve(setting.partition("=")[2])
    resolve_backend.cache_clear()


@advice("runtime.workers=0 loads without worker processes")
def test_without_worker_processes_data_is_loaded(tiny, monkeypatch):
    def refuse(self):
        raise OSError("too many open files")

    monkeypatch.setattr(_Loader, "_start_workers", refuse)
    words = [*tiny, "epochs=1", "runtime.workers=2"]
    with pytest.raises(DataError) as caught:
        train(compose_run(words))
    train(compose_run(changed(words, re.search(r"runtime.workers=\d+", str(caught.value))[0])))


@advice("torchrun started {} on this machine; leave it out")
def test_under_torchrun_the_number_of_processes_is_left_out(tiny, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")

    def meet(*_, **__):
        raise InterruptedError("it would wait for the other process")

    monkeypatch.setattr(distributed.dist, "rendezvous", meet)
    with (
        pytest.raises(ConfigError, match=r"runtime.processes=3: .* leave it out"),
        distributed.process_group(compose_run([*tiny, "runtime.processes=3"])),
    ):
        pass
    with pytest.raises(InterruptedError), distributed.process_group(compose_run(tiny)):
        pass


EXTRAS = sorted(text for text in templates() if "pip install 'snnrepro[" in text)


@advice("needs a package: pip install 'snnrepro[", "figures need a package: pip install 'snnrepro[figures]'")
def test_extras_that_messages_install_are_the_packages_own():
    """Installing is not tried: the extra exists, and brings the package whose absence is the message's reason."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brings = {"figures": "matplotlib", "dvs": "aedat", **{extra: f"hydra-{name}-launcher" for extra, name in
              (("joblib", "joblib"), ("slurm", "submitit"))}}  # fmt: skip
    named = {extra for text in EXTRAS for extra in re.findall(r"snnrepro\[(\w+)\]", text)}
    for extra in named | {extra for _, extra in LAUNCHERS.values() if extra}:
        assert any(package.startswith(brings[extra]) for package in project[extra]), extra


@pytest.mark.parametrize("words, listed", [
    pytest.param(["data", "check", "nonsuch"], 2, marks=advice("no such dataset{}; there are {}")),
    pytest.param(["plan", "99", "--scale", "mini"], 1, marks=advice("{}: no such table; there are {}")),
    pytest.param(["table", "nonsuch", "--scale", "mini", "--plan"], 1, marks=advice("no such table; there are {}{}")),
    pytest.param(["figure", "99", "--scale", "mini"], 1, marks=advice("figure {}: there are {}")),
    pytest.param(["figure", "19", "--scale", "nonsuch"], 3, marks=advice("--scale {}: must be one of {}")),
])  # fmt: skip
def test_what_a_message_lists_is_there(words, listed, capsys, tmp_path):
    folder = f"runtime.output_dir={tmp_path}"
    message = says(capsys, 2, [*words, folder])
    options = re.search(r"(?:there are|must be one of) ([\w, ]*)", message)[1].split(", ")
    # The one figure that needs no run, the small scale, the dataset without files.
    words[listed] = next((option for option in options if option in ("19", "mini", "digits")), options[0])
    says(capsys, 0, [*words, folder])


@advice("write: snnrepro data check|prepare|preview NAME")
def test_data_as_its_message_says(capsys):
    message = says(capsys, 2, ["data"])
    words = re.search("snnrepro (.*) NAME", message)[1].split()
    says(capsys, 0, [words[0], words[1].partition("|")[0], "digits"])
