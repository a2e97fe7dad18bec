"""What absorption did with every edge of a network.

The rules, for a spiking layer with threshold V in front of a consumer:

R1  linear consumer: its weight takes the factor V, its bias does not
R2  norm behind it in evaluation mode: statistics stay as they were collected, scale goes into the weight
R3  the receiving neuron is divided by its own threshold (and takes 1/tau): it fires at 1
R4  pooling, averaging, flattening: commute with the positive factor
R5  fan-out: every consumer of the layer takes the factor
R6  sum of several sources: one weight where their V are equal, else one copy of the weight for each V
R7  an edge without a weight (identity shortcut): the factor stands on the edge
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Edge:
    """One way from spiking layers to the next consumer.

    sources: the layers whose spikes (one layer, or a sum) enter. via: what they pass. consumer: the spiking layer,
    or the value, that they end in. rules: R1 to R7, those that were used. how: what was done; always exact in real
    arithmetic, because anything else is refused.
    """

    sources: tuple[str, ...]
    via: tuple[str, ...]
    consumer: str
    rules: tuple[str, ...]
    how: str


def with_fan_out(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Returns the edges, with R5 added where a source has more than one way out."""
    edges = tuple(edges)
    ways = Counter(source for edge in edges for source in edge.sources)
    return tuple(
        replace(edge, rules=tuple(sorted({*edge.rules, "R5"}))) if max(ways[s] for s in edge.sources) > 1 else edge
        for edge in edges
    )


def table(edges: Sequence[Edge]) -> str:
    """Returns the report as text: one line per edge, and a count of the rules."""
    rows = [("source", "via", "consumer", "rules", "exact, by")]
    rows += [
        (" + ".join(e.sources), " > ".join(e.via) or "-", e.consumer, " ".join(e.rules) or "-", e.how) for e in edges
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    rows.insert(1, tuple("-" * width for width in [*widths, len(rows[0][4])]))  # type: ignore[arg-type]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
    counts = Counter(rule for edge in edges for rule in edge.rules)
    used = ", ".join(f"{rule} {count}" for rule, count in sorted(counts.items()))
    return "\n".join([*lines, f"{len(edges)} edges, all exact in real arithmetic; rules used: {used}"])
