"""A pipeline that is killed at any moment loses no finished step and publishes no incomplete build."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from enginery.builds.manifest import build_path
from enginery.core.digests import bytes_digest
from enginery.core.errors import RegistryError
from enginery.core.files import remove_tree
from enginery.core.home import store_dir
from enginery.core.s3 import Address, Prefix
from enginery.registry import Registry
from enginery.store import open_store
from tests.support.paths import TINY_LLAMA
from tests.support.plans.light import LIGHT
from tests.support.s3.server import S3Server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)

KILLS = int(os.environ.get("KILLS") or 3)
REGISTRY = "s3://killed/registry"
SHORTEST_SECONDS, LONGEST_SECONDS = 2.0, 14.0
SPEC = {
    "name": "tiny",
    "source": {"path": str(TINY_LLAMA)},
    "targets": [{"name": "cpu", "gpu": "cpu", "precision": "int4"}],
    "validation": {"prompts": [{"prompt": "What is the capital of Norway?", "equals": "Oslo"}], **LIGHT},
}


class Builds:
    """Runs of `enginery build`, each in its own process group."""

    def __init__(self, spec: Path, environment: dict[str, str]) -> None:
        self.argv = [sys.executable, "-m", "enginery.cli", "build", str(spec), "--json"]
        self.environment = environment

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv,
            env=self.environment,
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def kill_after(self, seconds: float) -> bool:
        """Kill the whole group with SIGKILL. Returns False if it had already ended."""
        process = self.start()
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        assert process.returncode == 0
        return False

    def finish(self) -> str:
        process = self.start()
        output, _ = process.communicate()
        assert process.returncode == 0
        return output


def mentioning(text: str) -> list[psutil.Process]:
    """Processes other than this one whose command line or environment mentions `text`."""
    found = []
    for process in psutil.process_iter():
        try:
            shown = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue
        if process.pid != os.getpid() and any(text in part for part in shown):
            found.append(process)
    return found


@pytest.fixture
def builds(tmp_path: Path, s3_server: S3Server, prefect_server: str, shared_toolchains: Path) -> Builds:
    s3_server.create_bucket("killed")
    data = SPEC | {"publish": {"to": REGISTRY}}
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(data))
    settings = {"PREFECT_API_URL": f"{prefect_server}/api", "PREFECT_HOME": str(tmp_path / "prefect")}
    return Builds(spec, {**os.environ, **settings})


def assert_every_visible_build_is_whole() -> None:
    registry = Registry(REGISTRY)
    prefix = Prefix(Address.parse(REGISTRY), RegistryError)
    for summary in registry.builds():
        manifest = registry.manifest(summary.model, summary.build_id)
        for file in manifest.files:
            content = prefix.get_bytes(f"{build_path(summary.model, summary.build_id)}/{file.path}")
            assert content is not None, file.path
            assert bytes_digest(content) == file.sha256, file.path


def assert_every_recorded_step_is_whole() -> None:
    store = open_store()
    for record in store.records():
        assert store.verify(record) == [], record.label


def test_killed_at_random_moments_it_goes_on_and_shows_nothing_half_made(
    builds: Builds, shared_toolchains: Path
) -> None:
    chance = random.Random(20240418)
    part = (LONGEST_SECONDS - SHORTEST_SECONDS) / KILLS
    kills = attempts = 0
    while kills < KILLS:  # a moment in each part of the time that a build takes
        moment = SHORTEST_SECONDS + part * (attempts % KILLS + chance.random())
        attempts += 1
        if builds.kill_after(moment):
            kills += 1
        else:
            remove_tree(store_dir())  # all steps are done, so the next build must have work again
        wait_until(lambda: not mentioning(str(shared_toolchains)), seconds=30)
        assert_every_recorded_step_is_whole()
        assert_every_visible_build_is_whole()
    builds.finish()
    assert_every_visible_build_is_whole()
    assert len(Registry(REGISTRY).builds()) == 1
    assert not any(step["ran"] for step in json.loads(builds.finish())["steps"])
