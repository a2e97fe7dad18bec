"""Tests every cell of a stored table against its baseline row, paired over seeds.

python scripts/paired_test.py outputs/tables/mp_init_mini.json
"""

import sys
from pathlib import Path

from scipy import stats

from snnrepro.errors import ConfigError, UserError, report
from snnrepro.report.document import TABLE, Document


def paired(document: Document) -> list[str]:
    """Returns one line per compared cell: mean difference, 95 % interval and p of the two-sided paired t-test."""
    lines, baseline = [], None
    for row in document["rows"]:
        if row["cells"][0]["difference"] is None:
            baseline = row
            continue
        assert baseline is not None
        for column, cell, base in zip(document["columns"], row["cells"], baseline["cells"], strict=True):
            pairs = [
                (ours["value"], theirs["value"])
                for ours, theirs in zip(cell["runs"], base["runs"], strict=True)
                if ours["value"] is not None and theirs["value"] is not None
            ]
            where = f"{', '.join(row['label'])}, {document['column_label']} = {column}"
            lines.append(f"{where}: {_compare([a - b for a, b in pairs])}")
    return lines


def _compare(differences: list[float]) -> str:
    mean = sum(differences) / max(len(differences), 1)
    if len(differences) < 2 or len(set(differences)) == 1:
        return f"{mean:+.2f} (n = {len(differences)}: no test)"
    test = stats.ttest_1samp(differences, 0)
    low, high = test.confidence_interval()
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}], p = {test.pvalue:.3f}, n = {len(differences)}"


def main(words: list[str]) -> int:
    """Prints the tests of one table file and returns the exit code."""
    try:
        if len(words) != 1:
            raise ConfigError("name one table file, such as outputs/tables/mp_init_mini.json")
        document = TABLE.read(Path(words[0]))
        if document["difference_to"] != "the baseline row":
            raise ConfigError(f"{words[0]}: this table has no baseline rows to compare with")
        print("\n".join(paired(document)))
    except UserError as error:
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
