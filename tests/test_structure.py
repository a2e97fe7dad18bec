"""The house rules that a machine can check: size, direction of imports, the journey of one value."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import env

from snnrepro.build import build_model
from snnrepro.cli import main
from snnrepro.compose import compose_run
from snnrepro.runs import run_path

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*ROOT.glob("snnrepro/**/*.py"), *ROOT.glob("scripts/*.py"), ROOT / "train.py", ROOT / "evaluate.py"])

# What each layer of the package may not know.
FORBIDDEN = {
    "neurons": ("config", "compose", "data", "train", "models", "report"),
    "models": ("config", "compose", "data", "train", "report"),
    "deploy": ("config", "compose", "data", "train", "models", "report", "build", "runs", "runtime"),
    "norms": ("config", "compose", "data", "train", "models", "report"),
    "temporal_norms": ("config", "compose", "data", "train", "models", "report"),
    "collectives": ("config", "compose", "data", "train", "models", "report", "neurons"),
    "batch_norm": ("config", "compose", "data", "train", "models", "report", "neurons"),
    "layers": ("config", "compose", "data", "train", "models", "report"),
    "tasks": ("config", "compose", "train", "models", "report"),
    "data": ("config", "compose", "train", "models", "neurons", "report"),
    "report": ("train", "models", "neurons"),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, node.name


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_point_one_way(part):
    folder = ROOT / "snnrepro" / part
    for path in folder.glob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]:
        if path.name.endswith(("_options.py", "base.py")):
            # The schema of what lies beside it, which knows nothing of it.
            continue
        for name in FORBIDDEN[part]:
            bad = {i for i in imports(path) if i == f"snnrepro.{name}" or i.startswith(f"snnrepro.{name}.")}
            assert not bad, f"{path.name} imports {bad}"


def graph(root: Path, package: str) -> dict[str, set[str]]:
    """Returns which modules of the package in ``root`` each of them imports, inside of functions too."""
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (root / package).rglob("*.py")
    }
    return {name: {each for each in _at_run_time(path) if each in files} - {name} for name, path in files.items()}


def _at_run_time(path: Path) -> set[str]:
    """Returns what a file imports, wherever it does, but for type checkers."""
    tree = ast.parse(path.read_text())
    for_types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    skipped = {id(inner) for node in for_types for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in skipped:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import) and id(node) not in skipped:
            found |= {alias.name for alias in node.names}
    return found


def circle(modules: dict[str, set[str]]) -> list[str]:
    """Returns modules that import each other in a circle, in order, or nothing."""
    done: set[str] = set()
    for start in modules:
        path, stack = [], [(start, iter(sorted(modules[start])))]
        while stack and start not in done:
            name, rest = stack[-1]
            if name not in path:
                path.append(name)
            following = next((each for each in rest if each not in done), None)
            if following is None:
                done.add(path.pop())
                stack.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            else:
                stack.append((following, iter(sorted(modules[following]))))
    return []


def test_no_modules_import_each_other_in_a_circle():
    found = {name: others - {"snnrepro"} for name, others in graph(ROOT, "snnrepro").items()}
    assert len(found) > 130 and sum(map(len, found.values())) > 400
    assert not circle(found), " -> ".join(circle(found))


def test_control_a_circle_through_three_modules_and_a_function_is_found(tmp_path):
    (tmp_path / "p" / "q").mkdir(parents=True)
    (tmp_path / "p" / "a.py").write_text("from p.q import b\n")
    (tmp_path / "p" / "q" / "b.py").write_text("def f():\n    from p.c import x\n")
    (tmp_path / "p" / "c.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.a\n")
    assert not circle(graph(tmp_path, "p"))
    (tmp_path / "p" / "c.py").write_text("import p.a\n")
    assert circle(graph(tmp_path, "p")) == ["p.a", "p.q.b", "p.c", "p.a"]


def test_options_are_read_without_torch_and_by_nobody_beside_them():
    """A command line is checked before torch, or anything that an option builds, is imported."""
    code = "import sys; from snnrepro.compose import compose_run; compose_run([]); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env()).stdout
    loaded = {name.partition(".")[0] for name in found.split()}
    assert "hydra" in loaded and not loaded & {"torch", "sklearn", "timm", "torchvision", "PIL"}
    of_options = [path for path in FILES if path.name.endswith("_options.py")]
    assert len(of_options) > 8
    for path in of_options:
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not {getattr(node, "module", None) for node in top} & {"torch", "timm", "sklearn", "torchvision"}, path


def test_hydra_is_known_at_the_edge_only():
    edge = {"compose.py", "config_values.py", "overrides.py", "sweep.py", "launchers.py"}
    for path in FILES:
        if path.name not in edge:
            assert not {i for i in imports(path) if i.split(".")[0] in ("hydra", "omegaconf")}, path


def test_every_public_function_says_what_it_does():
    for path in FILES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_one_value_travels_from_the_command_line_to_the_neuron_and_back_into_the_record(tiny, capsys):
    words = [*tiny, "neuron.v_threshold=0.5", "neuron.learn_threshold=false"]
    run = compose_run(words)
    assert run.neuron.v_threshold == 0.5
    model = build_model(run, in_shape=(1, 8, 8), num_classes=10)
    assert model.sn1.v_threshold.item() == pytest.approx(0.5, rel=1e-7)
    # 0.6 stays below the default threshold of 1 and reaches 0.5: only the journey's value makes it spike.
    model.sn1.tau_raw.data = torch.tensor(1e3)
    assert model.sn1(torch.full((2, 1), 0.6)).tolist() == [[pytest.approx(0.5)], [pytest.approx(0.5)]]
    assert main(["train", *words]) == 0
    record = json.loads((run_path(run) / "record.json").read_text())
    assert record["config"]["neuron"]["v_threshold"] == 0.5
    assert record["learned"]["sn1"]["v_threshold"] == pytest.approx(0.5, rel=1e-7)
    capsys.readouterr()
