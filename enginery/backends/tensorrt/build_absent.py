"""What a release does that has no flag for an option: the value that may be left out there."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from packaging.version import Version

from enginery.releases.flags import flags
from enginery.releases.known import releases

ABSENT: Mapping[str, tuple[tuple[str, Any], ...]] = {
    "max_draft_len": (("0.8.0", 0),),
    "lookup_plugin": (("0.15.0", "disable"),),
    "dora_plugin": (("0.8.0", False),),
    "gemm_swiglu_plugin": (("0.8.0", "disable"),),
    "low_latency_gemm_plugin": (("0.8.0", "disable"),),
    "low_latency_gemm_swiglu_plugin": (("0.8.0", "disable"),),
    "fp8_rowwise_gemm_plugin": (("0.8.0", "disable"),),
    "gemm_allreduce_plugin": (("0.8.0", "disable"),),
    "context_fmha_fp32_acc": (("0.12.0", False),),
    "use_fp8_context_fmha": (("0.8.0", False),),
    "multiple_profiles": (("0.8.0", False),),
    "reduce_fusion": (("0.8.0", False),),
    "user_buffer": (("0.8.0", False),),
    "norm_quant_fusion": (("0.8.0", False),),
    "fuse_fp4_quant": (("0.8.0", False),),
    "pp_reduce_scatter": (("0.8.0", False),),
    "use_custom_all_reduce": (("0.12.0", True),),
    "multi_block_mode": (("0.12.0", False), ("0.13.0", True)),
    "enable_xqa": (("0.16.0", True),),
    "streamingllm": (("0.8.0", False),),
    "weight_streaming": (("0.8.0", False),),
    "weight_sparsity": (("0.8.0", False),),
    "strip_plan": (("0.8.0", False),),
    "strongly_typed": (("0.11.0", True),),
    "fast_build": (("0.8.0", False),),
}
"""Field -> the values it has where there is no flag for it, each with the first release.

A field that is not here has no such value. In `multi_block_mode` it is the default of the runtime, which decides since.
"""


def absent(field: str, release: str) -> Any:
    """The value that the release follows without a flag; None where there is none."""
    held = [value for since, value in ABSENT.get(field, ()) if Version(since) <= Version(release)]
    return held[-1] if held else None


@cache
def present(name: str) -> tuple[str, str]:
    """The first and the last known release with a flag; empty where none has it."""
    having = [release for release in releases() if name in flags(release).value]
    return (having[0], having[-1]) if having else ("", "")
