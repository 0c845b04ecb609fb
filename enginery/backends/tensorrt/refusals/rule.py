"""One rule: when a record of the releases' facts applies to an engine, and what to say then."""

from collections.abc import Callable
from typing import NamedTuple

from enginery.backends.tensorrt.build_defaults import EngineOptions
from enginery.spec import Precision

TOGETHER, MODEL, FORMAT, GPU, VALUE = "E165", "E166", "E167", "E168", "E161"
"""The code of a refusal: of options together, for a model, for a number format, for a GPU, of one value."""
FP8, INT8_SQ, AWQ_FP8, NVFP4 = Precision.FP8, Precision.INT8_SMOOTHQUANT, Precision.W4A8_AWQ, Precision.NVFP4
PAGED = "use_paged_context_fmha"


class Rule(NamedTuple):
    """When a record applies to an engine.

    Attributes:
        id: the record's id, without `trtllm-build: `.
        field: the field of the spec that it is about, within the target.
        holds: whether an engine's options are of the kind that the record is about.
        remedy: what to do if the release refuses them.
        shown: options to name with their values.
    """

    id: str
    code: str
    field: str
    holds: Callable[[EngineOptions], bool]
    remedy: str = ""
    shown: tuple[str, ...] = ()
