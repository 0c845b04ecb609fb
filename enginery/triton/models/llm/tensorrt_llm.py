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

from ..requests import RequestError, fail, response_with, tensors  # noqa: TID252  siblings in the archive
from ..text import INCOMPLETE, is_decoupled, version_directory  # noqa: TID252
from .engine import Engine, TextRequest, read_request, read_settings

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
                read = read_request(
                    tensors(request), decoupled=self.decoupled, exclude_input=self.settings.exclude_input
                )
            except RequestError as error:
                fail(self.triton, sender, str(error), "INVALID_ARG")
            else:
                self.engine.start(Job(self.triton, self.engine, read, sender).run())

    def finalize(self) -> None:
        """Shut the engine down."""
        self.engine.close()


class Job:
    """A request in progress."""

    def __init__(self, triton: Any, engine: Engine, request: TextRequest, sender: Any) -> None:
        self._triton = triton
        self._engine = engine
        self._request = request
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
        request = self._request
        result = self._engine.generate(request.prompt, request.sampling, stream=request.stream)
        watcher = asyncio.create_task(self._watch(result))
        try:
            async for output in result:
                if not self._wanted:
                    break
                await self._take(output)
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        if not self._wanted:
            self._triton.Logger.log_info("stopped: the client has gone")
            await self._fail("the client has gone", "CANCELLED")
        elif not self._ended:
            await self._fail("the model stopped before the answer was complete", "INTERNAL")

    async def _watch(self, result: Any) -> None:
        """Abort the request when its client has gone. After the last response, Triton forgets a request."""
        while not (self._ended or self._sender.is_cancelled()):  # noqa: ASYNC110  Triton has no event for it
            await asyncio.sleep(CANCEL_CHECK_SECONDS)
        if not self._ended:
            self._wanted = False
            result.abort()

    async def _take(self, output: Any) -> None:
        answers, last = output.outputs, bool(output.finished)
        if not self._request.stream:
            if last:  # of several answers one may be complete before the others
                await self._send([self._lead() + answer.text for answer in answers], answers, last=True)
            return
        text = answers[0].text if last else answers[0].text.rstrip(INCOMPLETE)
        piece = text[self._sent :]
        if piece or last:
            lead = self._lead() if not self._sent else ""
            self._sent = len(text)
            await self._send([lead + piece], answers[:1], last=last)

    def _lead(self) -> str:
        return "" if self._request.exclude_input else self._request.prompt

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


def _strings(values: Sequence[str]) -> Any:
    return np.asarray([value.encode() for value in values], dtype=np.object_)
