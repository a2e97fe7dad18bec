"""``snnrepro table``: plans a table of the paper, runs what is missing and renders what there is."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from snnrepro import io, tracking
from snnrepro.compose import compose_run
from snnrepro.errors import ConfigError, DataError
from snnrepro.jobs import Job, run_jobs
from snnrepro.report import readme, render
from snnrepro.report.document import TABLE, Document, document
from snnrepro.report.machine import lacking
from snnrepro.report.select import Cell, changes, distinct_jobs, expand, missing_jobs
from snnrepro.report.tables import SCALES, Table, load, names
from snnrepro.tracking_options import WandbOption


def main(argv: Sequence[str]) -> int:
    """Runs ``snnrepro table NAME ...`` and returns 0, or 1 where runs failed or a quoted table is out of date.

    Raises UserError; at paper scale DataError, with nothing started, where runs are missing and this machine lacks
    their data or a GPU.
    """
    args = _parser().parse_intermixed_args(list(argv))
    table, extra = load(args.name), list(args.overrides)
    quoted = Path(args.readme) if args.readme else None
    if quoted and changes(extra):
        raise ConfigError(f"--readme quotes the table as it is; leave out {' '.join(changes(extra))}")
    if args.check:
        if quoted is None:
            raise ConfigError("--check compares a file with the stored table; name it: --readme README.md")
        return _check(table, args.scale, Path(compose_run(extra).runtime.output_dir), quoted)
    cells = expand(table, args.scale, extra)
    missing = missing_jobs(distinct_jobs(cells))
    _print_plan(table, args.scale, cells, missing, commands=args.plan)
    if args.plan:
        return 0
    if missing:
        _run(table, args.scale, cells, missing, extra)
        missing = missing_jobs(missing)
    filled = _write(table, args.scale, cells, extra)
    if quoted:
        readme.update(quoted, table.name, args.scale, render.markdown(filled))
    if missing:
        print(f"{len(missing)} of {len(distinct_jobs(cells))} runs have no result; the same command retries them")
    return 1 if missing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="snnrepro table",
        description="Plan a table of the paper, run what is missing, and write it as Markdown, CSV and JSON to "
        "<runtime.output_dir>/tables; with logger=wandb also as a W&B table.",
    )
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(names())}")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for every run, as for train.py")
    parser.add_argument("--scale", choices=SCALES, default="paper", help="mini: the same table on embedded data")
    parser.add_argument("--plan", action="store_true", help="only list the runs that are missing")
    parser.add_argument("--readme", metavar="FILE", help="also write the table between its markers in FILE")
    parser.add_argument("--check", action="store_true", help="only compare FILE with the stored table")
    return parser


def _print_plan(table: Table, scale: str, cells: Sequence[Cell], missing: Sequence[Job], *, commands: bool) -> None:
    jobs = distinct_jobs(cells)
    precision = sorted({job.run.runtime.precision for job in jobs})
    print(f"{table.name}, scale {scale} ({', '.join([table.scales[scale].data, *precision])}): {table.title}")
    print(f"{len(jobs)} distinct runs, {len(jobs) - len(missing)} done, {len(missing)} missing")
    for row in table.rows:
        if row.not_run:
            print(f"not run: {', '.join(row.label)}: {row.not_run}")
    if missing and table.scales[scale].cost:
        print(f"cost: {table.scales[scale].cost}")
    if commands:
        for job in missing:
            print(f"  python train.py {shlex.join(job.words)}")


def _run(table: Table, scale: str, cells: Sequence[Cell], missing: Sequence[Job], extra: Sequence[str]) -> None:
    """Runs the missing jobs. Raises DataError where that is impossible here, after writing what there is."""
    reasons = lacking([job.run for job in missing]) if scale == "paper" else []
    if reasons:
        if len(missing) < len(distinct_jobs(cells)):
            _write(table, scale, cells, extra)
        raise DataError(
            f"{table.name} at paper scale cannot run here: {'; '.join(reasons)}; nothing was started; "
            f"snnrepro table {table.name} --scale mini runs it on embedded data"
        )
    run_jobs(list(missing))


def _write(table: Table, scale: str, cells: Sequence[Cell], extra: Sequence[str]) -> Document:
    """Returns the filled table after writing and, where logger=wandb, logging it."""
    jobs = distinct_jobs(cells)
    # A table of networks that are not built has no job.
    run = jobs[0].run if jobs else compose_run(extra)
    filled = document(table, scale, cells, extra)
    name = _stem(table.name, scale, extra)
    stem = Path(run.runtime.output_dir) / "tables" / name
    text = render.markdown(filled)
    TABLE.write(stem.with_suffix(".json"), filled)
    io.write_atomic(stem.with_suffix(".csv"), render.to_csv(filled))
    io.write_atomic(stem.with_suffix(".md"), text)
    print(f"\n{text}\nwritten: {stem}.md, .csv, .json")
    if isinstance(run.logger, WandbOption):
        _log(name, filled, run.logger, Path(run.runtime.output_dir))
    return filled


def _log(name: str, filled: Document, logger: WandbOption, output_dir: Path) -> None:
    columns, rows = render.flat_rows(filled)
    tracking.log_table(name, columns, rows, logger=logger, output_dir=output_dir)


def _stem(name: str, scale: str, extra: Sequence[str]) -> str:
    """Returns the file name without suffix; a table with changed settings never replaces the real one."""
    changed = changes(extra)
    return f"{name}_{scale}" + (f"_{io.sha256(' '.join(sorted(changed)).encode())[:6]}" if changed else "")


def _check(table: Table, scale: str, output_dir: Path, quoted: Path) -> int:
    """Returns 0 where the block in ``quoted`` says what the stored table says, else 1."""
    stored = output_dir / "tables" / f"{table.name}_{scale}.json"
    text = render.markdown(TABLE.read(stored))
    if readme.is_current(quoted, table.name, scale, text):
        return 0
    print(
        f"{quoted}: the block '{table.name} {scale}' differs from {stored}; "
        f"python -m snnrepro table {table.name} --scale {scale} --readme {quoted} writes it"
    )
    return 1
