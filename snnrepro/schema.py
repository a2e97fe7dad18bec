"""What options of all groups have in common, and what a field says about the identity of a run."""

from dataclasses import Field, dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from snnrepro.config import RunConfig


def elsewhere() -> Any:
    """Returns a field that says where or how a run executes: another value does not make another run.

    Of a section that is elsewhere, only fields that are marked otherwise make another run.
    """
    return field(metadata={"identity": False})


def later(as_before: Any) -> Any:
    """Returns a field that was added to an existing option. as_before: the value that means what runs did without it.

    It stands where a file holds none, and is left out of a run's identity, so that finished runs keep their names.
    """
    return field(default=as_before, metadata={"as_before": as_before})


@dataclass(slots=True, kw_only=True)
class Option:
    """One option of a group. selector: the key that holds the name under which the class is registered."""

    selector: ClassVar[str] = "name"

    def check(self, run: "RunConfig") -> None:
        """Raises ConfigError where the option does not go together with another part of ``run``."""


def section_of(key: Field) -> type | None:
    """Returns the class of a field that is a section of keys, None for a value."""
    return key.type if isinstance(key.type, type) and is_dataclass(key.type) else None
