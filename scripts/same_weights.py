"""Do two checkouts train the same weights, bit by bit? One run of every neuron, norm and loss, and the default's start.

    python -m scripts.same_weights OTHER_CHECKOUT

Prints a line per run and ends with 1 where one differs: for changes that must change nothing.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
GROUPS = ("neuron", "norm", "loss", "surrogate", "optimizer", "model")
SMALL = ["dataset=synthetic", "epochs=2", "optimizer.warmup_epochs=0", "runtime.threads=1", "neuron.v_threshold=0.3"]


def cases(checkout: Path) -> list[list[str]]:
    """Returns the command lines: each option of every group on generated data, then real digits and events."""
    found = []
    for group in GROUPS:
        for file in sorted((checkout / "configs" / group).glob("*.yaml")):
            word = f"{group}={file.stem}"
            # The wide networks are the narrow ones' code.
            if group == "model" and not file.stem.endswith("_mini"):
                continue
            found.append([*SMALL, word])
    mini = ["epochs=1", "runtime.threads=1"]
    return [*found, mini, [*mini, "dataset=digits_dvs", "runtime.backend=compiled"], [*mini, "loss=rmp", "neuron=lif"]]


def digests(lines: list[list[str]]) -> dict[str, str]:
    """Returns sha256 over the final weights of every run, or its error; trains them in this process."""
    import torch

    from snnrepro.cli import main
    from snnrepro.compose import compose_run
    from snnrepro.errors import UserError
    from snnrepro.runs import run_path

    found = {}
    with tempfile.TemporaryDirectory() as output:
        for words in lines:
            name, place = " ".join(words), f"runtime.output_dir={output}"
            try:
                path = run_path(compose_run([*words, place]))
            except UserError as error:
                found[name] = f"refused: {error}"
                continue
            code = main(["train", *words, place])
            files = sorted((path / "checkpoints").glob("*.pt"))
            hasher = hashlib.sha256(str(code).encode())
            for key, tensor in torch.load(files[-1], weights_only=True)["model"].items() if files else ():
                hasher.update(key.encode() + tensor.contiguous().numpy().tobytes())
            found[name] = hasher.hexdigest()
    return found


def of(checkout: Path, lines: list[list[str]]) -> dict[str, str]:
    """Returns the digests that the package in ``checkout`` makes."""
    code = f"import json, sys, snnrepro; assert snnrepro.__file__.startswith({str(checkout)!r}), snnrepro.__file__\n"
    code += f"import runpy; m = runpy.run_path({str(Path(__file__).resolve())!r})\n"
    code += "found = m['digests'](json.loads(sys.stdin.read())); print('\\n' + json.dumps(found))"
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], input=json.dumps(lines), stdout=subprocess.PIPE, text=True,
                            env=environment, cwd=checkout, check=True)  # fmt: skip
    return json.loads(result.stdout.splitlines()[-1])


def main() -> int:
    """Compares and prints; returns the exit code."""
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    lines = cases(HERE)
    ours, theirs = of(HERE, lines), of(Path(sys.argv[1]).resolve(), lines)
    different = 0
    for name in ours:
        equal = ours[name] == theirs[name]
        different += not equal
        print(f"{'equal    ' if equal else 'DIFFERENT'} {ours[name][:12]} {theirs[name][:12]} {name}")
    print(f"{len(ours) - different} of {len(ours)} runs end with the same weights")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
