"""Gradients at one point of training: their size, their spread, whether steps agree (Tables 7-9, Fig. 10)."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from snnrepro.analysis.recorder import window
from snnrepro.analysis.statistics import cosine_matrix, gradient_strength, gradient_variation, share_within
from snnrepro.neurons import LIF, spiking_layers

Batches = Iterable[tuple[Tensor, Tensor]]


def gradient_statistics(model: nn.Module, batches: Batches, loss_fn: Callable, timesteps: int) -> dict[str, Any]:
    """Returns AbsStr and GradCV per convolution, RatioAG in percent per spiking layer, means over ``batches``.

    batches: (input, labels) of training data. Training mode; running statistics and running means end as they were,
    and nothing is updated.
    """
    convolutions = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    found: dict[str, dict[str, list[float]]] = {
        "abs_str": {name: [] for name in convolutions},
        "grad_cv": {name: [] for name in convolutions},
        "ratio_ag": {name: [] for name, _ in spiking_layers(model)},
    }
    with _watching(model, found["ratio_ag"]):
        for x, labels in batches:
            model.zero_grad()
            # Every batch meets the same network: running means would move from one to the next.
            with _undisturbed(model):
                loss_fn(model(x, timesteps).float(), labels).backward()
            for name, module in convolutions.items():
                gradient = module.weight.grad
                assert gradient is not None
                found["abs_str"][name].append(gradient_strength(gradient))
                found["grad_cv"][name].append(gradient_variation(gradient))
        model.zero_grad()
    return {kind: {name: sum(v) / len(v) for name, v in layers.items()} for kind, layers in found.items()}


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Training mode while entered; buffers and mode are restored."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training = model.training
    model.train()
    try:
        yield
    finally:
        model.train(training)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


@contextmanager
def _watching(model: nn.Module, ratios: dict[str, list[float]]) -> Iterator[None]:
    def hook(name: str) -> Callable:
        def measure(layer: LIF, inputs: tuple, options: dict) -> None:
            _, m, _, _, v = window(layer, *inputs, **options)
            x = m - v if layer.family == "as_sg" else m / v - 1
            ratios[name].append(100 * share_within(x, layer.gamma / 2))

        return measure

    layers = list(spiking_layers(model))
    handles = [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def step_cosines(model: nn.Module, name: str, batches: Batches, loss_fn: Callable, timesteps: int) -> Tensor:
    """Returns the mean over ``batches`` of the cosines (T, T) between the steps' parts of a convolution's gradient.

    Part t is what step t's use of the weight contributes to the gradient of the loss: every step gets a copy of the
    weight of its own, and one backward pass fills them; their sum is the ordinary gradient. name: a convolution behind
    the first spiking layer.
    """
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    found = []
    for x, labels in batches:
        with _undisturbed(model):
            found.append(cosine_matrix(step_gradients(model, conv, x, labels, loss_fn, timesteps).flatten(1)))
    return torch.stack(found).mean(0)


def step_gradients(
    model: nn.Module, conv: nn.Conv2d, x: Tensor, labels: Tensor, loss_fn: Callable, timesteps: int
) -> Tensor:
    """Returns the parts (T, *weight.shape) of the gradient of ``conv.weight``, one for each step."""
    copies = conv.weight.detach().expand(timesteps, *conv.weight.shape).clone().requires_grad_()

    def forward(merged: Tensor) -> Tensor:
        # Steps are the outer part of the merged axis.
        steps = merged.chunk(timesteps)
        if len(steps) != timesteps:
            raise ValueError(f"the convolution sees {len(steps)} of {timesteps} steps")
        outputs = [conv._conv_forward(step, weight, conv.bias) for step, weight in zip(steps, copies, strict=True)]
        return torch.cat(outputs)

    conv.forward = forward  # type: ignore[method-assign,assignment]
    try:
        loss = loss_fn(model(x, timesteps).float(), labels)
        (gradient,) = torch.autograd.grad(loss, copies)
    finally:
        del conv.forward
    return gradient
