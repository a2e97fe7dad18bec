"""MP-Init (Algorithm 1): where the next window's membranes start.

After each training batch, ``u_init <- (1 - beta) * u_init + beta * batch_mean``, where ``batch_mean`` is
the mean membrane after the last reset over the active neurons of the layer (all samples, channels and
positions jointly). ``beta`` is the weight of the new batch: 0.9 as printed in the paper, 0.1 as in the
authors' released code.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def running_mean(u_init: Tensor, u_sum: Tensor, active_count: Tensor, beta: float) -> Tensor:
    """Returns the updated ``u_init`` (0-d); unchanged where no neuron was active.

    With an initialised process group the pair (sum, count) is summed over ranks first, so that N ranks
    give what one process with the whole batch gives.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        # float64 holds any neuron count exactly; float32 stops at 2^24.
        pair = torch.stack([u_sum.double(), active_count.double()])
        dist.all_reduce(pair)
        u_sum, active_count = pair.unbind()
    batch_mean = (u_sum / active_count.clamp(min=1)).to(u_init.dtype)
    # Weight 0 where nobody was active: lerp then returns u_init itself.
    return torch.lerp(u_init, batch_mean, beta * active_count.clamp(max=1).to(u_init.dtype))
