"""Further inputs of TensorRT-LLM's backend besides the tokens, under the names of NVIDIA's `preprocessing`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .requests import RequestError, Tensors, padded, texts
from .text import SpecialTokens

PICTURES = ("IMAGE", "IMAGE_BYTES", "IMAGE_URL", "IMAGE_SIZES", "VIDEO_BYTES")


class EngineInputs:
    """Makes the tensors that the template of a release has, and no others.

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
        begun = tokens if tokens and all(tokens) else [[self.tokens.pad]] * rows
        lengths = np.asarray([[len(ids)] for ids in begun], dtype=np.int32)
        return {"DECODER_INPUT_ID": padded(begun, self.tokens.pad), "REQUEST_DECODER_INPUT_LEN": lengths}


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
