"""Which backend `backend: auto` stands for, and why.

An engine is preferred wherever the release can build one: it has always been the default. For a release from before the
PyTorch backend it is the only choice, and its findings say what is wrong. ONNX Runtime is chosen without an NVIDIA GPU,
and for precisions that only it has.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from enginery.backends.request import Request
from enginery.core.late import late
from enginery.spec import BackendName, Precision, gpus

if TYPE_CHECKING:
    from enginery.backends.pytorch import keys as pytorch
    from enginery.backends.tensorrt import checks
    from enginery.backends.tensorrt import release as tensorrt
else:
    pytorch, tensorrt = late("enginery.backends.pytorch.keys"), late("enginery.backends.tensorrt.release")
    checks = late("enginery.backends.tensorrt.checks")

ONNX_PRECISIONS = frozenset({Precision.INT8, Precision.INT4})

NO_BUILDER = "E103"
NO_ENGINE = frozenset({NO_BUILDER, "E120", "E121", "E122", "E123", "E130", "E131", "E132"})
"""Findings after which the release cannot build such an engine at all; others can be corrected in the spec."""

OWN_MISTAKES = ("convert.extra_args", "convert.calibration", "convert.device")
"""Fields whose findings the spec can correct, so that an engine can still be built."""


class Choice(NamedTuple):
    """A backend and why it was chosen."""

    backend: BackendName
    reason: str


def choose(request: Request) -> Choice:
    """The backend for a target that leaves it open."""
    precision = request.target.precision
    if request.gpu == gpus.CPU:
        return Choice(BackendName.ONNXRUNTIME, "TensorRT-LLM needs an NVIDIA GPU")
    if precision in ONNX_PRECISIONS:
        return Choice(BackendName.ONNXRUNTIME, f"{precision} is ONNX Runtime's, and TensorRT-LLM has others")
    found = (finding for finding in checks.chain_findings(request) if finding.code in NO_ENGINE)
    obstacles = [finding for finding in found if not finding.path.startswith(OWN_MISTAKES)]
    if obstacles and (obstacles[0].code == NO_BUILDER or pytorch.refusal(request.target.release) is None):
        return Choice(BackendName.PYTORCH, f"no engine: {obstacles[0].problem}")
    release = tensorrt.chosen_release(request.target.release) or request.target.release
    return Choice(BackendName.TENSORRT, f"{release} builds engines for {request.gpu.name}")


def choice_notes(request: Request, backend: BackendName) -> Iterator[str]:
    """What `auto` stands for in the target's `gpu` and `backend`."""
    if request.target.gpu == "auto":
        yield f"gpu auto is {request.gpu.name}" + (
            " (no NVIDIA GPU in this machine)" if request.gpu == gpus.CPU else ""
        )
    if request.target.backend is BackendName.AUTO:
        yield f"backend auto is {backend}: {choose(request).reason}"
