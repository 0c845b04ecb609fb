"""Publishers in processes that are killed at a random request, and an observer that checks the registry meanwhile."""

import json
import multiprocessing
import os
import random
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from enginery.builds.manifest import Manifest, read_manifest
from enginery.core.digests import bytes_digest
from enginery.core.errors import EngineryError
from enginery.core.s3 import upload
from enginery.registry import publish
from tests.support.registry.builds import Build
from tests.support.registry.upkeep import at
from tests.support.s3.server import S3Server

MODEL = "tiny-llama"
PART_BYTES = 5 << 20
"""The smallest part that S3 accepts, so that a file of a few MB is sent in parts."""
LARGE_EVERY = 10
PAUSE_SECONDS = 0.5
LAST_KILLED_ATTEMPT = 3
LONGEST_PUBLISH_REQUESTS = 20
COULD_PASS, BROKEN = 3, 4
"""The exit status of a failed publisher: its error is transient, or it is not."""


@dataclass
class ChaosBuild(Build):
    """A build of few files: one that all builds share, one of its own, and in every tenth build a large one."""

    number: int = 0

    @classmethod
    def of(cls, number: int) -> "ChaosBuild":
        return cls(build_id=f"cpu-{number}-{number:012d}", target=f"cpu-{number}", model=MODEL, number=number)

    def write(self, directory: Path) -> dict[str, Path]:
        inputs = super().write(directory)
        for path in sorted(inputs["model_repository"].rglob("*")):
            if path.is_file() and path.parent.name != "ensemble":
                path.unlink()
        own = inputs["model_repository"] / "tensorrt_llm" / "1"
        (own / "engine").write_bytes(random.Random(self.number).randbytes(4096))
        if self.number % LARGE_EVERY == 0:
            (own / "large").write_bytes(random.Random(self.number).randbytes(PART_BYTES + 1000))
        return inputs


def publish_in_this_process(address: str, number: int, settings: Mapping[str, str], errors: str) -> None:
    """Publish one build; this runs in the publisher's process. An error is written to the file `errors`."""
    os.environ.update(settings)
    upload.PART_BYTES = PART_BYTES
    with TemporaryDirectory() as directory:
        try:
            publish(ChaosBuild.of(number).context(Path(directory), address))
        except EngineryError as error:
            Path(errors).write_text(f"{number}: {type(error).__name__}: {error} ({error.__cause__!r})")
            os._exit(COULD_PASS if error.transient else BROKEN)


@dataclass
class Publishers:
    """Publishes each build until it is done, and sometimes kills its process at a random request.

    Attributes:
        address: the registry.
        settings: the environment of the processes.
        scratch: a directory for the errors of failed publishers.
        random: decides which process is killed, and when.
        killed: how many processes were killed.
        failed: how many failed with a transient error.
        broken: the texts of all other errors.
    """

    address: str
    settings: Mapping[str, str]
    scratch: Path
    random: random.Random
    killed: int = 0
    failed: int = 0
    broken: list[str] = field(default_factory=list)
    _context: ForkServerContext = field(default_factory=lambda: multiprocessing.get_context("forkserver"))
    _running: dict[int, BaseProcess] = field(default_factory=dict)
    _left: Counter[int] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._context.set_forkserver_preload([__name__, "boto3"])

    def publish(self, number: int) -> None:
        """Publish one build, in as many attempts as it takes."""
        attempt = 0
        while self._attempt(number, attempt):
            attempt += 1

    def _attempt(self, number: int, attempt: int) -> bool:
        """Whether another attempt is needed."""
        errors = self.scratch / f"{number}-{attempt}"
        process = self._context.Process(
            target=publish_in_this_process, args=(self.address, number, dict(self.settings), str(errors))
        )
        with self._lock:
            will_be_killed = attempt <= LAST_KILLED_ATTEMPT and self.random.random() < 0.5
            self._left[number] = self.random.randint(1, LONGEST_PUBLISH_REQUESTS) if will_be_killed else sys.maxsize
            process.start()
            self._running[number] = process
        wait([process.sentinel])
        return self._ended(process, errors)

    def _ended(self, process: BaseProcess, errors: Path) -> bool:
        with self._lock:  # starting a process also reads the status of ended ones, and a status can be read only once
            process.join()
            status = process.exitcode
            if status == -signal.SIGKILL:
                self.killed += 1
            elif status == COULD_PASS:
                self.failed += 1
            elif status:
                self.broken.append(errors.read_text() if errors.exists() else f"exit status {status}")
        return status != 0

    def watch(self, _method: str, path: str) -> None:
        """Called for each request: kill the process if this is the request at which it should die."""
        found = re.search(r"/cpu-(\d+)[-.]", path)
        if found is None:
            return
        number = int(found[1])
        with self._lock:
            self._left[number] -= 1
            if self._left[number] == 0:
                self._running[number].kill()


class Observer:
    """Reads the registry again and again, without the proxy's faults, and notes states that must never be visible.

    Attributes:
        looks: how often it has read the registry.
        manifests: the ETags of the manifests that it has seen, by key.
        wrong: the wrong states that it has seen.
    """

    def __init__(self, server: S3Server, address: str) -> None:
        self.bucket, self.prefix = at(address)
        self.client = server.client()
        self.looks = 0
        self.manifests: dict[str, str] = {}
        self.wrong: list[str] = []
        self._pointers: dict[str, str] = {}

    def watch_until(self, stop: threading.Event) -> None:
        """Look until `stop` is set, then once more."""
        while not stop.wait(PAUSE_SECONDS):
            self.look()
        self.look()

    def look(self) -> None:
        """Look once: each manifest's build is complete, no manifest has changed or gone, each channel names a build."""
        self.looks += 1
        pointers = self._etags(f"{self.prefix}/models/{MODEL}/channels/")
        manifests = {key: etag for key, etag in self._etags().items() if key.endswith("/manifest.json")}
        self.wrong += [
            f"{key} has changed or is gone" for key, etag in self.manifests.items() if manifests.get(key) != etag
        ]
        for key in manifests.keys() - self.manifests.keys():
            self.wrong += self.differences(read_manifest(self._get(key)))
        for key in (key for key, etag in pointers.items() if self._pointers.get(key) != etag):
            build = json.loads(self._get(key))["build_id"]
            if not any(f"/{build}/manifest.json" in manifest for manifest in manifests):
                self.wrong.append(f"{key} points at {build}, which is not there")
        self.manifests, self._pointers = manifests, pointers

    def differences(self, manifest: Manifest) -> list[str]:
        """The files of a build that differ from its manifest."""
        home = f"{self.prefix}/models/{manifest.model}/builds/{manifest.build_id}"
        stored = self._etags(f"{home}/")
        missing = [f"{home}/{file.path} is missing" for file in manifest.files if f"{home}/{file.path}" not in stored]
        return missing or [
            f"{home}/{file.path} is another"
            for file in manifest.files
            if bytes_digest(self._get(f"{home}/{file.path}")) != file.sha256
        ]

    def _etags(self, under: str = "") -> dict[str, str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=under)
        return {entry["Key"]: entry["ETag"] for page in pages for entry in page.get("Contents", [])}

    def _get(self, key: str) -> bytes:
        body: Any = self.client.get_object(Bucket=self.bucket, Key=key)["Body"]
        data: bytes = body.read()
        return data
