"""``snnrepro`` with a fault: FAULT=KIND:RANK:STEP happens on that rank when that many steps are done."""

import os
import signal
import sys
import time

from snnrepro.cli import main
from snnrepro.errors import DataError
from snnrepro.train.loop import Trainer

kind, rank, step = (os.environ["FAULT"] + ":0:0").split(":")[:3]
train_step = Trainer.train_step


def faulty_step(self, batch):
    with open(f"{os.environ['FAULT_LOG']}.{os.environ['RANK']}", "a") as log:
        print(self.step, time.time(), os.getpid(), file=log)
    if kind == "slow":
        time.sleep(0.3)
    elif self.step == int(step) and os.environ["RANK"] == rank:
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hang":
            time.sleep(10_000)
        if kind == "data":
            raise DataError("dataset=synthetic: a file is damaged")
        if kind == "exit":
            os._exit(0)
        if kind == "nan":
            batch[1].fill_(-100)  # the mean over no labels
        if kind in ("SIGTERM", "SIGUSR1"):
            os.kill(os.getpid(), getattr(signal, kind))
    return train_step(self, batch)


Trainer.train_step = faulty_step
sys.exit(main())
