"""TensorRT-LLM's LLM API: what `model.yaml` says, what a request asks for, and an `LLM` on an event loop of its own.

One event loop takes all requests, so that they share the LLM's batches.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..requests import (  # noqa: TID252  siblings in the archive
    RequestError,
    Tensors,
    Value,
    check_number,
    for_each_text,
    texts,
)
from ..text import prompt_tokens  # noqa: TID252

MODEL_FILE = "model.yaml"
PATH_VARIABLE = "LLM_CONFIG_PATH"
"""Names another file, absolute or beside `model.py`, as with NVIDIA's model."""
OWN_SECTION = "triton_config"
DEFAULT_CLASS = "tensorrt_llm:LLM"
WARM_UP_PROMPT = "Hello"
WARM_UP_TOKENS = 4
HELPER = "update_llm_args_with_extra_dict"
HELPER_MODULES = ("tensorrt_llm.llmapi.llm_utils", "tensorrt_llm.llmapi.llm_args")

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
OTHER_NAMES = {"min_length": "min_tokens", "random_seed": "seed"}
"""What the inputs were called up to 0.19."""
WORDS = ("stop", "bad")
WORD_LISTS = frozenset(f"{PREFIX}{name}" for name in WORDS)


@dataclass(frozen=True)
class Settings:
    """The content of `model.yaml`: arguments of the LLM API, and under `triton_config` those of the served model.

    Attributes:
        arguments: of the LLM API; `model` is a path if the checkpoint lies beside the file.
        llm_class: the class that takes them, as module:class.
        warm_up: batch sizes to try before the first request.
        exclude_input: whether answers omit the prompt unless a request says otherwise.
    """

    arguments: Mapping[str, Any]
    llm_class: str
    warm_up: tuple[int, ...]
    exclude_input: bool


def read_settings(directory: Path, environment: Mapping[str, str]) -> Settings:
    """Read `model.yaml` of a version directory, or the file that the environment names instead.

    Raises:
        TypeError: when the file is not a mapping, or names no model.
    """
    path = directory / environment.get(PATH_VARIABLE, MODEL_FILE)
    content = import_module("yaml").safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get(OWN_SECTION) or {}, dict):
        raise TypeError(f"{path}: must be a mapping with the arguments of the LLM API and {OWN_SECTION}")
    if not content.get("model"):
        raise TypeError(f"{path}: does not name the model, by its name or its directory beside the file")
    own = content.pop(OWN_SECTION, None) or {}
    return Settings(
        arguments={**content, "model": _place(str(content["model"]), (path.parent, directory))},
        llm_class=str(own.get("llm_class", DEFAULT_CLASS)),
        warm_up=tuple(int(size) for size in own.get("warm_up") or ()),
        exclude_input=bool(own.get("exclude_input_from_output", True)),
    )


@dataclass(frozen=True)
class TextRequest:
    """What a request asks of one text.

    Attributes:
        prompt: its text.
        sampling: arguments of `SamplingParams`.
        stream: whether the client wants pieces of the answer as they come.
        exclude_input: whether the answer omits the prompt.
        special: whether the tokenizer adds special tokens to the text.
    """

    prompt: str
    sampling: Mapping[str, Any]
    stream: bool
    exclude_input: bool
    special: bool = True


def read_requests(inputs: Tensors, *, decoupled: bool, exclude_input: bool) -> list[TextRequest]:
    """Read and check a request: what it asks of each of its texts.

    An input has one value, or one for each text. Word lists are for all texts.

    Args:
        inputs: its tensors.
        decoupled: whether the model may stream.
        exclude_input: the default for a request that does not say.

    Raises:
        RequestError: naming the input that is wrong or not supported, and the text if there are several.
    """
    count = inputs["text_input"].size
    found: list[TextRequest] = for_each_text(
        count,
        lambda index: _read_one(_of_text(inputs, index, count), decoupled=decoupled, exclude_input=exclude_input),
    )
    if not found:
        raise RequestError("text_input: there is none")
    if count > 1 and any(one.stream for one in found):
        raise RequestError("stream: one text at a time can be streamed")
    if count > 1 and any(one.sampling.get("best_of", 1) > 1 for one in found):
        raise RequestError("best_of: is for one text at a time")
    return found


def _of_text(inputs: Tensors, index: int, count: int) -> dict[str, Any]:
    """The inputs for one of the texts of a request."""
    found = {}
    for name, values in inputs.items():
        is_own = values.size == count and name not in WORD_LISTS
        found[name] = values.reshape(-1)[index : index + 1] if is_own else values
    return found


def _read_one(inputs: Tensors, *, decoupled: bool, exclude_input: bool) -> TextRequest:
    stream = bool(_scalar(inputs, "streaming", bool))
    if stream and not decoupled:
        raise RequestError("stream: this model was packaged without streaming (serving.decoupled)")
    exclude = _scalar(inputs, f"{PREFIX}exclude_input_from_output", bool)
    log_probs = bool(_scalar(inputs, "return_cumulative_logprob", bool))
    return TextRequest(
        prompt=_prompt(inputs),
        sampling={**_numbers(inputs), **_words(inputs), **({"logprobs": 1} if log_probs else {})},
        stream=stream,
        exclude_input=exclude_input if exclude is None else exclude,
        special=_scalar(inputs, f"{PREFIX}add_special_tokens", bool) is not False,
    )


class Engine:
    """An `LLM` on an event loop in a thread of its own. Creating an engine loads the model."""

    def __init__(self, settings: Settings) -> None:
        module, _, name = settings.llm_class.partition(":")
        self._sampling_params: Any = import_module("tensorrt_llm").SamplingParams
        self._llm: Any = getattr(import_module(module), name)(**_as_objects(settings.arguments))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
        self._thread.start()

    def generate(self, prompt: str, sampling: Mapping[str, Any], *, stream: bool, special: bool = True) -> Any:
        """Begin an answer; call this, and iterate over its result, on the loop.

        Raises:
            ValueError: when the model cannot answer this request.
        """
        inputs = self._inputs(prompt, special=special)
        return self._llm.generate_async(inputs, sampling_params=self._sampling_params(**sampling), streaming=stream)

    def _inputs(self, prompt: str, *, special: bool) -> str | list[int]:
        """The prompt for the LLM: its text, or its tokens if the LLM would add a token that does not belong there."""
        tokenizer = getattr(self._llm, "tokenizer", None)
        if tokenizer is None:
            if not special:
                raise RequestError("add_special_tokens: this model has no tokenizer that leaves them out")
            return prompt

        def encode(text: str, added: bool) -> list[int]:  # noqa: FBT001  as prompt_tokens calls it
            return [int(token) for token in tokenizer.encode(text, add_special_tokens=added)]

        tokens = prompt_tokens(encode, prompt, special=special)
        return prompt if tokens == encode(prompt, True) else tokens  # noqa: FBT003

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine on the loop, without waiting for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop)

    def warm_up(self, sizes: tuple[int, ...]) -> None:
        """Answer batches of these sizes, so that the first user does not wait for what is made at first use."""
        for size in sizes:
            asyncio.run_coroutine_threadsafe(self._answer_together(size), self._loop).result()

    async def _answer_together(self, size: int) -> None:
        await asyncio.gather(*(self._answer() for _ in range(size)))

    async def _answer(self) -> None:
        async for _ in self.generate(WARM_UP_PROMPT, {"max_tokens": WARM_UP_TOKENS}, stream=False):
            pass

    def close(self) -> None:
        """Shut the LLM down, which frees the GPUs, and stop the loop."""
        self._llm.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _place(model: str, directories: tuple[Path, ...]) -> str:
    """The path of a model in one of these directories; else the name itself, which may be one on the Hub."""
    return next((str(directory / model) for directory in directories if (directory / model).is_dir()), model)


def _prompt(inputs: Tensors) -> str:
    (found,) = texts(inputs["text_input"], "text_input")
    if not found:
        raise RequestError("text_input: is empty")
    return found


def _numbers(inputs: Tensors) -> dict[str, Any]:
    given = {name: _scalar(inputs, f"{PREFIX}{name}", kind) for name, kind in NUMBERS.items()}
    found = {OTHER_NAMES.get(name, name): value for name, value in given.items() if value is not None}
    for name, value in found.items():
        check_number(name, value)
    if found.get("temperature") == 0:  # means the likeliest token, but the runtime would divide by 0
        del found["temperature"]
        found["top_k"] = 1
        found.pop("top_p", None)
    return found


def _words(inputs: Tensors) -> dict[str, Any]:
    """The word lists without empty words. A stop word belongs to the answer, as with the other backends."""
    given = {name: texts(inputs.get(f"{PREFIX}{name}"), f"{name}_words") for name in WORDS}
    found: dict[str, Any] = {name: kept for name, words in given.items() if (kept := [word for word in words if word])}
    return {**found, "include_stop_str_in_output": True} if "stop" in found else found


def _scalar(inputs: Tensors, name: str, kind: Callable[[Any], Value]) -> Value | None:
    if name not in inputs:
        return None
    values = inputs[name].reshape(-1)
    if len(values) != 1:
        raise RequestError(f"{name.removeprefix(PREFIX)}: one value, or one for each text, not {len(values)}")
    return kind(values[0])


def _as_objects(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as the constructor takes them: a helper of the release makes objects of plain mappings.

    It is the helper behind the release's `extra_llm_api_options`. The first releases with the LLM API have none.
    """
    given = {name: value for name, value in arguments.items() if value is not None}  # it makes objects even of None
    for module in HELPER_MODULES:
        try:
            convert = getattr(import_module(module), HELPER)
        except (ImportError, AttributeError):
            continue
        return {**arguments, **convert({}, given)}
    return dict(arguments)
