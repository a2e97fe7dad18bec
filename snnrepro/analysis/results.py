"""What claims and analyses leave on disk: verdicts in ``claims_<scale>.json``, ``analysis.json`` in a run's folder."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from snnrepro.stored import Count, Fault, Kind, Name, NotNegative, Percent, Share, exact

VERDICTS = ("supported", "contradicted", "inconclusive", "not run")


@exact
class Claim(TypedDict):
    """A claim of the paper and what our runs say; a margin that is no finite number is its name."""

    id: Name
    where: str
    claim: str
    statistic: str
    exploratory: bool
    verdict: str
    margins: list[float | str]
    p: Share | None
    paper: Literal["supported", "contradicted"] | None
    paper_margin: float | None
    missing: list[str]


@exact
class Verdicts(TypedDict):
    """All claims that were judged at a scale."""

    scale: str
    claims: list[Claim]


def _check_claims(content: Verdicts) -> None:
    for i, claim in enumerate(content["claims"]):
        if (claim["paper"] is None) != (claim["paper_margin"] is None):
            raise Fault(f"claims.{i}.paper_margin: {claim['paper_margin']}, but paper is {claim['paper']}")
        if claim["verdict"] not in VERDICTS:
            raise Fault(f"claims.{i}.verdict: must be one of {', '.join(VERDICTS)}")
        if not all(margin in ("inf", "-inf", "nan") for margin in claim["margins"] if isinstance(margin, str)):
            raise Fault(f"claims.{i}.margins: must be numbers, inf, -inf or nan")


CLAIMS: Kind[Verdicts] = Kind(Verdicts, "write it again with the claims command", check=_check_claims)


@exact
class Histogram(TypedDict):
    """A quantity of a layer at every step."""

    edges: list[float]
    counts: list[list[Count]]
    mean: list[float]
    std: list[NotNegative]
    tv: list[float]
    noise_floor: float


@exact
class LjungBox(TypedDict):
    """Series that are independent over time, in percent, as they are and with their steps shuffled."""

    not_rejected: Percent
    shuffled: Percent
    tested: Count
    constant: Count


@exact
class Layer(TypedDict):
    """What a spiking layer did, see ``recorder.LayerRecord``."""

    firing_rate: list[Share]
    active: Count
    active_share: Share
    within_1V: list[Share]
    within_2V: list[Share]
    input: NotRequired[Histogram]
    potential: NotRequired[Histogram]
    membrane: NotRequired[Histogram]
    ljung_box: NotRequired[LjungBox]


@exact
class Learned(TypedDict):
    """What a spiking layer learned, and its initial membrane over its threshold."""

    v_threshold: float
    tau: float
    u_init: float
    u_init_over_v: float


@exact
class LayerEnergy(TypedDict):
    """Operations of a layer per sample, and the share of its inputs that are not zero."""

    operations: NotNegative
    rate: float | None
    kind: Literal["AC", "MAC", "neuron"]


@exact
class Energy(TypedDict, total=False):
    """Operations and energy per sample; or why the thresholds could not be absorbed."""

    acs: NotNegative
    macs: NotNegative
    millijoule: NotNegative
    rule: str
    layers: dict[str, LayerEnergy]
    refused: str


@exact
class Gradients(TypedDict):
    """Strength and variation of gradients by convolution, and the active share in percent by spiking layer."""

    abs_str: dict[str, float]
    grad_cv: dict[str, float]
    ratio_ag: dict[str, float]


@exact
class Mean(TypedDict):
    """The same, one number each."""

    abs_str: float
    grad_cv: float
    ratio_ag: float


@exact
class Headline(TypedDict):
    """The means of both points of training."""

    first: Mean
    middle: Mean


@exact
class Analysis(TypedDict):
    """What a run does inside, see ``analysis.run``; the last five only in its own window."""

    run: Name
    timesteps: Annotated[Count, Field(ge=1)]
    layers: dict[str, Layer]
    learned: dict[str, Learned]
    class_shares: list[list[Share]]
    top1_of_step: list[Percent]
    separation: list[float]
    projected: list[list[list[float]]]
    labels: list[Count]
    energy: NotRequired[Energy]
    cosine: NotRequired[dict[str, list[list[float]]]]
    gradients_first: NotRequired[Gradients]
    gradients_middle: NotRequired[Gradients]
    headline: NotRequired[Headline]


def _upgrade_analysis(content: dict[str, Any], format: int) -> dict[str, Any]:
    # The number had another name once.
    number = content.pop("version", format)
    if number != FORMAT:
        raise Fault(f"format {number} is not {FORMAT}")
    return content


FORMAT = 3  # raised when a statistic changes, so that older files are made again
ANALYSIS: Kind[Analysis] = Kind(Analysis, "remove the file, it is made again", FORMAT, _upgrade_analysis)
