"""The specs of a fleet: files, and directories of files."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from enginery.errors import SpecError, UsageError
from enginery.spec import Spec, read_spec

SUFFIXES = (".yaml", ".yml")


def spec_files(places: Iterable[str | Path]) -> list[Path]:
    """The spec files meant by files and directories, each once, those of a directory by name.

    Raises:
        UsageError: when a place is not there, or a directory holds no spec.
    """
    found = [file for place in places for file in _in_place(Path(place))]
    return list(dict.fromkeys(found))


def _in_place(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
        return
    if not place.is_dir():
        remedy = "name spec files, or directories of them"
        raise UsageError("there is no such file or directory", subject=str(place), remedy=remedy)
    found = sorted(path for path in place.iterdir() if path.suffix in SUFFIXES)
    if not found:
        raise UsageError("holds no spec", subject=str(place), remedy="put spec files (*.yaml) into it")
    yield from found


def read_fleet(files: Iterable[Path]) -> list[Spec]:
    """Read specs.

    Raises:
        SpecError: with the mistakes of all of them, or when two have one name: they would share builds and channels.
    """
    specs: dict[str, Spec] = {}
    mistakes: list[str] = []
    for file in files:
        try:
            spec = read_spec(file)
        except SpecError as error:
            mistakes += [f"{file}: {mistake}" for mistake in error.mistakes]
            continue
        if spec.name in specs:
            mistakes.append(f"{file}: name: another spec is named {spec.name}, too")
        specs.setdefault(spec.name, spec)
    if mistakes:
        raise SpecError(mistakes, subject="fleet")
    return list(specs.values())
