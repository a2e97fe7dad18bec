"""The two files of a benchmark run: JSON with every sample, and Markdown made from it."""

import os
import platform
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from scripts.bench.variants import MEANING
from snnrepro import io
from snnrepro.compose import compose_run
from snnrepro.runtime import provenance, resolve_device
from snnrepro.system import usable_cores

PACKAGES = ("torch", "triton", "numpy", "spikingjelly", "snntorch")
SWITCHES = ("OMP_", "MKL_", "KMP_", "TORCH", "TRITON_", "CUDA_", "SJ_", "SNNREPRO_")


def machine() -> dict[str, Any]:
    """Returns where and with what the numbers are taken: commit, processor, versions, threads, load, switches."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    facts = provenance(compose_run([]).runtime, resolve_device("auto"))
    kept = ("commit", "processor", "platform", "python", "snnrepro", "device")
    return {
        **{key: facts[key] for key in kept},
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "load_at_start": list(os.getloadavg()) if platform.system() != "Windows" else None,
        "versions": found,
        "environment": {key: os.environ[key] for key in sorted(os.environ) if key.startswith(SWITCHES)},
    }


def kernel_table() -> dict[str, Any] | None:
    """Returns the static table of the compiled GPU kernels, as rows and Markdown, or None where there is none."""
    try:
        cubin = import_module("scripts.bench.cubin")
    except ImportError:
        return None
    rows = cubin.rows()
    return {"rows": rows, "markdown": cubin.markdown(rows)}


def write(stem: Path, document: dict[str, Any]) -> None:
    """Writes ``stem``.json and ``stem``.md, each atomically. Raises StorageError."""
    io.write_json(stem.with_name(f"{stem.name}.json"), document)
    io.write_atomic(stem.with_name(f"{stem.name}.md"), markdown(document))


def markdown(document: dict[str, Any]) -> str:
    """Returns the report: machine, gate, every table, what was not run."""
    return "\n".join(_lines(document)) + "\n"


def _lines(document: dict[str, Any]) -> Iterator[str]:
    facts = document["machine"]
    yield "# Benchmark"
    yield f"\n{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads, device {facts['device']};"
    yield ", ".join(f"{name} {number}" for name, number in facts["versions"].items()) + f"; commit {facts['commit']}."
    yield "\nTimes are medians over interleaved rounds, with the 20th and 80th percentile; ratios are formed within"
    yield f"each round.\n\n{MEANING}"
    yield from _gate(document["gate"])
    for table in document["tables"]:
        yield from _table(table)
    yield from _memory(document["memory"])
    yield from _first_use(document["first_use"])
    yield "\n## GPU\n"
    gpu = document["gpu"]
    if isinstance(gpu, str):
        yield gpu
    else:
        yield f"Copy bandwidth: {gpu['copy_bytes_per_second'] / 1e9:.0f} GB/s."
        yield from gpu["missing"]
        for table in gpu["tables"]:
            yield from _table(table)
    yield "\n## GPU kernels, compiled without a GPU\n"
    yield document["kernels"]["markdown"] if document["kernels"] else "not run"


def _gate(entries: list[dict[str, Any]]) -> Iterator[str]:
    failed = [entry for entry in entries if not entry["passed"]]
    near = sum(entry["near_threshold"] for entry in entries)
    yield f"\n## Gate\n\n{len(entries) - len(failed)} of {len(entries)} checks passed: spikes equal to the float64"
    yield f"reference, but for {near} decided by rounding at the threshold; gradients within tolerance; two repeats"
    yield "bitwise equal."
    for entry in failed:
        where = ", ".join(entry[key] for key in ("kind", "semantics", "precision", "subject"))
        yield f"- **failed**: {where}: {entry['reason']}"


# Columns that some rows have beyond the time: key, heading, factor, format.
EXTRAS = (
    ("images_per_second", "images/s", 1, ".0f"),
    ("host_seconds", "host ms", 1e3, ".2f"),
    ("cuda_kernels", "kernels", 1, "d"),
    ("peak_bytes", "peak MB", 1e-6, ".0f"),
    ("bytes_per_second", "GB/s", 1e-9, ".0f"),
    ("share_of_copy", "of copy", 1, ".0%"),
    ("note", "runs as", None, "s"),
)


def _table(table: dict[str, Any]) -> Iterator[str]:
    extras = [extra for extra in EXTRAS if any(row.get(extra[0]) for row in table["rows"])]
    yield f"\n## {table['title']}\n\n{table['rounds']} rounds.\n"
    yield "| " + " | ".join(["variant", "ms", "p20 to p80", *(heading for _, heading, _, _ in extras)]) + " |"
    yield "|---|---:|---:|" + "---|" * len(extras)
    for row in table["rows"]:
        if "median" not in row:
            yield f"| {row['name']} | {row['status']} |  |" + "  |" * len(extras)
            continue
        cells = [row["name"], f"{1e3 * row['median']:.2f}", f"{1e3 * row['p20']:.2f} to {1e3 * row['p80']:.2f}"]
        for key, _, factor, form in extras:
            value = row.get(key)
            cells.append("" if value is None else format(value if factor is None else value * factor, form))
        yield "| " + " | ".join(cells) + " |"
    if table["ratios"]:
        yield "\n| ratio | median | p20 to p80 |\n|---|---:|---:|"
    for ratio in table["ratios"]:
        spread = f"{ratio['p20']:.3f} to {ratio['p80']:.3f}"
        yield f"| {ratio['numerator']} / {ratio['denominator']} | {ratio['median']:.3f} | {spread} |"


def _memory(memory: dict[str, Any] | None) -> Iterator[str]:
    if memory is None:
        return
    yield f"\n## Peak memory, ResNet-19, T = 4, batch {memory['batch']}, fp32 training step\n"
    yield "Above the idle process, each variant in a process of its own.\n\n| variant | MB |\n|---|---:|"
    for row in memory["rows"]:
        value = f"{row['peak_above_idle'] / 1e6:.0f}" if "peak_above_idle" in row else row["status"]
        yield f"| {row['kind']}, {row['semantics']} | {value} |"
    if memory["ratios"]:
        yield "\n| ratio | value |\n|---|---:|"
    for name, value in memory["ratios"].items():
        yield f"| {name} | {value:.3f} |"


def _first_use(first_use: dict[str, Any] | None) -> Iterator[str]:
    if first_use is None:
        return
    yield "\n## First use, embedded default\n\nSeconds that the first training step and the first evaluation cost"
    yield "beyond ordinary ones, in a fresh process."
    yield f"\n| caches | s |\n|---|---:|\n| empty | {first_use['cold']:.1f} |\n| filled | {first_use['warm']:.1f} |"
