"""The architecture: which room may import which. It reads every import, also those inside functions and in strings.

`ROOMS` is the house from its top floor to its cellar. A room imports only rooms below it, through their doors: the
names that a room's `__init__.py` imports. `core` has no door of its own; each of its files can be imported.
"""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

ROOMS = (
    "enginery.pipeline.flows",
    "enginery.pipeline.tasks",
    "enginery.cli",
    "enginery.pipeline",
    "enginery.backends",
    "enginery.triton",
    "enginery.registry",
    "enginery.builds",
    "enginery.sources",
    "enginery.models",
    "enginery.dev",
    "enginery.store",
    "enginery.toolchains",
    "enginery.releases",
    "enginery.spec",
    "enginery.core.s3",
    "enginery.core.process",
    "enginery.core",
)
"""From top to bottom. The public name `enginery` itself stands above them all."""

WITHOUT_A_DOOR = ("enginery.core", "enginery.cli", "enginery.pipeline.flows", "enginery.pipeline.tasks")
"""Rooms of which each file is a door: the cellar, and those that nobody but the user enters."""

MOST_FILES = 13
MOST_ENTRIES = 15


class Import(NamedTuple):
    """One imported name.

    Attributes:
        file: the file that imports, relative to the repository.
        line: where.
        importer: the importing module.
        module: the module that is imported from.
        name: what is imported from it; empty for `import module`.
        inside: whether it stands in a function.
        named: whether a string names it, as in `late("enginery.registry")`.
    """

    file: str
    line: int
    importer: str
    module: str
    name: str
    inside: bool
    named: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name or 'all'} from {self.module}"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(("enginery", "pipeline", *parts) if parts[0] in {"flows", "tasks"} else parts)


FILES = {
    module_of(path): path
    for folder in ("enginery", "flows", "tasks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not {"flows", "tasks"} & set(path.relative_to(ROOT / folder).parts)  # the links that an installation follows
}


def imports_of(module: str, path: Path) -> Iterator[Import]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    functions = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    file = str(path.relative_to(ROOT))
    yield from named_in_strings(nodes, file, module)
    for node in nodes:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        where = (file, node.lineno, module)
        inside = any(node.lineno in function for function in functions)
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(*where, alias.name, "", inside)
        else:
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(*where, source, alias.name, inside)


def named_in_strings(nodes: list[ast.AST], file: str, importer: str) -> Iterator[Import]:
    """What a string names that is nothing else: a file of ours, or a name in it, as `enginery.registry:publish`."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            module, _, name = node.value.partition(":")
            if module in FILES and not importer.startswith(f"{module}."):
                yield Import(file, node.lineno, importer, module, name, inside=False, named=True)


@cache
def ours() -> list[Import]:
    """Every import of a module of ours. Not made at import, because each process that runs tests imports this file."""
    found = [one for module, path in FILES.items() for one in imports_of(module, path)]
    return [one for one in found if one.module.partition(".")[0] in {"enginery", "flows", "tasks"}]


def target_of(found: Import) -> str:
    """The module that an import loads."""
    longer = f"{found.module}.{found.name}"
    return longer if longer in FILES else found.module


def room_of(module: str) -> str:
    around = [room for room in ROOMS if module == room or module.startswith(f"{room}.")]
    return max(around, key=len) if around else "enginery"


def door_of(room: str) -> set[str]:
    """The names that a room shows: those that its `__init__.py` imports for type checkers, see `enginery.core.late`."""
    blocks = [node for node in ast.parse(FILES[room].read_text(encoding="utf-8")).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_every_file_is_in_a_room() -> None:
    lost = [module for module in FILES if room_of(module) == "enginery" and module != "enginery"]
    assert lost == []


def test_a_room_knows_only_rooms_below_it() -> None:
    floor = {room: number for number, room in enumerate(ROOMS)}
    upward = []
    for found in ours():
        importing, there = room_of(found.importer), room_of(target_of(found))
        if importing != there and importing in floor and (there == "enginery" or floor[there] < floor[importing]):
            upward.append(str(found))
    assert upward == []


def test_a_room_is_imported_through_its_init_file() -> None:
    behind = []
    for found in ours():
        importing, there = room_of(found.importer), room_of(target_of(found))
        if importing == there or there in WITHOUT_A_DOOR or there == "enginery":
            continue
        # `from enginery import toolchains` takes the room itself; its names are then asked of the door.
        whole = target_of(found) == there and (found.module != there or (found.named and not found.name))
        if not whole and (found.module != there or found.name not in door_of(there)):
            behind.append(str(found))
    assert behind == []


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in WITHOUT_A_DOOR])
def test_a_name_of_a_door_is_not_that_of_a_file_behind_it(room: str) -> None:
    """Importing the file would put it in the place of what the door shows under that name."""
    files = {module.rpartition(".")[2] for module in FILES if module.rpartition(".")[0] == room}
    shown = {name for name in door_of(room) if not isinstance(getattr(import_module(room), name), ModuleType)}
    assert files & shown == set()


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in WITHOUT_A_DOOR])
def test_every_name_of_a_door_can_be_had_from_it(room: str) -> None:
    opened = import_module(room)
    assert [name for name in door_of(room) if not hasattr(opened, name)] == []


def taken_from_rooms(module: str) -> Iterator[tuple[int, str, str]]:
    """What a file takes from rooms that it has imported: line, room, name."""
    whole = {found.name: f"{found.module}.{found.name}" for found in ours() if found.importer == module}
    rooms = {name: room for name, room in whole.items() if room in ROOMS and room != room_of(module)}
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=taken) if name in rooms:
                yield node.lineno, rooms[name], taken
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id="rooms"), attr=name), attr=taken) if (
                f"enginery.{name}" in ROOMS
            ):
                yield node.lineno, f"enginery.{name}", taken


def is_shown(room: str, name: str) -> bool:
    return room in WITHOUT_A_DOOR or name in door_of(room) or (name.startswith("__") and name.endswith("__"))


def test_what_is_taken_from_a_room_is_a_name_of_its_door() -> None:
    """As in `registry.pull`, where a file has imported the room itself, or `rooms.registry.pull` in a command."""
    behind = [
        f"{path}:{line} takes {name} from {room}"
        for module, path in FILES.items()
        for line, room, name in taken_from_rooms(module)
        if not is_shown(room, name)
    ]
    assert behind == []


def test_nobody_takes_a_private_name_of_another_file() -> None:
    taken = [str(found) for found in ours() if found.name.startswith("_") and not found.name.startswith("__")]
    assert taken == []


def test_no_import_goes_in_a_circle() -> None:
    """A package's `__init__` is loaded before what is in it, so an import counts as one of each package on the way."""
    graph: dict[str, set[str]] = {module: set() for module in FILES}
    for found in ours():
        target = target_of(found)
        parts = target.split(".")
        for length in range(1, len(parts) + 1):
            passed = ".".join(parts[:length])
            on_the_way_here = found.importer == passed or found.importer.startswith(f"{passed}.")
            if passed in FILES and (passed == target or not on_the_way_here) and passed != found.importer:
                graph[found.importer].add(passed)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_import_of_ours_is_hidden_in_a_function() -> None:
    assert [str(found) for found in ours() if found.inside] == []


def test_flows_and_tasks_call_themselves_by_the_name_they_are_installed_under() -> None:
    assert [str(found) for found in ours() if found.module.partition(".")[0] in {"flows", "tasks"}] == []


def test_the_package_has_few_entries_and_small_folders() -> None:
    entries = [path.name for path in (ROOT / "enginery").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES, entries
    folders: dict[Path, int] = {}
    for path in FILES.values():
        folders[path.parent] = folders.get(path.parent, 0) + 1
    assert {str(folder): number for folder, number in folders.items() if number > MOST_FILES} == {}


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in WITHOUT_A_DOOR])
def test_a_door_says_what_the_room_is_for_and_shows_an_example(room: str) -> None:
    text = ast.get_docstring(ast.parse(FILES[room].read_text(encoding="utf-8"))) or ""
    assert len(text.splitlines()) >= 3
    assert any(line.startswith("    ") for line in text.splitlines()), "no example"
