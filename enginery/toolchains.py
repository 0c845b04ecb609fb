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

from enginery import home, pins
from enginery.asking import look_into
from enginery.context import Log
from enginery.errors import ToolchainError
from enginery.host_toolchains import host_found, host_identity, open_host
from enginery.pins import PinFile, describe
from enginery.probing import mismatches
from enginery.pythons import fixed_minor, planned_minor
from enginery.release_pins import PACKAGE, no_image, release_of
from enginery.steps import Frozen
from enginery.toolchain_types import Kind, Toolchain, ToolchainIdentity, location
from enginery.venv_toolchains import READY, ensure_venv, is_ready

__all__ = [
    "Identify",
    "Kind",
    "PinFile",
    "Toolchain",
    "ToolchainIdentity",
    "ToolchainReport",
    "check",
    "describe",
    "disagreements",
    "ensure",
    "identity",
    "is_ready",
    "location",
    "names",
    "probe",
    "status",
]


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


def identity(name: str, kind: Kind = "venv", image: str = "") -> ToolchainIdentity:
    """What a toolchain is, without making it. For `host` this starts a process; otherwise nothing is looked for here.

    Args:
        name: a pin file's name, or `tensorrt-llm-<release>`.
        kind: the kind of toolchain.
        image: for `container`, an image to be used instead of the known one.

    Raises:
        UsageError: when there is no such toolchain.
        ToolchainError: when no Python on this machine fits, no image is known, or `host` has not what is needed.
    """
    if kind == "host":
        return host_identity(name)
    pin_file = describe(name)
    pinned = (*pin_file.options, *pin_file.pins)
    if kind == "venv":
        return ToolchainIdentity(name=name, kind=kind, pins=pinned, python=planned_minor(pin_file.python, name))
    if not (image or pin_file.image):
        raise no_image(name)
    # Which Python an image has is the image's matter: none of this machine's may be looked at.
    python = "" if image else fixed_minor(pin_file.python)
    return ToolchainIdentity(name=name, kind=kind, pins=pinned, python=python, image=image or pin_file.image)


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
        wanted = identity(wanted)
    if wanted.kind == "host":
        return open_host(wanted)
    if wanted.kind == "container":
        from enginery.containers import ensure_container  # noqa: PLC0415  a plan starts none

        return ensure_container(wanted, log)
    return ensure_venv(wanted, log)


def probe(toolchain: Toolchain) -> dict[str, str]:
    """What is known of a toolchain without looking into it again: package -> version, and `python`.

    For TensorRT-LLM also what it can do (`verdict`), how that differs from what is recorded of the release
    (`disagreements`), and the `gpu` and `driver` of this machine. A `host` is looked into once by each process.
    """
    return _found(toolchain) | (_gpu_facts(toolchain) if toolchain.identity.version(PACKAGE) else {})


def disagreements(toolchain: Toolchain) -> str:
    """How a toolchain of TensorRT-LLM differs from what is recorded of the release; empty where it does not."""
    return _found(toolchain).get("disagreements", "")


def _found(toolchain: Toolchain) -> dict[str, str]:
    if toolchain.identity.kind == "host":
        return host_found(toolchain)
    ready = json.loads((toolchain.directory / READY).read_text(encoding="utf-8"))
    return {str(name): str(version) for name, version in ready["probe"].items()}


def _gpu_facts(toolchain: Toolchain) -> dict[str, str]:
    from enginery.release_probe import machine_gpus  # noqa: PLC0415  only TensorRT-LLM needs it

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
    wanted = identity(name, kind) if kind else _present(name)
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
    from enginery.release_probe import probe_release  # noqa: PLC0415  only TensorRT-LLM needs it

    probed = probe_release(toolchain)
    verdict = f"{probed.verdict} ({probed.reason})" if probed.reason else probed.verdict
    return report.model_copy(update={"verdict": verdict, "disagreements": probed.disagreements})


def _made_or_venv(name: str) -> ToolchainIdentity:
    """The toolchain of that name that is on this machine; the `venv` that would be made if there is none."""
    describe(name)
    made = [wanted for wanted in _remembered() if wanted.name == name and wanted.kind == "container"]
    try:
        wanted = identity(name)
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
        return host_identity(name)
    except ToolchainError:
        return wanted


def _is_there(wanted: ToolchainIdentity) -> bool:
    if wanted.kind == "venv":
        return is_ready(wanted)
    return wanted.kind == "host" or (location(wanted) / READY).is_file()


def _remembered() -> Iterator[ToolchainIdentity]:
    """The toolchains that were made on this machine."""
    for path in sorted(home.toolchains_dir().glob(f"*/{READY}")):
        yield ToolchainIdentity.model_validate(json.loads(path.read_text(encoding="utf-8"))["identity"])
