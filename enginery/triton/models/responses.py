"""Responses that are the same for all models."""

import traceback
from collections.abc import Callable, Mapping
from typing import Any

from .refusals import RequestError


def fail(triton: Any, sender: Any, message: str, code: str) -> None:
    """End a request with an error of Triton's."""
    response = _failed(triton, message, code)
    sender.send(response, flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def answered(triton: Any, request: Any, outputs: Callable[[Any], Mapping[str, Any]]) -> Any:
    """The response to a request: its outputs, or its error. One that fails does not fail those beside it."""
    try:
        made = [triton.Tensor(name, value) for name, value in outputs(request).items()]
    except RequestError as error:
        return _failed(triton, str(error), "INVALID_ARG")
    except Exception as error:  # noqa: BLE001  Triton would fail every request of the call
        traceback.print_exc()
        return _failed(triton, f"the model failed: {error}", "INTERNAL")
    return triton.InferenceResponse(made)


def _failed(triton: Any, message: str, code: str) -> Any:
    error = triton.TritonError(message, getattr(triton.TritonError, code))
    return triton.InferenceResponse(output_tensors=[], error=error)


class KeptResponse:
    """Takes the one response of a request that `execute` returns: Triton before 24.06 wants it so."""

    def __init__(self) -> None:
        self.response: Any = None

    def send(self, response: Any = None, flags: int = 0) -> None:  # noqa: ARG002  as of Triton's own
        """Keep it; the empty one at the end says nothing more."""
        self.response = response or self.response

    def is_cancelled(self) -> bool:
        """Nobody can say."""
        return False
