"""Whether the environments that a target of TensorRT-LLM needs can be had."""

from enginery.backends.modelopt import modelopt_toolchain
from enginery.backends.request import Request
from enginery.errors import ToolchainError, UsageError
from enginery.findings import Finding
from enginery.toolchains import Identify


def toolchain_findings(request: Request, release: str, identify: Identify, *, modelopt: bool) -> list[Finding]:
    """Why the release or ModelOpt cannot be had as the target asks for them.

    Args:
        request: the target.
        release: its release; empty where there is none, which is a finding of its own.
        identify: says what a toolchain is.
        modelopt: whether ModelOpt is needed, too.
    """
    try:
        if release:
            request.toolchain(release, identify)
        if modelopt:
            identify(modelopt_toolchain(), "venv")
    except (ToolchainError, UsageError) as error:
        return [Finding("E180", "toolchain", f"{error.subject}: {error.problem}", error.remedy)]
    return []
