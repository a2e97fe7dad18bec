"""Do the tests have teeth? Small faults are put into the sources, one at a time, and the tests for them are run.

    python -m scripts.mutants [COUNT] [PART ...]        such as: 60, or 10 identity optim

Which faults: drawn by a fixed seed, so two versions of the tests meet the same ones while the sources are the same.
Works in a copy of the last commit; prints a line per fault and ends with 1 where one survived. A survivor may be
equivalent to the original: somebody has to look.
"""

import ast
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
SEED = 0
# Where the faults go, and which tests should find them.
PARTS = {
    "reference": ("snnrepro/neurons/reference.py", "tests/neurons/test_values.py tests/neurons/test_gradcheck.py "
                  "tests/neurons/test_lif_properties.py tests/neurons/test_methods.py"),
    "surrogates": ("snnrepro/neurons/surrogates.py", "tests/neurons/test_surrogates.py "
                   "tests/neurons/test_gradcheck.py"),
    "mp_init": ("snnrepro/neurons/mp_init.py", "tests/neurons/test_mp_init.py tests/test_library.py"),
    "reparam": ("snnrepro/neurons/reparam.py", "tests/neurons/test_reparam.py"),
    "norms": ("snnrepro/norms.py", "tests/test_norms.py tests/test_layers.py tests/test_membrane_norm.py"),
    "temporal_norms": ("snnrepro/temporal_norms.py", "tests/test_temporal_norms.py"),
    "rows": ("snnrepro/neurons/kernels/rows.py", "tests/kernels/test_interpreter.py"),
    "triton": ("snnrepro/neurons/kernels/triton/parts.py", "tests/kernels/test_interpreter.py"),
    "losses": ("snnrepro/tasks/losses.py", "tests/test_losses.py tests/train/test_loss_options.py"),
    "classification": ("snnrepro/tasks/classification.py", "tests/train/test_evaluation.py "
                       "tests/train/test_loss_options.py tests/data/test_augment_group.py"),
    "optim": ("snnrepro/train/optim.py", "tests/train/test_optim.py tests/train/test_starts.py"),
    "loop": ("snnrepro/train/loop.py", "tests/train tests/golden tests/faults/test_resume.py"),
    "order": ("snnrepro/data/order.py", "tests/data/test_order.py"),
    "draw": ("snnrepro/data/draw.py", "tests/data/test_order.py tests/data/test_augment.py tests/golden"),
    "mixed": ("snnrepro/data/mixed.py", "tests/data/test_augment_group.py"),
    "identity": ("snnrepro/identity.py", "tests/golden tests/test_renaming.py tests/test_runs.py"),
    "select": ("snnrepro/report/select.py", "tests/report/test_select.py"),
}  # fmt: skip
_SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt,
    ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


def faults(source: str) -> Iterator[tuple[int, str]]:
    """Yields (line, source with one fault): an operator swapped, a number changed, a condition turned around."""
    count = sum(1 for _ in _sites(ast.parse(source)))
    for number in range(count):
        tree = ast.parse(source)
        node, change = list(_sites(tree))[number]
        change()
        yield node.lineno, ast.unparse(tree)


def _sites(tree: ast.AST) -> Iterator[tuple]:
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in _SWAPS:
            yield node, lambda node=node: setattr(node, "op", _SWAPS[type(node.op)]())
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in _SWAPS:
            yield node, lambda node=node: node.ops.__setitem__(0, _SWAPS[type(node.ops[0])]())
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            yield node, lambda node=node: setattr(node, "value", node.value + 1)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, lambda node=node: setattr(node, "op", ast.UAdd()) or setattr(node, "operand", ast.Call(
                ast.Name("bool", ast.Load()), [node.operand], []))  # fmt: skip


def main() -> int:
    """Draws, tries and prints; returns the exit code."""
    words = sys.argv[1:]
    count = int(words.pop(0)) if words and words[0].isdecimal() else 60
    parts = words or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        print(f"{unknown[0]}: no such part; they are {', '.join(PARTS)}\n{__doc__}")
        return 2
    chosen = []
    for part in parts:
        path = PARTS[part][0]
        known = [(part, line, text) for line, text in faults((HERE / path).read_text())]
        chosen += random.Random(f"{SEED} {path}").sample(known, min(len(known), -(-count // len(parts))))
    chosen, survived = chosen[:count], 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(copy)], cwd=HERE, check=True)
        try:
            for part, line, text in chosen:
                killed, seconds = _killed(copy, part, text)
                survived += not killed
                was = (HERE / PARTS[part][0]).read_text().splitlines()[line - 1].strip()
                print(
                    f"{'killed  ' if killed else 'SURVIVED'} {seconds:4.0f} s {PARTS[part][0]}:{line}: {was}",
                    flush=True,
                )
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(copy)], cwd=HERE, check=True)
    print(f"{len(chosen) - survived} of {len(chosen)} killed")
    return int(survived > 0)


def _killed(copy: Path, part: str, text: str) -> tuple[bool, float]:
    path, tests = PARTS[part]
    before, started = (copy / path).read_text(), time.monotonic()
    (copy / path).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split()]
    env = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    try:
        result = subprocess.run(command, cwd=copy, env=env, capture_output=True, timeout=900).returncode
    except subprocess.TimeoutExpired:
        result = 1
    (copy / path).write_text(before)
    return result != 0, time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
