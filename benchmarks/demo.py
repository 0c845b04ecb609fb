"""Measures `make demo` in a fresh clone with a new home: the first run, and a second one."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.results import Goal, Row
from benchmarks.timing import command, load, seconds
from benchmarks.workbench import REPOSITORY, ROOT
from enginery.core.files import remove_tree

COLD = Goal(180.0, "seconds")
AGAIN = Goal(20.0, "seconds")


def measure() -> list[Row]:
    """Measure the committed state. The clone shares only pip's cache with this checkout."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="enginery-bench-", ignore_cleanup_errors=True) as name:
        clone, home = Path(name) / "enginery", Path(name) / "home"
        home.mkdir()
        command(["git", "clone", "--quiet", REPOSITORY, clone])
        rows = [
            Row(f"make demo, {how}", _demo(clone, home, ROOT / f"demo-{how}.log"), None, goal, load=load())
            for how, goal in (("cold", COLD), ("again", AGAIN))
        ]
        remove_tree(Path(name))  # it can remove read-only directories
    return rows


def _demo(clone: Path, home: Path, log: Path) -> float:
    python = Path(sys.base_prefix) / "bin" / "python3"  # a shim on PATH may need files in the user's home
    argv = ["make", "demo", f"PYTHON={python}"]
    with log.open("wb") as output:
        return seconds(
            lambda: subprocess.run(
                argv, cwd=clone, env=environment(home), stdout=output, stderr=subprocess.STDOUT, check=True
            )
        )


def environment(home: Path) -> dict[str, str]:
    """The environment of a new user on this machine: a home of their own, and this user's pip configuration."""
    kept = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "ENGINERY_HOME"}}
    cache = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    pip = {"PIP_CACHE_DIR": cache}
    for place in (Path.home() / ".config" / "pip" / "pip.conf", Path.home() / ".pip" / "pip.conf"):
        if place.is_file():
            pip.setdefault("PIP_CONFIG_FILE", os.environ.get("PIP_CONFIG_FILE", str(place)))
    return {**kept, **pip, "HOME": str(home), "ENGINERY_HOME": str(home / ".enginery")}
