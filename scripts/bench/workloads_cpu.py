"""What is timed on the CPU: a layer, a block, a training step of the paper's network."""

import platform
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scripts.bench import variants as v
from scripts.bench.gate import DTYPES
from scripts.bench.harness import BOTH, FORWARD, INFERENCE, STEP, NotRun, Run, Variant, compare
from snnrepro.runtime import autocast

Refused = Mapping[tuple[str, str, str], str]

RESNET19 = ("dataset=cifar10", "model=resnet19")
RESNET34 = ("dataset=imagenet", "model=resnet34", "dataset.synthetic=true")

LAYER_ROWS = [
    (v.OURS, "full"),
    (v.LOOP, "full"),
    (v.COMPILED_LOOP, "full"),
    (v.OURS, "like-for-like"),
    (v.LOOP, "like-for-like"),
    (v.COMPILED_LOOP, "like-for-like"),
    (v.SJ_LIF, "like-for-like"),
    (v.SJ_PLIF, "like-for-like"),
    (v.SNNTORCH, "own"),
]
# Under bf16 SpikingJelly integrates in bf16: it claims nothing there.
BF16_LAYER_ROWS = [(kind, "own" if kind in (v.SJ_LIF, v.SJ_PLIF) else meaning) for kind, meaning in LAYER_ROWS]
NETWORK_ROWS = [
    Variant(v.OURS, "full"),
    Variant(v.RELU, "floor"),
    Variant(v.LOOP, "full"),
    Variant(v.OURS, "like-for-like"),
    Variant(v.SJ_LIF, "like-for-like"),
    Variant(v.SJ_PLIF, "like-for-like"),
    Variant(v.SNNTORCH, "own"),
    Variant(v.OURS, "full", "bf16"),
    Variant(v.OURS, "full", "fp32", INFERENCE),
]

LARGE_ROWS = [NETWORK_ROWS[0], NETWORK_ROWS[1], NETWORK_ROWS[2], Variant(v.OURS, "full", "bf16")]


def layer_variants(precision: str, mode: str) -> list[Variant]:
    """Returns the rows of the layer benchmark."""
    rows = LAYER_ROWS if precision == "fp32" else BF16_LAYER_ROWS
    return [Variant(kind, semantics, precision, mode) for kind, semantics in rows]


def annotate(run: Run, kind: str, module: Callable[[Tensor], Tensor], x: Tensor) -> Run:
    """Returns ``run`` with a ``note``: for SpikingJelly, which implementation the input really meets."""
    if kind in (v.SJ_LIF, v.SJ_PLIF, v.SJ_PLAN):
        run.note = v.spikingjelly_path(module, x)  # type: ignore[attr-defined]
    return run


def module_run(module: nn.Module, x: Tensor, mode: str) -> Run:
    """Returns one call of ``module`` on ``x``: the forward without gradient, or forward and backward."""
    x = x.detach().requires_grad_(mode == BOTH)
    with torch.no_grad():
        grad = torch.ones_like(module(x))

    def forward() -> None:
        with torch.no_grad():
            module(x)

    def both() -> None:
        x.grad = None
        module.zero_grad()
        module(x).backward(grad)

    return both if mode == BOTH else forward


def step_run(model: nn.Module, variant: Variant, images: Tensor, labels: Tensor) -> Run:
    """Returns one training step (forward, loss, backward, SGD) or one inference call of ``model``."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, foreach=True)
    context: Callable = partial(autocast, variant.precision, images.device)

    def train() -> None:
        with context():
            logits = model(images).float()
        optimizer.zero_grad()
        F.cross_entropy(logits.mean(0), labels).backward()
        optimizer.step()

    def infer() -> None:
        with torch.no_grad(), context():
            model(images)

    model.train(variant.mode == STEP)
    return train if variant.mode == STEP else infer


def layer_tables(*, quick: bool, rounds: int | None, refused: Refused) -> list[dict[str, Any]]:
    """Returns the tables of one LIF layer alone, T steps of N neurons."""
    neurons = 2**17 if quick else 2**20
    cases = [(4, "fp32", FORWARD), (4, "fp32", BOTH)]
    if not quick:
        cases += [(4, "bf16", FORWARD), (4, "bf16", BOTH), (2, "fp32", BOTH), (6, "fp32", BOTH), (10, "fp32", BOTH)]
    tables = []
    for t, precision, mode in cases:
        torch.manual_seed(0)
        x = (torch.randn(t, neurons) + 0.5).to(DTYPES[precision])

        def prepare(row: Variant, x: Tensor = x) -> Run:
            layer = v.layer(row.kind, row.semantics)
            return annotate(module_run(layer, x, row.mode), row.kind, layer, x)

        title = f"LIF alone, T = {t}, N = {neurons}, {precision}, {mode}"
        # ReLU reads and writes the same bytes, and computes nothing that counts.
        rows = [*layer_variants(precision, mode), Variant(v.RELU, "floor", precision, mode)]
        repeats = rounds or (5 if quick else 15 if t == 4 else 7)
        tables.append(compare(title, rows, prepare, rounds=repeats, warm_up=(2, 2), refused=refused))
    return tables


def block_tables(*, quick: bool, rounds: int | None, refused: Refused) -> list[dict[str, Any]]:
    """Returns the table of one conv + norm + neuron block, forward and backward."""
    batch, channels, side = (1, 32, 16) if quick else (4, 128, 32)
    torch.manual_seed(0)
    x = torch.rand(4, batch, channels, side, side).round()

    def prepare(row: Variant) -> Run:
        unit = v.unit(row.kind, row.semantics, channels)
        return annotate(module_run(unit, x, row.mode), row.kind, unit, x)

    rows = [*layer_variants("fp32", BOTH), Variant(v.RELU, "floor", "fp32", BOTH)]
    title = f"conv + norm + LIF, {channels} -> {channels} channels, {side} x {side}, batch {batch}, T = 4, fp32, {BOTH}"
    repeats = rounds or (3 if quick else 10)
    return [compare(title, rows, prepare, rounds=repeats, warm_up=(2, 2), refused=refused)]


def slow_bf16() -> bool:
    """Returns whether convolutions in bf16 run without vectors here: on x86 below AVX-512."""
    return platform.machine() == "x86_64" and "AVX512" not in torch.backends.cpu.get_cpu_capability()


def network_rows(
    words: tuple[str, ...],
    shape: tuple[int, ...],
    device: str = "cpu",
    layout: torch.memory_format = torch.preserve_format,
) -> Callable[[Variant], Run]:
    """Returns ``prepare``: variant to a step of the network of ``words`` on synthetic images, on the device already.

    shape: (B, C, H, W) of static images, or (T, B, C, H, W) of frames.
    """
    torch.manual_seed(0)
    images = torch.randn(shape, device=device)
    if images.ndim == 4:
        images = images.contiguous(memory_format=layout)
    labels = torch.randint(10, shape[-4:-3], device=device)

    def prepare(row: Variant) -> Run:
        if row.precision == "bf16" and device == "cpu" and slow_bf16():
            raise NotRun("this CPU has no bf16 arithmetic: one step takes minutes")
        model = v.build(row.kind, row.semantics, words, in_shape=shape[-3:], device=device)
        model = model.to(memory_format=layout)

        def forward(x: Tensor) -> Tensor:
            with autocast(row.precision, x.device):
                return model(x)

        return annotate(step_run(model, row, images, labels), row.kind, forward, images)

    return prepare


def resnet19_tables(*, quick: bool, rounds: int | None, refused: Refused) -> list[dict[str, Any]]:
    """Returns the table of ResNet-19 on images of CIFAR's size, T = 4, in the memory format that runs default to."""
    batch = 1 if quick else 8
    title = f"ResNet-19, T = 4, batch {batch}, 3 x 32 x 32, channels_last"
    prepare = network_rows(RESNET19, (batch, 3, 32, 32), layout=torch.channels_last)
    return [compare(title, NETWORK_ROWS, prepare, rounds=rounds or (2 if quick else 9), refused=refused)]


def resnet34_tables(*, quick: bool, rounds: int | None, refused: Refused) -> list[dict[str, Any]]:
    """Returns the table of ResNet-34 on images of ImageNet's size, T = 4, one image."""
    side = 64 if quick else 224
    title = f"ResNet-34, T = 4, batch 1, 3 x {side} x {side}"
    prepare = network_rows(RESNET34, (1, 3, side, side), layout=torch.channels_last)
    return [compare(title, LARGE_ROWS, prepare, rounds=rounds or (2 if quick else 5), refused=refused)]
