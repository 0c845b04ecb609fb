"""The model `tensorrt_llm` around an engine of ONNX Runtime GenAI: tokens to tokens."""

import json
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

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
        """Answer the requests, as many texts as possible in one batch; each response is sent as soon as it is ready."""
        rows = [Row(job, answer) for request in requests if (job := self._read(request)) for answer in job.answers]
        for indices in batches(self.engine, [row.answer.question for row in rows], self.max_rows):
            self._run([rows[index] for index in indices])

    def _read(self, request: Any) -> "Job | None":
        sender = request.get_response_sender()
        try:
            call = read_call(tensors(request), self.engine, decoupled=self.decoupled, exclude_input=self.exclude_input)
        except RequestError as error:
            fail(self.triton, sender, str(error), "INVALID_ARG")
            return None
        except Exception as error:  # noqa: BLE001  without an answer, the clients of all these requests would wait
            traceback.print_exc()
            fail(self.triton, sender, f"the model failed: {error}", "INTERNAL")
            return None
        return Job(self.triton, sender, call, self._decode)

    def _run(self, rows: Sequence["Row"]) -> None:
        """Answer the texts of a batch. If the engine fails, each is tried alone: one of them may be the cause."""
        try:
            self._generate(rows)
        except Exception as error:  # noqa: BLE001  any failure must reach the client
            traceback.print_exc()
            if len(rows) > 1:
                for row in rows:
                    self._run([row])
            else:
                rows[0].job.give_up(f"the engine failed: {error}")

    def _generate(self, rows: Sequence["Row"]) -> None:
        jobs = list(dict.fromkeys(row.job for row in rows))
        checked = time.monotonic()

        def after_step() -> None:
            nonlocal checked
            for job in jobs:
                job.send_ready()
            if time.monotonic() - checked >= CANCEL_CHECK_SECONDS:
                for job in jobs:
                    job.drop_if_unwanted()
                checked = time.monotonic()

        generate(self.engine, [row.answer for row in rows], after_step)
        for job in jobs:
            job.send_ready()  # if an earlier attempt could not send it

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


class Row(NamedTuple):
    """One text of a request, with its answer."""

    job: "Job"
    answer: Answer


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
        filled = [ids or [padding] for ids, padding in zip(tokens, self.call.pad_ids, strict=True)]
        return {
            "output_ids": padded(filled, self.call.pad_ids)[:, None],
            "sequence_length": np.asarray([[len(ids)] for ids in tokens], dtype=np.int32),
            "cum_log_probs": np.asarray(sums, dtype=np.float32),
            "output_log_probs": np.asarray([[[*row, *[0.0] * (width - len(row))]] for row in new], dtype=np.float32),
            "context_ids": padded([ids or [NO_CONTEXT] for ids in contexts], NO_CONTEXT),
        }
