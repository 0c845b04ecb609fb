"""All that stops an engine from being built or may go wrong, found before anything runs."""

from enginery.backends.modelopt import MODELOPT
from enginery.backends.request import Request
from enginery.backends.tensorrt.build_serving import serving_findings
from enginery.backends.tensorrt.checks_calibration import calibration_findings
from enginery.backends.tensorrt.checks_hardware import hardware_findings
from enginery.backends.tensorrt.checks_lengths import length_findings
from enginery.backends.tensorrt.checks_model import model_findings
from enginery.backends.tensorrt.checks_rope import rope_findings
from enginery.backends.tensorrt.converters import conversion
from enginery.backends.tensorrt.family_choice import family_for
from enginery.backends.tensorrt.modelopt_converter import modelopt_findings
from enginery.backends.tensorrt.precision_terms import calibrates
from enginery.backends.tensorrt.release_choice import chosen_release, refusal
from enginery.backends.tensorrt.rendering import rendered
from enginery.findings import Finding
from enginery.triton.inflight import serving_problems

OF_ACTIVATIONS = frozenset({"E164", "W164"})
"""Findings that follow from a precision, and mean nothing where that or the GPU is refused."""


def chain_findings(request: Request) -> list[Finding]:
    """What the spec, the release's facts, the GPU and the model say; no toolchain is asked."""
    refused = refusal(request.target.release)
    if refused is not None:
        return [refused]
    release = chosen_release(request.target.release)
    hardware = list(hardware_findings(request, release))
    options = rendered(request, release).findings
    return [
        *hardware,
        *model_findings(request, release),
        *_conversion_findings(request, release, hardware),
        *(one for one in options if not hardware or one.code not in OF_ACTIVATIONS),
        *length_findings(request, release),
        *serving_problems(request.serving, release),
        *serving_findings(request.build, request.serving, release),
    ]


def _conversion_findings(request: Request, release: str, hardware: list[Finding]) -> list[Finding]:
    """What the converter does not take; nothing of the precision where that is refused already."""
    told = {finding.path for finding in hardware}
    by_modelopt = request.convert.converter == MODELOPT
    refused = _modelopt_findings(request, release) if by_modelopt else _script_findings(request, release)
    data = calibration_findings(request, reads_files=by_modelopt) if calibrates(request) else ()
    return [*(finding for finding in refused if finding.path not in told), *data]


def _modelopt_findings(request: Request, release: str) -> tuple[Finding, ...]:
    return (*modelopt_findings(request), *rope_findings(request, release, MODELOPT))


def _script_findings(request: Request, release: str) -> tuple[Finding, ...]:
    family = family_for(release, request.model.architecture).family if request.model else None
    if family is None:
        return ()
    made = conversion(request, release, family)
    return (*made.refused, *rope_findings(request, release, made.script.command))
