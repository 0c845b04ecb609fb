"""Tests of the Python models that serve a TensorRT-LLM engine, without Triton."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.triton.models import postprocessing, preprocessing
from enginery.triton.models.preprocessing import EngineInputs
from enginery.triton.models.requests import RequestError
from enginery.triton.models.text import SpecialTokens, TokensSoFar, special_tokens, tokenizer_directory, unpack
from tests.support.triton.served import (
    END,
    FAKE_TRITON,
    FILLER,
    VOCABULARY,
    Beginning,
    ByteTokenizer,
    FakeRequest,
    FakeResponse,
)

TOKENS = SpecialTokens(end=END, pad=FILLER, vocabulary=VOCABULARY)
ALL = (
    "OUT_END_ID",
    "OUT_PAD_ID",
    "EMBEDDING_BIAS",
    "DECODER_INPUT_ID",
    "REQUEST_DECODER_INPUT_LEN",
    "OUT_PROMPT_EMBEDDING_TABLE",
    "OUT_PROMPT_TABLE_EXTRA_IDS",
)
PROMPTS = np.asarray([[104, 105]], dtype=np.int32)


def strings(*values: str) -> Any:
    return np.asarray([[value.encode() for value in values]], dtype=np.object_)


def engine_inputs(*names: str, **inputs: Any) -> dict[str, Any]:
    made = EngineInputs(names or ALL, ByteTokenizer(), TOKENS, add_special=True)
    return made.outputs(inputs, PROMPTS)


def test_only_what_the_template_has_is_made() -> None:
    assert set(engine_inputs("OUT_END_ID", "EMBEDDING_BIAS")) == {"OUT_END_ID", "EMBEDDING_BIAS"}


def test_special_tokens_are_the_models_unless_the_request_says_otherwise() -> None:
    own = engine_inputs()
    assert (own["OUT_END_ID"].tolist(), own["OUT_PAD_ID"].tolist()) == ([[END]], [[FILLER]])
    made = engine_inputs(END_ID=np.asarray([[7]]), PAD_ID=np.asarray([[8]]))
    assert (made["OUT_END_ID"].tolist(), made["OUT_PAD_ID"].tolist()) == ([[7]], [[8]])


def test_no_bias_is_nothing_and_words_add_up_over_the_vocabulary() -> None:
    assert engine_inputs()["EMBEDDING_BIAS"].shape == (1, 0)
    weights = np.asarray([[1.5, -2.0]], dtype=np.float32)
    bias = engine_inputs(EMBEDDING_BIAS_WORDS=strings("a", "ba"), EMBEDDING_BIAS_WEIGHTS=weights)["EMBEDDING_BIAS"]
    assert bias.shape == (1, VOCABULARY)
    assert (bias[0, ord("a")], bias[0, ord("b")], float(np.abs(bias).sum())) == (-0.5, -2.0, 2.5)


def test_a_bias_needs_a_weight_for_each_word() -> None:
    with pytest.raises(RequestError, match="embedding_bias_weights"):
        engine_inputs(EMBEDDING_BIAS_WORDS=strings("a", "b"), EMBEDDING_BIAS_WEIGHTS=np.asarray([[1.0]]))


def test_a_decoder_begins_with_what_is_given_or_with_padding() -> None:
    own = engine_inputs()
    assert (own["DECODER_INPUT_ID"].tolist(), own["REQUEST_DECODER_INPUT_LEN"].tolist()) == ([[FILLER]], [[1]])
    made = engine_inputs(DECODER_QUERY=strings("ok"))
    assert (made["DECODER_INPUT_ID"].tolist(), made["REQUEST_DECODER_INPUT_LEN"].tolist()) == ([[111, 107]], [[2]])


def test_prompt_tables_are_passed_on() -> None:
    assert "OUT_PROMPT_TABLE_EXTRA_IDS" not in engine_inputs()
    prompts = np.asarray([[104, VOCABULARY, VOCABULARY + 1]], dtype=np.int32)
    made = EngineInputs(ALL, ByteTokenizer(), TOKENS, add_special=True)
    table = np.zeros((1, 2, 4), dtype=np.float16)
    found = made.outputs({"PROMPT_TABLE_EXTRA_ID": np.asarray([[9]]), "PROMPT_EMBEDDING_TABLE": table}, prompts)
    assert found["OUT_PROMPT_TABLE_EXTRA_IDS"].tolist() == [[0, 9, 9]]
    assert found["OUT_PROMPT_TABLE_EXTRA_IDS"].dtype == np.uint64
    assert found["OUT_PROMPT_EMBEDDING_TABLE"] is table


@pytest.mark.parametrize("name", ["IMAGE", "IMAGE_BYTES", "IMAGE_URL", "VIDEO_BYTES"])
def test_pictures_are_refused_by_name(name: str) -> None:
    with pytest.raises(RequestError, match=f"^{name.lower()}: "):
        engine_inputs(**{name: np.zeros((1, 1))})


class NamedTokenizer(ByteTokenizer):
    def token_to_id(self, text: str) -> int | None:
        return {"</s>": 2, "<pad>": 0, "<eot>": 9}.get(text)

    def get_vocab_size(self) -> int:
        return 77


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, SpecialTokens(-1, -1, 77)),
        ({"tokenizer_config.json": {"eos_token": "</s>"}}, SpecialTokens(2, 2, 77)),
        (
            {"tokenizer_config.json": {"eos_token": {"content": "</s>"}, "pad_token": "<pad>"}},
            SpecialTokens(2, 0, 77),
        ),
        ({"special_tokens_map.json": {"eos_token": {"content": "<eot>"}}}, SpecialTokens(9, 9, 77)),
        ({"generation_config.json": {"eos_token_id": [5, 6], "pad_token_id": 4}}, SpecialTokens(5, 4, 77, (6,))),
        ({"config.json": {"eos_token_id": 0, "vocab_size": 80}}, SpecialTokens(0, 0, 80)),
        (
            {"tokenizer_config.json": {"eos_token": "<gone>"}, "config.json": {"eos_token_id": 3}},
            SpecialTokens(3, 3, 77),
        ),
        (
            {"tokenizer_config.json": {"eos_token": "</s>"}, "generation_config.json": {"eos_token_id": 9}},
            SpecialTokens(2, 2, 77, (9,)),
        ),
        (
            {"generation_config.json": {"eos_token_id": [2, 9]}, "config.json": {"eos_token_id": 3}}
            | {"tokenizer_config.json": {"eos_token": "</s>"}},
            SpecialTokens(2, 2, 77, (9,)),
        ),
    ],
)
def test_special_tokens_are_found(tmp_path: Path, files: Mapping[str, Any], expected: SpecialTokens) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert special_tokens(tmp_path, NamedTokenizer()) == expected


def arguments(version: Path, named: Path | str) -> dict[str, str]:
    config = {"parameters": {"tokenizer_dir": {"string_value": str(named)}}}
    return {"model_config": json.dumps(config), "model_repository": str(version.parent), "model_version": version.name}


def test_the_tokenizer_is_where_the_parameter_says_else_beside_the_model(tmp_path: Path) -> None:
    version, named = tmp_path / "model" / "7", tmp_path / "named"
    for place in (version / "tokenizer", named):
        place.mkdir(parents=True)
        (place / "tokenizer.json").write_text("{}")
    assert tokenizer_directory(arguments(version, named)) == named
    for gone in (tmp_path / "nowhere", "", version.parent):
        assert tokenizer_directory(arguments(version, gone)) == version / "tokenizer"
    (version / "tokenizer" / "tokenizer.json").unlink()
    assert tokenizer_directory(arguments(version, "")) == version


def test_preprocessing_gives_the_engine_what_its_template_has() -> None:
    model = preprocessing.TritonPythonModel()
    model.triton, model.tokenizer, model.special = FAKE_TRITON, ByteTokenizer(), True
    model.engine_inputs = EngineInputs(("OUT_END_ID",), ByteTokenizer(), TOKENS, add_special=True)
    (response,) = model.execute([FakeRequest(QUERY=strings("hi"), REQUEST_OUTPUT_LEN=[[5]])])
    assert response.tensors["INPUT_ID"].tolist() == [[104, 105]]
    assert response.tensors["OUT_END_ID"].tolist() == [[END]]
    (refused,) = model.execute([FakeRequest(QUERY=strings("hi"), REQUEST_OUTPUT_LEN=[[5]], IMAGE_URL=strings("x"))])
    assert refused.error.message().startswith("image_url: ")


def prepared(tokens: SpecialTokens, *requests: FakeRequest) -> list[FakeResponse]:
    model = preprocessing.TritonPythonModel()
    model.triton, model.tokenizer, model.special = FAKE_TRITON, ByteTokenizer(), True
    model.engine_inputs = EngineInputs(ALL, ByteTokenizer(), tokens, add_special=True)
    return model.execute(requests)


def a_request(**inputs: Any) -> FakeRequest:
    return FakeRequest(**{"QUERY": strings("hi"), "REQUEST_OUTPUT_LEN": [[5]], **inputs})


def tokens_of(query: str, **inputs: Any) -> list[int]:
    model = preprocessing.TritonPythonModel()
    model.triton, model.tokenizer, model.special = FAKE_TRITON, Beginning(), True
    (response,) = model.execute([a_request(QUERY=strings(query), **inputs)])
    return list(response.tensors["INPUT_ID"][0].tolist())


def test_a_token_that_the_text_begins_with_is_not_added_again() -> None:
    assert tokens_of("hi") == tokens_of("^hi") == [1, 104, 105]
    assert tokens_of("^^hi") == [1, 1, 104, 105]
    assert tokens_of("h^") == [1, 104, 1]


def test_a_request_may_say_that_the_text_has_all_its_special_tokens() -> None:
    as_it_is = np.asarray([[False]])
    assert tokens_of("hi", ADD_SPECIAL_TOKENS=as_it_is) == [104, 105]
    assert tokens_of("^hi", ADD_SPECIAL_TOKENS=as_it_is) == [1, 104, 105]
    assert tokens_of("hi", ADD_SPECIAL_TOKENS=~as_it_is) == [1, 104, 105]


def test_every_end_token_of_the_model_ends_an_answer_as_when_it_was_validated() -> None:
    tokens = SpecialTokens(END, FILLER, VOCABULARY, others=(7, 8))
    own, with_words = prepared(tokens, a_request(), a_request(STOP_WORDS_DICT=strings("st")))
    assert unpack(own.tensors["STOP_WORDS_IDS"][0]) == [[7], [8]]
    assert unpack(with_words.tensors["STOP_WORDS_IDS"][0]) == [[115, 116], [7], [8]]
    assert unpack(own.tensors["BAD_WORDS_IDS"][0]) == []


def test_a_request_that_names_an_end_token_ends_with_that_alone() -> None:
    (response,) = prepared(SpecialTokens(END, FILLER, VOCABULARY, others=(7,)), a_request(END_ID=np.asarray([[9]])))
    assert unpack(response.tensors["STOP_WORDS_IDS"][0]) == []


def test_a_request_that_cannot_be_read_does_not_fail_those_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    few = SpecialTokens(END, FILLER, vocabulary=110)
    bias = {"EMBEDDING_BIAS_WORDS": strings("z"), "EMBEDDING_BIAS_WEIGHTS": np.asarray([[1.0]])}
    broken = {"END_ID": np.asarray([[1, 2]])}
    good, unknown, odd = prepared(few, a_request(), a_request(**bias), a_request(**broken))
    assert good.error is None
    assert unknown.error is not None
    assert odd.error is not None
    assert unknown.error.message() == "embedding_bias_words: the model has no tokens for 'z'"
    assert (odd.error.code, odd.error.message()[:17]) == (FAKE_TRITON.TritonError.INTERNAL, "the model failed:")
    assert "Traceback" in capsys.readouterr().err


@pytest.fixture
def after() -> postprocessing.TritonPythonModel:
    model = postprocessing.TritonPythonModel()
    model.triton, model.tokenizer, model.skip = FAKE_TRITON, ByteTokenizer(), True
    return model


def test_each_beam_becomes_a_text(after: postprocessing.TritonPythonModel) -> None:
    tokens = np.asarray([[[97, 98, 99], [100, 101, 0]], [[102, 0, 0], [103, 104, 0]]])
    found = after.output({"TOKENS_BATCH": tokens, "SEQUENCE_LENGTH": np.asarray([[3, 2], [1, 2]])})
    assert found.tolist() == [[b"abc", b"de"], [b"f", b"gh"]]


def test_early_templates_receive_the_values_that_they_pass_on(after: postprocessing.TritonPythonModel) -> None:
    outputs: list[dict[str, Any]] = [
        {"name": "OUTPUT", "data_type": "TYPE_STRING", "dims": [-1]},
        {"name": "OUT_CUM_LOG_PROBS", "data_type": "TYPE_FP32", "dims": ["-1"]},
        {"name": "OUT_GENERATION_LOGITS", "data_type": "TYPE_FP32", "dims": ["-1", "-1", "-1"]},
        {"name": "OUT_BATCH_INDEX", "data_type": "TYPE_INT32", "dims": ["1"]},
    ]
    after.passed_through = {one["name"]: postprocessing.zero(one) for one in outputs[1:]}
    request = FakeRequest(TOKENS_BATCH=[[[97]]], SEQUENCE_LENGTH=[[1]], CUM_LOG_PROBS=[[-0.5]])
    (response,) = after.execute([request])
    shapes = {name: value.shape for name, value in response.tensors.items()}
    assert response.tensors["OUT_CUM_LOG_PROBS"].tolist() == [[-0.5]]
    assert shapes["OUT_GENERATION_LOGITS"] == (1, 1, 1, 1)
    assert (shapes["OUT_BATCH_INDEX"], response.tensors["OUT_BATCH_INDEX"].dtype) == ((1, 1), np.int32)


def pieces(text: bytes, *, whole: bool) -> list[str]:
    so_far = TokensSoFar("ids", "lengths", whole=whole)
    found = []
    for byte in text:
        part = so_far.add({"ids": np.asarray([[[byte, 0]]]), "lengths": np.asarray([[1]])})
        assert part["lengths"].tolist() == [[part["ids"].shape[-1]]]
        found.append(so_far.show(bytes(part["ids"].reshape(-1).tolist()).decode(errors="replace")))
    return [*found, so_far.rest()]


def test_pieces_joined_are_the_text_and_no_character_is_cut() -> None:
    text = "né à l'été 🎉"
    found = pieces(text.encode(), whole=False)
    assert "".join(found) == text
    assert not any("\ufffd" in piece for piece in found)


def test_what_never_becomes_whole_is_not_lost() -> None:
    assert "".join(pieces(b"ab\xc3", whole=False)) == "ab\ufffd"


def test_with_accumulated_tokens_each_piece_is_the_whole_text_so_far() -> None:
    assert pieces(b"abc", whole=True) == ["a", "ab", "abc", ""]
