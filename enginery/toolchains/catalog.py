"""The pinned environments in which a release's commands run.

A toolchain never shares a Python environment with Enginery. A `venv` is made on demand from a pin file, once for
everybody on the machine; a `container` is the release's image; `host` is what is on PATH. The identity is part of the
key of every step that uses it. A release of TensorRT-LLM has a toolchain without a pin file: `tensorrt-llm-<release>`.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from enginery.core import home
from enginery.core.errors import ToolchainError
from enginery.core.model import Frozen
from enginery.core.progress import Log
from enginery.toolchains import pins
from enginery.toolchains.container import Container
from enginery.toolchains.host import Host
from enginery.toolchains.identity import READY, Kind, Toolchain, ToolchainIdentity, location
from enginery.toolchains.pins import PACKAGE, describe, release_of
from enginery.toolchains.probe import look_into, mismatches
from enginery.toolchains.release_probe import machine_gpus, probe_release
from enginery.toolchains.venv import Venv, is_ready

KINDS: Mapping[Kind, type[Toolchain]] = {"venv": Venv, "host": Host, "container": Container}


class Identify(Protocol):
    """What `identity` does."""

    def __call__(self, name: str, kind: Kind = "venv", image: str = "") -> ToolchainIdentity:
        """See `identity`."""


class ToolchainReport(Frozen):
    """A toolchain compared with its pins.

    Attributes:
        name: the toolchain.
        directory: where it is, or would be.
        created: whether it is there.
        python: its Python's full version; empty when it is not there.
        packages: package -> installed version.
        mismatches: one sentence for each difference between it and its pins.
        verdict: for TensorRT-LLM, what it can do: `engine`, `checkpoint-only` or `unsupported`, and why.
        disagreements: for TensorRT-LLM, one sentence for each difference from what is recorded of the release.
    """

    name: str
    directory: Path
    created: bool
    python: str = ""
    packages: Mapping[str, str] = {}
    mismatches: tuple[str, ...] = ()
    verdict: str = ""
    disagreements: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether it is there and is what its pins say."""
        return self.created and not self.mismatches


class ToolchainStatus(Frozen):
    """A toolchain in a list.

    Attributes:
        name: the toolchain.
        backend: the backend it is for; empty where it is for none.
        release: the backend's release; empty where that has no meaning.
        created: whether it is there.
        directory: where it is, or would be.
    """

    name: str
    backend: str
    release: str
    created: bool
    directory: Path


def names() -> list[str]:
    """The names of the toolchains there are pin files for, and of TensorRT-LLM's releases that were made here."""
    made = {wanted.name for wanted in _remembered() if release_of(wanted.name)}
    return sorted({*pins.names(), *made})


def status(name: str) -> ToolchainStatus:
    """Whether a `venv` or `container` toolchain is there, without starting anything in it.

    Raises:
        UsageError: when there is no such toolchain.
        ToolchainError: when no Python on this machine fits.
    """
    pin_file, wanted = describe(name), _made_or_venv(name)
    return ToolchainStatus(
        name=name,
        backend=pin_file.backend,
        release=pin_file.release,
        created=_is_there(wanted),
        directory=location(wanted),
    )


def identify(name: str, kind: Kind = "venv", image: str = "") -> ToolchainIdentity:
    """What a toolchain is, without making it. For `host` this starts a process; otherwise nothing is looked for here.

    Args:
        name: a pin file's name, or `tensorrt-llm-<release>`.
        kind: the kind of toolchain.
        image: for `container`, an image to be used instead of the known one.

    Raises:
        UsageError: when there is no such toolchain.
        ToolchainError: when no Python on this machine fits, no image is known, or `host` has not what is needed.
    """
    return KINDS[kind].identify(name, image)


def ensure(wanted: ToolchainIdentity | str, log: Log = lambda _line: None) -> Toolchain:
    """The toolchain, made first if needed; whoever wants it at the same time waits for it.

    Args:
        wanted: its identity, or the name of a `venv` one.
        log: told what happens, line by line.

    Raises:
        UsageError: when there is no such toolchain.
        ToolchainError: when it cannot be made; `transient` if the network was the reason.
    """
    if isinstance(wanted, str):
        wanted = identify(wanted)
    return KINDS[wanted.kind].ensure(wanted, log)


def known_facts(toolchain: Toolchain) -> dict[str, str]:
    """What is known of a toolchain without looking into it again: package -> version, and `python`.

    For TensorRT-LLM also what it can do (`verdict`), how that differs from what is recorded of the release
    (`disagreements`), and the `gpu` and `driver` of this machine. A `host` is looked into once by each process.
    """
    return toolchain.facts() | (_gpu_facts(toolchain) if toolchain.identity.version(PACKAGE) else {})


def disagreements(toolchain: Toolchain) -> str:
    """How a toolchain of TensorRT-LLM differs from what is recorded of the release; empty where it does not."""
    return toolchain.facts().get("disagreements", "")


def _gpu_facts(toolchain: Toolchain) -> dict[str, str]:

    gpus, driver = machine_gpus(toolchain.environment)
    counted = (f"{count} x {name}" if count > 1 else name for name, count in Counter(gpus).items())
    return {"gpu": ", ".join(counted), "driver": driver} if gpus else {}


def check(name: str, kind: Kind | None = None) -> ToolchainReport:
    """Look into a toolchain and compare it with its pins.

    Args:
        name: the toolchain.
        kind: its kind; when left out, the one that is there: `venv` before `container`, and for a release of
            TensorRT-LLM `host` last.

    Raises:
        UsageError: when there is no such toolchain.
        CommandError: when its interpreter does not work.
        ToolchainError: when `host` has not what is needed.
    """
    wanted = identify(name, kind) if kind else _present(name)
    if not _is_there(wanted):
        return ToolchainReport(name=name, directory=location(wanted), created=False)
    toolchain = ensure(wanted)
    pin_file = describe(name)
    found = look_into(toolchain, pin_file.probe)
    seen = found.model_copy(update={"packages": found.with_modules(pin_file.probe)})
    # A host is what it is: its identity has said whether it has what is needed.
    differences = mismatches(pin_file.requirements(), seen) if wanted.kind != "host" else ()
    report = ToolchainReport(
        name=name,
        directory=toolchain.directory,
        created=True,
        python=found.python,
        packages=seen.packages,
        mismatches=tuple(differences),
    )
    return _with_release(report, toolchain) if wanted.version(PACKAGE) else report


def _with_release(report: ToolchainReport, toolchain: Toolchain) -> ToolchainReport:

    probed = probe_release(toolchain)
    verdict = f"{probed.verdict} ({probed.reason})" if probed.reason else probed.verdict
    return report.model_copy(update={"verdict": verdict, "disagreements": probed.disagreements})


def _made_or_venv(name: str) -> ToolchainIdentity:
    """The toolchain of that name that is on this machine; the `venv` that would be made if there is none."""
    describe(name)
    made = [wanted for wanted in _remembered() if wanted.name == name and wanted.kind == "container"]
    try:
        wanted = identify(name)
    except ToolchainError:  # no Python here fits, and an image brings its own
        if not made:
            raise
        return made[0]
    return made[0] if made and not is_ready(wanted) else wanted


def _present(name: str) -> ToolchainIdentity:
    """The toolchain of that name that this machine has; the `venv` that could be made if it has none."""
    wanted = _made_or_venv(name)
    if _is_there(wanted) or not release_of(name):
        return wanted
    try:
        return Host.identify(name)
    except ToolchainError:
        return wanted


def _is_there(wanted: ToolchainIdentity) -> bool:
    return KINDS[wanted.kind].is_there(wanted)


def _remembered() -> Iterator[ToolchainIdentity]:
    """The toolchains that were made on this machine."""
    for path in sorted(home.toolchains_dir().glob(f"*/{READY}")):
        yield ToolchainIdentity.model_validate(json.loads(path.read_text(encoding="utf-8"))["identity"])
