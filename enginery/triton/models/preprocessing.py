"""The model `preprocessing`: text to tokens."""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from .requests import RequestError, Tensors, for_each_text, padded, respond, texts
from .text import (
    SpecialTokens,
    is_true,
    load_tokenizer,
    pack,
    parameter,
    prompt_tokens,
    special_tokens,
    tokenizer_directory,
    word_sequences,
)

PICTURES = ("IMAGE", "IMAGE_BYTES", "IMAGE_URL", "IMAGE_SIZES", "VIDEO_BYTES")


class EngineInputs:
    """Makes the further inputs of TensorRT-LLM's backend that the template of a release has, and no others.

    Args:
        names: the outputs of the template.
        tokenizer: a `tokenizers.Tokenizer`.
        tokens: the model's special tokens.
        add_special: whether a decoder's prompt gets special tokens.
    """

    def __init__(self, names: Sequence[str], tokenizer: Any, tokens: SpecialTokens, *, add_special: bool) -> None:
        self._names = frozenset(names)
        self._tokenizer = tokenizer
        self.tokens = tokens
        self._add_special = add_special

    def outputs(self, inputs: Tensors, prompts: npt.NDArray[np.int32]) -> dict[str, Any]:
        """The tensors for a request whose prompts are these tokens.

        Raises:
            RequestError: naming the input that is wrong or not supported.
        """
        for name in PICTURES:
            if name in inputs:
                raise RequestError(f"{name.lower()}: pictures are not supported by this model repository")
        found = {
            "OUT_END_ID": _token(inputs.get("END_ID"), self.tokens.end, len(prompts)),
            "OUT_PAD_ID": _token(inputs.get("PAD_ID"), self.tokens.pad, len(prompts)),
            "EMBEDDING_BIAS": self._bias(inputs, len(prompts)),
            **self._decoder(inputs, len(prompts)),
            **_prompt_table(inputs, prompts, self.tokens.vocabulary),
        }
        return {name: value for name, value in found.items() if name in self._names}

    def _bias(self, inputs: Tensors, rows: int) -> npt.NDArray[np.float32]:
        """The bias of each token's logit; its width is 0 when no words are given."""
        words, weights = inputs.get("EMBEDDING_BIAS_WORDS"), inputs.get("EMBEDDING_BIAS_WEIGHTS")
        if words is None or weights is None:
            return np.empty((rows, 0), dtype=np.float32)
        if words.size != weights.size:
            raise RequestError("embedding_bias_weights: there must be one for each of embedding_bias_words")
        bias = np.zeros((rows, self.tokens.vocabulary), dtype=np.float32)
        for row, row_words, row_weights in zip(bias, words, weights, strict=True):
            for word, weight in zip(texts(row_words, "embedding_bias_words"), row_weights.reshape(-1), strict=True):
                for token in self._known(word):
                    row[token] += weight
        return bias

    def _known(self, word: str) -> list[int]:
        found = [int(token) for token in self._tokenizer.encode(word, add_special_tokens=False).ids]
        if any(token >= self.tokens.vocabulary for token in found):
            raise RequestError(f"embedding_bias_words: the model has no tokens for {word!r}")
        return found

    def _decoder(self, inputs: Tensors, rows: int) -> Mapping[str, npt.NDArray[np.int32]]:
        """The beginning of the answer of an encoder-decoder model; other models ignore it."""
        given = texts(inputs.get("DECODER_QUERY"), "decoder_text_input")
        tokens = [self._tokenizer.encode(text, add_special_tokens=self._add_special).ids for text in given]
        begun = [ids or [self.tokens.pad] for ids in tokens or [[]] * rows]
        lengths = np.asarray([[len(ids)] for ids in begun], dtype=np.int32)
        return {"DECODER_INPUT_ID": padded(begun, self.tokens.pad), "REQUEST_DECODER_INPUT_LEN": lengths}


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
        return [respond(self.triton, request, self.outputs) for request in requests]

    def outputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs for a request's inputs.

        Raises:
            RequestError: naming the input that is wrong.
        """
        queries = inputs["QUERY"].reshape(-1)
        if len(queries) != len(inputs["QUERY"]):  # the templates of early releases allow this shape
            raise RequestError(
                f"text_input: one text in each row of the batch; {len(queries)} in a row are not supported"
            )
        special = self._special(inputs, len(queries))
        tokens = for_each_text(len(queries), lambda index: self._prompt(queries[index : index + 1], special[index]))
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

    def _special(self, inputs: Mapping[str, Any], rows: int) -> list[bool]:
        """Whether special tokens are added to each text: as the request says, else as the model's configuration."""
        given = inputs.get("ADD_SPECIAL_TOKENS")
        return [self.special] * rows if given is None else [bool(value) for value in given.reshape(-1)]

    def _prompt(self, query: npt.NDArray[Any], special: bool) -> list[int]:  # noqa: FBT001
        (text,) = texts(query, "text_input")
        tokens = prompt_tokens(self._encode, text, special=special)
        if not tokens:
            raise RequestError("text_input: is empty, and the tokenizer adds nothing to it")
        return tokens

    def _encode(self, text: str, special: bool) -> list[int]:  # noqa: FBT001  as prompt_tokens calls it
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    def _other_ends(self, inputs: Mapping[str, Any]) -> list[list[int]]:
        """The end tokens besides the one that the engine gets; none if the request names its own."""
        ends = self.engine_inputs.tokens.others if self.engine_inputs and "END_ID" not in inputs else ()
        return [[token] for token in ends]

    def _words(
        self, inputs: Mapping[str, Any], tensor: str, name: str, rows: int, *, spaced: bool
    ) -> list[list[list[int]]]:
        """The token sequences of a word list, for each row."""
        given = inputs.get(tensor)
        lists = for_each_text(rows, lambda index: texts(None if given is None else given[index], name))
        return [word_sequences(self.tokenizer, words, spaced=spaced) for words in lists]


def _token(given: npt.NDArray[Any] | None, default: int, rows: int) -> npt.NDArray[np.int32]:
    return np.full((rows, 1), default, dtype=np.int32) if given is None else given.astype(np.int32).reshape(rows, 1)


def _prompt_table(inputs: Tensors, prompts: npt.NDArray[np.int32], vocabulary: int) -> Mapping[str, npt.NDArray[Any]]:
    """A prompt table and its ids. Tokens beyond the vocabulary stand for rows of the table."""
    found: dict[str, npt.NDArray[Any]] = {}
    if "PROMPT_EMBEDDING_TABLE" in inputs:
        found["OUT_PROMPT_EMBEDDING_TABLE"] = inputs["PROMPT_EMBEDDING_TABLE"]
    if "PROMPT_TABLE_EXTRA_ID" in inputs:
        extra = inputs["PROMPT_TABLE_EXTRA_ID"].astype(np.uint64).reshape(len(prompts), 1)
        found["OUT_PROMPT_TABLE_EXTRA_IDS"] = np.where(prompts >= vocabulary, extra, np.uint64(0))
    return found
