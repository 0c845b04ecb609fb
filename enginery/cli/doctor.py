"""`enginery doctor`: checks whether this machine can run builds. Each check says what it found and what to do."""

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

from enginery import toolchains
from enginery.core import process
from enginery.core.errors import CommandError, EngineryError
from enginery.core.home import home
from enginery.core.late import late
from enginery.core.model import Frozen
from enginery.core.progress import no_log
from enginery.registry import Registry
from enginery.spec import gpus
from enginery.toolchains import REGISTRY

if TYPE_CHECKING:
    import huggingface_hub
    import urllib3
else:
    huggingface_hub = late("huggingface_hub")
    urllib3 = late("urllib3")

LOW_DISK_BYTES = 20 * 10**9
"""The disk is low below this. The weights of a model with 8 billion parameters in bfloat16 take 16 GB."""
DOCKER_VERSION = ("docker", "version", "--format", "{{.Server.Version}}")
DOCKER_SECONDS = 30.0


class Check(Frozen):
    """The result of one check; `remedy` is empty when nothing has to be done."""

    level: Literal["ok", "warning", "error"]
    subject: str
    found: str
    remedy: str = ""


def examine(registry: str | None = None) -> list[Check]:
    """Check everything that a build needs, and the registry if one is named."""
    checks: list[Callable[[], Iterator[Check]]] = [_python, _disk, _gpu, _prefect, _hub, _toolchains, _docker]
    findings = [finding for check in checks for finding in check()]
    return findings + (list(_registry(registry)) if registry else [])


def _python() -> Iterator[Check]:
    yield Check(level="ok", subject="python", found=f"{platform.python_version()} on {platform.system()}")


def _disk() -> Iterator[Check]:
    place = home()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    low = free < LOW_DISK_BYTES
    yield Check(
        level="warning" if low else "ok",
        subject="disk",
        found=f"{free / 10**9:.0f} GB free for {home()}",
        remedy="set ENGINERY_HOME to a larger disk" if low else "",
    )


def _gpu() -> Iterator[Check]:
    try:
        found = gpus.detect()
    except EngineryError as error:
        yield Check(level="error", subject="gpu", found=error.problem, remedy=error.remedy)
        return
    yield Check(level="ok", subject="gpu", found=found.name if found else "none; targets for `cpu` can be built here")


def _prefect() -> Iterator[Check]:
    try:
        installed = version("prefect")
    except PackageNotFoundError:
        remedy = "in a clone: pip install -c constraints.txt '.[prefect]'; `enginery run-step` works without it"
        yield Check(level="warning", subject="prefect", found="not installed", remedy=remedy)
        return
    yield Check(level="ok", subject="prefect", found=installed)
    address = os.environ.get("PREFECT_API_URL")
    if address:
        yield _reachable("prefect server", f"{address}/health", "start it, or correct PREFECT_API_URL")


def _reachable(subject: str, address: str, remedy: str) -> Check:
    try:
        answer = urllib3.PoolManager(retries=False, timeout=5.0).request("GET", address)
    except urllib3.exceptions.HTTPError as error:
        return Check(level="error", subject=subject, found=f"{address} does not answer: {error}", remedy=remedy)
    return Check(level="ok", subject=subject, found=f"{address} answers {answer.status}")


def _hub() -> Iterator[Check]:
    if huggingface_hub.get_token():
        yield Check(level="ok", subject="hugging face", found="a token is set")
    else:
        remedy = "to download gated models, set HF_TOKEN"
        yield Check(level="warning", subject="hugging face", found="no token", remedy=remedy)


def _toolchains() -> Iterator[Check]:
    for name in toolchains.names():
        try:
            row = toolchains.status(name)
        except EngineryError as error:
            yield Check(level="warning", subject=f"toolchain {name}", found=error.problem, remedy=error.remedy)
        else:
            found = "installed" if row.created else "not installed yet; it is installed when a step needs it"
            yield Check(level="ok", subject=f"toolchain {row.name}", found=found)


def _docker() -> Iterator[Check]:
    """Check docker. A failure is only a warning, because only targets with `toolchain: container` need docker."""
    if shutil.which("docker") is None:
        yield Check(level="ok", subject="docker", found="not installed")
        return
    try:
        lines = process.run(DOCKER_VERSION, log=no_log, timeout=DOCKER_SECONDS).last_lines
    except CommandError as error:
        remedy = "start it, or give this user access; only targets with toolchain: container need it"
        found = f"its daemon does not answer: {error.problem}"
        yield Check(level="warning", subject="docker", found=found, remedy=remedy)
        return
    registry = os.environ.get(REGISTRY)
    from_where = f"images from {registry}" if registry else f"{REGISTRY} is not set: images from docker's own registry"
    yield Check(level="ok", subject="docker", found=f"its daemon answers, version {lines[-1].strip()}; {from_where}")


def _registry(address: str) -> Iterator[Check]:
    try:
        honoured = Registry(address).honours_conditional_writes()
    except EngineryError as error:
        yield Check(level="error", subject=f"registry {address}", found=error.problem, remedy=error.remedy)
        return
    if honoured:
        yield Check(
            level="ok", subject=f"registry {address}", found="readable and writable, honours conditional writes"
        )
    else:
        remedy = "use an endpoint that does, or set publish.allow_unconditional_writes and publish from one place"
        yield Check(level="error", subject=f"registry {address}", found="ignores If-None-Match", remedy=remedy)
