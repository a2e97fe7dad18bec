"""Threshold absorption: ``W_next <- V_thr * W_next`` (paper Sec. 4.2), made exact for whole networks.

Every value of the network is written as a sum of terms over values of the absorbed network,

    value = sum_i gain_i * weight_i(source_i) + shift,

where a source carries spikes, or real numbers where the network computes with them. Thresholds and norms only change
gains and shifts; when a spiking layer (or the output) reads the value, they are folded into the weights. What does
not keep this form is refused. Spiking layers are divided by their threshold and take 1/tau into their current (R3):
then a neuron holds two constants, its decay and its start, and fires at 1 whatever V_thr was. Rules: ``report``.
"""

from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from snnrepro.deploy.network import AbsorbedNetwork, Step
from snnrepro.deploy.report import Edge, with_fan_out
from snnrepro.deploy.trace import Node, trace
from snnrepro.errors import AbsorptionError
from snnrepro.neurons import LIF
from snnrepro.norms import MembraneNorm

REAL = "real numbers: no threshold to absorb"


@dataclass(frozen=True)
class Term:
    """``gain * weight(source)``. gain: float64, (1 or T, 1 or C). origins: the layers that the source comes from.

    layer, options: the linear layer that the weight belongs to and its geometry. spikes: the source carries spikes,
    pooled or summed ones included.
    """

    source: str
    gain: Tensor
    origins: tuple[str, ...]
    spikes: bool
    weight: Tensor | None = None
    layer: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    via: tuple[str, ...] = ()
    rules: frozenset[str] = frozenset()
    how: str = ""


@dataclass(frozen=True)
class Form:
    """A value of the network as a sum of terms and a shift, float64 (1 or T, 1 or C)."""

    terms: tuple[Term, ...]
    shift: Tensor

    @property
    def plain(self) -> bool:
        """Whether the value is a sum of sources with one factor each: what pools and weights commute with."""
        single = all(term.weight is None and term.gain.numel() == 1 for term in self.terms)
        return single and not self.shift.any()


def _number(value: Any = 0.0) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).detach().cpu().reshape(1, 1)


def absorb(model: nn.Module) -> AbsorbedNetwork:
    """Returns the network that ``model`` is in evaluation mode, with spikes 0 and 1 on every edge, and its report.

    Spikes are identical in real arithmetic; floating point rounds differently. Tensors have dtype and device of the
    model's parameters, are folded in float64, and are copies. Raises AbsorptionError, naming the place, for a network
    without spiking layers and for whatever cannot be made exact.
    """
    graph = trace(model)
    if not any(node.kind == "lif" for node in graph.nodes):
        raise AbsorptionError("the network has no spiking layer: nothing to absorb")
    work = _Absorption(model)
    with torch.no_grad():
        for node in graph.nodes:
            work.forms[node.name] = getattr(work, "_" + node.kind)(node)
        output = work.write(work.forms[graph.output], "output")
    like = next(chain(model.parameters(), model.buffers()))
    tensors = {name: _cast(name, values, like) for name, values in work.tensors.items()}
    return AbsorbedNetwork(
        work.steps,
        tensors,
        output=output,
        averaged=graph.averaged,
        timesteps=getattr(model, "timesteps", None),
        report=with_fan_out(work.edges),
    ).to(like.device)


def _cast(name: str, values: dict[str, Tensor], like: Tensor) -> dict[str, Tensor]:
    cast = {key: value.to(like.dtype) for key, value in values.items()}
    for key, value in cast.items():
        if not value.isfinite().all():
            raise AbsorptionError(f"{name}.{key}: not finite in {like.dtype}")
    return cast


class _Absorption:
    """Forms of all values seen so far, and the absorbed network written so far."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.forms: dict[str, Form] = {}
        self.steps: list[Step] = []
        self.tensors: dict[str, dict[str, Tensor]] = {}
        self.edges: list[Edge] = []
        self.sums: dict[tuple[str, ...], str] = {}

    # One method per kind of node in the trace: returns the form of its value.

    def _input(self, node: Node) -> Form:
        return Form((Term("input", _number(1), ("input",), spikes=False),), _number())

    def _norm(self, node: Node) -> Form:
        form = self.forms[node.inputs[0]]
        affine: Any = self.model.get_submodule(node.module)
        scale, shift = (tensor.double().cpu() for tensor in affine.eval_affine())
        terms = tuple(
            replace(t, gain=t.gain * scale, via=(*t.via, node.name), rules=t.rules | {"R2"}) for t in form.terms
        )
        return Form(terms, form.shift * scale + shift)

    def _add(self, node: Node) -> Form:
        left, right = (self.forms[name] for name in node.inputs)
        terms: dict[Any, Term] = {}
        for number, term in enumerate((*left.terms, *right.terms)):
            # A source that arrives twice without a weight is one source with the sum of both factors.
            key = term.source if term.weight is None and term.gain.numel() == 1 else number
            terms[key] = replace(term, gain=term.gain + terms[key].gain) if key in terms else term
        return Form(tuple(terms.values()), left.shift + right.shift)

    def _linear(self, node: Node) -> Form:
        layer: Any = self.model.get_submodule(node.module)
        groups = self._tied(self._plain(node.inputs[0]), node.name)
        weight = layer.weight.double().cpu()
        terms = []
        for number, term in enumerate(groups, start=1):
            factor = "weight times V" if term.gain != 1 else "weight as it is: factor 1"
            how = factor if term.spikes else REAL
            rules = term.rules | ({"R1"} if term.spikes else set())
            if len(term.origins) > 1:
                how, rules = f"one weight for a sum of equal V: {factor}", rules | {"R6"}
            if len(groups) > 1:
                how, rules = f"copy {number} of {len(groups)}: {how}", rules | {"R6"}
            changes = {"weight": weight * term.gain, "layer": node.name, "options": node.options}
            via = (*term.via, node.name)
            terms.append(replace(term, gain=_number(1), via=via, rules=rules, how=how, **changes))
        return Form(tuple(terms), _number() if layer.bias is None else layer.bias.double().cpu()[None])

    def _lif(self, node: Node) -> Form:
        layer = self.model.get_submodule(node.module)
        assert isinstance(layer, LIF)
        v_threshold, tau = _number(layer.v_threshold), _number(layer.tau)
        if v_threshold <= 0:
            raise AbsorptionError(f"{node.name}: its threshold is {v_threshold.item():.4g}, and must be above 0")
        form = self.forms[node.inputs[0]]
        scale = v_threshold if layer.input_scale == "none" else tau * v_threshold
        terms = tuple(replace(t, gain=t.gain / scale, rules=t.rules | {"R3"}) for t in form.terms)
        current = self.write(Form(terms, form.shift / scale), node.name)
        constants = {"decay": 1 - 1 / tau[0, 0], "u_init": layer.u_init.double().cpu() / v_threshold[0, 0]}
        if layer.smoothing_raw is not None:
            constants["smoothing"] = layer.smoothing_raw.double().cpu().sigmoid()
        if isinstance(layer.membrane_norm, MembraneNorm):
            try:
                constants["firing"] = layer.membrane_norm.folded_threshold(layer.v_threshold).cpu() / v_threshold[0, 0]
            except ValueError as error:
                raise AbsorptionError(f"{node.name}: {error}; they cannot be folded into its threshold") from None
        spikes = self._step(node.name, "spiking", (current,), {"reset": layer.reset}, constants)
        gain = v_threshold if layer.family == "trsg" else _number(1)
        return Form((Term(spikes, gain, (node.name,), spikes=True),), _number())

    def _flatten(self, node: Node) -> Form:
        return self._each(node, self._plain(node.inputs[0]).terms, node.kind, node.options)

    _mean = _flatten

    def _avg_pool(self, node: Node) -> Form:
        options = {"kind": node.kind.removesuffix("_pool"), **node.options}
        return self._each(node, self._plain(node.inputs[0]).terms, "pool", options)

    _adaptive_avg_pool = _avg_pool

    def _max_pool(self, node: Node) -> Form:
        terms = self._tied(self._plain(node.inputs[0]), node.name)
        if len(terms) > 1:
            names = ", ".join(chain.from_iterable(term.origins for term in terms))
            raise AbsorptionError(
                f"{node.name}: the maximum of a sum of layers with different thresholds ({names}) "
                "cannot be split by source; tie their thresholds"
            )
        return self._each(node, terms, "pool", {"kind": "max", **node.options})

    def _time_mean(self, node: Node) -> Form:
        value = self.write(self.forms[node.inputs[0]], node.name)
        return self._real(self._step(node.name, "time_mean", (value,), {}, {}))

    # Shared by them.

    def _each(self, node: Node, terms: tuple[Term, ...], kind: str, options: dict[str, Any]) -> Form:
        """Applies a pool or average to every source by itself (R4)."""
        done = []
        for term in terms:
            name = node.name if len(terms) == 1 else f"{node.name}_of_{term.source.replace('.', '_')}"
            source = self._step(name, kind, (term.source,), options, {})
            done.append(replace(term, source=source, via=(*term.via, node.name), rules=term.rules | {"R4"}))
        return Form(tuple(done), _number())

    def _tied(self, form: Form, name: str) -> tuple[Term, ...]:
        """Returns one term for each factor: sources with the same factor are summed first (R6)."""
        groups: dict[tuple[float, bool], list[Term]] = {}
        for term in form.terms:
            groups.setdefault((term.gain.item(), term.spikes), []).append(term)
        terms = []
        for group in groups.values():
            sources = tuple(term.source for term in group)
            if len(group) > 1 and sources not in self.sums:
                self.sums[sources] = self._step(f"{name}_sum", "sum", sources, {}, {})
            origins = tuple(dict.fromkeys(chain.from_iterable(term.origins for term in group)))
            rules = frozenset(chain.from_iterable(term.rules for term in group))
            terms.append(replace(group[0], source=self.sums.get(sources, sources[0]), origins=origins, rules=rules))
        return tuple(terms)

    def _plain(self, name: str) -> Form:
        """Returns the form of a value that a pool or a weight reads; what is not plain is computed first."""
        if not self.forms[name].plain:
            self.forms[name] = self._real(self.write(self.forms[name], name))
        return self.forms[name]

    def _real(self, name: str) -> Form:
        return Form((Term(name, _number(1), (name,), spikes=False),), _number())

    def write(self, form: Form, consumer: str) -> str:
        """Writes the operations that compute ``form``; returns the name of their value."""
        folds = [term.weight is not None and len(term.gain) == 1 for term in form.terms]
        # The shift goes where it costs nothing: into the bias of a convolution.
        carrier = folds.index(True) if True in folds and len(form.shift) == 1 else 0
        zero = _number()
        parts = []
        for number, term in enumerate(form.terms):
            shift = form.shift if number == carrier else zero
            parts.append(self._term(term, shift, f"{consumer}_from_{term.source.replace('.', '_')}"))
            rules = term.rules if term.weight is not None else term.rules | {"R7"}
            how = term.how or ("factor on the edge" if term.spikes else REAL)
            if len(term.gain) > 1 or (number == carrier and len(form.shift) > 1):
                how += "; scale and shift per step"
            self.edges.append(Edge(term.origins, term.via, consumer, tuple(sorted(rules)), how))
        return parts[0] if len(parts) == 1 else self._step(f"{consumer}_current", "sum", tuple(parts), {}, {})

    def _term(self, term: Term, shift: Tensor, name: str) -> str:
        source, gain = term.source, term.gain
        if term.weight is not None:
            weight, tensors = term.weight, {}
            if len(gain) == 1:
                weight = weight * gain[0].reshape(-1, *(1,) * (weight.ndim - 1))
                gain = _number(1)
            if len(gain) == 1 and len(shift) == 1 and shift.any():
                tensors["bias"] = shift[0].expand(len(weight)).clone()
                shift = _number()
            kind = "linear" if weight.ndim == 2 else "conv"
            source = self._step(term.layer, kind, (source,), term.options, {"weight": weight, **tensors})
        affine = {key: value for key, value in (("scale", gain), ("shift", shift)) if (value != (key == "scale")).any()}
        return self._step(name, "affine", (source,), {}, affine) if affine else source

    def _step(
        self, name: str, kind: str, inputs: tuple[str, ...], options: dict[str, Any], tensors: dict[str, Tensor]
    ) -> str:
        count, unique = 1, name
        while unique in self.tensors:
            count += 1
            unique = f"{name}_{count}"
        self.steps.append(Step(unique, kind, inputs, options))
        self.tensors[unique] = tensors
        return unique
