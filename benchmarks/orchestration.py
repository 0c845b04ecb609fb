"""A build of a hundred targets on four workers, compared with the ideal time: the work divided by the workers.

The steps sleep for a second. Here Prefect's server, PostgreSQL, the four workers, their runs and the build itself share
the processors of one machine; in a fleet they do not.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import yaml

from benchmarks.in_fleet import ARGV, GPU
from benchmarks.results import Goal, Row, median
from benchmarks.timing import command, load, seconds
from benchmarks.workbench import REPOSITORY, ROOT, prefect_server
from enginery.core.process import Service
from tests.support.prefect.postgres import postgres

GOAL = Goal(1.3, "times")
TARGETS, WORKERS = 100, 4
POOL = "bench"
CHAINS = {4: "of four steps", 1: "of one step"}
BARE_TIMES = 10
START_SECONDS = 300.0


def measure() -> list[Row]:
    """Measure targets with a chain of steps, like real ones; then targets with one step, where starting counts most."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="fleet-", dir=ROOT) as name, _fleet(Path(name)) as environment:
        bare = _bare_seconds(Path(name))
        rows: list[Row] = []
        for stages, what in CHAINS.items():
            rows += _rows(what, _build(stages, Path(name), environment), bare)
        return rows


def _rows(what: str, found: Mapping[str, Any], bare: float) -> list[Row]:
    steps, taken = found["steps"], found["seconds"]
    ideal = steps / WORKERS
    each = taken * WORKERS / steps
    return [
        Row(f"{TARGETS} targets {what} over {WORKERS} workers, against work / workers", taken, ideal, GOAL, 1, load()),
        Row("  each step with its share of all that is around it, against its command", each, bare, None, 1),
    ]


def _bare_seconds(scratch: Path) -> float:
    output = scratch / "bare"
    output.mkdir()
    argv = [word.replace("{output}", str(output)) for word in ARGV]
    return median([seconds(lambda: command(argv)) for _ in range(BARE_TIMES)])


@contextmanager
def _fleet(scratch: Path) -> Iterator[dict[str, str]]:
    """A Prefect server with a pool and its workers; yields the environment for clients."""
    with ExitStack() as stack:
        database = stack.enter_context(postgres())
        api = stack.enter_context(prefect_server(scratch / "server", database=database))
        settings = {
            "PREFECT_API_URL": api,
            "PREFECT_HOME": str(scratch / "client"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "ENGINERY_HOME": str(scratch / "home"),
        }
        environment = {**os.environ, **settings}
        _deploy(scratch, environment)
        for number in range(WORKERS):
            argv = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--limit", "1"]
            log = scratch / f"worker-{number}.log"
            worker = Service.start([*argv, "--name", str(number)], env=environment, cwd=scratch, log_file=log)
            stack.callback(worker.stop)
        _wait_for_workers(api)
        yield environment


def _wait_for_workers(api: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        found = httpx.post(f"{api}/work_pools/{POOL}/workers/filter", json={}).raise_for_status().json()
        if sum(worker["status"] == "ONLINE" for worker in found) == WORKERS:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"after {START_SECONDS:.0f} s there are not {WORKERS} workers")
        time.sleep(0.5)


def _deploy(scratch: Path, environment: Mapping[str, str]) -> None:
    """Make the pool and its deployment, as docs/operate.md says."""
    pool = {"gpu": GPU, "work_pool": POOL, "concurrency": WORKERS}
    (scratch / "pools.yaml").write_text(yaml.safe_dump({"pools": [pool]}), encoding="utf-8")
    deployment = {
        "name": POOL,
        "entrypoint": "flows/build_target.py:build_target",
        # A run starts in half the time if the worker does not have to search for the right Python.
        "work_pool": {"name": POOL, "job_variables": {"command": f"{sys.executable} -m prefect.engine"}},
    }
    (scratch / "prefect.yaml").write_text(yaml.safe_dump({"deployments": [deployment]}), encoding="utf-8")
    deploy = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(scratch / "prefect.yaml")]
    for arguments in (["flows.prepare_fleet", str(scratch / "pools.yaml")], deploy):
        command([sys.executable, "-m", *arguments], cwd=REPOSITORY, env=environment)


def _build(stages: int, scratch: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    places = ["--pools", str(scratch / "pools.yaml"), "--store", str(scratch / "store")]
    counts = ["--targets", str(TARGETS), "--stages", str(stages), "--name", f"fleet-{stages}"]
    log = ROOT / "in-fleet.log"
    with log.open("wb") as output:
        argv = [sys.executable, "-m", "benchmarks.in_fleet", *counts, *places]
        done = subprocess.run(argv, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=output, check=False)
    if done.returncode:
        raise RuntimeError(f"the build failed: see {log}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
