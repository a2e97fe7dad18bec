"""The rows of the benchmark: one network, and what may stand where its spiking layers are."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from snnrepro.build import build_model
from snnrepro.compose import compose_run
from snnrepro.neurons import LIF
from snnrepro.neurons.reference import lif_reference

OURS = "ours"
LOOP = "plain loop"
COMPILED_LOOP = "torch.compile of the plain loop"
RELU = "ReLU"
SJ_LIF = "SpikingJelly LIFNode"
SJ_PLIF = "SpikingJelly ParametricLIFNode"
SJ_PLAN = "SpikingJelly LIFNode with its bf16 plan"
SJ_FLEX = "SpikingJelly FlexSN"
SNNTORCH = "snnTorch Leaky"

_FIXED = (
    "neuron=as_sg",
    "neuron.v_threshold=1",
    "neuron.tau=2",
    "neuron.learn_threshold=false",
    "neuron.learn_tau=false",
    "neuron.reset=soft",
    "neuron.detach_reset=false",
    "neuron.mp_init.enabled=false",
    "surrogate=triangular",
    "surrogate.gamma=1",
)
# What a row computes, as words of the command line. The last two only fix the network around other neurons.
SEMANTICS = {
    "full": ("neuron=trsg",),
    "like-for-like": _FIXED,
    "triangular, no MP-Init": ("neuron=trsg", "surrogate=triangular", "neuron.mp_init.enabled=false"),
    "own": _FIXED,
    "floor": _FIXED,
}
MEANING = """\
*full*: the paper's method as configured by default: TrSG, learnable V and tau, MP-Init. *like-for-like*: what
SpikingJelly's LIFNode computes: absolute surrogate argument, V = 1 and tau = 2 fixed, window starts at 0, soft reset
with its gradient, triangular surrogate (ParametricLIFNode also learns tau). *own*: as the library defines it (snnTorch:
current not decayed, reset one step later and detached, arctan surrogate; SpikingJelly in bf16: as a user writes it,
membranes in bf16). *floor*: ReLU in place of every LIF."""


def ours_backend(device: str) -> str:
    """Returns the backend that the rows called "ours" use on ``device`` (cpu or cuda)."""
    return "triton" if device == "cuda" else "compiled"


class _Window(nn.Module):
    """Calls ``run`` on a sequence (T, ...); a constant current (1, ...) is shown for ``timesteps`` steps."""

    def __init__(self, inner: nn.Module, run: Callable[[Tensor], Tensor]):
        super().__init__()
        self.inner, self.run = inner, run

    def forward(self, x: Tensor, timesteps: int | None = None) -> Tensor:
        return self.run(x if timesteps is None else x.expand(timesteps, *x.shape[1:]))


def _relu() -> nn.Module:
    relu = nn.ReLU()
    return _Window(relu, relu)


def _spikingjelly(make: Callable[..., nn.Module], **tau: float) -> nn.Module:
    from spikingjelly.activation_based import surrogate

    node = make(
        **tau,
        decay_input=True,
        v_threshold=1.0,
        v_reset=None,
        surrogate_function=surrogate.PiecewiseQuadratic(alpha=1.0),
        detach_reset=False,
        step_mode="m",
    )
    return _stateful(node)


def _stateful(node: nn.Module) -> nn.Module:
    """Returns a layer of SpikingJelly that forgets its membranes before every window."""
    from spikingjelly.activation_based import functional

    def run(x: Tensor) -> Tensor:
        functional.reset_net(node)
        return node(x)

    return _Window(node, run)


def _sj_lif() -> nn.Module:
    from spikingjelly.activation_based import neuron

    return _spikingjelly(neuron.LIFNode, tau=2.0)


def _sj_plif() -> nn.Module:
    from spikingjelly.activation_based import neuron

    return _spikingjelly(neuron.ParametricLIFNode, init_tau=2.0)


def _flex_core(x: Tensor, v: Tensor, threshold: Tensor, tau: Tensor):
    """One TrSG step as FlexSN wants it: (output, next membrane) from input, membrane and the two scalars."""
    from spikingjelly.activation_based import surrogate

    m = v + (x - v) / tau
    drop = threshold * surrogate.piecewise_quadratic.apply(m / threshold - 1.0, 1.0)
    return drop, m - drop


def _sj_flex() -> nn.Module:
    from spikingjelly.activation_based import neuron

    scalars = (nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(2.0)))
    return _stateful(neuron.FlexSN(_flex_core, num_states=1, static_inputs=scalars))


def _snntorch() -> nn.Module:
    import snntorch

    node = snntorch.Leaky(beta=0.5, threshold=1.0, reset_mechanism="subtract")

    def run(x: Tensor) -> Tensor:
        membrane, spikes = torch.zeros_like(x[0]), []
        for step in x:
            spike, membrane = node(step, membrane)
            spikes.append(spike)
        return torch.stack(spikes)

    return _Window(node, run)


_STAND_INS = {RELU: _relu, SJ_LIF: _sj_lif, SJ_PLAN: _sj_lif, SJ_PLIF: _sj_plif, SJ_FLEX: _sj_flex, SNNTORCH: _snntorch}


@cache
def _compiled_reference(**options: Any) -> Callable[..., Any]:
    """Returns the plain loop under torch.compile, specialised for every shape it meets: the strongest form of it."""
    # A shape, a gradient mode, a number of steps: each is a graph of its own. Beyond the limit calls would run eagerly.
    torch._dynamo.config.recompile_limit = 256
    # Without a bound the code for CPUs grows exponentially with the number of steps; at T = 4 both are equally fast.
    bound: dict[str, Any] = {"realize_opcount_threshold": 30}
    return torch.compile(partial(lif_reference, **options), dynamic=False, fullgraph=True, options=bound)


def _compiled_loop(lif: LIF, x: Tensor, timesteps: int | None = None) -> Tensor:
    """Returns what ``lif`` returns, and moves its running mean, with the loop compiled and the rest eager."""
    dyn = lif.dynamics(x.shape[0] if timesteps is None else timesteps)
    result = _compiled_reference(**dyn._asdict())(x, lif.u_init.clone(), lif.v_threshold, lif.tau)
    lif.move_u_init(result)
    return result.o


def swap(model: nn.Module, kind: str) -> nn.Module:
    """Returns ``model`` with every LIF replaced by the neuron ``kind``, in place. Raises ImportError."""
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, LIF)]:
        if kind in _STAND_INS:
            model.set_submodule(name, _STAND_INS[kind]())
        elif kind == COMPILED_LOOP:
            object.__setattr__(layer, "forward", partial(_compiled_loop, layer))
    return model


def build(
    kind: str,
    semantics: str,
    words: Iterable[str],
    *,
    in_shape: Sequence[int],
    device: str = "cpu",
    num_classes: int = 10,
) -> nn.Module:
    """Returns the network of the command line ``words`` with neurons ``kind``; equal weights for every kind."""
    backend = ours_backend(device) if kind == OURS else "reference"
    run = compose_run([*words, *SEMANTICS[semantics], f"runtime.backend={backend}", f"runtime.device={device}"])
    torch.manual_seed(0)
    model = swap(build_model(run, in_shape=in_shape, num_classes=num_classes), kind).to(device)
    return _with_plan(model, device) if kind == SJ_PLAN else model


def _with_plan(model: nn.Module, device: str) -> nn.Module:
    """Returns ``model`` with SpikingJelly's neurons keeping bf16 and computing fp32. Raises RuntimeError off CUDA."""
    from spikingjelly.activation_based.precision import PrecisionConfig, prepare_model_for_precision

    plan = PrecisionConfig(mode="bf16", neuron_storage="bf16", neuron_fwd="fp32", neuron_bwd="fp32")
    return prepare_model_for_precision(model, device, plan).model


def layer(kind: str, semantics: str, device: str = "cpu") -> nn.Module:
    """Returns one spiking layer alone."""
    return build(kind, semantics, ["model=resnet19_mini"], in_shape=(1, 8, 8), device=device).get_submodule("sn1")


def unit(kind: str, semantics: str, channels: int, device: str = "cpu") -> nn.Module:
    """Returns conv, norm and neuron with ``channels`` in and out: sequences (T, B, channels, H, W)."""
    words = ["model=cnn7", f"model.widths=[{channels},{channels},8]", "model.hidden=8"]
    return build(kind, semantics, words, in_shape=(2, 8, 8), device=device).get_submodule("conv2")


def spikingjelly_path(module: Callable[[Tensor], Tensor], x: Tensor) -> str:
    """Returns what SpikingJelly runs for the input ``x``: the provider it reports, or its half-precision fall-back.

    SpikingJelly 2.0.0 builds the membrane in the dtype of the input, and its registered operator takes float32
    membranes only: a half-precision input silently goes to a loop of torch operations. The report of the provider does
    not know about that, so the loop itself is watched here for one call.
    """
    from spikingjelly._ops.lif import reference as lif_loop
    from spikingjelly._ops.plif import reference as plif_loop
    from spikingjelly.activation_based import functional

    originals = {loop: loop.multi_step for loop in (lif_loop, plif_loop)}
    calls = []

    def watched(original):
        def multi_step(*args, **kwargs):
            calls.append(original)
            return original(*args, **kwargs)

        return multi_step

    try:
        for loop, original in originals.items():
            loop.multi_step = watched(original)
        with torch.no_grad():
            module(x)
    finally:
        for loop, original in originals.items():
            loop.multi_step = original
    if calls:
        return "fall-back: loop of torch operations, state in the input's dtype (not fused)"
    return str(functional.neuron_implementation("lif", x.device)["implementation"])
