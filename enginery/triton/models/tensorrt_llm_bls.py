"""The model `tensorrt_llm_bls`: calls the other models one after the other, as the ensemble does."""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from .requests import KeptResponse, RequestError, fail, for_each_text, response_with, tensors
from .text import TokensSoFar, is_decoupled, is_true, parameter, version_directory
from .wiring import Step, own_steps, steps_beside

QUERY = "text_input"
TEXT = "text_output"
STREAM = "stream"
BATCH_INDEX = "batch_index"
"""An output of TensorRT-LLM's backend: which text of the request a response is about."""


class TritonPythonModel:
    """Calls `preprocessing`, `tensorrt_llm` and `postprocessing`."""

    steps: Sequence[Step] = own_steps()
    engine_model = "tensorrt_llm"
    accumulates = False

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read how the models are connected, and whether responses are streamed."""
        self.triton: Any = import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        self.decoupled = is_decoupled(config)
        self.steps = steps_beside(version_directory(args))
        self.engine_model = parameter(config, "tensorrt_llm_model_name", "") or self.engine_model
        self.accumulates = is_true(parameter(config, "accumulate_tokens", "false"))
        self.outputs = frozenset(output["name"] for output in config["output"])

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answer the requests, one after the other."""
        senders = [request.get_response_sender() if self.decoupled else KeptResponse() for request in requests]
        for request, sender in zip(requests, senders, strict=True):
            try:
                self._answer(tensors(request), sender)
            except RequestError as error:
                fail(self.triton, sender, str(error), "INVALID_ARG")
            except Exception as error:  # noqa: BLE001  any failure must reach the client
                fail(self.triton, sender, str(error), "INTERNAL")
        return None if self.decoupled else [sender.response for sender in senders]

    def _answer(self, inputs: Mapping[str, Any], sender: Any) -> None:
        self._refuse_unwired(inputs)
        if len(inputs[QUERY]) > 1 and not self._engine_takes_several_texts():
            self._answer_each(inputs, sender)
        else:
            self._answer_together(inputs, sender)

    def _answer_together(self, inputs: Mapping[str, Any], sender: Any) -> None:
        prepare, engine, show = self.steps
        known = {**inputs, **self._call_once(prepare, inputs)}
        so_far = self._tokens_so_far(inputs, show)
        parts = self._call(engine, known) if self.decoupled else [self._call_once(engine, known)]
        for part in parts:
            if sender.is_cancelled():
                raise RequestError("the client has gone")
            sender.send(self._response(self._with_text(part, show, so_far)))
        rest = so_far.rest() if so_far else ""
        if rest:
            sender.send(self._response({TEXT: np.asarray([[rest.encode()]], dtype=np.object_)}))
        sender.send(flags=self.triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _engine_takes_several_texts(self) -> bool:
        """Whether the engine is ours. TensorRT-LLM's backend refuses several texts, or answers each by itself."""
        return "CONTEXT_IDS" in self.steps[-1].takes

    def _answer_each(self, inputs: Mapping[str, Any], sender: Any) -> None:
        """Ask for each text of a request alone, and send all answers in one response."""
        if STREAM in inputs and inputs[STREAM].any():
            raise RequestError("stream: one text at a time can be streamed")

        def answer(index: int) -> dict[str, Any]:
            if sender.is_cancelled():
                raise RequestError("the client has gone")
            return self._whole_answer({name: values[index : index + 1] for name, values in inputs.items()})

        sender.send(self._response(stacked(for_each_text(len(inputs[QUERY]), answer))))
        sender.send(flags=self.triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _whole_answer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        prepare, engine, show = self.steps
        part = self._call_once(engine, {**inputs, **self._call_once(prepare, inputs)})
        return {**part, **self._call_once(show, part)}

    def _refuse_unwired(self, inputs: Mapping[str, Any]) -> None:
        wired = {name for step in self.steps for name in step.takes.values()}
        for name in inputs.keys() - wired:
            raise RequestError(f"{name}: is not supported by this model repository")

    def _tokens_so_far(self, inputs: Mapping[str, Any], show: Step) -> TokensSoFar | None:
        """Needed when streamed tokens come without the earlier tokens that their text depends on."""
        streams = self.decoupled and STREAM in inputs and bool(inputs[STREAM].reshape(-1)[0])
        if not streams or "CONTEXT_IDS" in show.takes:
            return None
        beams = inputs.get("beam_width")
        if beams is not None and int(beams.reshape(-1)[0]) > 1:
            return None  # beams may change earlier tokens, so each piece holds all of them
        return TokensSoFar(show.takes["TOKENS_BATCH"], show.takes["SEQUENCE_LENGTH"], whole=self.accumulates)

    def _with_text(self, part: Mapping[str, Any], show: Step, so_far: TokensSoFar | None) -> dict[str, Any]:
        """The tensors of a part of the answer, with its text."""
        known = {**part, **self._call_once(show, so_far.add(part) if so_far else part)}
        if so_far:
            text = so_far.show(known[TEXT].reshape(-1)[0].decode())
            known[TEXT] = np.asarray([[text.encode()]], dtype=np.object_)
        return known

    def _response(self, known: Mapping[str, Any]) -> Any:
        return response_with(self.triton, {name: value for name, value in known.items() if name in self.outputs})

    def _call_once(self, step: Step, known: Mapping[str, Any]) -> dict[str, Any]:
        answers = list(self._call(step, known))
        if not answers:
            raise RuntimeError(f"{step.model} gave no answer")
        return answers[0]

    def _call(self, step: Step, known: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The outputs of each response of a model, under their names in the ensemble."""
        of_engine = step is self.steps[1]
        request = self.triton.InferenceRequest(
            model_name=self.engine_model if of_engine else step.model,
            inputs=[self.triton.Tensor(name, known[theirs]) for name, theirs in step.takes.items() if theirs in known],
            requested_output_names=list(step.gives),
        )
        for response in request.exec(decoupled=True) if self.decoupled and of_engine else [request.exec()]:
            if response.has_error():
                raise RequestError(response.error().message())
            if response.output_tensors():
                yield {step.gives[tensor.name()]: tensor.as_numpy() for tensor in response.output_tensors()}


def stacked(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The outputs for several texts, from the outputs for each of them. What is shorter is filled up."""
    found = {name: _stacked([answer[name] for answer in answers]) for name in answers[0]}
    if BATCH_INDEX in found:
        found[BATCH_INDEX] = np.arange(len(answers), dtype=np.int32).reshape(found[BATCH_INDEX].shape)
    return found


def _stacked(rows: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    sizes = np.max([row.shape for row in rows], axis=0)
    nothing = b"" if rows[0].dtype == np.object_ else 0
    filled = [np.full(sizes, nothing, dtype=row.dtype) for row in rows]
    for place, row in zip(filled, rows, strict=True):
        place[tuple(slice(size) for size in row.shape)] = row
    return np.concatenate(filled)
