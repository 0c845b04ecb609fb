"""Tests of how a model's JSON files are read: as strictly as transformers and the builder do it later."""

import json
from pathlib import Path

import pytest

from enginery.core.errors import SourceError
from enginery.models import WeightsFault
from enginery.sources import resolve
from enginery.sources.documents import read_object
from enginery.spec.spec import Source
from tests.support.models.directories import model_directory, write

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1643160\n"

UNREADABLE = {
    "a byte order mark": (b"\xef\xbb\xbf" + CONFIG.encode(), "begins with a byte order mark"),
    "UTF-16 with a mark": (CONFIG.encode("utf-16"), "it is UTF-16, not UTF-8"),
    "UTF-16 without a mark": (CONFIG.encode("utf-16-be"), "UTF-16 or UTF-32, not UTF-8"),
    "UTF-32": (CONFIG.encode("utf-32"), "it is UTF-32, not UTF-8"),
    "Latin-1": ('{"_name_or_path": "Bär"}'.encode("latin-1"), "not UTF-8 (byte 0xE4 at position 20)"),
    "nothing": (b"", "it is empty"),
    "blanks": (b" \n", "it is empty"),
    "half a file": (CONFIG.encode()[:20], "is not JSON"),
    "a list": (b"[1]", "is not a JSON object"),
    "a text": (b'"config"', "is not a JSON object"),
    "a page of HTML": (b"<html>sign in</html>", "is not JSON"),
    "lists without end": (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
    "a deep object": (b'{"a":' * 200 + b"1" + b"}" * 200, "nested deeper than 100 levels"),
    "a number of 5000 digits": (b'{"hidden_size": ' + b"9" * 5000 + b"}", "a number of thousands of digits"),
    "a number of 400 digits": (b'{"hidden_size": ' + b"9" * 400 + b"}", "a number of hundreds of digits"),
    "half a character": (b'{"model_type": "\\ud800"}', "a text that is not Unicode"),
    "half a character as a key": (b'{"a": [{"\\udfff": 1}]}', "a text that is not Unicode"),
    "a pointer of Git LFS": (POINTER, "a pointer of Git LFS"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_transformers_would_refuse_is_refused_with_the_files_name(kind: str) -> None:
    content, words = UNREADABLE[kind]
    problem = read_object("config.json", content)
    assert isinstance(problem, WeightsFault)
    assert problem.problem.startswith("config.json is ")
    assert words in problem.problem
    assert problem.remedy


@pytest.mark.parametrize(
    "content",
    [
        CONFIG.encode(),
        '{"_name_or_path": "Bär \U0001f600"}'.encode(),
        b'{"model_type": "\\ud83d\\ude00"}',
        b'\n {"a": 1}\n',
        b'{"vocab_size": 1, "vocab_size": 2}',
        b'{"time_step_limit": [0.0, Infinity]}',
        b'{"model_max_length": 1000000000000000019884624838656}',
    ],
)
def test_what_transformers_reads_is_read(content: bytes) -> None:
    assert read_object("config.json", content) == json.loads(content)


def test_a_tokenizer_may_not_have_numbers_that_only_python_knows() -> None:
    problem = read_object("tokenizer.json", b'{"model": {"dropout": NaN}}')
    assert isinstance(problem, WeightsFault)
    assert "NaN is no number in JSON" in problem.problem


FAULTS = ("a byte order mark", "UTF-16 with a mark", "nothing", "a list", "a pointer of Git LFS")
NAMES = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")


@pytest.mark.parametrize("name", [*NAMES, "added_tokens.json", "vocab.json", "quantize_config.json"])
@pytest.mark.parametrize(
    "kind", ["a byte order mark", "UTF-16 with a mark", "nothing", "a list", "a pointer of Git LFS"]
)
def test_each_file_that_a_later_step_reads_is_checked_and_gives_one_problem(
    tmp_path: Path, name: str, kind: str
) -> None:
    content, words = UNREADABLE[kind]
    write(model_directory(tmp_path), {name: content})
    with pytest.raises(SourceError) as caught:
        resolve(Source(path=str(tmp_path)))
    assert words in caught.value.problem
    assert name in caught.value.problem
    assert "things are wrong" not in caught.value.problem


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architectures": "LlamaForCausalLM"}, "architectures is "),
        ({"architectures": [7]}, "architectures is "),
        ({"architectures": {"a": 1}}, "architectures is "),
        ({"architectures": ["LlamaForCausalLM"], "quantization_config": ["awq"]}, "quantization_config"),
        ({"architectures": ["LlamaForCausalLM"], "text_config": "text"}, "text_config"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": ["llama"]}, "model_type is a list"),
        ({"hidden_size": 64}, "does not say what model it is"),
        ({}, "does not say what model it is"),
    ],
)
def test_a_configuration_with_a_wrong_type_is_one_problem(tmp_path: Path, config: object, words: str) -> None:
    write(model_directory(tmp_path), {"config.json": config})
    with pytest.raises(SourceError) as caught:
        resolve(Source(path=str(tmp_path)))
    assert words in caught.value.problem
    assert "things are wrong" not in caught.value.problem


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf{{ x }}", "{{ x }}".encode("utf-16")])
def test_a_chat_template_in_another_encoding_is_refused(tmp_path: Path, content: bytes) -> None:
    directory = model_directory(tmp_path / "model")
    (directory / "chat_template.jinja").write_bytes(content)
    with pytest.raises(SourceError, match=r"chat_template\.jinja is not a text that can be read"):
        resolve(Source(path=str(directory)))
