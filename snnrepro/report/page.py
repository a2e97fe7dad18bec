"""``snnrepro report``: tables, claims and figures that exist, on one HTML page that needs nothing else.

Every value of ours names its runs when pointed at, links to their records, and has its command below the table.
"""

import argparse
import base64
import shlex
from html import escape
from pathlib import Path

from snnrepro import io, stored
from snnrepro.analysis.evidence import Jobs, jobs_of_claims, jobs_of_figures
from snnrepro.analysis.results import CLAIMS, Claim
from snnrepro.compose import compose_run
from snnrepro.errors import StorageError
from snnrepro.report import render
from snnrepro.report.document import TABLE, CellOfTable, Document
from snnrepro.report.tables import SCALES, names
from snnrepro.runs import read_record

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; color: #1c1c1c; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 3rem; }
nav { columns: 16rem; font-size: .9rem; } nav a { display: block; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: .9rem; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th, td.label { white-space: nowrap; } th.value { text-align: right; }
th[colspan] { text-align: center; border-left: 1px solid #ddd; }
td.value { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.value[title] { cursor: help; text-decoration: underline dotted #999; }
.scale { background: #fff3cd; padding: .5rem .8rem; border-left: 4px solid #e0a800; }
.supported { color: #146c2e; } .contradicted { color: #a3182a; } .inconclusive { color: #7a5b00; }
img { max-width: 100%; height: auto; } figure { margin: 1.5rem 0; } code { font-size: .85rem; overflow-wrap: anywhere; }
@media print {
  body { max-width: none; margin: 0; font-size: 11px; } details, nav, td.value a { display: none; }
  h2 { margin-top: 1.5rem; break-after: avoid; } th, td { padding: .15rem .3rem; }
  table { display: table; } tr, figure { break-inside: avoid; }
}
"""


def main(words: list[str]) -> int:
    """Writes ``report_<scale>.html`` and ``.md`` into the output folder, and returns the exit code.

    Raises StorageError where no table has been made.
    """
    parser = argparse.ArgumentParser(prog="snnrepro report", description="Tables, claims and figures on one page.")
    parser.add_argument("--scale", choices=SCALES, default="mini")
    args, extra = parser.parse_known_args(words)
    output = Path(compose_run(extra).runtime.output_dir)
    files = [output / "tables" / f"{name}_{args.scale}.json" for name in names()]
    documents = [TABLE.read(file) for file in files if stored.exists(file)]
    claims_file = output / "tables" / f"claims_{args.scale}.json"
    claims = CLAIMS.read(claims_file)["claims"] if stored.exists(claims_file) else []
    figures = [path for path in stored.listed(output / "figures") if path.match(f"fig*_{args.scale}.png")]
    if not documents and not claims:
        table = f"snnrepro table NAME --scale {args.scale}"
        raise StorageError(f"{output / 'tables'}: no table of scale {args.scale}; make one first: {table}")
    html = output / f"report_{args.scale}.html"
    jobs = Jobs(args.scale, extra)
    others = [job.path.name for job in [*jobs_of_claims(jobs), *jobs_of_figures(jobs)]]
    io.write_atomic(html, page(documents, claims, figures, args.scale, cost(output, documents, others)))
    text = [render.markdown(document) for document in documents]
    if claims:
        text.append(stored.read_text(claims_file.with_suffix(".md"), CLAIMS.repair))
    text += [f"![{figure.stem}](figures/{figure.name})\n" for figure in figures]
    io.write_atomic(html.with_suffix(".md"), "\n".join(text))
    print(f"written: {html} and .md: {len(documents)} tables, {len(claims)} claims, {len(figures)} figures")
    return 0


def cost(output: Path, documents: list[Document], others: list[str]) -> tuple[int, float]:
    """Returns (runs behind the tables and among the others, their training time in hours), each run once."""
    ids = {run["run"] for d in documents for row in d["rows"] for cell in row["cells"] for run in cell["runs"]}
    records = [read_record(output / "runs" / id) for id in sorted(ids.union(others))]
    timings = [record["timing"] for record in records if record is not None]
    # A record of an older version may hold no time.
    return len(timings), sum(timing["train_seconds"] for timing in timings if timing is not None) / 3600


def page(
    documents: list[Document],
    claims: list[Claim],
    figures: list[Path],
    scale: str,
    spent: tuple[int, float],
) -> str:
    """Returns the page as HTML."""
    runs, hours = spent
    kind = "mini: embedded data, not numbers of the paper" if scale == "mini" else "the paper's data"
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>snnrepro report, {scale}</title><style>{STYLE}</style></head><body>",
        "<h1>MP-Init and TrSG: reproduction</h1>",
        f"<p class='scale'>Scale: {kind}. {runs} runs, {hours:.2f} h of training.</p>",
        "<p>Point at a value of ours for its runs and the command that repeats them; its small numbers are seeds and "
        "lead to the records of the runs. All commands are below each table.</p>",
        _contents(documents, claims, figures),
        *map(_table, documents),
        _claims(claims) if claims else "",
        *(["<h2 id='figures'>Figures</h2>"] if figures else []),
        *map(_figure, figures),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _contents(documents: list[Document], claims: list[Claim], figures: list[Path]) -> str:
    links = [(document["table"], _title(document)) for document in documents]
    links += [("claims", f"Claims ({len(claims)})")] if claims else []
    links += [("figures", f"Figures ({len(figures)})")] if figures else []
    items = "".join(f"<a href='#{id}'>{escape(text)}</a>" for id, text in links)
    return f"<nav>{items}</nav>"


def _title(document: Document) -> str:
    return f"{document['table'].replace('table', 'Table ')}. {document['title']}"


def _table(document: Document) -> str:
    printed = any(cell["paper"] is not None for row in document["rows"] for cell in row["cells"])
    best = render.shows_best(document)
    rows = []
    for row in document["rows"]:
        cells = [f"<td class='label'>{escape(item)}</td>" for item in row["label"]]
        for cell in row["cells"]:
            cells.append(_ours(cell, document))
            others = [render.ours(cell, len(document["seeds"]), best=True)] if best else []
            others += [render.paper(cell)] if printed else []
            cells += [f"<td class='value'>{escape(text)}</td>" for text in others]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    notes = "".join(f"<p>{escape(line)}</p>" for line in render.notes(document) if line)
    return (
        f"<h2 id='{document['table']}'>{escape(_title(document))}</h2><p>Ours: {escape(document['data'])}.</p>"
        f"<table>{_header(document, best, printed)}{''.join(rows)}</table>{notes}{_commands(document)}"
    )


def _header(document: Document, best: bool, printed: bool) -> str:
    """Returns one row of headings, or two where several columns hold more than one value each."""
    label = f"{document['column_label']} = " if document["column_label"] else ""
    columns = [escape(f"{label}{column}") if str(column).strip() else "" for column in document["columns"]]
    names = [*(["ours, last epoch", "ours, best epoch"] if best else ["ours"]), *(["paper"] if printed else [])]
    each = "".join(f"<th class='value'>{name}</th>" for name in names)
    if len(names) == 1:
        values = "".join(f"<th class='value'>{column or 'ours'}</th>" for column in columns)
    elif columns == [""]:
        values = each
    else:
        labels = "".join(f"<th rowspan='2'>{escape(item)}</th>" for item in document["row_labels"])
        top = "".join(f"<th colspan='{len(names)}'>{column}</th>" for column in columns)
        return f"<tr>{labels}{top}</tr><tr>{each * len(columns)}</tr>"
    labels = "".join(f"<th>{escape(item)}</th>" for item in document["row_labels"])
    return f"<tr>{labels}{values}</tr>"


def _ours(cell: CellOfTable, document: Document) -> str:
    text = escape(render.ours(cell, len(document["seeds"])))
    if not cell["runs"]:
        return f"<td class='value'>{text}</td>"
    lines = [f"seed {run['seed']}: {run['value']} ({run['run']}, {run['status']})" for run in cell["runs"]]
    runs = "\n".join([*lines, f"{_command(cell)} seed={document['seeds'][0]}"])
    links = "".join(f" <a href='runs/{run['run']}/record.json'>{run['seed']}</a>" for run in cell["runs"])
    return f"<td class='value' title='{escape(runs, quote=True)}'>{text}<small>{links}</small></td>"


def _command(cell: CellOfTable) -> str:
    return shlex.join(["python", "train.py", *cell["words"]])


def _commands(document: Document) -> str:
    lines = {_command(cell): None for row in document["rows"] for cell in row["cells"] if cell["runs"]}
    if not lines:
        return ""
    seeds = ",".join(map(str, document["seeds"]))
    items = "".join(f"<li><code>{escape(line)}</code></li>" for line in lines)
    return f"<details><summary>Commands, each with seed={seeds}</summary><ol>{items}</ol></details>"


def _claims(claims: list[Claim]) -> str:
    rows = []
    for claim in claims:
        margins = ", ".join(f"{m:.3g}" if isinstance(m, float) else str(m) for m in claim["margins"])
        p = "" if claim["p"] is None else f"p = {claim['p']:.3g}"
        printed = claim["paper"] or "-"
        mark = " (threshold set knowing the paper's values)" if claim["exploratory"] else ""
        rows.append(
            f"<tr><td>{claim['id']}</td><td>{escape(claim['claim'])}{mark}<br><small>{escape(claim['where'])}: "
            f"{escape(claim['statistic'])}</small></td><td class='{claim['verdict']}'>{claim['verdict']}</td>"
            f"<td class='value'>{escape(margins)}<br><small>{p}</small></td><td class='{printed}'>{printed}</td></tr>"
        )
    head = "<tr><th></th><th>claim</th><th>ours</th><th>margins by seed</th><th>on the paper's numbers</th></tr>"
    return f"<h2 id='claims'>Claims</h2><table>{head}{''.join(rows)}</table>"


def _figure(file: Path) -> str:
    data = base64.b64encode(stored.read_bytes(file, "draw it again with the figure command")).decode()
    return f"<figure id='{file.stem}'><img alt='{file.stem}' src='data:image/png;base64,{data}'></figure>"
