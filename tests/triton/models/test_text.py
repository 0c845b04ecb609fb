"""Tests of text from tokens: pieces of a stream, stop words, and lists of words."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.triton.models.text import NO_OFFSET, StopWatch, TextStream, new_text, pack, unpack, word_sequences
from tests.support.triton.served import END, ByteTokenizer, decode


def pieces(tokens: list[int]) -> list[str]:
    stream = TextStream(decode)
    found = [piece.text for token in tokens if (piece := stream.push(token))]
    return [*found, stream.finish().text]


@given(st.text())
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(pieces(list(text.encode()))) == text


@given(st.lists(st.integers(0, END + 3)))
def test_pieces_of_any_bytes_join_to_what_they_decode_to(tokens: list[int]) -> None:
    assert "".join(pieces(tokens)) == decode(tokens)


def test_a_character_comes_when_its_last_byte_does() -> None:
    assert pieces(list("aé😀".encode())) == ["a", "é", "😀", ""]


def test_tokens_without_text_wait_for_the_next_piece() -> None:
    assert pieces([END, ord("a"), END, ord("b")]) == ["a", "b", ""]


def test_a_piece_carries_all_its_tokens_and_the_context_it_needs() -> None:
    stream = TextStream(decode)
    first, second = stream.push(ord("a")), stream.push(ord("b"))
    assert first is not None
    assert second is not None
    assert (first.context, first.tokens) == ([], [ord("a")])
    assert (second.context, second.tokens) == ([ord("a")], [ord("b")])


def leading_space_is_dropped(tokens: list[int]) -> str:
    """Decode as SentencePiece tokenizers do at the beginning of a text."""
    return decode(tokens).removeprefix(" ")


def test_spaces_between_pieces_survive_a_tokenizer_that_drops_the_first() -> None:
    stream = TextStream(leading_space_is_dropped)
    found = [piece for token in b" un deux" if (piece := stream.push(token))]
    assert "".join(piece.text for piece in found) == "un deux"
    again = [new_text(leading_space_is_dropped, piece.context, piece.tokens) for piece in found]
    assert again == [piece.text for piece in found]


@pytest.mark.parametrize(
    ("words", "text", "stopped"),
    [
        (["trois"], "un deux trois quatre", "un deux trois"),
        (["x deu"], "six deux", "six deu"),
        (["é"], "cafés", "café"),
        (["quatre", "deux"], "un deux trois quatre", "un deux"),
        (["absent"], "un deux", None),
        (["aab"], "aaaab!", "aaaab"),
    ],
)
def test_the_watch_says_when_a_stop_word_is_complete(words: list[str], text: str, stopped: str | None) -> None:
    watch = StopWatch([list(word.encode()) for word in words], decode)
    tokens = list(text.encode())
    seen = next((decode(tokens[:end]) for end in range(1, len(tokens) + 1) if watch.push(tokens[:end])), None)
    assert seen == stopped


def test_a_word_inside_a_long_token_is_found() -> None:
    vocabulary = {1: "abc stop def", 2: "x"}
    watch = StopWatch([[3]], lambda tokens: "".join(vocabulary.get(token, "stop") for token in tokens))
    assert [watch.push([2]), watch.push([2, 1])] == [False, True]


def test_a_stop_token_without_text_is_found_by_itself() -> None:
    watch = StopWatch([[END + 1]], decode)
    assert [watch.push([ord("a")]), watch.push([ord("a"), END + 1])] == [False, True]


def test_word_lists_are_packed_as_nvidias_models_expect() -> None:
    packed = pack([[[5, 6], [7]], []])
    assert packed.tolist() == [[[5, 6, 7], [2, 3, NO_OFFSET]], [[0, 0, 0], [NO_OFFSET] * 3]]


def test_no_words_at_all_are_packed_too() -> None:
    assert pack([[]]).tolist() == [[[0], [NO_OFFSET]]]


@given(st.lists(st.lists(st.lists(st.integers(0, 9), min_size=1)), min_size=1))
def test_packed_words_come_back(lists: list[list[list[int]]]) -> None:
    assert [unpack(row) for row in pack(lists)] == lists


def test_empty_words_are_none() -> None:
    assert word_sequences(ByteTokenizer(), ["", ""], spaced=True) == []


def test_a_bad_word_is_bad_behind_a_space_too() -> None:
    assert word_sequences(ByteTokenizer(), ["a", " b", "a"], spaced=True) == [[97], [32, 97], [32, 98]]
    assert word_sequences(ByteTokenizer(), ["a"], spaced=False) == [[97]]


def test_long_texts_are_cut_the_same_however_they_are_pushed() -> None:
    letters = random.Random(1).choices("aé ニ😀\n", k=2000)
    assert "".join(pieces(list("".join(letters).encode()))) == "".join(letters)
