"""What is timed on a CUDA device: layers, blocks and training steps, with events, a flushed cache and bandwidth."""

import subprocess
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from scripts.bench import variants as v
from scripts.bench import workloads_cpu as cpu
from scripts.bench.gate import DTYPES
from scripts.bench.harness import BOTH, FORWARD, STEP, Measure, Run, Variant, compare
from snnrepro.compose import groups

NOT_RUN = "GPU: not run"
# Larger than the last-level cache of any present card.
FLUSH_BYTES = 2**28
WARM_UP = (9, 60)
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def rows(mode: str) -> list[Variant]:
    """Returns the rows of the GPU tables: B0 to B6 of the protocol, snnTorch, the floor, and ours beside each."""
    full = [(v.OURS, "fp32"), (v.OURS, "bf16"), (v.LOOP, "fp32"), (v.COMPILED_LOOP, "fp32"), (v.COMPILED_LOOP, "bf16")]
    like = [(v.OURS, "fp32"), (v.OURS, "bf16"), (v.SJ_LIF, "fp32"), (v.SJ_PLIF, "fp32"), (v.SJ_PLAN, "bf16")]
    return [
        *(Variant(kind, "full", precision, mode) for kind, precision in full),
        *(Variant(kind, "like-for-like", precision, mode) for kind, precision in like),
        # As a user writes it: under autocast, or with a half-precision input.
        Variant(v.SJ_LIF, "own", "bf16", mode),
        Variant(v.SNNTORCH, "own", "fp32", mode),
        *(Variant(kind, "triangular, no MP-Init", "fp32", mode) for kind in (v.OURS, v.SJ_FLEX)),
        *(Variant(v.RELU, "floor", precision, mode) for precision in ("fp32", "bf16")),
    ]


def event_timer(flush: bool) -> Measure:
    """Returns a measure of device seconds; ``flush`` empties the cache before every sample."""
    scratch = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda") if flush else None

    def measure(run: Run) -> float:
        if scratch is not None:
            scratch.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    return measure


def copy_bandwidth() -> float:
    """Returns the bytes per second, read and written, of a device copy much larger than the cache."""
    source = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    target, measure = torch.empty_like(source), event_timer(flush=False)
    samples = [measure(lambda: target.copy_(source)) for _ in range(30)]
    return 2 * FLUSH_BYTES / median(samples)


def moved_bytes(kind: str, precision: str, timesteps: int) -> float | None:
    """Returns the bytes per neuron and step, forward and backward, that the kernels are written to move, where known.

    ours: x, o and packed spikes; then do, x, packed spikes and dx. SpikingJelly: x, spikes and membranes, then the
    gradients, and its states, float32 by default and bf16 under its plan.
    """
    width = DTYPES[precision].itemsize
    if kind == v.OURS:
        return 5 * width + 2 * (1 if timesteps <= 8 else 2) / timesteps
    if kind in (v.SJ_LIF, v.SJ_PLAN):
        return 6 * width + 4 * width / timesteps
    return None


def inspect(variant: Variant, run: Run) -> dict[str, Any]:
    """Returns a row's host seconds, device kernels and peak bytes of one call."""
    hosts = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        hosts.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    peak = torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    kernels = sum(event.count for event in seen.key_averages() if event.device_type == DeviceType.CUDA)
    return {"host_seconds": median(hosts), "cuda_kernels": kernels, "peak_bytes": peak}


def card() -> dict[str, Any]:
    """Returns the card, its driver, clocks and limits, and the switches that change its numbers."""
    query = "name,driver_version,clocks.sm,clocks.mem,power.limit,temperature.gpu"
    try:
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        smi = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        smi = torch.cuda.get_device_name()
    return {
        query: smi,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
    }


def _layers(quick: bool) -> Iterator[tuple[str, list[Variant], Callable[[Variant], Run], bool]]:
    """Yields K1: the layer alone on the sizes of ResNet-19's three stages and of an ImageNet stem."""
    sizes = [64 * 65536] if quick else [64 * 131072, 64 * 65536, 64 * 32768, 64 * 802816]
    for neurons in sizes:
        for t in (4,) if quick else (2, 4, 6, 10):
            torch.manual_seed(0)
            x = torch.randn(t, neurons, device="cuda") + 0.5
            for mode in (FORWARD, BOTH):

                def prepare(row: Variant, x: torch.Tensor = x) -> Run:
                    layer, current = v.layer(row.kind, row.semantics, "cuda"), x.to(DTYPES[row.precision])
                    return cpu.annotate(cpu.module_run(layer, current, row.mode), row.kind, layer, current)

                yield f"K1 LIF alone, T = {t}, N = {neurons}, {mode}", rows(mode), prepare, True


def _blocks(quick: bool) -> Iterator[tuple[str, list[Variant], Callable[[Variant], Run], bool]]:
    """Yields K2: conv + norm + layer in the shapes of ResNet-19's three stages, fp32, both layouts."""
    for channels, side in [(128, 32)] if quick else [(128, 32), (256, 16), (512, 8)]:
        for layout, memory_format in LAYOUTS.items():
            torch.manual_seed(0)
            maps = torch.rand(4 * 64, channels, side, side, device="cuda").round()
            x = maps.contiguous(memory_format=memory_format).unflatten(0, (4, 64))

            def prepare(row: Variant, x=x, channels: int = channels, memory_format=memory_format) -> Run:
                unit = v.unit(row.kind, row.semantics, channels, "cuda").to(memory_format=memory_format)
                return cpu.annotate(cpu.module_run(unit, x, row.mode), row.kind, unit, x)

            title = f"K2 conv + norm + LIF, {channels} channels, {side} x {side}, batch 64, T = 4, {layout}, {BOTH}"
            yield title, [row for row in rows(BOTH) if row.precision == "fp32"], prepare, True


def _steps(quick: bool) -> Iterator[tuple[str, list[Variant], Callable[[Variant], Run], bool]]:
    """Yields K3 to K5: training steps of whole networks on images that are on the device already."""
    cases: list[tuple[str, tuple[str, ...], int, tuple[int, ...]]]
    cases = [("K3 ResNet-19", cpu.RESNET19, t, (64, 3, 32, 32)) for t in ((4,) if quick else (4, 6))]
    if not quick:
        if "resnet34" in groups()["model"]:
            imagenet = ("dataset=cifar10", "model=resnet34")
            cases += [("K4 ResNet-34", imagenet, t, (32, 3, 224, 224)) for t in (4, 6)]
        cases.append(("K5 ResNet-19 on event frames", cpu.RESNET19, 10, (10, 16, 2, 48, 48)))
    steps = [row for row in rows(STEP) if row.kind != v.SJ_FLEX]
    for name, words, t, shape in cases:
        for layout, memory_format in LAYOUTS.items():
            prepare = cpu.network_rows((*words, f"timesteps={t}"), shape, "cuda", memory_format)
            size = " x ".join(map(str, shape[-3:]))
            yield f"{name}, T = {t}, batch {shape[-4]}, {size}, {layout}, {STEP}", steps, prepare, False


def tables(*, quick: bool, rounds: int | None, refused: cpu.Refused) -> dict[str, Any]:
    """Returns every GPU table with the card's state around it. Needs a CUDA device."""
    torch.backends.cudnn.benchmark = True
    bandwidth = copy_bandwidth()
    measured = []
    for part in (_layers, _blocks, _steps):
        for title, variants, prepare, flush in part(quick):
            before = card()
            table = compare(
                title,
                variants,
                prepare,
                rounds=rounds or (10 if quick else 30),
                measure=event_timer(flush),
                warm_up=WARM_UP,
                refused=refused,
                inspect=inspect,
            )
            if part is _layers and variants[0].mode == BOTH:
                _add_bandwidth(table, variants, bandwidth)
            measured.append(table | {"card": [before, card()]})
    missing = [] if "resnet34" in groups()["model"] else ["K4: not run, this version has no ResNet-34"]
    return {"copy_bytes_per_second": bandwidth, "tables": measured, "missing": missing}


def _add_bandwidth(table: dict[str, Any], variants: list[Variant], bandwidth: float) -> None:
    """Writes achieved bytes per second, and their share of a copy's, into the rows whose traffic is known."""
    t, neurons = (int(part.split("=")[1]) for part in table["title"].split(",")[1:3])
    for row, variant in zip(table["rows"], variants, strict=True):
        moved = moved_bytes(variant.kind, variant.precision, t) if variant.semantics != "own" else None
        if moved is not None and "median" in row:
            row["bytes_per_second"] = moved * t * neurons / row["median"]
            row["share_of_copy"] = row["bytes_per_second"] / bandwidth
