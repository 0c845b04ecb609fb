"""Checking converted checkpoints before anything is built of them."""

from enginery.backends.checkpoints.configuration import (
    HF_ALGORITHMS,
    KV_CACHE_ALGORITHMS,
    MODELOPT_ALGORITHMS,
    CheckpointError,
    CheckpointExpectation,
    HfExpectation,
)
from enginery.backends.checkpoints.hf import verify_hf_checkpoint
from enginery.backends.checkpoints.verify import verify_checkpoint

__all__ = [
    "HF_ALGORITHMS",
    "KV_CACHE_ALGORITHMS",
    "MODELOPT_ALGORITHMS",
    "CheckpointError",
    "CheckpointExpectation",
    "HfExpectation",
    "verify_checkpoint",
    "verify_hf_checkpoint",
]
