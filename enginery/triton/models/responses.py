"""Responses that are the same for all models."""

from typing import Any


def fail(triton: Any, sender: Any, message: str, code: str) -> None:
    """End a request with an error of Triton's."""
    error = triton.TritonError(message, getattr(triton.TritonError, code))
    response = triton.InferenceResponse(output_tensors=[], error=error)
    sender.send(response, flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
