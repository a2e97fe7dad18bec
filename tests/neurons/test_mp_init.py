"""MP-Init (Algorithm 1): what moves u_init, by how much, and what must not."""

import io

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lif_options import make_lif

from snnrepro.neurons import LIF
from snnrepro.neurons.mp_init import one_update, running_mean

# Two steps, tau 2, V 1. From u_init = 0 the columns end at 0.5 (fires once), 0.5 (once), 0.75 (never), 0 (twice).
CURRENT = torch.tensor([[2.0, 4.0, 1.0, 4.0], [1.0, 0.0, 1.0, 1.0]])


def constant(value, count=5.0):
    return torch.tensor(value * count), torch.tensor(count)


@pytest.mark.parametrize(("beta", "expected"), [(0.1, 0.271), (0.9, 0.999)])
def test_three_constant_updates(beta, expected):
    u_init = torch.tensor(0.0, dtype=torch.float64)
    for _ in range(3):
        u_init = running_mean(u_init, *constant(1.0), beta)
    assert u_init.item() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("beta", [0.1, 0.9, 1.0])
def test_hand_computed_batch(beta):
    neuron = make_lif(beta=beta)
    neuron(CURRENT)
    assert neuron.u_init.item() == pytest.approx(beta * (0.5 + 0.5 + 0) / 3, rel=1e-6)


def test_second_batch_starts_from_the_first():
    neuron = make_lif(beta=1.0)
    neuron.u_init.fill_(0.5)
    # from 0.5: 1.25 -> 0.25 -> 0.625; 2.25 -> 1.25 -> 0.625; 0.75 -> 0.875; 2.25 -> 1.25 -> 1.125 -> 0.125
    neuron(CURRENT)
    assert neuron.u_init.item() == pytest.approx((0.625 + 0.625 + 0.125) / 3, rel=1e-6)


def test_mean_runs_over_batch_and_space_jointly():
    neuron, flat = make_lif(), make_lif()
    x = 3 * torch.rand(4, 2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    neuron(x)
    flat(x.reshape(4, -1))
    assert torch.equal(neuron.u_init, flat.u_init)
    # a mean of means over channels is something else
    ends = []
    for channel in range(3):
        one = make_lif()
        one(x[:, :, channel])
        ends.append(one.u_init)
    assert abs(torch.stack(ends).mean() - neuron.u_init) > 1e-6


def test_no_all_and_one_active_neuron():
    silent = make_lif()
    silent.u_init.fill_(0.25)
    silent(torch.zeros(3, 7))
    assert silent.u_init.item() == 0.25
    every = make_lif()
    every(torch.full((1, 7), 2.5))
    assert every.u_init.item() == pytest.approx(0.9 * 0.25, rel=1e-6)
    one = make_lif()
    one(torch.tensor([[0.0, 2.75, 1.9]]))
    assert one.u_init.item() == pytest.approx(0.9 * 0.375, rel=1e-6)


def test_eval_no_grad_and_disabled_do_not_move_it():
    for prepare in ("eval", "no_grad", "disabled"):
        neuron = make_lif(mp_init=prepare != "disabled").train(prepare != "eval")
        with torch.set_grad_enabled(prepare != "no_grad"):
            neuron(CURRENT)
        assert neuron.u_init.item() == 0
    neuron.eval()(CURRENT)
    assert neuron.u_init.item() == 0


def test_batches_of_a_validation_leave_no_trace():
    # The released CUDA code counts on in eval and folds the last validation batch into the next training batch;
    # it also loses the last training batch before a validation.
    plain, validated = make_lif(), make_lif()
    plain(CURRENT)
    validated(CURRENT)
    assert validated.u_init == plain.u_init != 0
    validated.eval()(5 * CURRENT)
    assert validated.u_init == plain.u_init
    plain(CURRENT)
    validated.train()(CURRENT)
    assert validated.u_init == plain.u_init


def test_no_gradient_flows_through_the_update():
    neuron = make_lif()
    for _ in range(2):
        x = CURRENT.clone().requires_grad_()
        neuron(x).sum().backward()
        assert x.grad.abs().max() > 0
    assert not neuron.u_init.requires_grad
    assert "u_init" not in dict(neuron.named_parameters())


class LostOnSave(LIF):
    """The released code's defect: the running mean is a plain attribute."""

    def __init__(self, **options):
        super().__init__(**options)
        value = self.u_init
        del self.u_init
        self.__dict__["u_init"] = value


@pytest.mark.parametrize(("kind", "survives"), [(LIF, True), (LostOnSave, False)])
def test_u_init_survives_save_and_load(kind, survives):
    trained = make_lif(kind)
    trained(CURRENT)
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    restored = make_lif(kind)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert ("u_init" in trained.state_dict()) is survives
    assert (restored.u_init.item() == trained.u_init.item()) is survives
    # from 0.3 a current of 1.8 reaches 1.05 and fires, from 0 it reaches 0.9
    probe = torch.tensor([[1.8]])
    assert (restored.eval()(probe).item() == trained.eval()(probe).item() == 1) is survives


@pytest.mark.parametrize("tau", [1.5, 2.0, 4.0])
def test_fixed_point_of_a_constant_current(tau):
    current, options = 0.6, {"tau": tau, "surrogate": "arctan", "gamma": 2.0, "learn_tau": False}
    x = torch.full((1, 1), current, dtype=torch.float64)
    for start, membrane in ((current, lambda t: current), (0.0, lambda t: current * (1 - (1 - 1 / tau) ** t))):
        neuron = make_lif(**options).double().eval()
        neuron.tau_raw.fill_(-torch.tensor(tau - 1, dtype=torch.float64).log())
        neuron.u_init.fill_(start)
        for steps in range(1, 9):
            # dO[t]/dM[t] = f'(M[t]/V - 1) / V * V shows the membrane of the last step
            window = x.expand(steps, 1).clone().requires_grad_()
            neuron(window)[-1].backward()
            # arctan at gamma 2: f'(z) = 1 / (1 + (pi z)^2)
            slope = tau * window.grad[-1].item()
            z = -((1 / slope - 1) ** 0.5) / torch.pi
            threshold = neuron.v_threshold.item()
            assert (z + 1) * threshold == pytest.approx(membrane(steps), rel=1e-9)


def shard(rank):
    generator = torch.Generator().manual_seed(4)
    x = 2 * torch.rand(3, 8, 50, generator=generator)
    x[:, :4] *= 1.5  # the first half of the batch is much more active
    return x if rank is None else x[:, 4 * rank : 4 * rank + 4]


def one_rank(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    neuron = make_lif()
    for _ in range(2):
        neuron(shard(rank))
    torch.save(neuron.u_init, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.dist
def test_two_ranks_equal_one_process(tmp_path):
    mp.spawn(one_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    whole, alone = make_lif(), [make_lif(), make_lif()]
    for _ in range(2):
        whole(shard(None))
        for rank, neuron in enumerate(alone):
            neuron(shard(rank))
    assert torch.equal(*ranks)
    assert ranks[0].item() == pytest.approx(whole.u_init.item(), rel=1e-6)
    # without the exchange every rank has a mean of its own, and their average is not the mean of the batch
    average = sum(neuron.u_init.item() for neuron in alone) / 2
    assert abs(alone[0].u_init - alone[1].u_init) > 1e-3
    assert average != pytest.approx(whole.u_init.item(), rel=1e-4)


@pytest.mark.parametrize("betas", [(0.9, 0.9, 0.9), (0.1, 0.9, 0.5)])
def test_one_update_moves_every_layer_as_it_would_move_alone(betas):
    x = 3 * torch.rand(4, 2, 50, generator=torch.Generator().manual_seed(0))
    alone, together = ([make_lif(beta=beta) for beta in betas] for _ in range(2))
    # The last layer has no active neuron.
    inputs = [x, 0.8 * x, -x]
    for _ in range(2):
        for neuron, current in zip(alone, inputs, strict=True):
            neuron(current)
        with one_update():
            for neuron, current in zip(together, inputs, strict=True):
                before = neuron.u_init.clone()
                neuron(current)
                assert torch.equal(neuron.u_init, before)
        assert [n.u_init.item() for n in together] == [n.u_init.item() for n in alone]
    assert together[0].u_init != 0 and together[2].u_init == 0
