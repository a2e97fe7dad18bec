"""Runs ``interpreted.py`` with Triton's interpreter, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
FILE = Path(__file__).with_name("interpreted.py")


@pytest.mark.slow
def test_kernels_under_the_interpreter():
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", str(FILE), "-p", "no:cacheprovider"]
    result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=FILE.parents[2], timeout=900)
    assert result.returncode == 0, result.stdout[-3000:]
    assert " passed" in result.stdout
