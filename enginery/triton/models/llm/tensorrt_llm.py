"""Served as `tensorrt_llm`: text to text, with the LLM API."""

import asyncio
import contextlib
import json
import os
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from .asking import Question, read_question
from .engine import Engine
from .helpers import INCOMPLETE, RequestError, fail, refuse_unknown_parameters, tensors, version_directory
from .settings import read_settings

CANCEL_CHECK_SECONDS = 0.1


class TritonPythonModel:
    """Hands requests on to the LLM, and its answers back as they come."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model, and warm it up."""
        self.triton: Any = import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        self.decoupled = bool(config.get("model_transaction_policy", {}).get("decoupled", False))
        self.settings = read_settings(version_directory(args), os.environ)
        self.triton.Logger.log_info(f"arguments of the LLM API: {json.dumps(self.settings.arguments, default=str)}")
        self.engine = Engine(self.settings)
        self.engine.warm_up(self.settings.warm_up)
        self.triton.Logger.log_info(f"warmed up with batches of {list(self.settings.warm_up)}")

    def execute(self, requests: Sequence[Any]) -> None:
        """Begin all requests; each is answered as soon as it can be."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                refuse_unknown_parameters(request)
                question = read_question(
                    tensors(request), decoupled=self.decoupled, exclude_input=self.settings.exclude_input
                )
            except RequestError as error:
                fail(self.triton, sender, str(error), "INVALID_ARG")
            else:
                self.engine.start(Job(self.triton, self.engine, question, sender).run())

    def finalize(self) -> None:
        """Free the GPUs."""
        self.engine.close()


class Job:
    """A request at work."""

    def __init__(self, triton: Any, engine: Engine, question: Question, sender: Any) -> None:
        self._triton = triton
        self._engine = engine
        self._question = question
        self._sender = sender
        self._sent = 0
        self._wanted = True
        self._ended = False

    async def run(self) -> None:
        """Send what comes, until the end of the answer; whatever fails, the client is told."""
        try:
            await self._answer()
        except ValueError as error:
            await self._fail(str(error), "INVALID_ARG")
        except Exception as error:  # noqa: BLE001  whatever fails, the client must be told
            traceback.print_exc()
            await self._fail(f"the model failed: {error}", "INTERNAL")

    async def _answer(self) -> None:
        question = self._question
        result = self._engine.generate(question.prompt, question.sampling, stream=question.stream)
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
        """Stop working on a request whose client has gone; behind its last response, Triton forgets a request."""
        while not (self._ended or self._sender.is_cancelled()):  # noqa: ASYNC110  Triton can only be asked
            await asyncio.sleep(CANCEL_CHECK_SECONDS)
        if not self._ended:
            self._wanted = False
            result.abort()

    async def _take(self, output: Any) -> None:
        answers, last = output.outputs, bool(output.finished)
        if not self._question.stream:
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
        return "" if self._question.exclude_input else self._question.prompt

    async def _send(self, texts: Sequence[str], answers: Sequence[Any], *, last: bool) -> None:
        outputs = {
            "text_output": _strings(texts),
            "finish_reason": _strings([str(answer.finish_reason or "") for answer in answers]),
            "stop_reason": _strings([_shown(answer.stop_reason) for answer in answers]),
            "cumulative_logprob": np.asarray([answer.cumulative_logprob or 0.0 for answer in answers], np.float32),
        }
        response = self._triton.InferenceResponse([self._triton.Tensor(*item) for item in outputs.items()])
        flags = self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
        self._ended = last
        # On another thread: the LLM goes on while Triton takes the answer.
        await asyncio.to_thread(self._sender.send, response, flags=flags)

    async def _fail(self, message: str, code: str) -> None:
        await asyncio.to_thread(fail, self._triton, self._sender, message, code)


def _shown(reason: object) -> str:
    """The stop word or the token that ended an answer."""
    return "" if reason is None else str(reason)


def _strings(values: Sequence[str]) -> Any:
    return np.asarray([value.encode() for value in values], dtype=np.object_)
