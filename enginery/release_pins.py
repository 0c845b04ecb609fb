"""The toolchains of TensorRT-LLM's releases, known without a pin file.

`tensorrt-llm-1.2.1` is TensorRT-LLM 1.2.1 with the Python and the image that the release's facts name. Nothing is
looked for on this machine: a laptop and a GPU host come to the same toolchain. A pin file of the same name wins.
"""

from packaging.version import InvalidVersion, Version

from enginery.errors import ToolchainError
from enginery.steps import Frozen

PACKAGE = "tensorrt-llm"
PREFIX = f"{PACKAGE}-"
MODULE = "tensorrt_llm"


class ReleaseFacts(Frozen):
    """What a release's toolchain consists of.

    Attributes:
        release: the release.
        python: its Python's minor version, such as `3.12`.
        image: Triton's newest container with it inside, without a registry's host; empty where none is known.
        builds_engines: whether it still has the TensorRT backend.
    """

    release: str
    python: str
    image: str
    builds_engines: bool


def toolchain_name(release: str) -> str:
    """The name of a release's toolchain."""
    return f"{PREFIX}{release}"


def release_of(name: str) -> str | None:
    """The release a toolchain's name stands for; None for a name of another kind."""
    text = name.removeprefix(PREFIX)
    if text == name:
        return None
    try:
        Version(text)
    except InvalidVersion:
        return None
    return text


def release_facts(release: str) -> ReleaseFacts:
    """What is known of a release's environment.

    Raises:
        UsageError: the release is older than all that is known.
    """
    # A plan without a release of TensorRT-LLM reads none of its facts.
    from enginery.releases import known  # noqa: PLC0415
    from enginery.releases.pins import containers, pin  # noqa: PLC0415

    known.version(release)
    images = containers(release).value
    stated = [container.python for container in images if container.python]
    minors = pin(release, "python").value
    newest = stated[0] if stated else max(minors, key=Version)
    python = ".".join(newest.split(".")[:2])
    return ReleaseFacts(
        release=release,
        python=python,
        image=images[0].image if images else "",
        builds_engines=known.builds_engines(release),
    )


def no_image(name: str) -> ToolchainError:
    """The error for a container toolchain of which no image is known."""
    release = release_of(name) or "RELEASE"
    remedy = (
        f"name one: a pin file {name}.txt in a directory of ENGINERY_TOOLCHAINS with the line"
        f" `# image: nvidia/tensorrt-llm/release:{release}` (NVIDIA publishes some releases so) or an image of your own"
    )
    return ToolchainError("no container image is known of it", subject=name, remedy=remedy)
