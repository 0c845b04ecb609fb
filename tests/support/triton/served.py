"""Stand-ins for Triton, a tokenizer and an engine, for unit tests of the served models."""

import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.triton.models.generation import GenaiEngine, GenaiSession

END = 256
FILLER = 257
VOCABULARY = 260


class ByteTokenizer:
    """A tokenizer with one token for each byte. The tokens from `END` on have no text."""

    def encode(self, text: str, **_: bool) -> SimpleNamespace:
        return SimpleNamespace(ids=list(text.encode()))

    def decode(self, tokens: Sequence[int], **_: bool) -> str:
        return decode(list(tokens))


class Beginning(ByteTokenizer):
    """A tokenizer that begins a text with the token 1, which is also the token of `^`."""

    def encode(self, text: str, *, add_special_tokens: bool = True, **_: bool) -> SimpleNamespace:
        ids = [1 if byte == ord("^") else byte for byte in text.encode()]
        return SimpleNamespace(ids=[1, *ids] if add_special_tokens else ids)


def decode(tokens: list[int]) -> str:
    return bytes(token for token in tokens if token < END).decode(errors="replace")


class ScriptedSession(GenaiSession):
    """An engine session that answers each row with the row's script, token by token. Fillers are no part of it."""

    def __init__(self, scripts: Sequence[Sequence[int]]) -> None:
        self.scripts = scripts
        self.appended: list[list[int]] = []

    def logits(self) -> npt.NDArray[np.float32]:
        found = np.zeros((len(self.scripts), VOCABULARY), dtype=np.float32)
        for index, (row, script) in enumerate(zip(found, self.scripts, strict=True)):
            step = sum(tokens[index] != FILLER for tokens in self.appended)
            row[script[step] if step < len(script) else END] = 10.0
        return found

    def append(self, tokens: Sequence[int]) -> None:
        self.appended.append(list(tokens))


class ScriptedEngine(GenaiEngine):
    """An engine that takes its answers from a table: prompt -> answer, both as text."""

    context_length = 40
    filler = FILLER
    last_token = VOCABULARY - 1
    vocabulary = VOCABULARY

    def __init__(self, answers: Mapping[str, str]) -> None:
        self.end_ids = [END]
        self.answers = dict(answers)
        self.lengths: list[int] = []
        self.heads: list[list[list[int]]] = []
        self.sessions: list[ScriptedSession] = []

    def start(self, prompts: Sequence[Sequence[int]], length: int) -> ScriptedSession:
        self.lengths.append(length)
        self.heads.append([list(prompt) for prompt in prompts])
        self.sessions.append(ScriptedSession([self._script(decode(list(prompt))) for prompt in prompts]))
        return self.sessions[-1]

    def _script(self, begun: str) -> bytes:
        """The rest of the answer: a session may begin in the middle of one."""
        whole = [prompt + answer for prompt, answer in self.answers.items()]
        try:
            return next(text.removeprefix(begun).encode() for text in whole if text.startswith(begun))
        except StopIteration:
            raise KeyError(begun) from None


class FakeError:
    INVALID_ARG = 3
    INTERNAL = 1
    CANCELLED = 6

    def __init__(self, message: str, code: int = 0) -> None:
        self.text = message
        self.code = code

    def message(self) -> str:
        return self.text


class FakeTensor:
    def __init__(self, name: str, value: npt.NDArray[Any]) -> None:
        self._name = name
        self._value = value

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> npt.NDArray[Any]:
        return self._value


class FakeResponse:
    def __init__(self, output_tensors: Sequence[FakeTensor], error: FakeError | None = None) -> None:
        self.tensors = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}
        self.error = error


class FakeSender:
    """Records the responses that were sent, and their flags."""

    def __init__(self) -> None:
        self.sent: list[tuple[FakeResponse | None, int]] = []
        self.cancelled = False

    def send(self, response: FakeResponse | None = None, flags: int = 0) -> None:
        assert not self.closed, "sent after the final response"
        self.sent.append((response, flags))

    def is_cancelled(self) -> bool:
        return self.cancelled

    @property
    def closed(self) -> bool:
        return bool(self.sent and self.sent[-1][1])


class FakeRequest:
    def __init__(self, parameters: Mapping[str, Any] | None = None, **inputs: Any) -> None:
        self._inputs = {name: np.asarray(value) for name, value in inputs.items()}
        self._parameters = json.dumps(parameters or {})
        self.sender = FakeSender()

    def inputs(self) -> list[FakeTensor]:
        return [FakeTensor(name, value) for name, value in self._inputs.items()]

    def parameters(self) -> str:
        return self._parameters

    def get_response_sender(self) -> FakeSender:
        return self.sender


FAKE_TRITON = SimpleNamespace(
    Tensor=FakeTensor,
    InferenceResponse=FakeResponse,
    TritonError=FakeError,
    TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
    Logger=SimpleNamespace(log_info=print),
)
"""A stand-in for the module `triton_python_backend_utils`, which exists only inside Triton."""
