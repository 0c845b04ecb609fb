"""Fifty builds are published and read. One request in five fails, in six ways, and publishers are killed.

No two runs are the same, because processes race. A failed run prints the seed of its faults and kills, and
`CHAOS_SEED` sets it.
"""

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from enginery.core import s3
from enginery.core.errors import EngineryError
from enginery.registry import Registry
from enginery.registry.pulling import pull
from enginery.registry.upkeep.auditing import audit
from enginery.registry.upkeep.pruning import Retention, prune
from enginery.registry.upkeep.verifying import verify_build
from tests.support.http.faulty_proxy import Chaos, faulty_proxy
from tests.support.registry.chaos import MODEL, ChaosBuild, Observer, Publishers
from tests.support.registry.upkeep import listed
from tests.support.s3.server import S3Server

pytestmark = pytest.mark.timeout(900)

T = TypeVar("T")

PUBLISHES = int(os.environ.get("CHAOS_PUBLISHES") or 14)
AT_ONCE = 10
ATTEMPTS = 10
SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(2**32))
PATIENCE = "4"
"""Seconds. A client also waits this long for an answer that stalls."""


def until_it_works(call: Callable[[], T]) -> T:
    """Try again after errors that can pass, as a user does."""
    for _ in range(ATTEMPTS - 1):
        try:
            return call()
        except EngineryError as error:
            if not error.transient:
                raise
    return call()


def read_back(address: str, number: int, directory: Path) -> None:
    """Find a build by its channel, verify every byte in the registry, and pull it."""
    registry, build = Registry(address), ChaosBuild.of(number)
    manifest = until_it_works(lambda: registry.find(f"{MODEL}@candidate/{build.target}"))
    assert manifest.build_id == build.build_id
    assert until_it_works(lambda: verify_build(registry, manifest)) == []
    until_it_works(lambda: pull(registry, manifest, directory / "pulled"))
    sources = build.write(directory / "sources")["model_repository"]
    for file in manifest.model_files:
        path = file.path.removeprefix("model_repository/")
        assert (directory / "pulled" / file.path).read_bytes() == (sources / path).read_bytes()


def side_by_side(call: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for done in [threads.submit(call, number) for number in range(PUBLISHES)]:
            done.result()


def test_nothing_is_lost_or_seen_half_made_whatever_fails(
    s3_server: S3Server, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"CHAOS_SEED={SEED}")  # noqa: T201  to repeat a run that failed
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", PATIENCE)
    chaos, stop, observer = Chaos(SEED), threading.Event(), Observer(s3_server, address)
    with faulty_proxy(s3_server.host, s3_server.port) as proxy, ThreadPoolExecutor(1) as looking:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        settings = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "ENGINERY_"))}
        publishers = Publishers(address, settings, tmp_path, random.Random(SEED))
        proxy.chaos, proxy.watch = chaos, publishers.watch
        seen = looking.submit(observer.watch_until, stop)
        try:
            side_by_side(publishers.publish)
            proxy.watch = None
            side_by_side(lambda number: read_back(address, number, tmp_path / f"pulled-{number}"))
        finally:
            stop.set()
            seen.result()
            observer.client.close()
            s3.close_clients()
    print(publishers.killed, publishers.failed, dict(chaos.happened), observer.looks)  # noqa: T201  figures of a failure
    print(*publishers.broken, sep="\n")  # noqa: T201  as above
    assert publishers.broken == []
    assert observer.wrong == []
    assert len(observer.manifests) == PUBLISHES
    assert publishers.killed >= PUBLISHES // 5
    assert set(chaos.happened) == set(Chaos.WAYS)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    require_in_order(address)


def require_in_order(address: str) -> None:
    """Check that every byte is right, and that a prune removes only what the killed publishers left."""
    registry = Registry(address)
    found = audit(registry)
    assert (found.builds, [problem for problem in found.problems if problem.level == "damage"]) == (PUBLISHES, [])
    builds = listed(address)
    later = datetime.now(UTC) + timedelta(days=2)
    done = prune(registry, Retention(keep=0, days=30), dry_run=False, now=later)
    assert {verdict.kind for verdict in done.removable} <= {"claim", "upload", "probe"}
    assert listed(address) == builds
    assert audit(registry).problems == ()
