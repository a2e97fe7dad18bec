"""Compiles libraries: ``python -m snnrepro.neurons.compile_worker FOLDER`` with a JSON list of kernels as input.

A process of its own, because Inductor takes seconds to import and the trainer never needs it.
"""

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from snnrepro import io
from snnrepro.neurons import analytic
from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.kernel_cache import Kernel

INDUCTOR = {
    # Above 30 operations an intermediate is stored instead of inlined. The default for CPUs inlines on, and the
    # code then grows exponentially with the number of steps.
    "realize_opcount_threshold": 30,
    # The wrapper only allocates and calls; optimising it would double the time.
    "aot_inductor.compile_wrapper_opt_level": "O0",
    "aot_inductor.enable_line_tables": False,
    # The process that loads the library decides how many threads run; the one that compiles has one.
    "cpp.dynamic_threads": True,
}


class _Function(nn.Module):
    """A function as a module, the form that torch.export takes."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def _function(kernel: Kernel) -> Callable[..., Any]:
    """Returns the function of ``analytic.py`` with positional tensors only, as ``compiled.py`` calls it."""
    function, dyn, last = getattr(analytic, kernel.function), kernel.dyn, kernel.channels_last
    if not kernel.function.startswith("norm"):
        return lambda *tensors: function(*tensors, dyn)

    # go, y, spikes, norm [, shortcut], rows of the three scalars [, gamma]
    before = 2 if kernel.function == "norm_lif_forward" else 4

    def call(*tensors: Tensor) -> Any:
        head, tail = tensors[:before], list(tensors[before:])
        shortcut = tail.pop(0) if kernel.shortcut else None
        rows = tail.pop(0)
        scalars = rows.unbind(0) if last else rows[:, :, None].unbind(0)
        return function(*head, shortcut, *scalars, *tail, dyn, last)

    return call


def _example(kernel: Kernel) -> tuple[list[Tensor], list[dict[int, Any] | None]]:
    """Returns example inputs, and for each the axes whose size is symbolic. No tensor twice: export would alias it."""
    function, dyn, dtype = kernel.function, kernel.dyn, getattr(torch, kernel.dtype)
    names = ("N",) if function.startswith("lif") else ("B", "S", "C") if kernel.channels_last else ("B", "C", "S")
    sizes = {name: (Dim(name, min=1, max=2**40), 6 + 4 * t) for t, name in enumerate(names)}
    tensors: list[Tensor] = []
    dims: list[dict[int, Any] | None] = []

    def add(*axes: int | str, dtype: torch.dtype = torch.float32) -> None:
        tensors.append(torch.ones([sizes[a][1] if isinstance(a, str) else a for a in axes], dtype=dtype))
        dims.append({t: sizes[a][0] for t, a in enumerate(axes) if isinstance(a, str)} or None)

    backward = not function.endswith("forward")
    if backward:
        add(dyn.timesteps, *names, dtype=dtype)
    add(kernel.steps, *names, dtype=dtype)
    if backward:
        add(*names, dtype=analytic.spikes_dtype(dyn.timesteps))
    if function.startswith("norm"):
        add(5 if function == "norm_lif_backward" else 3, "C")
        if kernel.shortcut:
            add(kernel.steps, *names, dtype=dtype)
        add(3, "C")
    else:
        for _ in range(3):
            add()
    if backward:
        add()
    return tensors, dims


def build(kernel: Kernel, folder: Path) -> None:
    """Compiles one library into ``folder``; it appears there complete or not at all."""
    from torch._inductor import aoti_compile_and_package

    tensors, dims = _example(kernel)
    with torch.no_grad():
        program = torch.export.export(_Function(_function(kernel)), tuple(tensors), dynamic_shapes=(tuple(dims),))
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch, "kernel.pt2")
        aoti_compile_and_package(program, package_path=str(package), inductor_configs=INDUCTOR)
        io.write_atomic(folder / kernel.file_name(), package.read_bytes())


def _parse(item: list[Any]) -> Kernel:
    function, dyn, *rest = item
    return Kernel(function, Dynamics(*dyn), *rest)


def main() -> None:
    """Compiles the kernels named on standard input into the folder named on the command line."""
    folder = Path(sys.argv[1])
    kernels = [_parse(item) for item in json.load(sys.stdin)]
    # Imported once, before the fork; the cores are shared out by kernel, not by Inductor's own pool.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    import torch._inductor.compile_fx

    torch.set_num_threads(1)
    workers = min(len(kernels), len(os.sched_getaffinity(0)))
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.starmap(build, [(kernel, folder) for kernel in kernels], chunksize=1)


if __name__ == "__main__":
    main()
