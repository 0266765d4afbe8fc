"""The pictures of docs/benchmarks.md: bars of medians, with a line from the least to the most."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.results import Grown, Idled, Line, Relayed
from tests.bench.tables import latest

mpl.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "dialdesk",  # the same numbers make the same file
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)

T = TypeVar("T", Relayed, Idled)

OURS, OTHERS, LEAST_TO_MOST = "#1f6feb", "#9aa4b2", "#30363d"


def draw(lines: Sequence[Line], folder: Path) -> None:
    """Draw what there is to draw into files of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if (relayed := latest(lines, Relayed)) is not None:
        for pairs in {turn.pairs for turn in relayed[1]}:
            turns = [turn for turn in relayed[1] if turn.pairs == pairs]
            figure = Figure(figsize=(9, 0.36 * len({turn.peer for turn in turns}) + 0.9), layout="constrained")
            left, right = figure.subplots(1, 2, sharey=True)
            _bars(left, turns, lambda turn: turn.per_second, "round trips a second")
            _bars(right, turns, lambda turn: turn.cpu, "CPU seconds per 1,000 round trips")
            _save(figure, folder / f"relay-{pairs}.svg")
    if (idled := latest(lines, Idled)) is not None:
        figure = Figure(figsize=(9, 0.36 * len({turn.peer for turn in idled[1]}) + 0.9), layout="constrained")
        _bars(figure.subplots(), idled[1], lambda turn: turn.memory / 1024, "KiB of memory an idle session")
        _save(figure, folder / "sessions.svg")
    if (grown := latest(lines, Grown)) is not None:
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        _growth(figure.subplots(), grown[1])
        _save(figure, folder / "growth.svg")


def _growth(axes: Axes, turns: Sequence[Grown]) -> None:
    """A line for each thing that is done; ours, the dial, is the thick one."""
    sizes = sorted({turn.records for turn in turns})
    for what in dict.fromkeys(turn.what for turn in turns):
        of = [[turn.p50 for turn in turns if turn.what == what and turn.records == size] for size in sizes]
        dialled = what.startswith("dial")
        axes.plot(
            sizes,
            [statistics.median(values) for values in of],
            color=OURS if dialled else OTHERS,
            linewidth=2.5 if dialled else 1.0,
            marker=".",
            label=what if dialled else None,
        )
    axes.set(xscale="log", xlabel="call records", ylabel="milliseconds, p50", xticks=sizes)
    axes.set_xticklabels([f"{size:,}" for size in sizes])
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _bars(axes: Axes, turns: Sequence[T], value: Callable[[T], float], label: str) -> None:
    titles = list(dict.fromkeys(turn.title for turn in turns))
    for place, title in enumerate(titles):
        of = [turn for turn in turns if turn.title == title]
        values = [value(turn) for turn in of]
        colour = OURS if of[0].peer.startswith("dialdesk") else OTHERS
        axes.barh(place, statistics.median(values), color=colour, height=0.7)
        axes.plot([min(values), max(values)], [place, place], color=LEAST_TO_MOST, linewidth=1.2)
    axes.set(yticks=range(len(titles)), yticklabels=titles, ylim=(len(titles) - 0.5, -0.5), xlabel=label)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None, "Creator": None})
