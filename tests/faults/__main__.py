"""`python -m tests.faults --minutes 15 --seed 7`: attack an installation of its own, and prove what must hold.

The folder of a run is told at its end; `--check FOLDER` judges it again, and with `--about ID` tells all that it says
of a call, a message, a phone (`phone-007`) or an agent.
"""

import sys
import tempfile
import time
from pathlib import Path

import click
import uvloop

from tests.faults import record
from tests.faults.checker import Verdict, check
from tests.faults.record import Plan
from tests.faults.run import run

Folder = click.Path(file_okay=False, path_type=Path)


@click.command(help=__doc__)
@click.option("--minutes", default=15.0, show_default=True, help="How long faults befall it.")
@click.option("--seed", default=7, show_default=True, help="Deals the faults.")
@click.option("--pairs", default=100, show_default=True, help="Agents, each with a phone.")
@click.option("--folder", type=Folder, help="Where histories go: empty, or not there yet. [default: a new one in /tmp]")
@click.option("--check", "checked", type=Folder, help="Judge the folder of an earlier run.")
@click.option("--about", help="With --check: tell all that the folder says of this id.")
def main(minutes: float, seed: int, pairs: int, folder: Path | None, checked: Path | None, about: str | None) -> None:
    if checked is not None and about is not None:
        for line in record.about(checked, about):
            click.echo(line)
        return
    if checked is not None:
        _tell(check(record.read(checked)), checked)
        return
    folder = folder or Path(tempfile.mkdtemp(prefix="dialdesk-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()

    def say(what: str) -> None:
        click.echo(f"{time.monotonic() - begin:7.1f} s  {what}")

    _tell(uvloop.run(run(Plan(seed=seed, seconds=minutes * 60, pairs=pairs), folder, say=say)), folder)


def _tell(verdict: Verdict, folder: Path) -> None:
    for name, number in verdict.counts.items():
        click.echo(f"{number:9}  {name}")
    for violation in verdict.violations:
        click.echo(f"VIOLATED {violation}")
    click.echo(f"{'holds' if not verdict.violations else f'{len(verdict.violations)} violations'}: {folder}")
    sys.exit(1 if verdict.violations else 0)


if __name__ == "__main__":
    main()
