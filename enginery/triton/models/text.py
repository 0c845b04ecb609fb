"""Text and tokens: the tokenizer beside a served model, word lists as tensors, and streamed text.

A character may take several tokens, and some tokenizers write a token differently at the beginning of a text. So the
text of streamed tokens is always the difference of two texts: one with the new tokens, one without. It is sent only
once its last character is complete.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Decode = Callable[[list[int]], str]
Encode = Callable[[str, bool], list[int]]
"""Gives the tokens of a text, and adds special tokens if the second argument says so."""

INCOMPLETE = "\ufffd"
"""What a tokenizer writes for bytes that are not (yet) a character."""
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_DIRECTORY = "tokenizer"
SETTINGS = ("generation_config.json", "config.json")
NO_TOKEN = -1
"""TensorRT-LLM's value for a token that does not exist."""
NO_OFFSET = -1
"""Fills up the offsets of a word list."""


def version_directory(arguments: Mapping[str, str]) -> Path:
    """The directory of a model version's files: in the model repository, or in Triton's copy of one in S3."""
    return Path(arguments["model_repository"]) / arguments["model_version"]


def tokenizer_directory(arguments: Mapping[str, str]) -> Path:
    """The directory of the tokenizer: the parameter `tokenizer_dir` if it holds one, else beside the model."""
    beside = version_directory(arguments)
    named = parameter(json.loads(arguments["model_config"]), "tokenizer_dir", "")
    places = [*([Path(named)] if named else []), beside / TOKENIZER_DIRECTORY]
    return next((place for place in places if (place / TOKENIZER_FILE).is_file()), beside)


def load_tokenizer(directory: Path) -> Any:
    """The `tokenizers.Tokenizer` in a directory."""
    tokenizer = import_module("tokenizers").Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def prompt_tokens(encode: Encode, text: str, *, special: bool) -> list[int]:
    """The tokens of a prompt.

    A chat template writes the token that begins a text. A tokenizer that adds this token does not add it once more.

    Args:
        encode: gives the tokens of a text, with or without special tokens added.
        text: the prompt.
        special: whether special tokens are added.
    """
    plain = encode(text, False)  # noqa: FBT003
    if not special:
        return plain
    whole = encode(text, True)  # noqa: FBT003
    for added in range(len(whole) - len(plain), 0, -1):
        if whole[added : added + len(plain)] == plain and whole[:added] == plain[:added]:
            return whole[added:]
    return whole


def parameter(config: Mapping[str, Any], name: str, default: str) -> str:
    """A string parameter of a model's configuration."""
    found = config.get("parameters", {}).get(name, {})
    return str(found.get("string_value", default))


def is_true(text: str) -> bool:
    """Whether the text of a parameter means true."""
    return text.strip().lower() in {"true", "1", "yes"}


def is_decoupled(config: Mapping[str, Any]) -> bool:
    """Whether a model may send several responses to a request, that is, stream."""
    return bool(config.get("model_transaction_policy", {}).get("decoupled", False))


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens that a request to an engine contains.

    Attributes:
        end: ends an answer; -1 if the model has none.
        pad: fills up shorter rows; the end token if the model has none.
        vocabulary: the number of tokens that the model knows.
        others: further tokens that end an answer. The engine takes only one end token.
    """

    end: int
    pad: int
    vocabulary: int
    others: tuple[int, ...] = ()


def special_tokens(directory: Path, tokenizer: Any) -> SpecialTokens:
    """Read the special tokens: from the configuration of the tokenizer, else from that of the model."""
    end = next(_named(directory, tokenizer, "eos_token"), NO_TOKEN)
    vocabulary = int(_read(directory / "config.json").get("vocab_size") or tokenizer.get_vocab_size())
    ends = next((found for file in SETTINGS if (found := _ids(directory / file, "eos_token_id"))), [])
    others = tuple(token for token in ends if token != end)
    return SpecialTokens(end, next(_named(directory, tokenizer, "pad_token"), end), vocabulary, others)


def word_sequences(tokenizer: Any, words: Iterable[str], *, spaced: bool) -> list[list[int]]:
    """The tokens of each word that is not empty.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        words: from the request.
        spaced: adds the tokens of each word after a space, which are others with most tokenizers.
    """
    written: list[str] = []
    for word in words:
        if word:
            written += [word, f" {word}"] if spaced and not word[0].isspace() else [word]
    found = [tokenizer.encode(text, add_special_tokens=False).ids for text in written]
    return [ids for index, ids in enumerate(found) if ids and ids not in found[:index]]


def pack(lists: Sequence[Sequence[Sequence[int]]]) -> npt.NDArray[np.int32]:
    """The word lists of a batch as one tensor, in the layout of NVIDIA's models.

    Its shape is (batch, 2, width), with a width of at least 1. The first row of a word list has all tokens, sequence
    after sequence. The second has the position after the last token of each sequence, filled up with -1.
    """
    width = max([1, *(sum(map(len, sequences)) for sequences in lists)])
    packed = np.zeros((len(lists), 2, width), dtype=np.int32)
    packed[:, 1, :] = NO_OFFSET
    for row, sequences in zip(packed, lists, strict=True):
        flat = [token for sequence in sequences for token in sequence]
        row[0, : len(flat)] = flat
        row[1, : len(sequences)] = np.cumsum([len(sequence) for sequence in sequences])
    return packed


def unpack(row: npt.NDArray[np.int32]) -> list[list[int]]:
    """The token sequences of one word list of a packed tensor, shape (2, width)."""
    sequences: list[list[int]] = []
    begin = 0
    for end in (int(offset) for offset in row[1] if offset != NO_OFFSET):
        sequences.append([int(token) for token in row[0, begin:end]])
        begin = end
    return [sequence for sequence in sequences if sequence]


def new_text(decode: Decode, context: Sequence[int], tokens: Sequence[int]) -> str:
    """The text that `tokens` add to that of `context`, the tokens before them."""
    whole = decode([*context, *tokens])
    return whole[len(decode(list(context))) :] if context else whole


@dataclass(frozen=True)
class Piece:
    """Tokens whose text ends with a complete character.

    Attributes:
        context: the tokens before them that their text depends on.
        tokens: the new tokens.
        text: the text of the new tokens.
    """

    context: list[int]
    tokens: list[int]
    text: str


class TextStream:
    """Takes tokens one by one and returns pieces of text. Joined, they are the text of all tokens."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._context: list[int] = []
        self._waiting: list[int] = []

    def push(self, token: int) -> Piece | None:
        """Take a token. Returns a piece once there is new text that ends with a complete character."""
        self._waiting.append(token)
        text = new_text(self._decode, self._context, self._waiting)
        return self._cut(text) if text and not text.endswith(INCOMPLETE) else None

    def finish(self) -> Piece:
        """The rest as a piece, whether its last character is complete or not."""
        return self._cut(new_text(self._decode, self._context, self._waiting))

    def _cut(self, text: str) -> Piece:
        piece = Piece(self._context, self._waiting, text)
        if text:
            self._context = self._waiting
        self._waiting = []
        return piece


class StopWatch:
    """Detects stop words in an answer, by their text and by their tokens.

    By their text, because a word may begin or end in the middle of a token. By their tokens, because a special token
    has no text.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], decode: Decode) -> None:
        self._sequences = [list(sequence) for sequence in sequences]
        self._words = [word for word in (decode(sequence) for sequence in self._sequences) if word]
        self._longest = max(map(len, self._words), default=0)
        self._tail = ""
        self._stream = TextStream(decode)

    def push(self, tokens: Sequence[int]) -> bool:
        """Take all tokens so far, one more than in the last call. Returns whether a stop word is complete."""
        if any(list(tokens[-len(sequence) :]) == sequence for sequence in self._sequences):
            return True
        piece = self._stream.push(tokens[-1])
        if piece is None:
            return False
        text = self._tail + piece.text
        self._tail = text[-self._longest :]
        return any(word in text for word in self._words)


class TokensSoFar:
    """Collects the tokens of one answer that TensorRT-LLM's backend streams, to get the text of each piece.

    Args:
        tokens: the name of the tensor of tokens, shape (1, 1, length).
        lengths: the name of the tensor with the number of valid tokens, shape (1, 1).
        whole: whether each piece of text is the whole text so far.
    """

    def __init__(self, tokens: str, lengths: str, *, whole: bool) -> None:
        self._tokens, self._lengths = tokens, lengths
        self._whole = whole
        self._so_far = np.empty(0, dtype=np.int32)
        self._shown = ""
        self._text = ""

    def add(self, part: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors of a piece, with all tokens so far instead of only the new ones."""
        count = int(part[self._lengths].reshape(-1)[0])
        self._so_far = np.concatenate([self._so_far, part[self._tokens].reshape(-1)[:count]])
        tokens = self._so_far.astype(np.int32)[None, None, :]
        lengths = np.full((1, 1), len(self._so_far), dtype=np.int32)
        return {**part, self._tokens: tokens, self._lengths: lengths}

    def show(self, text: str) -> str:
        """The part of the text of all tokens so far that can be sent now: only complete characters."""
        self._text = text
        return self._cut(text.rstrip(INCOMPLETE))

    def rest(self) -> str:
        """The text that has not been sent at the end of the answer."""
        return "" if self._whole else self._cut(self._text)

    def _cut(self, text: str) -> str:
        new = text[len(self._shown) :]
        self._shown = text if len(text) > len(self._shown) else self._shown
        return text if self._whole else new


def _named(directory: Path, tokenizer: Any, name: str) -> Iterator[int]:
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _read(directory / file).get(name)
        text = token.get("content") if isinstance(token, dict) else token
        found = tokenizer.token_to_id(text) if text else None
        if found is not None:
            yield int(found)
    for file in SETTINGS:
        yield from _ids(directory / file, f"{name}_id")[:1]


def _ids(path: Path, name: str) -> list[int]:
    found = _read(path).get(name)
    return [token for token in (found if isinstance(found, list) else [found]) if isinstance(token, int)]


def _read(path: Path) -> Mapping[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
