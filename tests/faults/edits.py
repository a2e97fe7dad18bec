"""Seeded edits of stored files, by what the files hold: what disks, editors, other versions and attackers leave."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

VALUES = (None, True, -1, -0.5, 0, 1e300, 10**400, float("nan"), float("inf"), "", "97", "${oc.env:HOME}", "x" * 300,
          [], [None], {}, {"a": 1}, "../..", "\ud800")  # fmt: skip


def places(value: Any, found: list | None = None) -> list[tuple[Any, Any]]:
    """Returns every (container, key) of nested dicts and lists."""
    found = [] if found is None else found
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        found.append((value, key))
        if isinstance(item, dict | list):
            places(item, found)
    return found


def edit(value: Any, rng: random.Random) -> str:
    """Changes one place of a plain value and returns how."""
    container, key = rng.choice(places(value) or [({}, None)])
    kind = rng.choice(("drop", "retype", "retype", "retype", "surplus", "nest"))
    if kind == "drop" and key is not None:
        del container[key]
    elif kind == "surplus" and isinstance(container, dict):
        container["surplus"] = rng.choice(VALUES)
    elif kind == "nest":
        for _ in range(100):
            container[key] = [container.get(key) if isinstance(container, dict) else container[key]]
    else:
        container[key] = rng.choice(VALUES)
    return f"{kind} {key} -> {container.get(key) if isinstance(container, dict) else '...'!r:.40}"


def edit_json(path: Path, rng: random.Random) -> str:
    """Edits a JSON file; one with a digest of its content gets the right one again."""
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        return "nothing"
    if rng.random() < 0.1:
        content["format"] = rng.choice([0, 1, 2, 99, "1", None, -1])
        how = f"format {content['format']}"
    else:
        how = edit(content.get("network", content), rng)
    if isinstance(content.get("network"), dict):
        text = json.dumps(content["network"], sort_keys=True)
        content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    text = json.dumps(content, indent=1)
    if rng.random() < 0.1:
        text, how = text.replace('\n "', '\n "format": 1,\n "format": 1,\n "', 1), "a key twice"
    if rng.random() < 0.05:
        text, how = '{"a": ' * 50_000, "nested without end"
    path.write_text(text)
    return how


def edit_yaml(path: Path, rng: random.Random) -> str:
    """Edits a YAML file, or puts a bomb of aliases into its place."""
    if rng.random() < 0.1:
        levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(30)]
        path.write_text("\n".join(levels))
        return "aliases"
    if rng.random() < 0.05:
        path.write_text("[" * 5000)
        return "deep"
    content = yaml.safe_load(path.read_text())
    how = edit(content, rng)
    path.write_text(f"# format {rng.choice([1, 1, 1, 7, 'x'])}\n{yaml.safe_dump(content)}")
    return how


def edit_lines(path: Path, rng: random.Random) -> str:
    """Edits a file of JSON lines."""
    lines = path.read_text().splitlines()
    number = rng.randrange(len(lines))
    how = rng.choice(("drop", "twice", "swap", "torn", "value", "garbage"))
    if how == "drop":
        del lines[number]
    elif how == "twice":
        lines.insert(number, lines[number])
    elif how == "swap":
        lines.reverse()
    elif how == "torn":
        lines[number] = lines[number][: rng.randrange(len(lines[number]))]
    elif how == "value":
        content = json.loads(lines[number])
        how = edit(content, rng)
        lines[number] = json.dumps(content)
    else:
        lines[number] = rng.choice(("null", "[]", "{}", "[" * 99999, "\x00" * 50))
    path.write_text("\n".join(lines) + "\n")
    return how


def edit_checkpoint(path: Path, rng: random.Random) -> str:
    """Edits the state in a checkpoint and gives it a digest that matches."""
    state = torch.load(path, weights_only=True)
    tensors = {name: tensor for name, tensor in state["model"].items() if tensor.is_floating_point()}
    name = rng.choice(sorted(tensors))
    kind = rng.choice(("shape", "value", "name", "plain", "plain", "plain", "position", "other"))
    how = f"{kind} {name}"
    if kind == "shape":
        state["model"][name] = torch.zeros(3, 1, 2)
    elif kind == "value":
        state["model"][name].fill_(rng.choice((float("nan"), -1e4, float("inf"))))
    elif kind == "name":
        state["model"]["renamed"] = state["model"].pop(name)
    elif kind == "position":
        key = rng.choice(("epoch", "batch", "step", "skipped"))
        state[key] = rng.choice((-1, 99, 0, 2**70, 1.5, None))
        how = f"{key} {state[key]}"
    elif kind == "other":
        state = rng.choice((None, [], {}, {"run": state["run"]}, torch.zeros(2), {"model": 1, "run": 2}))
    else:
        parts = {key: value for key, value in state.items() if key not in ("model", "rng")}
        how = edit(parts, rng)
        state = {**{key: state[key] for key in ("model", "rng") if key in state}, **parts}
    torch.save(state, path)
    data, sidecar = path.read_bytes(), path.with_suffix(".json")
    content = json.loads(sidecar.read_text()) | {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    sidecar.write_text(json.dumps(content))
    return how


BY_SUFFIX: dict[str, Callable[[Path, random.Random], str]] = {
    ".json": edit_json, ".yaml": edit_yaml, ".jsonl": edit_lines, ".pt": edit_checkpoint,
}  # fmt: skip


def replace(path: Path, rng: random.Random) -> str:
    """Puts something else into the place of a file, and returns what."""
    data = path.read_bytes()
    kind = rng.choice(("missing", "empty", "cut", "utf-16", "noise", "deep", "folder", "pipe", "device", "huge"))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif kind != "missing":
        contents = {"empty": b"", "cut": data[: rng.randrange(len(data))], "noise": rng.randbytes(500)}
        contents |= {"utf-16": data.decode("latin-1").encode("utf-16"), "deep": b'{"a":' * 100_000}
        path.write_bytes(contents[kind])
    return kind


def disturb(output: Path, rng: random.Random) -> tuple[Path, str]:
    """Makes one edit somewhere in an output folder and returns (the file, what was done to it)."""
    files = sorted(path for path in output.rglob("*") if path.is_file() and path.suffix in (*BY_SUFFIX, ".safetensors"))
    path = rng.choice(files)
    kind = rng.choice(("inside", "inside", "inside", "inside", "replace", "replace", "swap", "stranger"))
    if kind == "inside" and path.suffix in BY_SUFFIX:
        # A checkpoint is edited more often than the file with its digest.
        of_pair = path.with_suffix(".pt").exists() and rng.random() < 0.7
        path = path.with_suffix(".pt") if of_pair else path
        how = BY_SUFFIX[path.suffix](path, rng)
    elif kind == "swap":
        other = rng.choice(files)
        before = path.read_bytes()
        shutil.copyfile(other, path) if other != path else None
        other.write_bytes(before)
        how = f"swapped with {other.relative_to(output)}"
    elif kind == "stranger":
        name = rng.choice(("._00000002.pt", "00000006 (copy).pt", "notes.pt", "abc.json", "-1.json", "99999999.json",
                           "record.json.tmp.1", "00000099.pt.tmp.4194304"))  # fmt: skip
        (path.parent / name).write_bytes(path.read_bytes()[:100])
        how = f"beside it {name}"
    else:
        how = replace(path, rng)
    return path, how
