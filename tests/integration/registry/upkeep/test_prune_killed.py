"""Tests of a prune that is killed, and of a publisher during a prune, each in its own process."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enginery.registry import Registry
from enginery.registry.claims import CLAIM
from enginery.registry.upkeep.auditing import audit
from enginery.registry.upkeep.pruning import Pruning, Retention, prune
from tests.support.http.faulty_proxy import Proxy
from tests.support.registry.upkeep import LATER, listed, objects, publish_builds
from tests.support.s3.server import S3Server

CHECKOUT = Path(__file__).parents[4]
PRUNE = """
import sys
from enginery.registry import Registry, Retention, prune
prune(Registry(sys.argv[1]), Retention(keep=0, days=0), dry_run=False)
"""
PUBLISH = """
import sys
from pathlib import Path
from enginery.registry import publish
from tests.support.registry.builds import Build
publish(Build(build_id=sys.argv[2]).context(Path(sys.argv[3]), sys.argv[1]))
"""


def pruned_later(address: str) -> Pruning:
    return prune(Registry(address), Retention(keep=0), dry_run=False, now=datetime.now(UTC) + LATER)


def run(script: str, *arguments: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(argv, cwd=CHECKOUT, env=dict(os.environ), stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("method", "part", "there"),
    [
        ("PUT", CLAIM, True),
        ("DELETE", "/manifest.json", False),
        ("DELETE", "/report.json", False),
        ("DELETE", f"/{CLAIM}", False),
    ],
)
def test_a_prune_that_is_killed_leaves_no_part_of_a_build_and_the_next_one_finishes(  # noqa: PLR0913
    s3_server: S3Server, address: str, proxy: Proxy, method: str, part: str, *, there: bool
) -> None:
    """The server still handles the prune's last request."""
    names = publish_builds(address, 3)
    process = run(PRUNE, address)

    def watch(seen: str, path: str) -> None:
        if seen == method and f"/{names[0]}/" in path and part in path:
            process.kill()
            process.wait()

    proxy.watch = watch
    process.communicate(timeout=120)
    proxy.watch = None
    assert process.returncode == -9
    assert listed(address) == (names if there else names[1:])
    assert not audit(Registry(address)).damaged
    pruned_later(address)
    assert listed(address) == names[1:]
    assert not [path for path in objects(s3_server, address) if f"/{names[0]}/" in path]
    assert audit(Registry(address)).problems == ()


def test_a_publisher_of_a_build_that_is_being_removed_gets_an_error_and_can_publish_it_later(
    address: str, proxy: Proxy, tmp_path: Path
) -> None:
    names = publish_builds(address, 3)
    messages: list[str] = []

    def watch(method: str, path: str) -> None:
        if method == "DELETE" and path.endswith("/report.json"):
            proxy.watch = None
            messages.append(run(PUBLISH, address, names[0], str(tmp_path / "meanwhile")).communicate(timeout=120)[1])

    proxy.watch = watch
    pruned_later(address)
    assert "the build is being removed: process" in messages[0]
    assert listed(address) == names[1:]
    assert run(PUBLISH, address, names[0], str(tmp_path / "after")).communicate(timeout=120)[1] == ""
    assert listed(address) == names
    assert audit(Registry(address)).problems == ()
