"""Requests and responses of Triton: reading a request, checking its values, and answering it."""

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .generation import GenaiEngine, Question
from .sampling import Sampling
from .text import NO_TOKEN, unpack

Tensors = Mapping[str, npt.NDArray[Any]]
Value = TypeVar("Value", int, float, bool)

LEAST: Mapping[str, float] = {"max_tokens": 1, "best_of": 1, "temperature": 0, "top_k": 0, "top_p": 0, "min_tokens": 0}
MOST_TOP_P = 1.0
NEUTRAL = {"beam_width": 1, "num_return_sequences": 1, "len_penalty": 1.0}
"""Inputs that are not supported, with the value that changes nothing and so is accepted."""
SWITCHED_OFF = ("return_context_logits", "return_generation_logits")
TRITONS_OWN_PARAMETERS = "triton_"


class RequestError(ValueError):
    """A request that cannot be served. The message begins with the name of the input."""


def tensors(request: Any) -> dict[str, npt.NDArray[Any]]:
    """All inputs of a Triton request.

    Raises:
        RequestError: for a parameter that is not Triton's own: `generate` makes one of every field that is no input,
            also of misspelt names.
    """
    for name in json.loads(request.parameters() or "{}"):
        if not name.startswith(TRITONS_OWN_PARAMETERS):
            raise RequestError(f"{name}: there is no such input, or it is not supported")
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def texts(values: npt.NDArray[Any] | None, name: str) -> list[str]:
    """The strings of a tensor; none if there is no tensor.

    Raises:
        RequestError: when a string is not UTF-8.
    """
    if values is None:
        return []
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values.reshape(-1)]
    except UnicodeDecodeError as error:
        raise RequestError(f"{name}: is not UTF-8: {error}") from error


def for_each_text(count: int, read: Callable[[int], Any]) -> list[Any]:
    """What `read` returns for the index of each text of a request.

    Raises:
        RequestError: the first error of `read`. If there are several texts, it says which one is wrong.
    """
    found = []
    for index in range(count):
        try:
            found.append(read(index))
        except RequestError as error:
            raise RequestError(f"{error} (text {index + 1} of {count})" if count > 1 else str(error)) from error
    return found


def padded(rows: Sequence[Sequence[int]], filling: int | Sequence[int]) -> npt.NDArray[np.int32]:
    """Rows of tokens as one tensor, shorter ones filled up: all with the same token, or each with its own."""
    width = max(map(len, rows))
    fillings = [filling] * len(rows) if isinstance(filling, int) else filling
    filled = [[*row, *[token] * (width - len(row))] for row, token in zip(rows, fillings, strict=True)]
    return np.asarray(filled, dtype=np.int32)


def check_number(name: str, value: Value | None) -> Value | None:
    """The value of a sampling parameter, which may be missing.

    Raises:
        RequestError: when it is out of its range.
    """
    if value is None:
        return None
    if not np.isfinite(value):
        raise RequestError(f"{name}: must be a number, is {value}")
    if name in LEAST and value < LEAST[name]:
        raise RequestError(f"{name}: must be at least {LEAST[name]}, is {_shown(value)}")
    if name == "top_p" and value > MOST_TOP_P:
        raise RequestError(f"top_p: must be between 0 and 1, is {value:g}")
    if name == "repetition_penalty" and value <= 0:
        raise RequestError(f"repetition_penalty: must be more than 0, is {value:g}")
    return value


def _shown(value: float) -> str:
    """A number as people write it. A request's whole number is written in full."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def fail(triton: Any, sender: Any, message: str, code: str) -> None:
    """End a request with an error of Triton's."""
    response = _failed(triton, message, code)
    sender.send(response, flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def response_with(triton: Any, outputs: Mapping[str, Any]) -> Any:
    """A response with these tensors."""
    return triton.InferenceResponse([triton.Tensor(name, value) for name, value in outputs.items()])


def respond(triton: Any, request: Any, outputs: Callable[[Tensors], Mapping[str, Any]]) -> Any:
    """The response to one request of a call: its outputs, or its error, which does not affect the other requests."""
    try:
        return response_with(triton, outputs(tensors(request)))
    except RequestError as error:
        return _failed(triton, str(error), "INVALID_ARG")
    except Exception as error:  # noqa: BLE001  Triton would fail every request of the call
        traceback.print_exc()
        return _failed(triton, f"the model failed: {error}", "INTERNAL")


class KeptResponse:
    """A response sender that keeps the one response. Triton before 24.06 wants `execute` to return it."""

    def __init__(self) -> None:
        self.response: Any = None

    def send(self, response: Any = None, flags: int = 0) -> None:  # noqa: ARG002  as of Triton's own
        """Keep the response; an empty one, which only carries flags, is ignored."""
        self.response = response or self.response

    def is_cancelled(self) -> bool:
        """Never: without a sender of Triton's it is not known."""
        return False


@dataclass(frozen=True)
class Call:
    """A request for `tensorrt_llm`.

    Attributes:
        questions: one for each row.
        stream: whether the client wants pieces of the answer as they come.
        pad_ids: for each row, the token that fills up its answer if it is shorter than another one.
    """

    questions: list[Question]
    stream: bool
    pad_ids: list[int]


class Row:
    """The inputs of one row of a request."""

    def __init__(self, inputs: Tensors, index: int) -> None:
        self._inputs = inputs
        self._index = index

    def get(self, name: str, kind: Callable[[Any], Value], *others: str) -> Value | None:
        """The value of an input under one of its names; None if it is not given."""
        for known in (name, *others):
            if known in self._inputs:
                return kind(self._inputs[known][self._index].reshape(-1)[0])
        return None

    def sequences(self, name: str) -> list[list[int]]:
        """The token sequences of a word list."""
        return unpack(self._inputs[name][self._index]) if name in self._inputs else []

    def prompt(self, vocabulary: int) -> list[int]:
        """The tokens of the prompt.

        Raises:
            RequestError: when there are none, or the model does not know one.
        """
        length = self.get("input_lengths", int)
        tokens = [int(token) for token in self._inputs["input_ids"][self._index].reshape(-1)[:length]]
        if not tokens:
            raise RequestError("text_input: is empty, and the tokenizer adds nothing to it")
        if min(tokens) < 0 or max(tokens) >= vocabulary:
            raise RequestError(f"input_ids: must be tokens of the model, 0 to {vocabulary - 1}")
        return tokens


def read_call(inputs: Tensors, engine: GenaiEngine, *, decoupled: bool, exclude_input: bool) -> Call:
    """Read and check a request for `tensorrt_llm`.

    Args:
        inputs: its tensors.
        engine: that answers it.
        decoupled: whether the model may stream.
        exclude_input: whether answers omit the prompt, for a request that does not say.

    Raises:
        RequestError: naming the input that is wrong or not supported.
    """
    rows = [Row(inputs, index) for index in range(len(inputs["input_ids"]))]
    stream = any(row.get("streaming", bool) for row in rows)
    if stream and not decoupled:
        raise RequestError("stream: this model was packaged without streaming (serving.decoupled)")
    if stream and len(rows) > 1:
        raise RequestError("stream: one text at a time can be streamed")
    questions = for_each_text(len(rows), lambda index: _question(rows[index], engine, exclude_input=exclude_input))
    paddings = [row.get("pad_id", int) for row in rows]
    return Call(questions, stream, [engine.filler if padding is None else padding for padding in paddings])


def _question(row: Row, engine: GenaiEngine, *, exclude_input: bool) -> Question:
    _refuse_unsupported(row)
    prompt = row.prompt(engine.vocabulary)
    longest = engine.context_length - len(prompt)
    if longest < 1:
        raise RequestError(
            f"text_input: has {len(prompt)} tokens and leaves no room for an answer; the model takes"
            f" {engine.context_length} in all"
        )
    wanted = check_number("max_tokens", row.get("request_output_len", int))
    end = row.get("end_id", int)
    if end is not None and not NO_TOKEN <= end < engine.vocabulary:
        known = f"a token of the model, 0 to {engine.vocabulary - 1}, or {NO_TOKEN} for none"
        raise RequestError(f"end_id: must be {known}, is {end}")
    exclude = row.get("exclude_input_in_output", bool)
    return Question(
        prompt=prompt,
        max_tokens=longest if wanted is None else min(wanted, longest),
        end_ids=engine.end_ids if end is None else [end],
        sampling=_sampling(row, engine.vocabulary),
        stop_words=row.sequences("stop_words_list"),
        log_probs=bool(row.get("return_log_probs", bool)),
        echo=not (exclude_input if exclude is None else exclude),
    )


def _refuse_unsupported(row: Row) -> None:
    for name, neutral in NEUTRAL.items():
        value = row.get(name, float)
        if value is not None and value != neutral:
            shown = "length_penalty" if name == "len_penalty" else name
            raise RequestError(f"{shown}: {value:g} is not supported; this backend makes one answer, without beams")
    for name in SWITCHED_OFF:
        if row.get(name, bool):
            raise RequestError(f"{name}: is not supported by this backend")


def _sampling(row: Row, vocabulary: int) -> Sampling:
    return Sampling(
        temperature=check_number("temperature", row.get("temperature", float)),
        top_k=check_number("top_k", row.get("runtime_top_k", int)),
        top_p=check_number("top_p", row.get("runtime_top_p", float)),
        seed=row.get("seed", int, "random_seed"),
        repetition_penalty=check_number("repetition_penalty", row.get("repetition_penalty", float)) or 1.0,
        presence_penalty=check_number("presence_penalty", row.get("presence_penalty", float)) or 0.0,
        frequency_penalty=check_number("frequency_penalty", row.get("frequency_penalty", float)) or 0.0,
        min_tokens=check_number("min_tokens", row.get("min_tokens", int, "min_length")) or 0,
        bad_words=[words for words in row.sequences("bad_words_list") if min(words) >= 0 and max(words) < vocabulary],
    )


def _failed(triton: Any, message: str, code: str) -> Any:
    error = triton.TritonError(message, getattr(triton.TritonError, code))
    return triton.InferenceResponse(output_tensors=[], error=error)
