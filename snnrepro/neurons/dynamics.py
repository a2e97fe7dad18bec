"""Everything of a LIF layer that is not a tensor: what a kernel is specialised for."""

from typing import NamedTuple


class Dynamics(NamedTuple):
    """The rules one layer follows; names and values as in the configuration."""

    timesteps: int
    family: str
    surrogate: str
    gamma: float
    reset: str
    detach_reset: bool
