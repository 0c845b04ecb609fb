"""The versions that go with a release, and Triton's containers with it inside."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from enginery.releases import facts
from enginery.releases.known import REMOVAL, builds_engines, version
from enginery.releases.provenance import Certainty, Known, Provenance

PINS = (
    "python",
    "python_requires",
    "cuda",
    "tensorrt",
    "torch",
    "quantizer",
    "transformers",
    "pytorch_image",
    "triton_image",
)
"""What a pin may be for. `python` lists the versions the release names; the images come without a host."""


@dataclass(frozen=True)
class Container:
    """One of Triton's images with TensorRT-LLM inside; a field is empty where it is not known.

    Attributes:
        image: name and tag without the registry's host, such as `nvidia/tritonserver:26.07-trtllm-python-py3`.
        python: its Python.
        tensorrt: its TensorRT, which an engine is tied to.
        torch: its PyTorch.
        cuda: its CUDA.
        driver: the GPU driver it is made for.
    """

    image: str
    python: str = ""
    tensorrt: str = ""
    torch: str = ""
    cuda: str = ""
    driver: str = ""


def containers(release: str) -> Known[tuple[Container, ...]]:
    """Triton's containers with exactly this release, the newest first; none where none is known.

    A container with another release would not load this one's engines, so here the nearest is no answer.
    """
    found = facts.look_up("pins", "containers", release)
    if Version(found.provenance.release) != version(release):
        origin = found.provenance
        note = f"no container with {release} is listed"
        return Known((), Provenance(Certainty.RENDERED, release, origin.source, origin.method, note))
    rows = found.value or {}
    return Known(tuple(Container(image, **row) for image, row in rows.items()), found.provenance)


def pin(release: str, name: str) -> Known[Any]:
    """One of `PINS` for a release: from its requirements, else its notes, else what is in its container.

    None only for the TensorRT of a release that builds no engines any more.

    Raises:
        UsageError: there is no such pin, or nothing is known of so old a release.
    """
    if name == "tensorrt" and not builds_engines(release):
        return Known(None, REMOVAL)
    return facts.look_up_one("pins", name, release, "value")


def pins(release: str) -> Mapping[str, Known[Any]]:
    """All pins of a release, each with where it comes from."""
    return {name: pin(release, name) for name in PINS}
