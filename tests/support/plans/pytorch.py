"""Requests for the backend `pytorch`, with toolchains that need not be installed."""

from typing import Any

from enginery.backends.pytorch.backend import PyTorch
from enginery.backends.request import Request
from enginery.models.facts import ModelFacts
from enginery.spec import gpus
from enginery.spec.findings import Finding
from enginery.spec.spec import parse_spec
from enginery.toolchains.identity import ToolchainIdentity

LLAMA = ModelFacts(architecture="LlamaForCausalLM", dtype="bfloat16")
WEIGHTS = "a" * 64


def identify(name: str, kind: Any = "venv", image: str = "") -> ToolchainIdentity:
    """The identity of a toolchain with this name."""
    return ToolchainIdentity(name=name, kind=kind, pins=(name,), python="3.12", image=image)


BACKEND = PyTorch(identify)


def request_of(
    target: dict[str, Any] | None = None, *, gpu: str = "H100-SXM5-80GB", model: ModelFacts | None = LLAMA, **more: Any
) -> Request:
    """A request for a target, by default in bfloat16 for an H100."""
    data = {"name": "h100", "gpu": gpu, "backend": "pytorch", "precision": "bfloat16", **(target or {})}
    spec = parse_spec({"name": "llama", "source": {"path": "model"}, "targets": [data], **more})
    return Request(spec, spec.targets[0], gpus.find(gpu), model)


def findings(target: dict[str, Any] | None = None, **more: Any) -> list[Finding]:
    return BACKEND.findings(request_of(target, **more))


def codes(target: dict[str, Any] | None = None, **more: Any) -> set[str]:
    return {finding.code for finding in findings(target, **more)}
