"""Datasets that need no files: digits, and patterns made from a seed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from snnrepro.checks import in_range
from snnrepro.data.images_options import SplitOption
from snnrepro.registry import register

if TYPE_CHECKING:
    from snnrepro.data.images import Source


@register("dataset", "digits")
@dataclass(slots=True, kw_only=True)
class DigitsOption(SplitOption):
    """scikit-learn's handwritten digits."""

    embedded: ClassVar[bool] = True

    def read(self, timesteps: int) -> "Source":
        # Imported on demand, as everywhere in options: scikit-learn takes seconds to import.
        from snnrepro.data import digits

        return digits.load(self.test_fraction, self.split_seed)


@register("dataset", "synthetic")
@dataclass(slots=True, kw_only=True)
class SyntheticOption(SplitOption):
    """Labelled noise patterns."""

    embedded: ClassVar[bool] = True
    samples: int

    def __post_init__(self) -> None:
        SplitOption.__post_init__(self)
        in_range("dataset.samples", self.samples, 40)

    def read(self, timesteps: int) -> "Source":
        from snnrepro.data import synthetic

        return synthetic.load(self.samples, self.test_fraction, self.split_seed)
