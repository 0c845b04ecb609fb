"""Compares a build with nothing to do with an empty Prefect flow that has as many cached tasks, on the same server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.results import Goal, Row, median
from benchmarks.timing import load
from benchmarks.workbench import REPOSITORY, ROOT, example, prefect_server

GOAL = Goal(1.2, "times")
TIMES = 15


def measure() -> list[Row]:
    """Measure both in turn in one process."""
    with TemporaryDirectory(prefix="prefect-", dir=ROOT) as name, example():
        scratch = Path(name)
        with prefect_server(scratch / "server") as api:
            found = _in_prefect(scratch, api)
    what = f"a build of {found['tasks']} cached steps against an empty flow of {found['tasks']} cached tasks"
    return [Row(what, median(found["ours"]), median(found["theirs"]), GOAL, TIMES, load())]


def _in_prefect(scratch: Path, api: str) -> dict[str, list[float]]:
    settings = {"PREFECT_API_URL": api, "PREFECT_HOME": str(scratch / "client")}
    argv = [sys.executable, "-m", "benchmarks.in_prefect", "--times", str(TIMES), "--storage", str(scratch / "results")]
    log = ROOT / "in-prefect.log"
    with log.open("wb") as output:
        done = subprocess.run(
            argv, cwd=REPOSITORY, env=os.environ | settings, stdout=subprocess.PIPE, stderr=output, check=False
        )
    if done.returncode:
        raise RuntimeError(f"the flows failed: see {log}")
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found
