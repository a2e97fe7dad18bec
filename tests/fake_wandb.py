"""Stands in for wandb in a child process: writes every call to a file, fails where FAKE_FAIL says so."""

import json
import os
import pathlib
import time

fail = os.environ["FAKE_FAIL"]
if fail == "import":
    raise ModuleNotFoundError("No module named 'wandb'")


def note(**call):
    with open(os.environ["FAKE_CALLS"], "a") as file:
        file.write(json.dumps(call) + "\n")


def login(prompt):
    if fail == "login":
        raise ConnectionError("unreachable with key " + os.environ["WANDB_API_KEY"])
    return bool(os.environ.get("WANDB_API_KEY"))


class Settings:
    def __init__(self, **options):
        note(settings=options)


class Table:
    def __init__(self, **content):
        self.content = content


class Image:
    def __init__(self, file):
        self.content = {"image": pathlib.Path(file).name}


class Run:
    url, logs = "https://wandb.example/run", 0

    def __init__(self, directory):
        self.dir = str(pathlib.Path(directory) / "wandb" / "run" / "files")

    def define_metric(self, name, **options):
        note(metric=name, **options)

    def log(self, values, step=None):
        self.logs += 1
        if fail == "log" and self.logs == 3:
            raise RuntimeError("broken\npipe")
        if fail == "log_hangs":
            time.sleep(600)
        note(log={k: v.content if isinstance(v, Table | Image) else v for k, v in values.items()}, step=step)

    @property
    def summary(self):
        return self

    def update(self, values):
        note(summary=values)

    def finish(self, exit_code=0):
        if fail == "finish_hangs":
            time.sleep(600)
        note(finish=exit_code)


def init(settings, mode, **options):
    note(init=options, mode=mode)
    if fail == "init" or (fail == "online" and mode == "online"):
        raise RuntimeError("no")
    return Run(options["dir"])
