"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    divider = ["---"] * len(header)
    lines = [f"| {' | '.join(cells)} |" for cells in (header, divider, *rows)]
    return "\n".join(lines)
