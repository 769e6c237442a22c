"""Tables in Markdown. This file imports the standard library only, so that the benchmarks can use it, too."""

from collections.abc import Iterable, Sequence


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    separator = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, separator, *rows))
