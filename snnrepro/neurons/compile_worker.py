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

    def forward(y: Tensor, *tensors: Tensor) -> Any:
        *given, u_init, v_threshold, leak, mean, var, weight, bias, eps = tensors
        norm = analytic.norm_rows(mean, var, weight, bias, eps)
        # One of each per channel: with 0-d scalars Inductor merges the channel axis in some loops and not in others,
        # and can then no longer fuse them.
        scalars = torch.stack([u_init, v_threshold, leak])[:, None].expand(3, norm.shape[1])
        rows = torch.cat([norm, scalars])
        shortcut = given[0] if given else None
        return *function(y, norm_of(rows), shortcut, *scalars_of(rows), dyn, last), rows

    def reduce(go: Tensor, y: Tensor, spikes: Tensor, rows: Tensor, share: Tensor, *tensors: Tensor) -> Any:
        *given, gamma = tensors
        norm, shortcut = norm_of(rows), given[0] if given else None
        (sum_g, sum_gy), scalars = function(go, y, spikes, norm, shortcut, *scalars_of(rows), gamma, dyn, last)
        # What would otherwise be a dozen tiny operations between two calls.
        return scalars, sum_gy * norm[3], sum_g.clone(), analytic.statistics_rows(norm, sum_g, sum_gy, share)

    def backward(go: Tensor, y: Tensor, spikes: Tensor, rows: Tensor, k: Tensor, *tensors: Tensor) -> Any:
        *given, gamma = tensors
        shortcut = given[0] if given else None
        return function(go, y, spikes, norm_of(rows), k, shortcut, *scalars_of(rows), gamma, dyn, last)

    def norm_of(rows: Tensor) -> Tensor:
        return rows[:4]

    def scalars_of(rows: Tensor) -> tuple[Tensor, ...]:
        return (rows[4:] if last else rows[4:, :, None]).unbind(0)

    calls: dict[str, Callable[..., Any]] = {
        "norm_lif_forward": forward,
        "norm_lif_reduce": reduce,
        "norm_lif_backward": backward,
    }
    return calls[kernel.function]


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

    current, window = (kernel.steps, *names), (dyn.timesteps, *names)
    arguments: dict[str, tuple[int | str, ...]]
    if function.endswith("forward"):
        arguments = {"x": current, "shortcut": current, "u_init": (), "v_threshold": (), "leak": ()}
        arguments |= {"mean": ("C",), "var": ("C",), "weight": ("C",), "bias": ("C",), "eps": ()}
    else:
        arguments = {"go": window, "x": current, "spikes": names, "rows": (7, "C")}
        arguments |= {"u_init": (), "v_threshold": (), "leak": ()} if function.startswith("lif") else {}
        if function.startswith("norm"):
            arguments |= {"share": ()} if function == "norm_lif_reduce" else {"k": (2, "C")}
        arguments |= {"shortcut": current, "gamma": ()}
    for name, axes in arguments.items():
        absent = name == "shortcut" and not kernel.shortcut
        of_norm = name in ("rows", "mean", "var", "weight", "bias", "eps")
        if absent or (of_norm and function.startswith("lif")):
            continue
        wide = dtype if name in ("go", "x", "shortcut") else torch.float32
        add(*axes, dtype=analytic.spikes_dtype(dyn.timesteps) if name == "spikes" else wide)
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
