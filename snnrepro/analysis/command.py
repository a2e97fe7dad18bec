"""``snnrepro claims``: runs what the paper's claims need, and says which our numbers support."""

import argparse
import math
from typing import Any

from snnrepro import io
from snnrepro.analysis.claims import OURS, Verdict, judge
from snnrepro.analysis.claims_paper import PAPER
from snnrepro.analysis.evidence import Jobs, MissingRun, Runs, claims_file, jobs_of_claims, paper_numbers
from snnrepro.analysis.results import CLAIMS, VERDICTS, Claim
from snnrepro.errors import ConfigError, UserError
from snnrepro.jobs import run_jobs


def main(words: list[str]) -> int:
    """Prints and writes the verdicts, and returns the exit code. Raises UserError when a run has no result."""
    parser = argparse.ArgumentParser(prog="snnrepro claims", description="The paper's claims on our runs.")
    parser.add_argument("--scale", default="mini", help="mini: digits, any CPU | paper: CIFAR-100")
    parser.add_argument("--run", action="store_true", help="make the runs that are missing first")
    parser.add_argument("--only", help="claims to judge, such as c1,c2")
    args, extra = parser.parse_known_args(words)
    known = {claim["id"] for claim in claims_file()["claims"]}
    only = set(args.only.split(",")) if args.only else known
    if unknown := sorted(only - known):
        raise ConfigError(f"--only {unknown[0]}: no such claim; they are c1 to c{len(known)}")
    jobs = Jobs(args.scale, extra)
    if args.run:
        needed = jobs_of_claims(jobs, only)
        run_jobs(needed)
        failed = [job for job in needed if job.status in ("failed", "stopped")]
        if failed:
            raise UserError(f"{len(failed)} runs have no result; the same command retries them")
    claims = [claim for claim in claims_file()["claims"] if claim["id"] in only]
    rows = [_row(claim, jobs) for claim in claims]
    output = jobs.output / "tables"
    text = render(rows, args.scale)
    CLAIMS.write(output / f"claims_{args.scale}.json", {"scale": args.scale, "claims": rows})
    io.write_atomic(output / f"claims_{args.scale}.md", text)
    print(text)
    print(f"written: {output}/claims_{args.scale}.md")
    return 0


def _row(claim: dict[str, Any], jobs: Jobs) -> Claim:
    margins, missing = [], set()
    for seed in claims_file()["seeds"]:
        try:
            margins.append(OURS[claim["id"]](Runs(jobs, seed)))
        except MissingRun as run:
            missing.add(str(run))
    ours = Verdict("not run", (), None) if missing else judge(margins)
    paper = PAPER[claim["id"]](paper_numbers()) if claim["id"] in PAPER else None
    return {
        "id": claim["id"],
        "where": claim["where"],
        "claim": claim["text"],
        "statistic": claim["statistic"],
        "exploratory": claim.get("exploratory", False),
        "verdict": ours.verdict,
        "margins": [margin if math.isfinite(margin) else str(margin) for margin in ours.margins],
        "p": ours.p,
        "paper": None if paper is None else ("supported" if paper > 0 else "contradicted"),
        "paper_margin": paper,
        "missing": sorted(missing),
    }


def render(rows: list[Claim], scale: str) -> str:
    """Returns the verdicts as a Markdown table."""
    lines = [
        f"**The paper's claims.** Scale: **{scale}{': digits, not paper numbers' if scale == 'mini' else ''}**.",
        "",
        "A margin is positive where the claim holds. Ours: one-sided t-test of the mean margin over seeds, 5 % level. "
        "(e): the threshold was set knowing the paper's values. Last column: the same on the paper's numbers.",
        "",
        "| claim | statistic | ours | margins by seed | p | on the paper's numbers |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        margins = ", ".join(f"{m:.3g}" if isinstance(m, float) else str(m) for m in row["margins"])
        p = "" if row["p"] is None else f"{row['p']:.3g}"
        printed = "-" if row["paper"] is None else f"{row['paper']} ({row['paper_margin']:.3g})"
        verdict = row["verdict"] + (f": {', '.join(row['missing'][:2])}" if row["missing"] else "")
        mark = " (e)" if row["exploratory"] else ""
        lines.append(
            f"| {row['id']} ({row['where']}) {row['claim']}{mark} | {row['statistic']} | **{verdict}** | "
            f"{margins} | {p} | {printed} |"
        )
    counts = {v: sum(row["verdict"] == v for row in rows) for v in VERDICTS}
    lines += ["", ", ".join(f"{count} {verdict}" for verdict, count in counts.items())]
    return "\n".join(lines) + "\n"
