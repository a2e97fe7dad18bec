"""What a row must prove before it is timed: equal spikes, equal gradients, equal repeats."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scripts.bench import variants
from scripts.bench.harness import Variant
from snnrepro.errors import UserError
from snnrepro.neurons import LIF

# Nearer to the threshold than this fraction of the largest membrane, a spike is decided by rounding.
NEAR = 1e-5
# Largest RMS error of a gradient over its RMS.
GRADIENT_ERROR = {"fp32": 1e-5, "bf16": 1e-2}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLAIMS = ("full", "like-for-like", "triangular, no MP-Init")


@dataclass(frozen=True)
class Verdict:
    """passed, and why not; near_threshold: neurons that spiked otherwise because of rounding, and may."""

    passed: bool
    reason: str = ""
    near_threshold: int = 0
    gradient_error: float = 0.0


def membranes(current: Tensor, lif: LIF) -> Tensor:
    """Returns the membranes before firing, (T, ...neurons), of ``lif`` on the current; Eqs. 1 to 3, no gradient."""
    u, steps = lif.u_init, []
    for x in current.detach():
        m = u + (x - u) / lif.tau
        fires = (m >= lif.v_threshold).to(m.dtype)
        u = m - lif.v_threshold * fires if lif.reset == "soft" else m * (1 - fires)
        steps.append(m)
    return torch.stack(steps).detach()


def _at_an_edge(m: Tensor, lif: LIF) -> Tensor:
    """Returns where rounding decides whether a rectangular window is open."""
    if lif.surrogate != "rectangular":
        return torch.zeros_like(m, dtype=torch.bool)
    z = m - lif.v_threshold if lif.family == "as_sg" else m / lif.v_threshold - 1
    return (z.abs() - lif.gamma / 2).abs() < NEAR * z.abs().max()


def _gradients(layer: nn.Module, x: Tensor, grad: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the output, and the gradients of the input and of the parameters by name."""
    layer.zero_grad()
    x = x.detach().requires_grad_()
    output = layer(x)
    output.backward(grad.to(output.dtype))
    found = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return output.detach(), {"input": x.grad, **found}


def _rms_error(value: Tensor, truth: Tensor) -> float:
    norm = truth.norm().item()
    return (value.double() - truth).norm().item() / norm if norm else value.double().norm().item()


def check(layer: nn.Module, exact: nn.Module, x: Tensor, precision: str) -> Verdict:
    """Returns whether ``layer`` computes on ``x`` what ``exact``, the reference in float64, does.

    exact: has one LIF (itself, or inside), on the backend ``reference``. Neurons whose spikes or surrogate window are
    decided by rounding receive no gradient from above, in both, so that the rest can be held to the tolerance.
    """
    lif = next(m for m in exact.modules() if isinstance(m, LIF))
    seen: list[Tensor] = []
    hook = lif.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        truth = exact(x.double())
        state = copy.deepcopy(layer.state_dict())
        output = layer(x)
    hook.remove()
    m = membranes(seen[0], lif)
    near = (m - lif.v_threshold).abs() < NEAR * m.abs().max()
    differs = (output != 0) != (truth != 0)
    # After its first wrong spike a neuron is another neuron; what follows says nothing more.
    first = differs & (differs.cumsum(0) == 1)
    if (first & ~near).any():
        return Verdict(False, f"{int((first & ~near).sum())} spikes differ away from the threshold")
    unsure = (near | differs | _at_an_edge(m, lif)).any(0)
    generator = torch.Generator().manual_seed(0)
    grad = (torch.randn(truth.shape, generator=generator) + 0.5).to(x) * ~unsure
    layer.load_state_dict(state)
    output, found = _gradients(layer, x, grad)
    _, wanted = _gradients(exact, x.double(), grad.double())
    errors = {name: _rms_error(found[name], wanted[name]) for name in wanted if name in found}
    worst = max(errors, key=lambda name: errors[name])
    counted = int(first.sum())
    if not errors[worst] <= GRADIENT_ERROR[precision]:
        return Verdict(False, f"gradient of {worst} is off by {errors[worst]:.1e}", counted, errors[worst])
    layer.load_state_dict(state)
    again, repeated = _gradients(layer, x, grad)
    if not (torch.equal(output, again) and all(torch.equal(found[name], repeated[name]) for name in found)):
        return Verdict(False, "two repeats differ", counted, errors[worst])
    return Verdict(True, "", counted, errors[worst])


def layer_pair(kind: str, semantics: str, device: str) -> tuple[nn.Module, nn.Module]:
    """Returns (layer, exact): one spiking layer and its float64 reference, away from the values that hide mistakes."""
    layer = variants.layer(kind, semantics, device)
    exact = variants.layer(variants.LOOP, semantics, device).double()
    if kind in (variants.OURS, variants.LOOP, variants.COMPILED_LOOP) and semantics != "like-for-like":
        for module in (layer, exact):
            with torch.no_grad():
                module.get_parameter("v_threshold_raw").fill_(0.375)
                module.get_parameter("tau_raw").fill_(0.25)
                module.get_buffer("u_init").fill_(0.125)
    return layer, exact


def unit_pair(kind: str, semantics: str, device: str) -> tuple[nn.Module, nn.Module]:
    """Returns (unit, exact): conv, norm and neuron, and the float64 reference."""
    unit = variants.unit(kind, semantics, 16, device)
    return unit, variants.unit(variants.LOOP, semantics, 16, device).double()


def norm_pair(kind: str, semantics: str, device: str) -> tuple[nn.Module, nn.Module]:
    """Returns the norm and the neuron of ``unit_pair`` without the convolution, whose bf16 has no exact reference."""
    unit, exact = unit_pair(kind, semantics, device)

    def without_conv(block: nn.Module) -> nn.Module:
        return nn.Sequential(block.get_submodule("norm"), block.get_submodule("sn"))

    return without_conv(unit), without_conv(exact)


def run_gate(
    rows: Iterable[Variant], *, timesteps: Mapping[str, Sequence[int]], device: str = "cpu", neurons: int = 2**15
) -> list[dict[str, Any]]:
    """Returns one entry per (kind, semantics, precision, subject) that claims the reference's semantics.

    Subjects: the layer alone for every number of ``timesteps`` of its precision; in fp32 conv + norm + layer; and ours
    also norm + layer in bf16, where others round the current between the two.
    """
    torch.manual_seed(0)
    entries = []
    for kind, semantics, precision in dict.fromkeys((r.kind, r.semantics, r.precision) for r in rows):
        if semantics not in CLAIMS:
            continue
        subjects: list[tuple[str, Callable[..., tuple[nn.Module, nn.Module]], Tensor]] = [
            (f"layer, T={t}", layer_pair, torch.randn(t, neurons) + 0.5) for t in timesteps[precision]
        ]
        if precision == "fp32":
            subjects.append(("conv + norm + layer, T=4", unit_pair, torch.rand(4, 2, 16, 12, 12).round()))
        elif kind == variants.OURS:
            subjects.append(("norm + layer, T=4", norm_pair, torch.randn(4, 2, 16, 12, 12)))
        for subject, pair, x in subjects:
            entry = {"kind": kind, "semantics": semantics, "precision": precision, "subject": subject}
            try:
                verdict = check(*pair(kind, semantics, device), x.to(device, DTYPES[precision]), precision)
            except (ImportError, RuntimeError, UserError) as error:
                verdict = Verdict(False, str(error).splitlines()[0])
            entries.append(entry | asdict(verdict))
            print(f"   {'ok    ' if verdict.passed else 'FAILED'} {kind}, {semantics}, {precision}, {subject} "
                  f"{verdict.reason}", flush=True)  # fmt: skip
    return entries


def refused(entries: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], str]:
    """Returns the first reason of every (kind, semantics, precision) that failed."""
    found: dict[tuple[str, str, str], str] = {}
    for entry in entries:
        if not entry["passed"]:
            key = (entry["kind"], entry["semantics"], entry["precision"])
            found.setdefault(key, f"{entry['subject']}: {entry['reason']}")
    return found
