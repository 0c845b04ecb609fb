"""The pages name existing files, and docs/architecture.md shows the real rooms and walks."""

import re
from pathlib import Path

import pytest

from tests.test_architecture import ROOMS, ROOT, module_of, room_of

PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

FOLDERS = "benchmarks|docs|enginery|examples/tiny-llama|flows|infra|tasks|tests"
IN_THE_REPOSITORY = re.compile(rf"(?<![\w./~:-])(?:{FOLDERS})/[\w./-]*\w")
PLACES = frozenset({"enginery/worker-cpu"})
"""Names of images, which look like paths of the repository."""

MODULE = re.compile(r"\b(?:from|import|python -m) ((?:enginery|flows|tasks|benchmarks)(?:\.\w+)*)")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)[^)]*\)")
WALK = re.compile(r"^### (Walk .*?)\n(.*?)(?=^##)", re.MULTILINE | re.DOTALL)
COLUMN = re.compile(r" {2,}")
STOP = re.compile(r"^\d+\. ((?:`[^`]+`,? ?)+): ", re.MULTILINE)


def exists(place: Path) -> bool:
    """Whether this file or folder exists. A module may be named without `.py`."""
    return place.exists() or place.with_name(f"{place.name}.py").exists()


def named_in(page: Path, pattern: re.Pattern[str]) -> set[str]:
    return set(pattern.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    paths = named_in(page, IN_THE_REPOSITORY) - PLACES
    assert sorted(path for path in paths if not exists(ROOT / path)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert sorted(link for link in named_in(page, LINK) if not (page.parent / link).exists()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_a_page_imports_or_runs_exists(page: Path) -> None:
    places = {name: ROOT.joinpath(*name.split(".")) for name in named_in(page, MODULE)}
    assert [name for name, place in places.items() if not exists(place)] == []


def test_the_picture_of_the_rooms_is_the_architecture() -> None:
    picture = ARCHITECTURE.partition("## The rooms")[2].partition("```\n")[2].partition("```")[0]
    shown, lost = [], []
    for line in picture.splitlines():
        folder, _, *files = [*COLUMN.split(line.strip()), ""]
        place = ROOT / ("enginery" if line.startswith(" ") else "") / folder
        if folder == "enginery/":
            continue
        shown.append(module_of(place / "__init__.py"))
        lost += [f"{folder}{file}" for file in files if not exists(place / file)]
    assert tuple(shown) == ROOMS
    assert lost == []


@pytest.mark.parametrize("walk", WALK.findall(ARCHITECTURE), ids=lambda walk: walk[0])
def test_a_walk_visits_no_room_twice(walk: tuple[str, str]) -> None:
    _, text = walk
    stops = [re.findall(r"`([^`]+)`", files) for files in STOP.findall(text)]
    rooms = [[room_of(module_of(ROOT / file)) for file in files] for files in stops]
    assert len(stops) == len(re.findall(r"^\d+\.", text, re.MULTILINE)) >= 4
    assert all(len(set(names)) == 1 for names in rooms), "a stop is in one room"
    visited = [names[0] for names in rooms]
    assert len(visited) == len(set(visited)), visited


def test_there_are_three_walks() -> None:
    assert len(WALK.findall(ARCHITECTURE)) == 3
