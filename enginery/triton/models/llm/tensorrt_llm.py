"""The model `tensorrt_llm` of the LLM API: text to text."""

import asyncio
import contextlib
import json
import os
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ..requests import RequestError, fail, for_each_text, response_with, tensors  # noqa: TID252  siblings in the archive
from ..text import INCOMPLETE, is_decoupled, version_directory  # noqa: TID252
from .engine import Engine, TextRequest, read_requests, read_settings

CANCEL_CHECK_SECONDS = 0.1


class TritonPythonModel:
    """Passes requests to the LLM, and sends its answers as they come."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model, and warm it up."""
        self.triton: Any = import_module("triton_python_backend_utils")
        self.decoupled = is_decoupled(json.loads(args["model_config"]))
        self.settings = read_settings(version_directory(args), os.environ)
        self.triton.Logger.log_info(f"arguments of the LLM API: {json.dumps(self.settings.arguments, default=str)}")
        self.engine = Engine(self.settings)
        self.engine.warm_up(self.settings.warm_up)
        self.triton.Logger.log_info(f"warmed up with batches of {list(self.settings.warm_up)}")

    def execute(self, requests: Sequence[Any]) -> None:
        """Begin all requests; each gets its answer as soon as it is ready."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                read = read_requests(
                    tensors(request), decoupled=self.decoupled, exclude_input=self.settings.exclude_input
                )
            except RequestError as error:
                fail(self.triton, sender, str(error), "INVALID_ARG")
            except Exception as error:  # noqa: BLE001  without an answer, its client would wait
                traceback.print_exc()
                fail(self.triton, sender, f"the model failed: {error}", "INTERNAL")
            else:
                self.engine.start(Job(self.triton, self.engine, read, sender).run())

    def finalize(self) -> None:
        """Shut the engine down."""
        self.engine.close()


class Job:
    """A request in progress: one text, or several that are answered together."""

    def __init__(self, triton: Any, engine: Engine, requests: Sequence[TextRequest], sender: Any) -> None:
        self._triton = triton
        self._engine = engine
        self._requests = requests
        self._sender = sender
        self._sent = 0
        self._wanted = True
        self._ended = False

    async def run(self) -> None:
        """Send the answer as it comes. Any failure is sent to the client."""
        try:
            await self._answer()
        except ValueError as error:
            await self._fail(str(error), "INVALID_ARG")
        except Exception as error:  # noqa: BLE001  any failure must reach the client
            traceback.print_exc()
            await self._fail(f"the model failed: {error}", "INTERNAL")

    async def _answer(self) -> None:
        results = self._begin_all()
        watcher = asyncio.create_task(self._watch(results))
        try:
            await (self._stream(results[0]) if self._requests[0].stream else self._send_whole(results))
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        if not self._wanted:
            self._triton.Logger.log_info("stopped: the client has gone")
            await self._fail("the client has gone", "CANCELLED")
        elif not self._ended:
            await self._fail("the model stopped before the answer was complete", "INTERNAL")

    def _begin_all(self) -> list[Any]:
        begun: list[Any] = []
        try:
            for_each_text(len(self._requests), lambda index: begun.append(self._begin(self._requests[index])))
        except BaseException:
            _abort(begun)
            raise
        return begun

    def _begin(self, request: TextRequest) -> Any:
        try:
            return self._engine.generate(
                request.prompt, request.sampling, stream=request.stream, special=request.special
            )
        except ValueError as error:
            raise RequestError(str(error)) from error

    async def _watch(self, results: Sequence[Any]) -> None:
        """Abort the request when its client has gone. After the last response, Triton forgets a request."""
        while not (self._ended or self._sender.is_cancelled()):  # noqa: ASYNC110  Triton has no event for it
            await asyncio.sleep(CANCEL_CHECK_SECONDS)
        if not self._ended:
            self._wanted = False
            _abort(results)

    async def _stream(self, result: Any) -> None:
        async for output in result:
            if not self._wanted:
                return
            answer, last = output.outputs[0], bool(output.finished)
            text = answer.text if last else answer.text.rstrip(INCOMPLETE)
            piece = text[self._sent :]
            if piece or last:
                lead = _lead(self._requests[0]) if not self._sent else ""
                self._sent = len(text)
                await self._send([lead + piece], [answer], last=last)

    async def _send_whole(self, results: Sequence[Any]) -> None:
        """Send all answers when the last is complete. A text may have several."""
        try:
            finished = await asyncio.gather(*map(self._finished, results))
        except BaseException:
            _abort(results)
            raise
        answers = [(request, answer) for request, made in zip(self._requests, finished, strict=True) for answer in made]
        if self._wanted and all(finished):
            texts = [_lead(request) + answer.text for request, answer in answers]
            await self._send(texts, [answer for _, answer in answers], last=True)

    async def _finished(self, result: Any) -> Sequence[Any]:
        """The answers of a result when they are complete; none when it ends before."""
        async for output in result:
            if output.finished and self._wanted:
                return list(output.outputs)
        return ()

    async def _send(self, texts: Sequence[str], answers: Sequence[Any], *, last: bool) -> None:
        outputs = {
            "text_output": _strings(texts),
            "finish_reason": _strings([str(answer.finish_reason or "") for answer in answers]),
            "stop_reason": _strings(["" if each.stop_reason is None else str(each.stop_reason) for each in answers]),
            "cumulative_logprob": np.asarray([answer.cumulative_logprob or 0.0 for answer in answers], np.float32),
        }
        response = response_with(self._triton, outputs)
        flags = self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
        self._ended = last
        # On another thread: the LLM goes on while Triton takes the answer.
        await asyncio.to_thread(self._sender.send, response, flags=flags)

    async def _fail(self, message: str, code: str) -> None:
        await asyncio.to_thread(fail, self._triton, self._sender, message, code)


def _abort(results: Sequence[Any]) -> None:
    for result in results:
        result.abort()


def _lead(request: TextRequest) -> str:
    """What comes before the answer."""
    return "" if request.exclude_input else request.prompt


def _strings(values: Sequence[str]) -> Any:
    return np.asarray([value.encode() for value in values], dtype=np.object_)
