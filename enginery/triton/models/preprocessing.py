"""The model `preprocessing`: text to tokens."""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from .engine_inputs import EngineInputs
from .requests import RequestError, padded, refuse_unknown_parameters, respond, tensors, texts
from .text import (
    is_true,
    load_tokenizer,
    pack,
    parameter,
    special_tokens,
    tokenizer_directory,
    word_sequences,
)


class TritonPythonModel:
    """Tokenizes `QUERY` and the word lists."""

    engine_inputs: EngineInputs | None = None

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the tokenizer."""
        self.triton: Any = import_module("triton_python_backend_utils")
        config, directory = json.loads(args["model_config"]), tokenizer_directory(args)
        self.tokenizer = load_tokenizer(directory)
        self.special = is_true(parameter(config, "add_special_tokens", "true"))
        outputs = [output["name"] for output in config["output"]]
        if "OUT_END_ID" in outputs:  # only in the templates of TensorRT-LLM
            tokens = special_tokens(directory, self.tokenizer)
            self.engine_inputs = EngineInputs(outputs, self.tokenizer, tokens, add_special=self.special)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Respond to each request."""
        return [respond(self.triton, request, self._checked) for request in requests]

    def _checked(self, request: Any) -> dict[str, Any]:
        refuse_unknown_parameters(request)
        return self.outputs(tensors(request))

    def outputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs for a request's inputs.

        Raises:
            RequestError: naming the input that is wrong.
        """
        queries = texts(inputs["QUERY"], "text_input")
        tokens = [self.tokenizer.encode(query, add_special_tokens=self.special).ids for query in queries]
        if not all(tokens):
            raise RequestError("text_input: is empty, and the tokenizer adds nothing to it")
        stops = self._words(inputs, "STOP_WORDS_DICT", "stop_words", len(queries), spaced=False)
        ends = self._other_ends(inputs)
        found = {
            "INPUT_ID": padded(tokens, 0),
            "REQUEST_INPUT_LEN": np.asarray([[len(ids)] for ids in tokens], dtype=np.int32),
            "REQUEST_OUTPUT_LEN": inputs["REQUEST_OUTPUT_LEN"].astype(np.int32),
            "BAD_WORDS_IDS": pack(self._words(inputs, "BAD_WORDS_DICT", "bad_words", len(queries), spaced=True)),
            "STOP_WORDS_IDS": pack([[*words, *ends] for words in stops]),
        }
        return found | (self.engine_inputs.outputs(inputs, found["INPUT_ID"]) if self.engine_inputs else {})

    def _other_ends(self, inputs: Mapping[str, Any]) -> list[list[int]]:
        """The end tokens besides the one that the engine gets; none if the request names its own."""
        ends = self.engine_inputs.tokens.others if self.engine_inputs and "END_ID" not in inputs else ()
        return [[token] for token in ends]

    def _words(
        self, inputs: Mapping[str, Any], tensor: str, name: str, rows: int, *, spaced: bool
    ) -> list[list[list[int]]]:
        """The token sequences of a word list, for each row."""
        given = inputs.get(tensor)
        lists = [texts(row, name) for row in given] if given is not None else [[] for _ in range(rows)]
        return [word_sequences(self.tokenizer, words, spaced=spaced) for words in lists]
