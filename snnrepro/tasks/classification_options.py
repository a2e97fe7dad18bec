"""The keys of classification, and what it adds to a record."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from typing_extensions import TypedDict

from snnrepro.config import RunConfig
from snnrepro.registry import register
from snnrepro.stored import Percent, exact
from snnrepro.tasks.base import Headline, TaskOption

if TYPE_CHECKING:
    from snnrepro.tasks.task import Task


@exact
class Tested(TypedDict):
    """Accuracies in percent, of the window and after each of its steps."""

    top1: Percent
    top5: Percent
    top1_per_timestep: Annotated[list[Percent], Field(min_length=1)]


@exact
class Trained(TypedDict):
    """Accuracy on the training data while it was trained, in percent."""

    train_top1: Percent


@register("task", "classification")
@dataclass(slots=True, kw_only=True)
class ClassificationOption(TaskOption):
    """One class for each sample."""

    headline: ClassVar[Headline] = Headline("top1", "top-1", " %")
    tested: ClassVar[type] = Tested
    trained: ClassVar[type] = Trained

    def build(self, run: RunConfig) -> "Task":
        from snnrepro.tasks.classification import Classification

        return Classification(run.loss.build())
