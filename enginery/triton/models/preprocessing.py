"""Served as `preprocessing`: text to tokens."""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from .refusals import RequestError
from .requests import padded, refuse_unknown_parameters, tensors, texts
from .tokens import is_true, load_tokenizer, parameter, version_directory
from .words import pack, word_sequences


class TritonPythonModel:
    """Tokenizes `QUERY` and the word lists."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the tokenizer."""
        self.triton: Any = import_module("triton_python_backend_utils")
        self.tokenizer = load_tokenizer(version_directory(args))
        self.special = is_true(parameter(json.loads(args["model_config"]), "add_special_tokens", "true"))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            refuse_unknown_parameters(request)
            outputs = self.outputs(tensors(request))
        except RequestError as error:
            problem = self.triton.TritonError(str(error), self.triton.TritonError.INVALID_ARG)
            return self.triton.InferenceResponse(output_tensors=[], error=problem)
        return self.triton.InferenceResponse([self.triton.Tensor(name, value) for name, value in outputs.items()])

    def outputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs for a request's inputs.

        Raises:
            RequestError: naming the input that is wrong.
        """
        queries = texts(inputs["QUERY"], "text_input")
        tokens = [self.tokenizer.encode(query, add_special_tokens=self.special).ids for query in queries]
        if not all(tokens):
            raise RequestError("text_input: is empty, and the tokenizer adds nothing to it")
        return {
            "INPUT_ID": padded(tokens, 0),
            "REQUEST_INPUT_LEN": np.asarray([[len(ids)] for ids in tokens], dtype=np.int32),
            "REQUEST_OUTPUT_LEN": inputs["REQUEST_OUTPUT_LEN"].astype(np.int32),
            "BAD_WORDS_IDS": self._words(inputs, "BAD_WORDS_DICT", "bad_words", len(queries), spaced=True),
            "STOP_WORDS_IDS": self._words(inputs, "STOP_WORDS_DICT", "stop_words", len(queries), spaced=False),
        }

    def _words(self, inputs: Mapping[str, Any], tensor: str, name: str, rows: int, *, spaced: bool) -> Any:
        given = inputs.get(tensor)
        lists = [texts(row, name) for row in given] if given is not None else [[] for _ in range(rows)]
        return pack([word_sequences(self.tokenizer, words, spaced=spaced) for words in lists])
