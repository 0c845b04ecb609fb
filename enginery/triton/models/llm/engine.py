"""An `LLM` of TensorRT-LLM's, on an event loop of its own, so that requests share its batches."""

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from importlib import import_module
from typing import Any

from .settings import Settings

WARM_UP_PROMPT = "Hello"
WARM_UP_TOKENS = 4
HELPER = "update_llm_args_with_extra_dict"
HELPER_MODULES = ("tensorrt_llm.llmapi.llm_utils", "tensorrt_llm.llmapi.llm_args")


class Engine:
    """Loads the model when it is made."""

    def __init__(self, settings: Settings) -> None:
        module, _, name = settings.llm_class.partition(":")
        self._sampling_params: Any = import_module("tensorrt_llm").SamplingParams
        self._llm: Any = getattr(import_module(module), name)(**_as_objects(settings.arguments))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
        self._thread.start()

    def generate(self, prompt: str, sampling: Mapping[str, Any], *, stream: bool) -> Any:
        """Begin an answer; to be called, and iterated over, on the loop.

        Raises:
            ValueError: when the request is not one that the model can answer.
        """
        return self._llm.generate_async(prompt, sampling_params=self._sampling_params(**sampling), streaming=stream)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something on the loop, and do not wait for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop)

    def warm_up(self, sizes: tuple[int, ...]) -> None:
        """Answer batches of these sizes, so that whatever is made at first use is there for the first user."""
        for size in sizes:
            asyncio.run_coroutine_threadsafe(self._answer_together(size), self._loop).result()

    async def _answer_together(self, size: int) -> None:
        await asyncio.gather(*(self._answer() for _ in range(size)))

    async def _answer(self) -> None:
        async for _ in self.generate(WARM_UP_PROMPT, {"max_tokens": WARM_UP_TOKENS}, stream=False):
            pass

    def close(self) -> None:
        """Free the GPUs."""
        self._llm.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _as_objects(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as the constructor takes them: the release's own helper makes objects of plain mappings."""
    convert = _converter()
    if convert is None:
        return dict(arguments)
    said = {name: value for name, value in arguments.items() if value is not None}  # it makes objects of null, too
    return {**arguments, **convert({}, said)}


def _converter() -> Any:
    """The helper behind the release's own `extra_llm_api_options`; the first releases with the backend have none."""
    for module in HELPER_MODULES:
        try:
            return getattr(import_module(module), HELPER)
        except (ImportError, AttributeError):
            continue
    return None
