"""The benchmark in one command: gate, tables, memory, first use, GPU; then JSON and Markdown.

python -m scripts.bench                     about 25 minutes on two cores
python -m scripts.bench --quick             the same on small sizes, about 3 minutes
python -m scripts.bench --only lif,block --rounds 20 --out outputs/bench/try
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from scripts.bench import gate, gpu, report
from scripts.bench import variants as v
from scripts.bench import workloads_cpu as cpu
from scripts.bench.child import run_child
from scripts.bench.harness import BOTH, Variant
from snnrepro.errors import UserError

# Where compiled code is kept: of this project, of Inductor, of Triton.
CACHES = ("SNNREPRO_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
PARTS = ("lif", "block", "resnet19", "resnet34", "memory", "mini", "gpu", "kernels")
MEMORY_ROWS = [
    (v.OURS, "full"),
    (v.LOOP, "full"),
    (v.OURS, "like-for-like"),
    (v.SJ_LIF, "like-for-like"),
    (v.RELU, "floor"),
]
MEMORY_RATIOS = [
    ((v.OURS, "like-for-like"), (v.SJ_LIF, "like-for-like")),
    ((v.OURS, "full"), (v.LOOP, "full")),
    ((v.OURS, "full"), (v.RELU, "floor")),
]
Tables = Callable[..., list[dict[str, Any]]]
CPU_TABLES: dict[str, Tables] = {
    "lif": cpu.layer_tables,
    "block": cpu.block_tables,
    "resnet19": cpu.resnet19_tables,
    "resnet34": cpu.resnet34_tables,
}


def measure_memory(batch: int) -> dict[str, Any]:
    """Returns the peak memory of a ResNet-19 training step per variant, and the ratios that matter."""
    print(f"-- peak memory, ResNet-19, batch {batch}", flush=True)
    rows, peaks = [], {}
    for kind, semantics in MEMORY_ROWS:
        row: dict[str, Any] = {"kind": kind, "semantics": semantics}
        try:
            row |= run_child("memory", {"kind": kind, "semantics": semantics, "batch": batch})
            peaks[kind, semantics] = row["peak_above_idle"]
        except RuntimeError as error:
            row["status"] = f"failed: {error}"
        rows.append(row)
        result = row.get("status") or f"{row['peak_above_idle'] / 1e6:10.0f} MB"
        print(f"   {result}  {kind}, {semantics}", flush=True)
    ratios = {f"{', '.join(a)} / {', '.join(b)}": peaks[a] / peaks[b] for a, b in MEMORY_RATIOS if {a, b} <= set(peaks)}
    return {"batch": batch, "rows": rows, "ratios": ratios}


def measure_mini(quick: bool, rounds: int | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the embedded default's tables on one and two threads, and the cost of the first use."""
    tables = []
    for threads in (1, 2):
        print(f"-- embedded default, threads {threads}", flush=True)
        arguments = {"threads": threads, "rounds": rounds or (10 if quick else 60)}
        tables.append(run_child("mini", arguments, {"OMP_NUM_THREADS": str(threads)}))
        for row in tables[-1]["rows"]:
            print(f"   {row.get('images_per_second', 0):10.0f} images/s  {row['name']}", flush=True)
    print("-- first use", flush=True)
    costs = {}
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: f"{folder}/{name}" for name in CACHES}
        for state in ("cold", "warm"):
            costs[state] = run_child("first_use", {"threads": torch.get_num_threads()}, caches)["seconds"]
            print(f"   {costs[state]:10.1f} s   {state}", flush=True)
    return tables, costs


def run_cpu_gate(parts: Sequence[str], quick: bool) -> list[dict[str, Any]]:
    """Returns the verdicts on every CPU row of the asked parts."""
    rows: list[Variant] = []
    if {"lif", "block"} & set(parts):
        rows += cpu.layer_variants("fp32", BOTH)
    if "lif" in parts and not quick:
        rows += cpu.layer_variants("bf16", BOTH)
    if {"resnet19", "resnet34"} & set(parts):
        rows += cpu.NETWORK_ROWS
    print("-- gate", flush=True)
    return gate.run_gate(rows, timesteps={"fp32": (4,) if quick else (2, 4, 6, 10), "bf16": (4,)})


def run(parts: Sequence[str], *, quick: bool, rounds: int | None) -> dict[str, Any]:
    """Returns the document of a benchmark run over ``parts``."""
    document: dict[str, Any] = {
        "machine": report.machine(),
        "options": {"parts": list(parts), "quick": quick, "rounds": rounds},
        "gate": run_cpu_gate(parts, quick),
        "tables": [],
        "memory": None,
        "first_use": None,
        "gpu": gpu.NOT_RUN,
        "kernels": report.kernel_table() if "kernels" in parts else None,
    }
    refused = gate.refused(document["gate"])
    for part in CPU_TABLES:
        if part in parts:
            document["tables"] += CPU_TABLES[part](quick=quick, rounds=rounds, refused=refused)
    if "memory" in parts:
        document["memory"] = measure_memory(2 if quick else 32)
    if "mini" in parts:
        tables, document["first_use"] = measure_mini(quick, rounds)
        document["tables"] += tables
    if "gpu" in parts and torch.cuda.is_available():
        steps = (4,) if quick else (2, 4, 6, 10)
        entries = gate.run_gate(gpu.rows(BOTH), timesteps={"fp32": steps, "bf16": steps}, device="cuda")
        document["gate"] += entries
        document["gpu"] = gpu.tables(quick=quick, rounds=rounds, refused=gate.refused(entries))
    return document


def main(words: Sequence[str] | None = None) -> int:
    """Runs the benchmark for the command line ``words``; returns 0, or 1 when a variant failed its gate."""
    parser = argparse.ArgumentParser(prog="make bench", description="gate, then measure, then write JSON and Markdown")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, comma-separated: {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, help="interleaved rounds per table (default: chosen per table)")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work, not how fast it is")
    parser.add_argument("--out", type=Path, help="path without suffix (default: outputs/bench/bench, or .../quick)")
    options = parser.parse_args(words)
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only: no such part: {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds: must be at least 1")
    stem = options.out or Path("outputs/bench") / ("quick" if options.quick else "bench")
    try:
        document = run(parts, quick=options.quick, rounds=options.rounds)
        report.write(stem, document)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'' if document['gpu'] != gpu.NOT_RUN else gpu.NOT_RUN + '; '}wrote {stem}.json and {stem}.md")
    return 0 if all(entry["passed"] for entry in document["gate"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
