"""Runs a function on several ranks of this machine, and brings their answers back."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _one(rank, folder, ranks, function, arguments):
    torch.set_num_threads(1)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    torch.save(function(rank, ranks, *arguments), Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def on_ranks(folder, function, *arguments, ranks=2):
    """Returns what ``function(rank, ranks, *arguments)`` returned on every rank, which shares a gloo group."""
    mp.spawn(_one, (str(folder), ranks, function, arguments), nprocs=ranks)
    return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(ranks)]
