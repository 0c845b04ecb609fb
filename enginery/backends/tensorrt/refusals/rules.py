"""The table of what `trtllm-build` refuses or changes: which options each record of the releases' facts is about.

Which releases do it, where, and what they do is in `enginery.releases.refusals`. Here stands when it happens, the field
of the spec that it is about, and the remedy.
"""

from enginery.backends.tensorrt.refusals.features import (
    ADAPTER_RULES,
    DRAFT_RULES,
    FUSION_RULES,
    LOGITS,
    MODEL_RULES,
    PROFILES,
    SIZE_RULES,
)
from enginery.backends.tensorrt.refusals.kernels import ATTENTION_RULES, GPU_RULES, MLP_RULES

RULES = (
    *(LOGITS, PROFILES),
    *ATTENTION_RULES,
    *MLP_RULES,
    *GPU_RULES,
    *FUSION_RULES,
    *DRAFT_RULES,
    *SIZE_RULES,
    *MODEL_RULES,
    *ADAPTER_RULES,
)
"""All rules. An engine may fall under several of them."""
