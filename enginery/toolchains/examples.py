"""Where the example scripts of a TensorRT-LLM release are: its converters, `quantize.py` and `run.py`.

The wheel of a release does not contain them. Most of NVIDIA's images do; otherwise a checkout of the release is needed.
"""

import os
import re
from pathlib import Path

from packaging.version import Version

from enginery.core.errors import ToolchainError
from enginery.core.versions import same
from enginery.toolchains.identity import ToolchainIdentity
from enginery.toolchains.pins import PACKAGE

SETTING = "ENGINERY_TRTLLM_EXAMPLES"
IN_RELEASE_IMAGES = Path("/app/tensorrt_llm/examples")
IN_TRITON_IMAGES = Path("/app/examples")
FIRST_TRITON_WITH_EXAMPLES = Version("25.1")
"""Users report that 24.07 and 24.12 have no /app (triton-inference-server/tensorrtllm_backend issues 721 and 739), and
use /app/examples in 25.05, 25.06 and 25.12 (public notes and scripts). NVIDIA's own documentation names
/app/tensorrt_llm/examples for the images `nvidia/tensorrt-llm/release`."""

TRITON_TAG = re.compile(r"tritonserver:(\d\d\.\d\d)-trtllm-")
RELEASE_IMAGE = re.compile(r"tensorrt-llm/(release|devel):")
VERSION_LINE = re.compile(r"""^__version__\s*=\s*["']([^"']+)["']""", re.MULTILINE)


def image_examples(image: str) -> Path | None:
    """Where an image has the examples; None if it has none, if that is unknown, or without an image."""
    if RELEASE_IMAGE.search(image):
        return IN_RELEASE_IMAGES
    tag = TRITON_TAG.search(image)
    return IN_TRITON_IMAGES if tag and Version(tag[1]) >= FIRST_TRITON_WITH_EXAMPLES else None


def checkout_examples(named: str = "") -> Path | None:
    """The directory that the spec or the environment names, absolute; None when neither does."""
    chosen = named or os.environ.get(SETTING, "")
    return Path(chosen).expanduser().absolute() if chosen else None


def examples_dir(toolchain: ToolchainIdentity, named: str = "") -> Path:
    """Where the release's examples are, for the commands of a toolchain.

    It is the directory that the spec names, else the image's own, else the one in `ENGINERY_TRTLLM_EXAMPLES`.

    Raises:
        ToolchainError: when there are no examples, or they are of another release.
    """
    checkout = checkout_examples(named)
    inside = image_examples(toolchain.image)
    if inside and not named:
        return inside
    if checkout is None:
        raise _missing(toolchain)
    _require_release(checkout, toolchain)
    return checkout


def _require_release(examples: Path, toolchain: ToolchainIdentity) -> None:
    release = toolchain.version(PACKAGE)
    if not examples.is_dir():
        raise ToolchainError(
            "there is no such directory of TensorRT-LLM's examples",
            subject=str(examples),
            remedy=f"name the directory `examples` of a checkout of v{release} instead",
        )
    found = checkout_version(examples)
    if found and release and not same(found, release):
        raise ToolchainError(
            f"these examples are of TensorRT-LLM {found}, the toolchain {toolchain.name} is {release}",
            subject=str(examples),
            remedy=f"check out the tag v{release} there, or name another checkout",
        )


def checkout_version(examples: Path) -> str:
    """The version of the checkout that a directory of examples belongs to; empty if it is unknown."""
    path = examples.parent / PACKAGE.replace("-", "_") / "version.py"
    found = VERSION_LINE.search(path.read_text(encoding="utf-8")) if path.is_file() else None
    return found[1] if found else ""


def _missing(toolchain: ToolchainIdentity) -> ToolchainError:
    release = toolchain.version(PACKAGE) or "of the release"
    problem = "the examples of TensorRT-LLM are needed, and its wheel does not have them"
    if toolchain.image:
        problem = f"the image {toolchain.image} is not known to have TensorRT-LLM's examples"
    remedy = (
        f"check out the tag v{release} of TensorRT-LLM's repository, and name its directory `examples` in"
        f" {SETTING} or in the spec's convert.examples"
    )
    return ToolchainError(problem, subject=toolchain.name, remedy=remedy)
