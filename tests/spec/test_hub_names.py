"""Tests of the ways to write a repository of the Hub and its revision."""

from typing import Any

import pytest

from enginery.core.errors import SpecError
from enginery.spec.spec import Source, parse_spec

TARGET = {"name": "cpu", "gpu": "cpu", "backend": "onnxruntime", "release": "0.18.0", "precision": "float32"}


def source(**fields: Any) -> Source:
    return parse_spec({"name": "tiny", "source": fields, "targets": [TARGET]}).source


def mistake(**fields: Any) -> str:
    with pytest.raises(SpecError) as caught:
        source(**fields)
    (found,) = caught.value.mistakes
    return found


@pytest.mark.parametrize(
    "written",
    [
        "acme/tiny",
        " acme/tiny ",
        "acme/tiny\n",
        "acme/tiny/",
        "acme/tiny.git",
        "models/acme/tiny",
        "https://huggingface.co/acme/tiny",
        "https://huggingface.co/acme/tiny/",
        "https://huggingface.co/acme/tiny.git",
        "https://huggingface.co/acme/tiny?library=transformers#use",
        "https://HuggingFace.co/acme/tiny",
        "https://www.huggingface.co/acme/tiny",
        "http://hf.co/acme/tiny",
        "huggingface.co/acme/tiny",
        "hf.co/acme/tiny",
        "hf://acme/tiny",
        "hf://models/acme/tiny",
        "git@hf.co:acme/tiny.git",
        "ssh://git@hf.co/acme/tiny",
    ],
)
def test_the_name_is_found_in_what_people_write(written: str) -> None:
    assert (source(huggingface=written).huggingface, source(huggingface=written).revision) == ("acme/tiny", "main")


def test_the_oldest_repositories_have_no_owner() -> None:
    assert source(huggingface="gpt2").huggingface == "gpt2"
    found = source(huggingface="https://huggingface.co/gpt2/tree/v1")
    assert (found.huggingface, found.revision) == ("gpt2", "v1")


@pytest.mark.parametrize(
    ("written", "revision"),
    [
        ("https://huggingface.co/acme/tiny/tree/v1", "v1"),
        ("https://huggingface.co/acme/tiny/tree/v1/", "v1"),
        ("https://huggingface.co/acme/tiny/tree/refs%2Fpr%2F1", "refs/pr/1"),
        ("https://huggingface.co/acme/tiny/tree/refs/pr/1", "refs/pr/1"),
        (f"https://huggingface.co/acme/tiny/commit/{'a' * 40}", "a" * 40),
        ("acme/tiny@v1", "v1"),
        ("hf://acme/tiny@refs%2Fpr%2F1", "refs/pr/1"),
    ],
)
def test_an_address_may_name_the_revision(written: str, revision: str) -> None:
    found = source(huggingface=written)
    assert (found.huggingface, found.revision) == ("acme/tiny", revision)
    assert source(huggingface=written, revision=revision) == found
    assert "but revision is 'other'" in mistake(huggingface=written, revision="other")


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("datasets/acme/tiny", "is a data set on the Hugging Face Hub, not a model"),
        ("https://huggingface.co/datasets/acme/tiny", "is a data set"),
        ("spaces/acme/tiny", "is a Space"),
        ("https://huggingface.co/acme/tiny/tree/main/onnx", "source.revision for a branch, tag or commit"),
        ("https://huggingface.co/acme/tiny/blob/main/config.json", "is the address of a page or a file within"),
        ("https://huggingface.co/acme/tiny/discussions/1", "is the address of a page or a file within"),
        ("acme/tiny/main", "write it as owner/name"),
        ("acme/tiny@v1/onnx", "write it as owner/name"),
        ("acme/ti ny", "write it as owner/name"),
        ("acme/tiny:Q4_K_M", "write it as owner/name"),
        ("https://huggingface.co/", "write it as owner/name"),
        ("https://hf-mirror.com/acme/tiny", "set HF_ENDPOINT"),
        ("https://[::1", "set HF_ENDPOINT"),
        ("./model", "use source.path"),
        ("/models/tiny", "use source.path"),
        ("~/tiny", "use source.path"),
        ("s3://bucket/tiny", "use source.s3"),
        (" ", "write it as owner/name"),
    ],
)
def test_what_is_no_repository_is_refused_and_its_field_is_named(written: str, sentence: str) -> None:
    found = mistake(huggingface=written)
    assert found.startswith("source.huggingface: ")
    assert sentence in found


def test_spaces_around_a_revision_do_not_count() -> None:
    assert source(huggingface="acme/tiny", revision=" refs/pr/1 ").revision == "refs/pr/1"


@pytest.mark.parametrize(
    ("revision", "sentence"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        (None, "has no value"),
        (20240601, 'put it in quotes, such as revision: "20240601"'),
        (1.0, "put it in quotes"),
    ],
)
def test_a_revision_that_is_no_text_is_refused(revision: object, sentence: str) -> None:
    found = mistake(huggingface="acme/tiny", revision=revision)
    assert found.startswith("source.revision: ")
    assert sentence in found


def test_a_password_in_an_address_is_not_told() -> None:
    assert "hidden" not in mistake(huggingface="https://bob:hidden@hub.example.com/acme/tiny")
