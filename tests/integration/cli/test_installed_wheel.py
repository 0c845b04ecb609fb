"""Tests of Enginery installed from a wheel: it has one import name, and does not hide the user's own packages."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

CHECKOUT = Path(__file__).parents[3]

LOAD_THE_FLOW = """
from importlib.metadata import distribution
import enginery, flows, tasks
(point,) = [point for point in distribution("enginery").entry_points if point.group == "enginery.flows"]
flow = point.load()
print(enginery.__file__)
print(flow.__code__.co_filename)
print(flows.WHOSE, tasks.WHOSE)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory into which a wheel of this checkout is installed."""
    wheels = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(wheels), str(CHECKOUT)], check=True, timeout=240)
    site = tmp_path_factory.mktemp("site")
    (wheel,) = wheels.glob("enginery-*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def test_the_wheel_has_one_import_name(installed: Path) -> None:
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"enginery"}
    assert (installed / "enginery" / "py.typed").is_file()
    assert (installed / "enginery" / "_infra" / "toolchains").is_dir()


def test_a_project_with_flows_and_tasks_of_its_own_still_builds(installed: Path, tmp_path: Path) -> None:
    for name in ("flows", "tasks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('WHOSE = "the user\'s"\n')
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(installed)])}
    done = subprocess.run(
        [sys.executable, "-c", LOAD_THE_FLOW], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    package, flow, task = done.stdout.splitlines()
    assert package.startswith(str(installed))
    assert flow.startswith(str(installed / "enginery" / "pipeline" / "flows"))
    assert task == "the user's the user's"
