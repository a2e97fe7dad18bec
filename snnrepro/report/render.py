"""A table document as Markdown, CSV and flat rows. Reads the document only, so a stored one renders the same."""

import csv
import io as text_io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from snnrepro.report.document import CellOfTable, Document, Mean


def scale_label(document: Document) -> str:
    """Returns what the runs are, such as "mini: digits, not paper numbers"."""
    label = f"{document['scale']}: {document['data']}"
    if document["scale"] != "paper":
        label += ", not paper numbers"
    if document["changes"]:
        label += f"; changed: {' '.join(document['changes'])}"
    return label


def markdown(document: Document) -> str:
    """Returns the table as Markdown: one grid per quantity, or one column per quantity where the table has one."""
    seeds = document["seeds"]
    name = document["table"].replace("table", "Table ")
    unit = " in percent" if _is_accuracy(document["metric"]) else ""
    lines = [
        f"**{name}. {document['title']}.** Scale: **{scale_label(document)}**.",
        "",
        f"`{document['metric']}`{unit}, ours as mean ± sample standard deviation over seeds "
        f"{', '.join(map(str, seeds))} (n = {len(seeds)} where nothing else is said). "
        "`div.`: diverged, with the share of seeds where some did not; `-`: no run.",
        "",
    ]
    quantities = _quantities(document)
    if len(document["columns"]) == 1:
        lines += _side_by_side(document, quantities)
    else:
        for title, show in quantities:
            lines += [f"{title}:", "", *_grid(document, show), ""]
    return "\n".join([*lines, *notes(document)]).strip() + "\n"


def _quantities(document: Document) -> list[tuple[str, Callable[[CellOfTable], str]]]:
    """Returns what is shown of a cell: a title and a text each."""
    seeds, both = len(document["seeds"]), shows_best(document)
    title = f"ours, last epoch, {document['data']}" if both else f"ours, {document['data']}"
    quantities: list[tuple[str, Callable[[CellOfTable], str]]] = [(title, lambda cell: ours(cell, seeds))]
    if both:
        quantities.append(("ours, best epoch", lambda cell: ours(cell, seeds, best=True)))
    if document["difference_to"]:
        which = "ours, best epoch" if both and document["difference_to"] == "the paper" else "ours"
        quantities.append((f"{which}, difference to {document['difference_to']}", _difference))
    if all(cell["paper"] is None for row in document["rows"] for cell in row["cells"]):
        return quantities
    reminder = "" if document["scale"] == "paper" else f", other data: not comparable with {document['data']}"
    quantities.append((f"paper{reminder}", paper))
    return quantities


def shows_best(document: Document) -> bool:
    """Returns whether the table shows the best epoch beside the last one. It is that of the test accuracy."""
    return any(cell["best"] for row in document["rows"] for cell in row["cells"])


def ours(cell: CellOfTable, seeds: int, *, best: bool = False) -> str:
    """Returns our value as text, such as ``97.20 ± 0.14``, ``div.``, ``97.20 ± 0.10, div. (1/3)`` or ``-``.

    best: that of the best epoch; empty where the table's metric has none.
    """
    n, diverged = cell["n"], cell["diverged"]
    value: Mean = (cell["best"] or {"mean": None, "std": None}) if best else cell
    if n and value["mean"] is None:
        return ""
    if n + diverged == 0:
        return "-"
    if diverged == seeds:
        return "div."
    parts = []
    if value["mean"] is not None:
        spread = f" ± {_number(cell, value['std'])}" if value["std"] is not None else ""
        parts.append(f"{_number(cell, value['mean'])}{spread}")
    if diverged:
        parts.append(f"div. ({diverged}/{n + diverged})")
    incomplete = f" (n = {n})" if n + diverged < seeds else ""
    return ", ".join(parts) + incomplete


def paper(cell: CellOfTable) -> str:
    """Returns the printed value as text, empty where the paper prints none."""
    if cell["paper"] is None:
        return ""
    if isinstance(cell["paper"], str):
        return "div."
    spread = f" ± {_number(cell, cell['paper_std'])}" if cell["paper_std"] is not None else ""
    return f"{_number(cell, cell['paper'])}{spread}"


def _number(cell: CellOfTable, value: Any) -> str:
    """Returns accuracies in percent with two decimals, anything else with four digits."""
    # Stored tables that name no metric hold accuracies.
    return f"{value:.2f}" if _is_accuracy(cell.get("metric", "final.top1")) else f"{value:.4g}"


def _is_accuracy(metric: str) -> bool:
    return metric.startswith(("final.top1", "final.top5"))


def _difference(cell: CellOfTable) -> str:
    if cell["difference"] is None:
        return ""
    return f"{round(cell['difference'], 2) + 0.0:+.2f}"  # + 0.0 makes a negative zero positive


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]], labels: int) -> list[str]:
    """Returns a Markdown table with aligned source; the columns after the ``labels`` first are set right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    rule = ["-" * max(3, w) if i < labels else "-" * (max(3, w) - 1) + ":" for i, w in enumerate(widths)]
    aligned = [
        [item.ljust(max(3, w)) if i < labels else item.rjust(max(3, w)) for i, (item, w) in enumerate(pairs)]
        for pairs in (list(zip(row, widths, strict=True)) for row in [header, *rows])
    ]
    return [f"| {' | '.join(row)} |" for row in [aligned[0], rule, *aligned[1:]]]


def _grid(document: Document, show: Callable[[CellOfTable], str]) -> list[str]:
    labels = document["row_labels"]
    header = [*labels, *(f"{document['column_label']} = {column}" for column in document["columns"])]
    rows = [[*row["label"], *map(show, row["cells"])] for row in document["rows"]]
    return _lines(header, rows, len(labels))


def _side_by_side(document: Document, quantities: list[tuple[str, Callable[[CellOfTable], str]]]) -> list[str]:
    labels = document["row_labels"]
    header = [*labels, *(title for title, _ in quantities), "n"]
    rows = []
    for row in document["rows"]:
        (cell,) = row["cells"]
        rows.append([*row["label"], *(show(cell) for _, show in quantities), str(cell["n"])])
    return [*_lines(header, rows, len(labels)), ""]


def notes(document: Document) -> list[str]:
    """Returns the lines below a table: its note, and which rows have no run and why."""
    lines = [document["note"], ""] if document["note"] else []
    reasons: dict[str, list[str]] = {}
    for row in document["rows"]:
        if row["not_run"]:
            reasons.setdefault(row["not_run"], []).append(", ".join(row["label"]))
    lines += [f"Not run ({'; '.join(rows)}): {reason}." for reason, rows in reasons.items()]
    return lines


def flat_rows(document: Document) -> tuple[list[str], list[list[Any]]]:
    """Returns (column names, one row per cell), for CSV and W&B; nothing is rounded."""
    values = ("paper", "paper_std", "mean", "std", "n", "diverged", "missing", "difference")
    columns = ["table", "scale", *document["row_labels"], document["column_label"] or "column"]
    columns += ["paper", "paper_std", "ours", "ours_std", *values[4:], "best", "best_std"]
    rows = []
    for row in document["rows"]:
        cells: Sequence[Mapping[str, Any]] = row["cells"]
        for column, cell in zip(document["columns"], cells, strict=True):
            where = [document["table"], scale_label(document), *row["label"], column]
            runs = " ".join(run["run"] for run in cell["runs"])
            nothing: Mean = {"mean": None, "std": None}
            best = cell["best"] or nothing
            numbers = [*map(dict(cell).get, values), best["mean"], best["std"]]
            rows.append([*where, *numbers, document["difference_to"], runs])
    return [*columns, "difference_to", "runs"], rows


def to_csv(document: Document) -> str:
    """Returns the flat rows as CSV with a header; an empty field is a value that does not exist."""
    columns, rows = flat_rows(document)
    out = text_io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()
