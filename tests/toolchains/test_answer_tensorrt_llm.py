"""Tests of the driver for TensorRT-LLM that need no toolchain."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from enginery.toolchains.drivers.answer_tensorrt_llm import Batch, Words, ends_of, require_room

END, EOT = 2, 9


class Letters:
    """A tokenizer whose tokens are numbers."""

    eos_token_id = END

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return " ".join(map(str, ids))


@pytest.fixture
def words() -> Words:
    return Words(Letters(), END, frozenset({END, EOT}))


@pytest.mark.parametrize(
    ("made", "kept", "finish"),
    [
        ([5, 6, END], [5, 6], "eos"),
        ([5, 6, EOT, END, END], [5, 6], "eos"),
        ([5, 6], [5, 6], "eos"),
        ([5, 6, 7, 8, 5], [5, 6, 7, 8, 5], "length"),
        ([5, 6, 7, 8, END], [5, 6, 7, 8], "eos"),
        ([END], [], "eos"),
        ([], [], "eos"),
    ],
)
def test_an_answer_ends_at_its_first_end_token_or_is_cut_off_at_the_limit(
    words: Words, made: list[int], kept: list[int], finish: str
) -> None:
    answer = words.answer(made, 5, 0.5, as_raw_text=True)
    assert answer.token_ids == kept
    assert answer.tokens == len(kept)
    assert answer.finish == finish
    assert answer.text == " ".join(map(str, kept))


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"generation_config.json": {"eos_token_id": [2, 9]}, "config.json": {"eos_token_id": 2}}, [2, 9]),
        ({"generation_config.json": {}, "config.json": {"eos_token_id": 2}}, [2]),
        ({"config.json": {"eos_token_id": 0}}, [0]),
        ({"config.json": {"eos_token_id": None}}, []),
        ({}, []),
    ],
)
def test_the_end_tokens_are_those_of_the_models_own_settings(
    tmp_path: Path, files: dict[str, dict[str, object]], ends: list[int]
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert ends_of(tmp_path) == ends


def batch(limit: int) -> Batch:
    return Batch([[1] * 10, [1] * 20], [limit, limit], END, [True, True])


@pytest.mark.parametrize(
    "build_config",
    [
        {"max_input_len": 64, "max_output_len": 64},
        {"max_input_len": 64, "max_output_len": None, "max_seq_len": 128},
        {"max_input_len": 64, "max_seq_len": None},
    ],
)
def test_a_prompt_and_its_answer_fit_the_engine(tmp_path: Path, build_config: dict[str, int | None]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"version": "0.16.0", "build_config": build_config}))
    require_room(tmp_path, batch(limit=40))


@pytest.mark.parametrize(
    "build_config", [{"max_input_len": 64, "max_output_len": 64}, {"max_input_len": 64, "max_seq_len": 128}]
)
def test_what_does_not_fit_is_reported_in_figures_before_anything_is_loaded(
    tmp_path: Path, build_config: dict[str, int]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"version": "0.16.0", "build_config": build_config}))
    with pytest.raises(
        ValueError, match="prompt 2 has 20 tokens and its answer may have 110; .* built for 128"
    ) as caught:
        require_room(tmp_path, batch(limit=110))
    assert "build.max_seq_len" in str(caught.value)


def test_a_checkpoint_says_nothing_of_room(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    require_room(tmp_path, batch(limit=1 << 20))


class Beginning(Letters):
    """Adds the token 1 in front of a text of numbers."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids = [int(word) for word in text.split()]
        return [1, *ids] if add_special_tokens else ids


def test_a_chat_gets_no_special_tokens_and_no_text_gets_its_first_token_twice() -> None:
    words = Words(Beginning(), END, frozenset({END}))
    asked = [
        {"prompt": "5 6", "max_tokens": 3},
        {"prompt": "1 5 6", "max_tokens": 3, "add_special_tokens": True},
        {"prompt": "1 5 6", "max_tokens": 3, "add_special_tokens": False},
        {"prompt": "5 6", "max_tokens": 4, "add_special_tokens": False},
    ]
    made = Batch.of(words, asked)
    assert made.prompts == [[1, 5, 6], [1, 5, 6], [1, 5, 6], [5, 6]]
    assert made.raw == [True, True, True, False]
    assert made.limits == [3, 3, 3, 4]
