"""Served as `tensorrt_llm_bls`: a script that asks the other models one after the other, as the ensemble does."""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from .refusals import RequestError
from .requests import refuse_unknown_parameters, tensors
from .responses import fail
from .wiring import FROM_PREPROCESSING, PASSED_ON, TO_ENGINE, TO_POSTPROCESSING, TO_PREPROCESSING


class TritonPythonModel:
    """Asks `preprocessing`, `tensorrt_llm` and `postprocessing`."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read whether responses are streamed."""
        self.triton: Any = import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        self.decoupled = bool(config.get("model_transaction_policy", {}).get("decoupled", False))

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer the requests, one after the other."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                refuse_unknown_parameters(request)
                self._answer(tensors(request), sender)
            except RequestError as error:
                fail(self.triton, sender, str(error), "INVALID_ARG")
            except Exception as error:  # noqa: BLE001  whatever fails, the client must be told
                fail(self.triton, sender, str(error), "INTERNAL")

    def _answer(self, inputs: Mapping[str, Any], sender: Any) -> None:
        prepared = next(self._ask("preprocessing", _renamed(inputs, TO_PREPROCESSING), list(FROM_PREPROCESSING)))
        question = _renamed(inputs, TO_ENGINE) | _renamed(prepared, FROM_PREPROCESSING)
        for part in self._ask("tensorrt_llm", question, [*TO_POSTPROCESSING, *PASSED_ON]):
            if sender.is_cancelled():
                raise RequestError("the client has gone")
            sender.send(self._response(part))
        sender.send(flags=self.triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _response(self, part: Mapping[str, Any]) -> Any:
        texts = next(self._ask("postprocessing", _renamed(part, TO_POSTPROCESSING), ["OUTPUT"]))
        outputs = {"text_output": texts["OUTPUT"]} | {name: part[name] for name in PASSED_ON}
        return self.triton.InferenceResponse([self.triton.Tensor(*item) for item in outputs.items()])

    def _ask(self, model: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> Iterator[dict[str, Any]]:
        request = self.triton.InferenceRequest(
            model_name=model,
            inputs=[self.triton.Tensor(*item) for item in inputs.items()],
            requested_output_names=list(outputs),
        )
        streamed = self.decoupled and model == "tensorrt_llm"
        for response in request.exec(decoupled=True) if streamed else [request.exec()]:
            if response.has_error():
                raise RequestError(response.error().message())
            if response.output_tensors():
                yield {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def _renamed(tensors_by_name: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {new: tensors_by_name[old] for old, new in names.items() if old in tensors_by_name}
