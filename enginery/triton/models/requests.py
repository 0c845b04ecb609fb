"""What a request says: its tensors by name, and the questions they make."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .answers import Question
from .generation import Engine
from .refusals import RequestError
from .sampling import Sampling
from .words import unpack

Tensors = Mapping[str, npt.NDArray[Any]]
Value = TypeVar("Value", int, float, bool)

MOST_TOP_P = 1.0
NEUTRAL = {"beam_width": 1, "num_return_sequences": 1, "len_penalty": 1.0}
SWITCHED_OFF = ("return_context_logits", "return_generation_logits")
TRITONS_OWN_PARAMETERS = "triton_"


def tensors(request: Any) -> dict[str, npt.NDArray[Any]]:
    """All inputs of a Triton request."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def refuse_unknown_parameters(request: Any) -> None:
    """Triton's `generate` turns every field that is no input into a parameter: misspelt and unsupported ones too.

    Raises:
        RequestError: for any that is not Triton's own.
    """
    for name in json.loads(request.parameters() or "{}"):
        if not name.startswith(TRITONS_OWN_PARAMETERS):
            raise RequestError(f"{name}: there is no such input, or it is not supported")


def texts(values: npt.NDArray[Any] | None, name: str) -> list[str]:
    """The strings of a tensor.

    Raises:
        RequestError: when one is not UTF-8.
    """
    if values is None:
        return []
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values.reshape(-1)]
    except UnicodeDecodeError as error:
        raise RequestError(f"{name}: is not UTF-8: {error}") from error


@dataclass(frozen=True)
class Defaults:
    """What the model's configuration says where a request does not."""

    decoupled: bool
    exclude_input: bool


@dataclass(frozen=True)
class Call:
    """A request for `tensorrt_llm`.

    Attributes:
        questions: one for each row.
        stream: whether pieces are wanted.
        pad_id: fills up shorter answers.
    """

    questions: list[Question]
    stream: bool
    pad_id: int


class Row:
    """The inputs of one row of a request."""

    def __init__(self, inputs: Tensors, index: int) -> None:
        self._inputs = inputs
        self._index = index

    def get(self, name: str, kind: Callable[[Any], Value], *others: str) -> Value | None:
        """The value of an input under one of its names; None when it is not given."""
        for known in (name, *others):
            if known in self._inputs:
                return kind(self._inputs[known][self._index].reshape(-1)[0])
        return None

    def sequences(self, name: str) -> list[list[int]]:
        """The token sequences of a word list."""
        return unpack(self._inputs[name][self._index]) if name in self._inputs else []

    def prompt(self) -> list[int]:
        """The tokens of the prompt.

        Raises:
            RequestError: when there are none.
        """
        length = self.get("input_lengths", int)
        tokens = [int(token) for token in self._inputs["input_ids"][self._index].reshape(-1)[:length]]
        if not tokens:
            raise RequestError("text_input: is empty, and the tokenizer adds nothing to it")
        return tokens


def read_call(inputs: Tensors, engine: Engine, defaults: Defaults) -> Call:
    """Check a request for `tensorrt_llm` and say what it asks.

    Raises:
        RequestError: naming the input that is wrong or not supported.
    """
    rows = [Row(inputs, index) for index in range(len(inputs["input_ids"]))]
    stream = any(row.get("streaming", bool) for row in rows)
    if stream and not defaults.decoupled:
        raise RequestError("stream: this model was packaged without streaming (serving.decoupled)")
    if stream and len(rows) > 1:
        raise RequestError("stream: one text at a time can be streamed")
    questions = [_question(row, engine, defaults) for row in rows]
    padding = rows[0].get("pad_id", int)
    return Call(questions, stream, engine.filler if padding is None else padding)


def _question(row: Row, engine: Engine, defaults: Defaults) -> Question:
    _refuse_unsupported(row)
    prompt = row.prompt()
    _check_tokens(prompt, engine.vocabulary)
    room = engine.context_length - len(prompt)
    if room < 1:
        raise RequestError(
            f"text_input: has {len(prompt)} tokens and leaves no room for an answer; the model takes"
            f" {engine.context_length} in all"
        )
    wanted = _at_least(1, "max_tokens", row.get("request_output_len", int))
    end = row.get("end_id", int)
    exclude = row.get("exclude_input_in_output", bool)
    return Question(
        prompt=prompt,
        max_tokens=room if wanted is None else min(wanted, room),
        end_ids=[*(engine.end_ids if end is None else [end]), engine.last_token],
        sampling=_sampling(row, engine.vocabulary),
        stop_words=row.sequences("stop_words_list"),
        log_probs=bool(row.get("return_log_probs", bool)),
        echo=not (defaults.exclude_input if exclude is None else exclude),
    )


def _check_tokens(prompt: Sequence[int], vocabulary: int) -> None:
    if min(prompt) < 0 or max(prompt) >= vocabulary:
        raise RequestError(f"input_ids: must be tokens of the model, 0 to {vocabulary - 1}")


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
    top_p = _at_least(0.0, "top_p", row.get("runtime_top_p", float))
    if top_p is not None and top_p > MOST_TOP_P:
        raise RequestError(f"top_p: must be between 0 and 1, is {top_p:g}")
    return Sampling(
        temperature=_at_least(0.0, "temperature", row.get("temperature", float)),
        top_k=_at_least(0, "top_k", row.get("runtime_top_k", int)),
        top_p=top_p,
        seed=row.get("seed", int, "random_seed"),
        repetition_penalty=_positive("repetition_penalty", row.get("repetition_penalty", float)),
        presence_penalty=_finite("presence_penalty", row.get("presence_penalty", float)) or 0.0,
        frequency_penalty=_finite("frequency_penalty", row.get("frequency_penalty", float)) or 0.0,
        min_tokens=_at_least(0, "min_tokens", row.get("min_tokens", int, "min_length")) or 0,
        bad_words=[words for words in row.sequences("bad_words_list") if max(words) < vocabulary],
    )


def _finite(name: str, value: Value | None) -> Value | None:
    if value is not None and not np.isfinite(value):
        raise RequestError(f"{name}: must be a number, is {value}")
    return value


def _at_least(least: Value, name: str, value: Value | None) -> Value | None:
    if _finite(name, value) is not None and value is not None and value < least:
        raise RequestError(f"{name}: must be at least {least}, is {value}")
    return value


def _positive(name: str, value: float | None) -> float:
    if _finite(name, value) is None or value is None:
        return 1.0
    if value <= 0:
        raise RequestError(f"{name}: must be more than 0, is {value:g}")
    return value


def padded(rows: Sequence[Sequence[int]], filling: int) -> npt.NDArray[np.int32]:
    """Rows of tokens as one tensor, shorter ones filled up."""
    width = max(map(len, rows))
    return np.asarray([[*row, *[filling] * (width - len(row))] for row in rows], dtype=np.int32)
