"""Chooses the backend for `backend: auto`, and says why.

If the release can build an engine, the choice is `tensorrt`. If not, it is `pytorch`. Releases older than the PyTorch
backend stay with `tensorrt`, and its findings say what is wrong. `onnxruntime` is chosen if there is no NVIDIA GPU, and
for precisions that only ONNX Runtime has.
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
"""Codes of findings that mean: the release cannot build this engine. Other findings can be corrected in the spec."""

CORRECTABLE = ("convert.extra_args", "convert.calibration", "convert.device")
"""Fields whose findings the user can correct in any case, so they are no reason to choose another backend."""


class Choice(NamedTuple):
    """A backend and why it was chosen."""

    backend: BackendName
    reason: str


def choose(request: Request) -> Choice:
    """The backend for a target with `backend: auto`."""
    precision = request.target.precision
    if request.gpu == gpus.CPU:
        return Choice(BackendName.ONNXRUNTIME, "TensorRT-LLM needs an NVIDIA GPU")
    if precision in ONNX_PRECISIONS:
        return Choice(BackendName.ONNXRUNTIME, f"of the backends only ONNX Runtime has {precision}")
    found = (finding for finding in checks.chain_findings(request) if finding.code in NO_ENGINE)
    obstacles = [finding for finding in found if not finding.path.startswith(CORRECTABLE)]
    if obstacles and (obstacles[0].code == NO_BUILDER or pytorch.refusal(request.target.release) is None):
        return Choice(BackendName.PYTORCH, f"no engine: {obstacles[0].problem}")
    release = tensorrt.chosen_release(request.target.release) or request.target.release
    return Choice(BackendName.TENSORRT, f"{release} builds engines for {request.gpu.name}")


def choice_notes(request: Request, backend: BackendName) -> Iterator[str]:
    """Notes that say what was chosen for `gpu: auto` and `backend: auto`."""
    if request.target.gpu == "auto":
        yield f"gpu auto is {request.gpu.name}" + (
            " (no NVIDIA GPU in this machine)" if request.gpu == gpus.CPU else ""
        )
    if request.target.backend is BackendName.AUTO:
        yield f"backend auto is {backend}: {choose(request).reason}"
