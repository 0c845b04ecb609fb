"""Pin files: the exact versions of everything in a toolchain.

A pin file is a pip requirements file with a header; `infra/toolchains/README.md` describes it. A release of
TensorRT-LLM needs none: the toolchain `tensorrt-llm-1.2.1` has the Python and the image that the recorded facts name,
and so is the same on every machine. If a pin file of the same name exists, it is used instead.
"""

import os
import re
from functools import lru_cache
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from enginery.core.errors import ToolchainError, UsageError
from enginery.core.model import Frozen
from enginery.core.versions import is_version
from enginery.releases import containers, facts, pin

PACKAGE = "tensorrt-llm"
PREFIX = f"{PACKAGE}-"
MODULE = "tensorrt_llm"
TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")
"""TensorRT is installed under one of these names."""
ANY_PYTHON = ">=3.8"
HEADER_LINE = re.compile(r"^#\s*(?P<key>[a-z]+):\s*(?P<value>.*?)\s*$")
HEADER_KEYS = ("python", "release", "backend", "probe", "options", "image")
KNOWN_OPTIONS = ("--no-deps", "--pre")


class PinFile(Frozen):
    """What a toolchain consists of.

    Attributes:
        name: the toolchain's name, which is the file's.
        path: the file; None for a release of TensorRT-LLM without a pin file.
        pins: `name==version` requirements, sorted; an environment marker may follow.
        python: the Python versions it works with, such as `>=3.11,<3.14`.
        release: the release that is pinned, of the backend or another tool; empty for none.
        backend: the backend it is for; empty for none.
        probe: modules that must be importable in it.
        options: pip's options for its installation.
        image: the container image that has it, without a registry's host; empty for none.
    """

    name: str
    path: Path | None
    pins: tuple[str, ...]
    python: str = ANY_PYTHON
    release: str = ""
    backend: str = ""
    probe: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    image: str = ""

    def requirements(self) -> list[Requirement]:
        """The pins, parsed."""
        return [Requirement(pin) for pin in self.pins]


def names() -> list[str]:
    """The names of all toolchains that have a pin file, sorted."""
    return sorted({path.stem for directory in directories() for path in directory.glob("*.txt")})


def directories() -> list[Path]:
    """The directories with pin files: from `$ENGINERY_TOOLCHAINS`, of the installed package, and of a checkout."""
    own = [Path(part) for part in os.environ.get("ENGINERY_TOOLCHAINS", "").split(os.pathsep) if part]
    package = Path(__file__).parents[1]
    return [*own, package / "_infra" / "toolchains", package.parent / "infra" / "toolchains"]


def describe(name: str) -> PinFile:
    """What a toolchain consists of: its pin file, else the recorded facts of a release `tensorrt-llm-<release>`.

    Raises:
        UsageError: when there is no such toolchain.
        ToolchainError: when its pin file has mistakes.
    """
    for directory in directories():
        path = directory / f"{name}.txt"
        if os.sep not in name and path.is_file():
            found = path.stat()
            return _read(path, found.st_mtime_ns, found.st_size)
    release = release_of(name)
    if release is not None:
        return _of_release(name, release)
    remedy = (
        f"known are: {', '.join(names()) or 'none'}, and {toolchain_name('<release>')} for TensorRT-LLM; more can be"
        " put into a directory named in ENGINERY_TOOLCHAINS"
    )
    raise UsageError("there is no such toolchain", subject=name, remedy=remedy)


def toolchain_name(release: str) -> str:
    """The name of a release's toolchain."""
    return f"{PREFIX}{release}"


def release_of(name: str) -> str | None:
    """The release in a toolchain's name; None for a name that is not `tensorrt-llm-<release>`."""
    text = name.removeprefix(PREFIX)
    return text if text != name and is_version(text) else None


def no_image_error(name: str) -> ToolchainError:
    """The error for a container toolchain without a known image."""
    release = release_of(name) or "RELEASE"
    remedy = (
        f"name one: a pin file {name}.txt in a directory of ENGINERY_TOOLCHAINS with the line"
        f" `# image: nvidia/tensorrt-llm/release:{release}` (NVIDIA has such images of some releases) or your own image"
    )
    return ToolchainError("no container image is known for it", subject=name, remedy=remedy)


def fixed_minor(versions: str) -> str:
    """The only minor version that a range such as `==3.12.*` allows; empty if it allows several."""
    fixed = re.fullmatch(r"==(3\.\d+)\.\*", versions)
    return fixed[1] if fixed else ""


def minor_of(version: str) -> str:
    """`3.11` of `3.11.7`."""
    return ".".join(version.split(".")[:2])


@lru_cache
def _of_release(name: str, release: str) -> PinFile:
    facts.version(release)  # raises an error if the release is older than all known ones
    images = containers(release).value
    stated = [container.python for container in images if container.python]
    python = stated[0] if stated else max(pin(release, "python").value, key=Version)
    return PinFile(
        name=name,
        path=None,
        pins=(f"{PACKAGE}=={release}",),
        python=f"=={minor_of(python)}.*",
        release=release,
        backend="tensorrt" if facts.builds_engines(release) else "pytorch",
        probe=(MODULE,),
        image=images[0].image if images else "",
    )


@lru_cache
def _read(path: Path, _modified: int, _size: int) -> PinFile:
    """Cached until the file changes: a plan for many targets reads the same few files."""
    lines = list(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
    header = _header(path, lines)
    contents = [(number, line.partition("#")[0].strip()) for number, line in lines]
    pins = sorted(_pin(path, number, content) for number, content in contents if content)
    if not pins:
        raise _mistake(path, "it pins nothing")
    return PinFile(
        name=path.stem,
        path=path,
        pins=tuple(pins),
        python=_python(path, header.get("python", ANY_PYTHON)),
        release=header.get("release", ""),
        backend=header.get("backend", ""),
        probe=tuple(header.get("probe", "").replace(",", " ").split()),
        options=_options(path, header.get("options", "")),
        image=header.get("image", ""),
    )


def _header(path: Path, lines: list[tuple[int, str]]) -> dict[str, str]:
    header: dict[str, str] = {}
    for number, line in lines:
        match = HEADER_LINE.match(line)
        if match is None:
            continue
        if match["key"] not in HEADER_KEYS:
            raise _mistake(path, f"line {number}: unknown header {match['key']!r}; known are {', '.join(HEADER_KEYS)}")
        header[match["key"]] = match["value"]
    return header


def _pin(path: Path, number: int, content: str) -> str:
    try:
        requirement = Requirement(content)
    except InvalidRequirement as error:
        raise _mistake(path, f"line {number}: {content!r} is not a requirement") from error
    exact = [part for part in requirement.specifier if part.operator == "==" and not part.version.endswith(".*")]
    if requirement.url or len(exact) != 1 or len(requirement.specifier) != 1:
        raise _mistake(path, f"line {number}: {content!r} must be of the form name==version")
    marker = f" ; {requirement.marker}" if requirement.marker else ""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{canonicalize_name(requirement.name)}{extras}=={exact[0].version}{marker}"


def _python(path: Path, value: str) -> str:
    try:
        return str(SpecifierSet(value))
    except InvalidSpecifier as error:
        raise _mistake(path, f"python: {value!r} is not a range of versions such as >=3.11,<3.14") from error


def _options(path: Path, value: str) -> tuple[str, ...]:
    unknown = [option for option in value.split() if option not in KNOWN_OPTIONS]
    if unknown:
        raise _mistake(path, f"options: {', '.join(unknown)} not among {', '.join(KNOWN_OPTIONS)}")
    return tuple(sorted(value.split()))


def _mistake(path: Path, problem: str) -> ToolchainError:
    return ToolchainError(problem, subject=str(path), remedy="correct the pin file (see infra/toolchains/README.md)")
