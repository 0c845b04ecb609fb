"""The model `tensorrt_llm` around an engine of ONNX Runtime GenAI: tokens to tokens."""

import json
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from .generation import Answer, GenaiEngine, batches, generate
from .requests import Call, RequestError, fail, padded, read_call, response_with, tensors
from .text import is_decoupled, is_true, load_tokenizer, parameter, version_directory

NO_CONTEXT = -1
CANCEL_CHECK_SECONDS = 0.05


class TritonPythonModel:
    """Runs the engine on batches of requests."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the engine."""
        self.triton: Any = import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        directory = version_directory(args)
        threads = int(parameter(config, "intra_op_num_threads", "0"))
        self.engine = GenaiEngine(
            directory / "engine",
            provider=parameter(config, "provider", "cpu"),
            device=int(args["model_instance_device_id"]),
            threads=threads or None,
        )
        self.tokenizer = load_tokenizer(directory)
        self.max_rows = max(1, int(config["max_batch_size"]))
        self.decoupled = is_decoupled(config)
        self.exclude_input = is_true(parameter(config, "exclude_input_in_output", "true"))

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer the requests, as many as possible in one batch; each response is sent as soon as it is ready."""
        jobs = [job for request in requests if (job := self._read(request))]
        for indices in batches(self.engine, [job.call.questions for job in jobs], self.max_rows):
            self._run([jobs[index] for index in indices])

    def _read(self, request: Any) -> "Job | None":
        sender = request.get_response_sender()
        try:
            call = read_call(tensors(request), self.engine, decoupled=self.decoupled, exclude_input=self.exclude_input)
        except RequestError as error:
            fail(self.triton, sender, str(error), "INVALID_ARG")
            return None
        return Job(self.triton, sender, call, self._decode)

    def _run(self, jobs: Sequence["Job"]) -> None:
        checked = time.monotonic()

        def after_step() -> None:
            nonlocal checked
            for job in jobs:
                job.send_ready()
            if time.monotonic() - checked >= CANCEL_CHECK_SECONDS:
                for job in jobs:
                    job.drop_if_unwanted()
                checked = time.monotonic()

        try:
            generate(self.engine, [answer for job in jobs for answer in job.answers], after_step)
        except Exception as error:  # noqa: BLE001  any failure must reach every client
            traceback.print_exc()
            for job in jobs:
                job.give_up(f"the engine failed: {error}")

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


class Job:
    """A request in progress: sends what is ready."""

    def __init__(self, triton: Any, sender: Any, call: Call, decode: Any) -> None:
        self._triton = triton
        self._sender = sender
        self.call = call
        self._open = True
        self._sent = 0
        self.answers = [Answer(question, decode, stream=call.stream) for question in call.questions]

    def send_ready(self) -> None:
        """Send the pieces of text that are complete, or the whole answer at its end."""
        if not self._open:
            return
        done = all(answer.finished for answer in self.answers)
        if self.call.stream:
            self._send_pieces(last=done)
        elif done:
            self._send([self._shown(answer) for answer in self.answers], [[] for _ in self.answers], last=True)

    def drop_if_unwanted(self) -> None:
        """End a request whose client has gone."""
        if self._open and self._sender.is_cancelled():
            made = sum(len(answer.tokens) for answer in self.answers)
            self._triton.Logger.log_info(f"stopped after {made} tokens: the client has gone")
            self.give_up("the client has gone", "CANCELLED")

    def give_up(self, message: str, code: str = "INTERNAL") -> None:
        """End a request with an error, unless its answer is complete."""
        if not self._open:
            return
        self._open = False
        for answer in self.answers:
            answer.stop()
        fail(self._triton, self._sender, message, code)

    def _shown(self, answer: Answer) -> list[int]:
        return [*(answer.question.prompt if answer.question.echo else []), *answer.tokens]

    def _send_pieces(self, *, last: bool) -> None:
        pieces = self.answers[0].take_pieces()
        for index, piece in enumerate(pieces):
            self._send([piece.tokens], [piece.context], last=last and index == len(pieces) - 1)

    def _send(self, tokens: Sequence[list[int]], contexts: Sequence[list[int]], *, last: bool) -> None:
        response = response_with(self._triton, self._outputs(tokens, contexts))
        flags = self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
        self._open = not last
        self._sender.send(response, flags=flags)

    def _outputs(self, tokens: Sequence[list[int]], contexts: Sequence[list[int]]) -> dict[str, Any]:
        sums = [[sum(answer.log_probs)] for answer in self.answers]
        new = [answer.log_probs[self._sent :] for answer in self.answers]
        self._sent += max(map(len, new))
        width = max(map(len, new))
        return {
            "output_ids": padded([ids or [self.call.pad_id] for ids in tokens], self.call.pad_id)[:, None],
            "sequence_length": np.asarray([[len(ids)] for ids in tokens], dtype=np.int32),
            "cum_log_probs": np.asarray(sums, dtype=np.float32),
            "output_log_probs": np.asarray([[[*row, *[0.0] * (width - len(row))]] for row in new], dtype=np.float32),
            "context_ids": padded([ids or [NO_CONTEXT] for ids in contexts], NO_CONTEXT),
        }
