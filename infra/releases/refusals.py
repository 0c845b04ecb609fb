# ruff: noqa: INP001  a script of this directory, not a module
"""Compares the places in `enginery/releases/data/*refusals.json` with copies of the sources.

    python infra/releases/refusals.py SOURCES

`SOURCES` has one directory for each release, such as `0.16.0/tensorrt_llm/builder.py`. A place is right if its line
holds a statement that can refuse or change something, and that statement, or a condition around it, has all names of
the record. The script prints each wrong place and ends with status 1 if there is one.
"""

import ast
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

DATA = sorted((Path(__file__).parents[2] / "enginery/releases/data").glob("*refusals.json"))
STATEMENTS = (ast.Raise, ast.Assert, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr, ast.Continue)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def main(sources: Path) -> int:
    """Check every record in every release that `sources` has. The number of wrong places decides about the status."""
    checked, wrong = 0, list[str]()
    for name, record in records().items():
        for release, place, names in places(record):
            if (sources / release).is_dir():
                checked += 1
                problem = mistake(sources / release, place, names)
                wrong += [f"{name}, {release}, {place}: {problem}"] if problem else []
    sys.stdout.write("".join(f"{line}\n" for line in [*wrong, f"{checked} places checked, {len(wrong)} wrong"]))
    return min(1, len(wrong))


def records() -> dict[str, Any]:
    """The records of all files by their ids."""
    return {key: one for file in DATA for key, one in json.loads(file.read_text(encoding="utf-8"))["subjects"].items()}


def places(record: Any) -> Iterator[tuple[str, str, list[str]]]:
    """Release, place and names, for each release that was read and that the record holds for."""
    read = [release for release, _ in record["releases"]]
    facts = record["facts"]
    for first, last, place in facts["place"]:
        for release in read[read.index(first) : read.index(last) + 1]:
            yield release, place, _of(facts.get("names", []), read, release)


def mistake(root: Path, place: str, names: list[str]) -> str:
    """What is wrong with a place; empty if it is right."""
    file, _, number = place.rpartition(":")
    if not (root / file).is_file():
        return "there is no such file"
    path = _path_to(_tree(root / file), int(number))
    if not path or not isinstance(path[-1], STATEMENTS):
        return "no statement that could refuse or change something"
    text = " ".join(_around(path))
    missing = [name for name in names if name not in text]
    return f"has no {', '.join(missing)}" if missing else ""


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def _path_to(node: ast.AST, line: int) -> list[ast.stmt]:
    """The statements around a line, from the outermost to the innermost."""
    for child in ast.walk(node) if isinstance(node, ast.Module) else ():
        if isinstance(child, STATEMENTS) and child.lineno <= line <= (child.end_lineno or child.lineno):
            return [*_parents(node, child), child]
    return []


def _parents(tree: ast.AST, wanted: ast.stmt) -> Iterator[ast.stmt]:
    for node in ast.walk(tree):
        within = isinstance(node, ast.stmt) and node is not wanted and node.lineno <= wanted.lineno
        if isinstance(node, ast.stmt) and within and (node.end_lineno or 0) >= (wanted.end_lineno or 0):
            yield node


def _around(path: list[ast.stmt]) -> Iterator[str]:
    """The text of the innermost statement, and the conditions and names of what is around it."""
    for node in path[:-1]:
        if isinstance(node, (ast.If, ast.While)):
            yield ast.unparse(node.test)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            yield ast.unparse(node.iter)
        elif isinstance(node, SCOPES):
            yield from (ast.unparse(one) for one in node.decorator_list)
            yield node.name
    yield ast.unparse(path[-1])


def _of(spans: list[Any], read: list[str], release: str) -> list[str]:
    held = [value for first, last, value in spans if read.index(first) <= read.index(release) <= read.index(last)]
    return list(held[0]) if held else []


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
