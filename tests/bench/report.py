"""Writes docs/benchmarks.md anew where it tells what was measured, and draws its pictures.

    python tests/bench/report.py

Of each part the last run that measured it counts. What stands outside the marks of the page is written by hand.
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench import tables
from tests.bench.plots import draw
from tests.bench.results import PLACE, read

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"

PARTS = {
    "relay": tables.relay,
    "sessions": tables.sessions,
    "dials": tables.dials,
    "limits": tables.limits,
    "growth": tables.growth,
    "storm": tables.storm,
}


@click.command()
@click.option("--of", type=click.Path(path_type=Path), default=PLACE, show_default="in .bench", help="JSON lines.")
@click.option("--page", type=click.Path(path_type=Path), default=PAGE, show_default="in docs")
def main(of: Path, page: Path) -> None:
    """Renew the page, and the pictures in img/ beside it."""
    lines = read(of)
    text = page.read_text(encoding="utf-8")
    for part, table in PARTS.items():
        text = tables.renewed(text, part, table(lines))
    page.write_text(text, encoding="utf-8")
    draw(lines, page.parent / "img")


if __name__ == "__main__":
    main()
