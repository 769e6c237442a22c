"""The pages: what they link to, the tests that docs/promises.md names, and the README's table of results."""

import re
from itertools import takewhile
from pathlib import Path

import pytest

import config

ROOT = Path(config.__file__).parent

# docs/promises.md and docs/glossary.md have no links.
PAGES_WITH_LINKS = [
    "README.md",
    "RESULTS.md",
    "benchmarks/RESULTS.md",
    "docs/distributed.md",
    "docs/extending.md",
    "docs/notes/trials.md",
    "docs/usage.md",
]


@pytest.mark.parametrize("name", PAGES_WITH_LINKS)
def test_every_file_and_heading_that_a_page_links_to_exists(name):
    page_path = ROOT / name
    links = re.findall(r"\]\(([^)]+)\)", page_path.read_text(encoding="utf-8"))
    links_to_files = [link for link in links if "://" not in link]
    assert links_to_files
    for link in links_to_files:
        file, _, anchor = link.partition("#")
        target = page_path.parent / file if file else page_path
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def anchors_of(page_path):
    """The anchors that GitHub gives the headings of a page in Markdown."""
    headings = re.findall(r"^#+ (.*)$", page_path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_test_that_the_promises_name_exists():
    names = re.findall(r"`(tests/\S+?)`", (ROOT / "docs" / "promises.md").read_text(encoding="utf-8"))
    assert names
    assert not [name for name in names if not (ROOT / name).exists()]


def test_the_readmes_table_of_results_agrees_with_results_md():
    """Each cell is that of the same command and column, letter for letter. test_results.py checks RESULTS.md itself."""
    rows = read_results("README.md")
    assert len(rows) >= 6
    for command, row in rows.items():
        from_results = read_results("RESULTS.md")[command]
        assert row == {column: from_results[column] for column in row}


def read_results(page):
    """The rows of a page's table of results by their commands: a cell for each column."""
    lines = iter((ROOT / page).read_text(encoding="utf-8").splitlines())
    header = next(cells for cells in map(split_row, lines) if "command" in cells)
    next(lines)
    rows = [dict(zip(header, split_row(line), strict=True)) for line in takewhile(bool, lines)]
    return {row["command"]: row for row in rows}


def split_row(line):
    """The cells of a row of a table in Markdown."""
    return [cell.strip() for cell in line.strip("|").split("|")]
