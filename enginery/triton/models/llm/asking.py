"""What a request asks of the LLM API: its prompt, and the arguments of `SamplingParams`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .helpers import RequestError, texts

Tensors = Mapping[str, npt.NDArray[Any]]
Value = TypeVar("Value", int, float, bool)

PREFIX = "sampling_param_"
NUMBERS: Mapping[str, Callable[[Any], int | float]] = {
    "max_tokens": int,
    "best_of": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "frequency_penalty": float,
    "presence_penalty": float,
    "repetition_penalty": float,
    "min_tokens": int,
    "min_length": int,
    "seed": int,
    "random_seed": int,
}
LEAST: Mapping[str, float] = {"max_tokens": 1, "best_of": 1, "temperature": 0, "top_k": 0, "top_p": 0, "min_tokens": 0}
OTHER_NAMES = {"min_length": "min_tokens", "random_seed": "seed"}
"""What the inputs were called up to 0.19."""
WORDS = ("stop", "bad")
MOST_TOP_P = 1.0


@dataclass(frozen=True)
class Question:
    """One request.

    Attributes:
        prompt: its text.
        sampling: arguments of `SamplingParams`.
        stream: whether pieces are wanted.
        exclude_input: whether the answer comes without the prompt.
        log_probs: whether the answer's probability is wanted.
    """

    prompt: str
    sampling: Mapping[str, Any]
    stream: bool
    exclude_input: bool
    log_probs: bool


def read_question(inputs: Tensors, *, decoupled: bool, exclude_input: bool) -> Question:
    """Check a request and say what it asks.

    Args:
        inputs: its tensors.
        decoupled: whether the model may stream.
        exclude_input: what holds where the request does not say.

    Raises:
        RequestError: naming the input that is wrong or not supported.
    """
    stream = bool(_scalar(inputs, "streaming", bool))
    if stream and not decoupled:
        raise RequestError("stream: this model was packaged without streaming (serving.decoupled)")
    said = _scalar(inputs, f"{PREFIX}exclude_input_from_output", bool)
    log_probs = bool(_scalar(inputs, "return_cumulative_logprob", bool))
    return Question(
        prompt=_prompt(inputs),
        sampling={**_numbers(inputs), **_words(inputs), **({"logprobs": 1} if log_probs else {})},
        stream=stream,
        exclude_input=exclude_input if said is None else said,
        log_probs=log_probs,
    )


def _prompt(inputs: Tensors) -> str:
    found = texts(inputs.get("text_input"), "text_input")
    if len(found) != 1:
        raise RequestError(f"text_input: one text at a time; there are {len(found)}")
    if not found[0]:
        raise RequestError("text_input: is empty")
    return found[0]


def _numbers(inputs: Tensors) -> dict[str, Any]:
    given = {name: _scalar(inputs, f"{PREFIX}{name}", kind) for name, kind in NUMBERS.items()}
    found = {OTHER_NAMES.get(name, name): value for name, value in given.items() if value is not None}
    for name, value in found.items():
        _check(name, value)
    if found.get("temperature") == 0:  # the likeliest token; as a number the runtime would divide by it
        del found["temperature"]
        found["top_k"] = 1
        found.pop("top_p", None)
    return found


def _check(name: str, value: float) -> None:
    if not np.isfinite(value):
        raise RequestError(f"{name}: must be a number, is {value}")
    if name in LEAST and value < LEAST[name]:
        raise RequestError(f"{name}: must be at least {LEAST[name]}, is {value:g}")
    if name == "top_p" and value > MOST_TOP_P:
        raise RequestError(f"top_p: must be between 0 and 1, is {value:g}")
    if name == "repetition_penalty" and value <= 0:
        raise RequestError(f"repetition_penalty: must be more than 0, is {value:g}")


def _words(inputs: Tensors) -> dict[str, Any]:
    """Empty words are none. A stop word belongs to the answer, as with the other backends."""
    given = {name: texts(inputs.get(f"{PREFIX}{name}"), f"{name}_words") for name in WORDS}
    found: dict[str, Any] = {name: kept for name, words in given.items() if (kept := [word for word in words if word])}
    return {**found, "include_stop_str_in_output": True} if "stop" in found else found


def _scalar(inputs: Tensors, name: str, kind: Callable[[Any], Value]) -> Value | None:
    if name not in inputs:
        return None
    values = inputs[name].reshape(-1)
    if len(values) != 1:
        raise RequestError(f"{name.removeprefix(PREFIX)}: one value, not {len(values)}")
    return kind(values[0])
