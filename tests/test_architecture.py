"""The rules of the house that a machine can judge, read from the source (docs/architecture.md)."""

import ast
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol", "storage", "server", "clients")

MAY_IMPORT = {
    "protocol": set(),
    "storage": {"protocol"},
    "server": {"protocol", "storage"},
    "clients": {"protocol"},
}
"""Imports go one way: protocol <- storage <- server, and protocol <- clients."""

PURE = {
    # of the standard library, what computes and waits for nobody
    "collections", "dataclasses", "datetime", "enum", "random", "re", "secrets", "time", "typing", "unicodedata",
    "urllib",
    # and two libraries that do the same
    "msgspec", "phonenumbers",
}  # fmt: skip
"""All that `protocol` may import from elsewhere; so neither asyncio, nor a socket, nor a file can come in unseen."""

NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "base", "core"}
"""Names of files that say nothing of what is in them."""

LONGEST = 700
"""Lines of a module after which it is time to ask what else it is doing."""

LONGER: dict[str, str] = {}
"""Modules that are longer, each with its reason."""

WITHOUT_DOCSTRING = {
    "storage/embedded.py Servers.redis_url": "reads like `database_url` above it",
    "storage/embedded.py Servers.s3_endpoint_url": "reads like `database_url` above it",
    "storage/supervisor.py main": "the docstring of the script tells it",
}

MAY_SLEEP = {
    "tests/journeys/test_recording_faults.py _pause": "how long a fault lasts is the story, not a wait",
    "tests/waiting.py until": "the one place where tests ask again what nothing announces",
    "tests/journeys/conftest.py ask": "the same, for journeys",
    "tests/storage/test_embedded.py until": "the same, for servers",
    "tests/journeys/test_faults.py _outage": "the length of an outage is the story, not a wait",
    "tests/proxy.py _ask": "how late a slow line is, is the fault, not a wait",
    "tests/proxy.py _answer": "the same, the other way",
}
"""Who may name a length of time, by file and innermost function."""

PACED = re.compile(r"tests/(bench/|faults/(?!test_))")
"""What is no test, and goes by the clock: benchmarks pace what they measure, a fault run its faults and people."""

MODULES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
TESTS = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "tests").rglob("*.py"))
}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    """A package imports itself and those below it, and none of them beside or above it."""
    seen = {
        (name, imported)
        for name, tree in _of(package)
        for imported in _imports(tree)
        if imported.partition(".")[0] in PACKAGES
    }

    assert [] == sorted(
        f"{name} imports {imported}"
        for name, imported in seen
        if imported.partition(".")[0] not in {package, *MAY_IMPORT[package]}
    )


def test_protocol_does_no_io() -> None:
    """`protocol` imports only what computes: it can be tested without a clock, a loop or a socket."""
    strange = {
        f"{name} imports {imported}"
        for name, tree in _of("protocol")
        for imported in _imports(tree)
        if imported.partition(".")[0] not in {"protocol", *PURE} or imported.startswith("urllib.request")
    }

    assert set() == strange


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_in_a_circle(package: str) -> None:
    """The modules of a package can be put in an order in which each imports earlier ones only."""
    modules = {_dotted(name): tree for name, tree in _of(package)}
    left = {name: _imports_of(tree, modules.keys()) - {name} for name, tree in modules.items()}
    while free := {name for name, imported in left.items() if not imported & left.keys()}:
        left = {name: imported for name, imported in left.items() if name not in free}

    assert {} == left


def test_files_are_named_for_an_idea() -> None:
    """No file is called utils, helpers, common or the like."""
    assert [] == [name for name in (*MODULES, *TESTS) if Path(name).stem.strip("_") in NAMELESS]


def test_classes_are_named_for_what_they_are() -> None:
    """No class is a Manager or a Helper: it is the noun itself, or a function."""
    named = [
        f"{name} {node.name}"
        for name, tree in (*MODULES.items(), *TESTS.items())
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and re.search(r"(Manager|Helper|Util|Utils)$", node.name)
    ]

    assert [] == named


def test_what_is_public_has_a_docstring() -> None:
    """Each module, and each public class, function and method in it, says what it is for."""
    silent = {
        f"{name} {path}".strip()
        for name, tree in MODULES.items()
        for path, node in (("", tree), *_public(tree))
        if ast.get_docstring(node) is None
    }

    assert set() == silent - WITHOUT_DOCSTRING.keys()


def test_every_test_says_what_it_shows() -> None:
    """Each test has a docstring that states the behaviour, and each file of tests says what it is about."""
    silent = [
        f"{name} {node.name}"
        for name, tree in TESTS.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and ast.get_docstring(node) is None
    ]
    silent += [name for name, tree in TESTS.items() if ast.get_docstring(tree) is None]

    assert [] == silent


def test_tests_do_not_sleep() -> None:
    """A test waits for events, or asks again with a deadline; `asyncio.sleep(0)` only lets others have their turn."""
    sleeping = {
        f"{name} {function}"
        for name, tree in TESTS.items()
        if not PACED.match(name)
        for function, call in _calls(tree)
        if ast.unparse(call.func) in {"asyncio.sleep", "time.sleep", "sleep"} and not _is_zero(call)
    }

    assert set() == sleeping - MAY_SLEEP.keys()


def test_modules_are_short_enough_to_be_read() -> None:
    """No module is longer than can be read at a sitting, but for those that have a reason."""
    long = {name for name in MODULES if len((ROOT / name).read_text(encoding="utf-8").splitlines()) >= LONGEST}

    assert set() == long - LONGER.keys()


# --- reading the source -----------------------------------------------------------------------------------------------


def _of(package: str) -> list[tuple[str, ast.Module]]:
    return [(name, tree) for name, tree in MODULES.items() if name.startswith(f"{package}/")]


def _imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a module imports, wherever in it: `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=0):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom():
                yield "a relative import"


def _dotted(name: str) -> str:
    return name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def _imports_of(tree: ast.AST, modules: Collection[str]) -> set[str]:
    """Which of these modules are imported, be it whole or a name in them."""
    return {name for imported in _imports(tree) for name in (imported, imported.rpartition(".")[0]) if name in modules}


def _public(node: ast.AST, within: str = "") -> Iterator[tuple[str, Definition]]:
    """Public classes, functions and methods, but for the variants of an overload and what is inside a function."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Definition) or child.name.startswith("_"):
            continue
        if any(ast.unparse(decorator) == "overload" for decorator in child.decorator_list):
            continue
        yield f"{within}{child.name}", child
        if isinstance(child, ast.ClassDef):
            yield from _public(child, f"{within}{child.name}.")


def _calls(node: ast.AST, within: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Every call with the name of the innermost function it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield within, child
        inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else within
        yield from _calls(child, inner)


def _is_zero(call: ast.Call) -> bool:
    return len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
