"""Where every command starts: from the first import on, a signal ends it in one line, after what runs has cleaned up.

Nothing here imports more than Python's own modules: the others take seconds, in which people change their minds.
"""

from collections.abc import Sequence

from snnrepro.ending import ended


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``snnrepro COMMAND ...`` and returns the exit code (0 done, others: errors.py, 130 Ctrl-C)."""

    def command() -> int:
        from snnrepro.cli import main

        return main(argv)

    return ended(command)
