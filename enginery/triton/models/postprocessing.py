"""Served as `postprocessing`: tokens to text."""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from .requests import tensors
from .text import new_text
from .tokens import is_true, load_tokenizer, parameter, version_directory


class TritonPythonModel:
    """Turns `TOKENS_BATCH` into text, as the continuation of `CONTEXT_IDS` where these are given."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the tokenizer."""
        self.triton: Any = import_module("triton_python_backend_utils")
        self.tokenizer = load_tokenizer(version_directory(args))
        self.skip = is_true(parameter(json.loads(args["model_config"]), "skip_special_tokens", "true"))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request."""
        return [
            self.triton.InferenceResponse([self.triton.Tensor("OUTPUT", self.output(tensors(request)))])
            for request in requests
        ]

    def output(self, inputs: Mapping[str, Any]) -> Any:
        """The texts for a request's inputs: shape (batch, 1)."""
        rows = zip(inputs["TOKENS_BATCH"], inputs["SEQUENCE_LENGTH"], strict=True)
        contexts = inputs.get("CONTEXT_IDS")
        found = []
        for index, (tokens, length) in enumerate(rows):
            context = [] if contexts is None else [int(token) for token in contexts[index].reshape(-1) if token >= 0]
            answer = [int(token) for token in tokens.reshape(-1)[: int(length.reshape(-1)[0])]]
            found.append([new_text(self._decode, context, answer).encode()])
        return np.asarray(found, dtype=np.object_)

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=self.skip))
