"""Checking converted checkpoints before anything is built of them."""

from enginery.checkpoints.errors import CheckpointError
from enginery.checkpoints.expectation import (
    HF_ALGORITHMS,
    KV_CACHE_ALGORITHMS,
    MODELOPT_ALGORITHMS,
    CheckpointExpectation,
    HfExpectation,
)
from enginery.checkpoints.hf import verify_hf_checkpoint
from enginery.checkpoints.verify import verify_checkpoint

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
