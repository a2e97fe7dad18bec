"""The compiled kernels in layers and whole networks, and the operators around them; for the kernels see test_cpu.py."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from lif_options import make_lif

from snnrepro.build import build_model
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError, UserError
from snnrepro.neurons import norm_ops, ops
from snnrepro.neurons.current import NormalisedCurrent
from snnrepro.neurons.functional import lif
from snnrepro.norms import TdBN
from snnrepro.runtime import resolve_backend

OPTIONS = {"family": "trsg", "surrogate": "rectangular", "reset": "soft", "detach_reset": False}
FLAT = (4, *OPTIONS.values())


def options(backend, gamma=1.0):
    return {"timesteps": 4, "backend": backend, "gamma": gamma, **OPTIONS}


def network(backend, **changed):
    words = [f"runtime.backend={backend}", *(f"{name}={value}" for name, value in changed.items())]
    torch.manual_seed(0)
    return build_model(compose_run(words), in_shape=(1, 8, 8), num_classes=10)


def step(model, x):
    model.zero_grad()
    logits = model(x, 4)
    logits.square().mean().backward()
    return logits.detach(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [1.0, 2.5])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_layer_equals_reference(steps, channels_last, gamma):
    found = {}
    for backend in ("compiled", "reference"):
        x = 2 * torch.randn(steps, 3, 5, 7, 2, generator=torch.Generator().manual_seed(1))
        if channels_last:
            x = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        x.requires_grad_()
        scalars = [torch.tensor(value, requires_grad=True) for value in (0.1, 0.7, 2.3)]
        result = lif(x, *scalars, **options(backend, gamma))
        weight = torch.randn(result.o.shape, generator=torch.Generator().manual_seed(2))
        found[backend] = (result, torch.autograd.grad(result.o, (x, *scalars), weight))
    (result, grads), (expected, expected_grads) = found.values()
    assert 0.05 < (expected.o > 0).float().mean() < 0.95
    assert torch.equal(result.o, expected.o) and torch.equal(result.active_count, expected.active_count)
    torch.testing.assert_close(result.u_sum, expected.u_sum, rtol=1e-5, atol=1e-5)
    for left, right in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
def test_network_equals_reference(channels_last):
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    memory = torch.channels_last if channels_last else torch.contiguous_format
    found = {}
    for backend in ("reference", "compiled"):
        model = network(backend).to(memory_format=memory)
        for _ in range(2):
            logits, grads = step(model, x.contiguous(memory_format=memory))
        state = {name: value.float() for name, value in model.state_dict().items()}
        found[backend] = (logits, grads, state, model.eval()(x, 4).detach())
    (logits, grads, state, tested), (right, right_grads, right_state, right_tested) = found.values()
    torch.testing.assert_close(logits, right)
    torch.testing.assert_close(tested, right_tested)
    for left, other in zip(grads, right_grads, strict=True):
        assert (left - other).norm() < 1e-4 * other.norm() + 1e-7
    for name, value in state.items():
        torch.testing.assert_close(value, right_state[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_whole_network_compiles_as_one_graph(compiler):
    model = network("compiled")
    x = torch.randn(4, 1, 8, 8)
    expected = step(copy.deepcopy(model), x)
    found = step(torch.compile(model, fullgraph=True, backend=compiler), x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_a_compiled_layer_keeps_the_u_init_its_forward_read(backend, compiler):
    # The buffer moves inside the graph: the backward once took the moved one, and gradients were off by half.
    x, go = torch.randn(2, 4, 6, 50, generator=torch.Generator().manual_seed(0))
    found = []
    for compiled in (False, True):
        layer = make_lif(backend=backend, v_threshold=0.7)
        layer.u_init.fill_(0.2)
        run = torch.compile(layer, backend=compiler, fullgraph=True) if compiled else layer
        current = (2 * x).requires_grad_()
        run(current).mul(go).sum().backward()
        found.append((current.grad, layer.v_threshold_raw.grad, layer.tau_raw.grad, layer.u_init))
    assert abs(found[0][3] - 0.2) > 0.01
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_a_compiled_function_has_the_gradients_of_all_scalars(backend):
    x, go = torch.randn(2, 4, 6, 50, generator=torch.Generator().manual_seed(0))
    found = []
    for run in (lif, torch.compile(lif, backend="aot_eager", fullgraph=True)):
        scalars = [torch.tensor(value, requires_grad=True) for value in (0.1, 0.7, 2.3)]
        found.append(torch.autograd.grad(run(2 * x, *scalars, **options(backend)).o.mul(go).sum(), scalars))
    assert all(gradient != 0 for gradient in found[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_operators_are_registered_as_torch_wants_them():
    scalars = [torch.tensor(value, requires_grad=True) for value in (0.1, 1.0, 0.5)]
    flat = (4, "trsg", "rectangular", 1.0, "soft", False, None, "compiled")
    torch.library.opcheck(ops.lif_op, (torch.randn(1, 50, requires_grad=True), *scalars, *flat))
    y, shortcut = (torch.randn(4, 3, 6, 2, 5).permute(0, 1, 4, 2, 3).detach().requires_grad_() for _ in range(2))
    norm = [torch.rand(5), torch.rand(5), torch.rand(5, requires_grad=True), torch.rand(5, requires_grad=True)]
    second = [torch.rand(5) for _ in range(4)]
    for added in ((None,) * 5, (shortcut, *(None,) * 4), (shortcut, *second)):
        args = (y, *norm, *added, *scalars, None, 1e-5, True, True, *flat)
        torch.library.opcheck(norm_ops.norm_lif_op, args)
    x, row = torch.randn(4, 10), torch.ones(5)
    torch.library.opcheck(ops.lif_infer_op, (x, *(s.detach() for s in scalars), *flat))
    tail = (*(None,) * 5, *(s.detach() for s in scalars), None, 1e-5, False, True)
    torch.library.opcheck(norm_ops.norm_lif_infer_op, (y.detach(), row, row, row, row, *tail, *flat))


@pytest.mark.slow
def test_second_derivatives_are_refused_and_a_second_backward_is_the_first():
    x = torch.randn(4, 6, requires_grad=True)
    layer = make_lif(backend="compiled")
    o = layer(x)
    (first,) = torch.autograd.grad(o.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(first.sum(), x)
    o = layer(x)
    pair = [torch.autograd.grad(o.sum(), x, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*pair)


@pytest.mark.slow
def test_autocast_gives_bf16_outputs_from_float32_membranes():
    x = torch.randn(4, 2, 300, generator=torch.Generator().manual_seed(4)).bfloat16()
    scalars = [torch.tensor(value) for value in (0.1, 0.7, 2.3)]
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (lif(x, *scalars, **options(backend)).o for backend in ("compiled", "reference"))
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected)


@pytest.mark.parametrize(("backend", "most"), [("compiled", 32), ("triton", 16)])
def test_more_steps_than_packed_spikes_hold_are_refused(backend, most):
    # Bits beyond the integer were once lost, and the gradients silently wrong.
    scalars = [torch.tensor(value) for value in (0.0, 1.0, 2.0)]
    x = torch.zeros(most + 1, 2)
    with pytest.raises(ConfigError, match=rf"timesteps={most + 1}: runtime\.backend={backend} .* {most} steps"):
        lif(x, *scalars, **(options(backend) | {"timesteps": most + 1}))
    assert lif(x, *scalars, **(options("reference") | {"timesteps": most + 1})).o.shape == x.shape


@pytest.mark.slow
def test_the_last_bit_of_the_packed_spikes_is_used():
    x = 2 * torch.randn(32, 60, generator=torch.Generator().manual_seed(5))
    found = []
    for backend in ("compiled", "reference"):
        scalars = [torch.tensor(value, requires_grad=True) for value in (0.1, 0.7, 2.3)]
        current = x.clone().requires_grad_()
        o = lif(current, *scalars, **(options(backend) | {"timesteps": 32})).o
        found.append((o, *torch.autograd.grad(o.square().sum(), (current, *scalars))))
    assert found[1][0][31].any()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_default_dtype_of_torch_changes_nothing():
    x = 2 * torch.randn(4, 30, generator=torch.Generator().manual_seed(7)).requires_grad_()
    found = []
    for default in (torch.float32, torch.float64):
        scalars = [torch.tensor(value, dtype=torch.float32, requires_grad=True) for value in (0.1, 0.7, 2.3)]
        torch.set_default_dtype(default)
        try:
            result = lif(x, *scalars, **options("compiled"))
            found.append((result.o, result.u_sum, *torch.autograd.grad(result.o.sum(), (x, *scalars))))
        finally:
            torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, *found)) and found[0][1] != 0


def test_empty_and_float64_inputs_take_the_reference():
    scalars = [torch.tensor(value) for value in (0.0, 1.0, 2.0)]
    assert lif(torch.zeros(4, 0, 3), *scalars, **options("compiled")).o.shape == (4, 0, 3)
    assert lif(torch.zeros(4, 2, dtype=torch.float64), *scalars, **options("compiled")).o.dtype == torch.float64


@pytest.mark.parametrize("training", [True, False])
def test_a_fused_norm_answers_like_a_tensor(training):
    norms = [TdBN(3, eps=1e-5, momentum=0.1, scale=1.2, fused=fused).train(training) for fused in (False, True)]
    for norm in norms:
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
            norm.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    x, added = torch.randn(2, 4, 3, 5, 5), torch.randn(2, 4, 3, 5, 5)
    plain, fused = norms[0](x), norms[1](x)
    assert isinstance(fused, NormalisedCurrent) and isinstance(fused + added, NormalisedCurrent)
    for left, right in (
        (fused.tensor(), plain),
        (torch.relu(fused + fused), torch.relu(plain + plain)),
        ((added + fused).mean(), (added + plain).mean()),
        (torch.cat([fused, added]), torch.cat([plain, added])),
    ):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)
    for name, value in norms[0].state_dict().items():
        torch.testing.assert_close(norms[1].state_dict()[name], value, msg=name)


def test_without_a_compiler_auto_is_the_reference_and_says_so(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    resolve_backend.cache_clear()
    try:
        assert resolve_backend("auto", "cpu") == "reference"
        assert len(capsys.readouterr().out.splitlines()) == 1
        with pytest.raises(ConfigError, match=r"runtime.backend=compiled: no C\+\+ compiler"):
            resolve_backend("compiled", "cpu")
    finally:
        resolve_backend.cache_clear()
    monkeypatch.delenv("CXX")
    assert resolve_backend("auto", "cpu") == "compiled"
    resolve_backend.cache_clear()


def test_a_failed_compilation_names_its_log(monkeypatch, tmp_path):
    broken = tmp_path / "broken-compiler"
    broken.write_text("#!/bin/sh\necho 'fatal error: no room' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("SNNREPRO_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(UserError, match=r"error\.log; runtime\.backend=reference"):
        make_lif(backend="compiled")(torch.zeros(7, 2))
    assert "no room" in next(tmp_path.rglob("error.log")).read_text()
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.slow
def test_a_library_is_made_once_by_whoever_comes_first(tmp_path):
    code = "import torch; from lif_options import make_lif; make_lif(backend='compiled')(torch.ones(2, 3))"
    env = os.environ | {"SNNREPRO_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    start = {"stdout": subprocess.PIPE, "text": True, "env": env}
    together = [subprocess.Popen([sys.executable, "-c", code], **start) for _ in range(3)]
    said = [process.communicate(timeout=120)[0] for process in together]
    assert [process.returncode for process in together] == [0, 0, 0]
    assert sum("compiled in" in text for text in said) == 1
    assert sorted(file.suffix for file in tmp_path.rglob("lif-*")) == [".sha256", ".so"]


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "started"), [(1, 0), (2, 1)])
def test_library_runs_on_as_many_threads_as_torch_has(threads, started):
    code = f"""
import os, numpy, torch
from snnrepro.neurons.kernels.cpu import backend as compiled
from snnrepro.neurons.dynamics import Dynamics
torch.set_num_threads({threads})
x = torch.from_numpy(numpy.zeros((4, 2**16), numpy.float32))
dyn = Dynamics(4, "trsg", "rectangular", 1.0, "soft", False)
compiled.library(dyn, x.dtype)
before = set(os.listdir("/proc/self/task"))
compiled.lif_forward(x, *torch.from_numpy(numpy.ones(3, numpy.float32)), dyn)
print(len(set(os.listdir("/proc/self/task")) - before))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-1:] == [str(started)], result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_converted_to_half_precision_is_read_in_its_own_dtype(dtype):
    """``model.to(bfloat16)`` converts the scalars and the norm's rows too, which the kernels read as float32."""
    x = torch.randn(4, 2, 6, 3, 3, generator=torch.Generator().manual_seed(6)).to(dtype)
    found = []
    for backend in ("compiled", "reference"):
        torch.manual_seed(0)
        norm, layer = TdBN(6, eps=1e-5, momentum=0.1, scale=1.0, fused=True), make_lif(backend=backend, v_threshold=0.7)
        norm, layer = norm.to(dtype).eval(), layer.to(dtype).eval()
        found.append([layer(norm(x)), layer(x)])
    for left, right in zip(*found, strict=True):
        assert left.dtype == dtype and 0 < (left > 0).float().mean() < 1
        assert ((left > 0) != (right > 0)).float().mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False], ids=["statistics that are frozen", "another eps"])
def test_a_shortcut_with_a_norm_of_another_kind_keeps_its_own(frozen):
    """One kernel has one eps and one origin of statistics: such a shortcut is normalised before it."""
    x, added = torch.randn(2, 4, 3, 6, 4, 4, generator=torch.Generator().manual_seed(8))
    found = []
    for backend in ("compiled", "reference"):
        norm = TdBN(6, eps=1e-5, momentum=0.1, scale=1.0, fused=True)
        second = TdBN(6, eps=1e-5 if frozen else 0.5, momentum=0.1, scale=1.0, fused=True).train(not frozen)
        y = added.clone().requires_grad_()
        o = make_lif(backend=backend, v_threshold=0.7)(norm(x) + second(y))
        found.append((o, *torch.autograd.grad(o.square().sum(), (y, second.weight))))
    assert (found[1][0] > 0).any()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
