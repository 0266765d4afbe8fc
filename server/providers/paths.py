"""Where in a JSON value something stands, as users write it into settings: `data.legs[role=customer].answeredAt`.

    data.call.id              members of objects
    calls[0].id, calls[-1]    elements of arrays, from the front or the back
    legs[role=customer].id    the first element in which a member has this value
    "a.b".c                   a name with points or brackets
    $                         the value itself

There are no expressions but these, so that following a path looks at no part of a value twice. That is why this is not
JMESPath: the work of its projections, filters and functions is not bounded by the size of the value.
"""

import re
from collections.abc import Iterable

import msgspec

LONGEST = 200
"""Characters of a path."""

DEEPEST = 16
"""Steps of a path."""

Scalar = str | int | bool
PathOrPaths = str | tuple[str, ...]
"""A path, or up to eight of which the first that leads to something counts."""


class Is(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A condition: what stands at `path` is `equals`, or one of several; 0 and "0" are the same word."""

    path: PathOrPaths
    equals: Scalar | tuple[Scalar, ...]


class Paths:
    """Paths that were read once, to be followed often. Raises ValueError for what is none."""

    def __init__(self, written: PathOrPaths) -> None:
        alternatives = (written,) if isinstance(written, str) else written
        if not 1 <= len(alternatives) <= 8:
            raise ValueError("there are between one and eight paths")
        self._paths = [_steps(path) for path in alternatives]

    def find(self, value: object) -> object:
        """Return what stands there; None where nothing does, or a null or an empty string."""
        found = (_followed(steps, value) for steps in self._paths)
        return next((each for each in found if each is not None and each != ""), None)

    def word(self, value: object, longest: int = 256) -> str:
        """Return the scalar that stands there as printable text; nothing for what is too long to be meant."""
        return word(self.find(value), longest)


class Condition:
    """A condition that was read once. Raises ValueError."""

    def __init__(self, written: Is) -> None:
        self.paths = Paths(written.path)
        expected = written.equals if isinstance(written.equals, tuple) else (written.equals,)
        self._words = {word(each) for each in expected}
        if not self._words or "" in self._words:
            raise ValueError("a condition compares with at least one word, and with no empty one")

    def holds(self, value: object) -> bool:
        """Tell whether it is so."""
        return self.paths.word(value) in self._words


def word(told: object, longest: int = 256) -> str:
    """Return a JSON scalar as printable text: `true`, 7, 2.5; nothing for anything else."""
    match told:
        case bool():
            text = "true" if told else "false"
        case str() | int():
            text = str(told).strip()
        case float():
            text = str(int(told)) if told.is_integer() else str(told)
        case _:
            return ""
    return text if len(text) <= longest and text.isprintable() else ""


class _Element(msgspec.Struct, frozen=True):
    index: int


class _Where(msgspec.Struct, frozen=True):
    name: str
    equals: str


_Step = str | _Element | _Where

_STEP = re.compile(
    r"""(?: \. | ^ ) (?: "(?P<quoted> [^"]+ )" | (?P<name> [^.\[\]"]+ ) )
      | \[ (?: (?P<index> -?[0-9]{1,6} ) | (?P<where> [^.\[\]"=]+ ) = (?P<equals> [^\[\]]* ) ) \]""",
    re.VERBOSE,
)


def _steps(path: str) -> list[_Step]:
    if len(path) > LONGEST:
        raise ValueError(f"a path has at most {LONGEST} characters")
    if path == "$":
        return []
    path = path.removeprefix("$.") if path.startswith("$.") else path.removeprefix("$") if path[:2] == "$[" else path
    steps: list[_Step] = []
    at = 0
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None or path.startswith("."):
            raise ValueError(f"{path!r} is not a path, such as data.calls[0].id, from its character {at + 1} on")
        at = step.end()
        if step["index"] is not None:
            steps.append(_Element(int(step["index"])))
        elif step["where"] is not None:
            steps.append(_Where(step["where"], step["equals"]))
        else:
            steps.append(step["quoted"] or step["name"])
    if not 1 <= len(steps) <= DEEPEST:
        raise ValueError(f"a path has between one and {DEEPEST} steps")
    return steps


def _followed(steps: Iterable[_Step], value: object) -> object:
    for step in steps:
        match step, value:
            case str(), dict():
                value = value.get(step)
            case _Element(index), list():
                value = value[index] if -len(value) <= index < len(value) else None
            case _Where(name, equals), list():
                value = next(
                    (each for each in value if isinstance(each, dict) and word(each.get(name)) == equals), None
                )
            case _:
                return None
    return value
