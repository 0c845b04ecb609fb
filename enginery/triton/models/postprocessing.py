"""The model `postprocessing`: tokens to text."""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from .requests import respond
from .text import is_true, load_tokenizer, new_text, parameter, tokenizer_directory

PASSED_THROUGH = "OUT_"
TYPES = {"TYPE_FP32": np.float32, "TYPE_INT32": np.int32}


class TritonPythonModel:
    """Turns `TOKENS_BATCH` into text, as the continuation of `CONTEXT_IDS` if these are given.

    Templates of early releases have inputs that only pass through: `CUM_LOG_PROBS` becomes `OUT_CUM_LOG_PROBS`.
    """

    passed_through: Mapping[str, Any] = {}

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the tokenizer."""
        self.triton: Any = import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        self.tokenizer = load_tokenizer(tokenizer_directory(args))
        self.skip = is_true(parameter(config, "skip_special_tokens", "true"))
        outputs = [output for output in config["output"] if output["name"].startswith(PASSED_THROUGH)]
        self.passed_through = {output["name"]: zero(output) for output in outputs}

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Respond to each request."""
        return [respond(self.triton, request, self._outputs) for request in requests]

    def _outputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"OUTPUT": self.output(inputs), **self.pass_through(inputs)}

    def output(self, inputs: Mapping[str, Any]) -> Any:
        """The texts for a request's inputs: shape (batch, beams)."""
        contexts = inputs.get("CONTEXT_IDS")
        found = []
        for index, (row, lengths) in enumerate(zip(inputs["TOKENS_BATCH"], inputs["SEQUENCE_LENGTH"], strict=True)):
            context = [] if contexts is None else [int(token) for token in contexts[index].reshape(-1) if token >= 0]
            beams = zip(row.reshape(-1, row.shape[-1]), lengths.reshape(-1), strict=True)
            answers = [[int(token) for token in tokens[: int(length)]] for tokens, length in beams]
            found.append([new_text(self._decode, context, answer).encode() for answer in answers])
        return np.asarray(found, dtype=np.object_)

    def pass_through(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs that are inputs; zeros for a missing input, since an ensemble waits for all its outputs."""
        rows = len(inputs["TOKENS_BATCH"])
        return {
            name: inputs.get(name.removeprefix(PASSED_THROUGH), np.repeat(zero, rows, axis=0))
            for name, zero in self.passed_through.items()
        }

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=self.skip))


def zero(output: Mapping[str, Any]) -> Any:
    """The smallest value of an output, for one row, as the configuration describes it."""
    return np.zeros((1, *(1 for _ in output["dims"])), dtype=TYPES[output["data_type"]])
