"""The contract of the Triton kernels, read from compiled machine code: bytes, registers, spills. Needs no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
# All passes of a training step: x, go, o, gx once each, the norm's input once more for its statistics and once more
# for its sums; and a byte of packed spikes per neuron, written once and read by each backward pass.
BYTES = {("LIF", "fp32"): 20.5, ("LIF", "bf16"): 10.5, ("norm+LIF", "fp32"): 32.75, ("norm+LIF", "bf16"): 16.75}


def compiled_rows(*calls, cache):
    """Rows of ``cubin.rows`` for several (arguments, options), from a process that never interprets Triton."""
    program = "import json, sys; from scripts.bench import cubin; calls = json.loads(sys.argv[1]); "
    program += "print(json.dumps([row for a, o in calls for row in cubin.rows(*a, spikingjelly=False, **o)]))"
    env = {**os.environ, "TRITON_CACHE_DIR": str(cache)}
    env.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-c", program, json.dumps(calls)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


# One architecture here, the others with `make test-all`.
ARCHS = [90, pytest.param(80, marks=pytest.mark.full), pytest.param(86, marks=pytest.mark.full)]


@pytest.fixture(scope="module", params=ARCHS)
def rows(request, tmp_path_factory):
    return compiled_rows([[[4, 8, 16], [request.param]], {}], cache=tmp_path_factory.mktemp("triton"))


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "dtype"), BYTES)
def test_bytes_per_neuron_and_step(rows, kernel, dtype):
    chosen = [r for r in rows if (r["dtype"], r["T"]) == (dtype, 4)]
    parts = [r["bytes/n-t"] for r in chosen if r["kernel"].startswith(kernel) and "inference" not in r["kernel"]]
    statistics = {"fp32": 4, "bf16": 2}[dtype] if kernel == "norm+LIF" else 0
    assert len(parts) == (3 if statistics else 2)
    assert sum(parts) + statistics == BYTES[kernel, dtype]


@pytest.mark.slow
def test_inference_writes_outputs_only(rows):
    for row in rows:
        if row["kernel"].endswith("LIF inference"):
            assert row["bytes/n-t"] == {"fp32": 8, "bf16": 4}[row["dtype"]]


@pytest.mark.slow
def test_registers_spills_atomics_and_doubles(rows):
    assert len(rows) == 42
    for row in rows:
        # Five blocks of 128 threads share a multiprocessor; the longest windows fill what there is.
        assert row["registers"] <= (96 if row["T"] <= 8 else 255), row
        assert row["spills"] == row["atomics"] == row["fp64"] == 0, row
        # Where the sums of the reduce kernel meet, the assembler may call its own warp barrier, once per program.
        assert row["calls"] <= ("reduce" in row["kernel"]), row


def fit(rows):
    for row in rows:
        assert row["spills"] == row["atomics"] == row["fp64"] == 0 and row["registers"] <= 96, row


@pytest.mark.slow
@pytest.mark.parametrize("layer", [{"channels_last": True, "shortcut": 2}, {"shortcut": 1}], ids=str)
def test_other_layouts_fit_too(layer, tmp_path):
    rows = compiled_rows([[[4], [90], ["fp32"]], layer], cache=tmp_path)
    assert len(rows) == 7
    fit(rows)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("arch", [80, 86, 90])
def test_all_layouts_fit_everywhere(arch, tmp_path):
    layers = [{"channels_last": True}, {"shortcut": 1}, {"shortcut": 2}, {"channels_last": True, "shortcut": 2}]
    rows = compiled_rows(*[[[[4, 6, 8], [arch], ["fp32", "bf16"]], layer] for layer in layers], cache=tmp_path)
    assert len(rows) == 4 * 42
    fit(rows)


def test_the_counter_finds_what_it_counts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from scripts.bench import cubin

    class Kernel:
        class src:
            signature = {"y": "*fp32", "n": "i32", "o": "*fp32"}  # noqa: RUF012

        asm = {  # noqa: RUF012
            "ptx": "ld.param.b64 %rd1, [k_param_0];\nld.param.b64 %rd2, [k_param_2];\nadd.s64 %rd3, %rd1, 8;\n"
            "ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd3 + 0 ];\n@%p1 st.global.b16 [ %rd2 + 0 ], { %r4 };\n"
        }

    assert cubin.traffic(Kernel) == {"y": 16, "o": 2}
