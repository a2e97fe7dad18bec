"""What the LIF kernels cost, read from their machine code: needs no GPU.

Compiles exactly what the Triton backend would launch, and SpikingJelly's LIF kernels beside it, for a few GPU
architectures, and prints a Markdown table. Bytes, registers and instructions are those of one thread, divided by the
neurons times steps (n-t) it handles. Run from the root of the repository:

    python scripts/bench/cubin.py
"""

import itertools
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from snnrepro.neurons.dynamics import Dynamics
from snnrepro.neurons.kernels.triton import backend, tiles

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COLUMNS = (
    "kernel", "dtype", "T", "arch", "bytes/n-t", "registers", "spills", "atomics", "fp64", "calls", "instructions/n-t",
    "small reads and writes",
)  # fmt: skip
ATOMICS = ("ATOM", "ATOMG", "ATOMS", "RED", "REDG")
# What is no traffic per neuron: parameters, and the sums that a program writes.
SMALL = {
    "norm", "shortcut_norm", "u_init", "v_threshold", "leak", "u_sums", "counts", "scalar_partials", "channel_partials",
}  # fmt: skip
Launch = Callable[[], object]


class _Driver:
    """Stands in for a GPU of a given architecture, as far as compiling goes."""

    def __init__(self, arch: int):
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> str:
        return f"sm_{self.arch}"

    def get_current_stream(self, device: str) -> int:
        return 0


@contextmanager
def compile_only(arch: int) -> Iterator[list[Any]]:
    """Inside, launches of Triton kernels compile for ``arch`` and go no further; yields the compiled kernels."""
    compiled: list[Any] = []
    run = JITFunction.run

    def compile_launch(self, *args, grid, warmup, **options):
        compiled.append(run(self, *args, grid=grid, warmup=True, **options))

    active = triton.runtime.driver._active
    triton.runtime.driver.set_active(_Driver(arch))
    try:
        with mock.patch.object(JITFunction, "run", compile_launch):
            yield compiled
    finally:
        triton.runtime.driver._active = active


def traffic(kernel: Any) -> dict[str, int]:
    """Returns the bytes one thread moves per tensor, {argument: bytes}, counted in the PTX; a loop counts once.

    Every address is traced back to the kernel parameter it was computed from.
    """
    arguments = [name for name, kind in kernel.src.signature.items() if kind != "constexpr"]
    origin: dict[str, str] = {}
    moved: dict[str, int] = {}
    for line in kernel.asm["ptx"].splitlines():
        registers = re.findall(r"%\w+", line)
        if match := re.search(r"ld\.param\S*\s+(%\w+), \[\w+_param_(\d+)\]", line):
            if int(match[2]) < len(arguments) and kernel.src.signature[arguments[int(match[2])]].startswith("*"):
                origin[match[1]] = arguments[int(match[2])]
        elif match := re.search(r"(?:ld|st)\.global\S*?(?:\.v(\d))?\.[bfsu](\d+)\s[^\[]*\[\s*(%\w+)", line):
            name = origin[match[3]]
            moved[name] = moved.get(name, 0) + int(match[1] or 1) * int(match[2]) // 8
        elif len(registers) > 1 and (known := [origin[r] for r in registers[1:] if r in origin]):
            origin[registers[0]] = known[0]
    return moved


def sass(kernel: Any) -> list[tuple[int, str, str]]:
    """Returns the machine instructions of a compiled kernel, (address, operation, operands), without padding."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(kernel.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "-sass", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", text)
    return [(int(address, 16), operation, rest) for address, operation, rest in found if operation != "NOP"]


def bytes_in_sass(instructions: list[tuple[int, str, str]]) -> int:
    """Returns the bytes that one thread's loads and stores in ``sass`` move: a check on ``traffic``."""
    width = {"8": 1, "16": 2, "64": 8, "128": 16}
    moved = 0
    for _, operation, _ in instructions:
        if operation.startswith(("LDG", "STG")):
            sizes = [width[part.strip("US")] for part in operation.split(".") if part.strip("US") in width]
            moved += sizes[0] if sizes else 4
    return moved


def loop(instructions: list[tuple[int, str, str]]) -> int | None:
    """Returns how many instructions the kernel's loop has, None without loop."""
    for address, operation, rest in instructions:
        target = re.search(r"0x([0-9a-f]+)", rest)
        if operation == "BRA" and target and int(target[1], 16) < address:
            return sum(int(target[1], 16) <= other <= address for other, _, _ in instructions)
    return None


def registers_and_spills(kernel: Any, arch: int) -> tuple[int, int]:
    """Returns registers per thread and spilled bytes, as the assembler reports them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(kernel.asm["ptx"])
        gpu = f"sm_{arch}a" if arch >= 90 else f"sm_{arch}"
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={gpu}", str(path), "-o", str(path) + ".o"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = sum(int(bytes_) for bytes_ in re.findall(r"(\d+) bytes spill", report))
    return int(re.findall(r"Used (\d+) registers", report)[0]), spills


def examine(name: str, launch: Launch, dtype: str, timesteps: int, arch: int, per_thread: int) -> dict[str, Any]:
    """Returns the row of the one kernel that ``launch`` starts; ``per_thread`` neurons are one thread's.

    A loop over tiles counts once. Where SpikingJelly loops over time, what the loop hides is None.
    """
    with compile_only(arch) as compiled:
        launch()
    (kernel,) = compiled
    instructions, moved = sass(kernel), traffic(kernel)
    if bytes_in_sass(instructions) != sum(moved.values()):
        raise RuntimeError(f"{name}: the assembler added or removed loads or stores, {moved} is not what runs")
    operations = Counter(operation.split(".")[0] for _, operation, _ in instructions)
    registers, spills = registers_and_spills(kernel, arch)
    small = sum(bytes_ for tensor, bytes_ in moved.items() if tensor in SMALL)
    repeated = loop(instructions)
    if repeated is not None and kernel.name != "reduce_kernel":
        traffic_per, instructions_per = None, None
    else:
        traffic_per = (sum(moved.values()) - small) / (per_thread * timesteps)
        instructions_per = round((repeated or len(instructions)) / (per_thread * timesteps), 1)
    values = (
        name, dtype, timesteps, arch, traffic_per, registers, spills, sum(operations[atomic] for atomic in ATOMICS),
        kernel.asm["ptx"].count(".f64"), operations["CALL"], instructions_per, small,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def launches(
    dtype: torch.dtype, timesteps: int, *, channels_last: bool = False, shortcut: int = 0
) -> dict[str, Launch]:
    """Returns what the backend launches for a typical layer, {kernel: call}; ``shortcut`` 2 has a norm of its own."""
    dyn = Dynamics(timesteps, "trsg", "triangular", 1.0, "soft", False)
    scalars = tuple(torch.tensor(value) for value in (0.1, 1.0, 0.5))
    y = torch.zeros((timesteps, 8, 1024, 64) if channels_last else (timesteps, 8, 64, 1024), dtype=dtype)
    flat, spikes = y.flatten(1), backend.empty_spikes(y, timesteps)
    norm, norm5, side = torch.ones(3, 64), torch.ones(5, 64), y if shortcut else None
    rest = (side, norm if shortcut == 2 else None, *scalars, dyn, channels_last)
    rest5 = (side, norm5 if shortcut == 2 else None, *scalars, dyn, channels_last)
    return {
        "LIF forward": partial(backend.lif_forward, flat, *scalars, dyn),
        "LIF inference": partial(backend.lif_infer, flat, *scalars, dyn),
        "LIF backward": partial(backend.lif_backward, flat, flat, spikes.flatten(), *scalars, dyn),
        "norm+LIF forward": partial(backend.norm_lif_forward, y, norm, *rest),
        "norm+LIF inference": partial(backend.norm_lif_infer, y, norm, *rest),
        "norm+LIF reduce": partial(backend.norm_lif_reduce, y, y, spikes, norm, *rest),
        "norm+LIF backward": partial(backend.norm_lif_backward, y, y, spikes, norm5, *rest5),
    }


def spikingjelly_launches(dtype: torch.dtype, timesteps: int) -> dict[str, Launch]:
    """Returns SpikingJelly's LIF kernels, launched as its neuron does (soft reset, tau 2, triangular surrogate).

    For 16-bit data also the kernels of its precision plan, which store the membrane in 16 bits. Raises ImportError.
    """
    from spikingjelly._ops.lif import triton as default
    from spikingjelly._ops.lif import triton_precision as plan

    n, block = 1 << 16, 256
    x, state = torch.zeros(timesteps, n, dtype=dtype), torch.zeros(n)
    h, constants = torch.zeros(timesteps, n), (2.0, 1.0, 0.0)
    forward = (timesteps, n, *constants, True, True, False, block, None)
    backward = (timesteps, n, *constants, 1.0, True, True, False, 2, False, timesteps, block, None)
    found: dict[str, Launch] = {
        "SpikingJelly LIF forward": partial(
            default._forward_kernel[(1,)], x, state, x, state, h, *forward, enable_fp_fusion=False
        ),
        "SpikingJelly LIF backward": partial(
            default._backward_kernel[(1,)], x, state, h, x, state, *backward, enable_fp_fusion=False
        ),
    }
    if dtype != torch.float32:
        v, layout = state.to(dtype), (False, 1, (), ())
        forward = (*constants, timesteps, n, block, tl.float32, True, True, True, *layout)
        backward = (*constants, 1.0, timesteps, n, block, tl.float32, 2, True, True, False, *layout)
        found["SpikingJelly LIF forward, precision plan"] = partial(
            plan._multistep_lif_forward_kernel_static.fn[(1,)], x, v, x, x, v, *forward
        )
        found["SpikingJelly LIF backward, precision plan"] = partial(
            plan._multistep_lif_backward_kernel_static.fn[(1,)], x, v, x, x, v, *backward
        )
    return found


def rows(
    steps: tuple[int, ...] = (4, 8),
    archs: tuple[int, ...] = (80, 86, 90),
    dtypes: tuple[str, ...] = ("fp32", "bf16"),
    *,
    spikingjelly: bool = True,
    **layer: Any,
) -> list[dict[str, Any]]:
    """Returns one dict per kernel, dtype, T and architecture, keyed by ``COLUMNS``; ``layer`` as in ``launches``.

    SpikingJelly's kernels are among them if it is installed. Bytes are those of tensors with a value per neuron and
    step or a number of spikes per neuron; what a thread moves besides, for its whole program, has its own column.
    """
    found = []
    for dtype, timesteps, arch in itertools.product(dtypes, steps, archs):
        ours = launches(DTYPES[dtype], timesteps, **layer)
        theirs = spikingjelly_launches(DTYPES[dtype], timesteps) if spikingjelly and spikingjelly_version() else {}
        for name, launch in ours.items():
            kernel = name.split()[-1].replace("inference", "forward")
            per_thread = tiles.neurons_per_thread(kernel, timesteps, **(layer if "norm" in name else {}))
            found.append(examine(name, launch, dtype, timesteps, arch, per_thread))
        found += [examine(name, launch, dtype, timesteps, arch, 2) for name, launch in theirs.items()]
    return found


def spikingjelly_version() -> str | None:
    """Returns the installed version of SpikingJelly, or None."""
    try:
        return version("spikingjelly")
    except PackageNotFoundError:
        return None


def markdown(found: list[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table, and a line about SpikingJelly's version."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in found:
        values = ("in a loop" if row[column] is None else row[column] for column in COLUMNS)
        lines.append("| " + " | ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values) + " |")
    return "\n".join([*lines, "", f"SpikingJelly: {spikingjelly_version() or 'not installed'}."]) + "\n"


if __name__ == "__main__":
    print(markdown(rows()), end="")
