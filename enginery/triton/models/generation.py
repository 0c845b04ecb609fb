"""Several answers made together, one token of each at a time, with an engine of ONNX Runtime GenAI.

Tokens are chosen by `sampling`, not by the library: the library runs the model and keeps its memory.
"""

import ctypes
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .sampling import Logits, Sampler, Sampling, log_probability
from .text import Decode, Piece, StopWatch, TextStream

IMPOSSIBLE = np.float32(-1e9)
"""The logit of a token that must not be taken."""


@dataclass(frozen=True)
class Question:
    """One prompt with its parameters.

    Attributes:
        prompt: its tokens, at least one.
        max_tokens: the maximum length of the answer, at least 1.
        end_ids: tokens that end the answer and do not belong to it.
        sampling: how tokens are chosen.
        stop_words: token sequences whose text ends the answer and belongs to it.
        log_probs: whether to compute the log probability of each token.
        echo: whether the answer begins with the prompt.
    """

    prompt: list[int]
    max_tokens: int
    end_ids: list[int]
    sampling: Sampling = field(default_factory=Sampling)
    stop_words: Sequence[Sequence[int]] = ()
    log_probs: bool = False
    echo: bool = False


class Answer:
    """The answer to one question, while it is generated.

    An answer holds all of its own state. So another batch can go on with it after each token.

    Attributes:
        tokens: the tokens so far.
        log_probs: one for each token, if the question wants them.
        finished: whether the answer is complete.
    """

    def __init__(self, question: Question, decode: Decode, *, stream: bool) -> None:
        self.question = question
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.finished = False
        self._sampler = Sampler(question.sampling, question.end_ids)
        self._stops = StopWatch(question.stop_words, decode) if question.stop_words else None
        self._stream = TextStream(decode) if stream else None
        self._pieces: list[Piece] = []
        if self._stream and question.echo:
            self._pieces += [piece for token in question.prompt if (piece := self._stream.push(token))]

    @property
    def sequence(self) -> list[int]:
        """The prompt, and the tokens so far."""
        return [*self.question.prompt, *self.tokens]

    @property
    def remaining(self) -> int:
        """How many tokens the answer may still get."""
        return self.question.max_tokens - len(self.tokens)

    def step(self, logits: Logits) -> int:
        """Choose the next token from the model's logits, and finish if it is the last one."""
        token = self._sampler.choose(logits, self.question.prompt, self.tokens)
        if token in self.question.end_ids:
            self._finish()
            return token
        self.tokens.append(token)
        if self.question.log_probs:
            self.log_probs.append(log_probability(logits, token))
        if self._stream:
            piece = self._stream.push(token)
            self._pieces += [piece] if piece else []
        if len(self.tokens) >= self.question.max_tokens or (self._stops and self._stops.push(self.tokens)):
            self._finish()
        return token

    def stop(self) -> None:
        """End the answer early, because nobody wants the rest."""
        self.finished = True

    def take_pieces(self) -> list[Piece]:
        """The pieces of a streamed answer that have become complete since the last call."""
        taken, self._pieces = self._pieces, []
        return taken

    def _finish(self) -> None:
        self.finished = True
        if self._stream:
            self._pieces.append(self._stream.finish())


class GenaiEngine:
    """An engine that the GenAI model builder has made.

    Attributes:
        context_length: the maximum number of tokens in prompt and answer together.
        end_ids: tokens that end an answer unless the request names another.
        filler: the token that fills up shorter rows. It may be a word: the library takes only tokens of the model.
        last_token: the library appends nothing to a row after it has appended this token. In a prompt it is like any
            other token.
        vocabulary: the number of tokens the model knows.
    """

    def __init__(self, directory: Path, *, provider: str = "cpu", device: int = 0, threads: int | None = None) -> None:
        self._library: Any = import_module("onnxruntime_genai")
        facts = json.loads((directory / "genai_config.json").read_text(encoding="utf-8"))["model"]
        ends = facts["eos_token_id"]
        self.end_ids = [int(token) for token in (ends if isinstance(ends, list) else [ends])]
        self.context_length = int(facts["context_length"])
        self.shortest_cache = _shortest_cache(facts)
        self.vocabulary = int(facts["vocab_size"])
        self.filler = _filler(facts, self.end_ids)
        self.last_token = _last_token(facts, self.end_ids)
        config = self._library.Config(str(directory))
        session = {"intra_op_num_threads": threads or default_threads(), "session.intra_op.allow_spinning": "0"}
        tokens = {"eos_token_id": self.last_token, "pad_token_id": self.filler}
        config.overlay(json.dumps({"model": {**tokens, "decoder": {"session_options": session}}}))
        self._model = self._on_gpu(config, device) if provider == "cuda" else self._library.Model(config)

    def _on_gpu(self, config: Any, device: int) -> Any:
        """The model on this GPU. Checked, because the library may silently fall back to the CPU."""
        _load_cuda()
        config.set_provider_option("cuda", "device_id", str(device))
        model = self._library.Model(config)
        if model.device_type != "CUDA":
            raise RuntimeError(f"this engine is to run on CUDA device {device} but runs on {model.device_type}")
        return model

    def start(self, prompts: Sequence[Sequence[int]], length: int) -> "GenaiSession":
        """Begin with these prompts; no row grows beyond `length` tokens."""
        options = self._library.GeneratorParams(self._model)
        room = max(length, self.shortest_cache)
        options.set_search_options(max_length=room, batch_size=len(prompts), do_sample=False)
        width = max(map(len, prompts))
        rows = [[*prompt, *[self.filler] * (width - len(prompt))] for prompt in prompts]
        generator = self._library.Generator(self._model, options)
        generator.append_tokens(np.asarray(rows if len(rows) > 1 else rows[0], dtype=np.int32))
        return GenaiSession(generator, len(prompts))


class GenaiSession:
    """A batch of prompts in the library's generator, which is made to take the tokens that we choose."""

    def __init__(self, generator: Any, rows: int) -> None:
        self._generator = generator
        self._rows = rows
        self._width = int(generator.get_logits().shape[-1])

    def logits(self) -> Logits:
        """The logits of the next token: shape (rows, vocabulary)."""
        found = np.asarray(self._generator.get_logits(), dtype=np.float32)
        return found.reshape(self._rows, -1, found.shape[-1])[:, -1]

    def append(self, tokens: Sequence[int]) -> None:
        """Append one token to each row: make all others impossible for the library's own search."""
        forced = np.full((self._rows, 1, self._width), IMPOSSIBLE, dtype=np.float32)
        forced[np.arange(self._rows), 0, list(tokens)] = 0
        self._generator.set_logits(forced)
        self._generator.generate_next_token()


def generate(engine: GenaiEngine, answers: Sequence[Answer], after_step: Callable[[], None]) -> None:
    """Generate all answers together. `after_step` is called each time every unfinished answer has got a token."""
    while unfinished := [answer for answer in answers if not answer.finished]:
        _generate_in_one_session(engine, unfinished, after_step)


def _generate_in_one_session(engine: GenaiEngine, answers: Sequence[Answer], after_step: Callable[[], None]) -> None:
    """Generate until all answers are finished, or one has got the token after which the library appends nothing."""
    rows = [Begun.at(answer.sequence, engine.filler) for answer in answers]
    longest = max(len(row.head) for row in rows)
    most = max(len(row.tail) + answer.remaining for row, answer in zip(rows, answers, strict=True))
    session = engine.start([row.head for row in rows], longest + most)
    while True:
        tokens = [
            row.tail.pop(0) if row.tail else engine.filler if answer.finished else answer.step(logits)
            for row, answer, logits in zip(rows, answers, session.logits(), strict=True)
        ]
        after_step()
        going_on = [token for token, answer in zip(tokens, answers, strict=True) if not answer.finished]
        if not going_on or engine.last_token in going_on:
            return
        session.append(
            [engine.filler if answer.finished else token for token, answer in zip(tokens, answers, strict=True)]
        )


class Begun(NamedTuple):
    """How a sequence is given to the library, which takes fillers at the end of a row for filling.

    Attributes:
        head: what a session begins with. It does not end with the filler, unless it is the filler alone.
        tail: fillers that belong to the sequence. They are appended one by one.
    """

    head: list[int]
    tail: list[int]

    @classmethod
    def at(cls, sequence: Sequence[int], filler: int) -> "Begun":
        """Split a sequence of at least one token."""
        end = len(sequence)
        while end > 1 and sequence[end - 1] == filler:
            end -= 1
        return cls(list(sequence[:end]), list(sequence[end:]))


def batches(engine: GenaiEngine, questions: Sequence[Question], max_rows: int) -> Iterator[list[int]]:
    """Put questions into batches, which are lists of their indices.

    Shorter prompts are filled up at the end, and the model masks the filling, so an answer does not depend on the
    batch. Two kinds of questions need another batch: one that would make the longest prompt and the longest answer
    exceed the context together, and one that has no token but the filler.

    Args:
        engine: the model.
        questions: those of all requests. Questions of one request may go into different batches.
        max_rows: the maximum number of questions in a batch.
    """
    waiting = list(range(len(questions)))
    while waiting:
        taken: list[int] = []
        for index in waiting:
            if not taken or _fit(engine, [questions[each] for each in [*taken, index]], max_rows):
                taken.append(index)
        waiting = [index for index in waiting if index not in taken]
        yield taken


def default_threads() -> int:
    """Half of the CPUs that this process may use: a core often has two of them, and Triton needs some itself."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def _fit(engine: GenaiEngine, questions: Sequence[Question], max_rows: int) -> bool:
    rows = [(Begun.at(question.prompt, engine.filler), question.max_tokens) for question in questions]
    longest = max(len(row.head) for row, _ in rows) + max(len(row.tail) + most for row, most in rows)
    all_filling = any(row.head == [engine.filler] for row, _ in rows)
    return len(rows) <= max_rows and longest <= engine.context_length and not all_filling


def _shortest_cache(facts: dict[str, Any]) -> int:
    """The tokens that the KV cache must have room for: a layer with a sliding window does not run with less."""
    return int(facts.get("decoder", {}).get("sliding_window", {}).get("window_size", 0))


def _load_cuda() -> None:
    """Load the CUDA libraries that were installed as wheels, where the system's loader does not look.

    ONNX Runtime does not load NVRTC's builtins, which are needed as soon as cuDNN compiles a kernel.
    """
    runtime: Any = import_module("onnxruntime")
    runtime.preload_dlls()
    for library in Path(runtime.__file__).parents[1].glob("nvidia/*/lib/libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(library))


def _filler(facts: dict[str, Any], end_ids: Sequence[int]) -> int:
    """The token for filling: the model's own for padding, unless it has another meaning, or the last other token."""
    taken = (*end_ids, facts.get("bos_token_id"))
    vocabulary = range(int(facts["vocab_size"]))
    padding = facts.get("pad_token_id")
    if isinstance(padding, int) and padding in vocabulary and padding not in taken:
        return padding
    return next(token for token in reversed(vocabulary) if token not in taken)


def _last_token(facts: dict[str, Any], end_ids: Sequence[int]) -> int:
    """A token that answers rarely contain: the one that begins a text, or else one that ends it."""
    beginning = facts.get("bos_token_id")
    if isinstance(beginning, int) and 0 <= beginning < int(facts["vocab_size"]) and beginning not in end_ids:
        return beginning
    return end_ids[0]
