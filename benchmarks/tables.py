"""Tables in Markdown, as every benchmark here prints them and, with --markdown FILE, writes them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """One line for each row, and two for the header."""
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def arguments(about: str | None) -> argparse.ArgumentParser:
    """A benchmark's parser: `about` is what stands in its head."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write what is printed to FILE, too")
    return parser


def publish(lines: Sequence[str], file: Path | None) -> None:
    """Print, and write where a file is named."""
    print("\n".join(lines))
    if file is not None:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
