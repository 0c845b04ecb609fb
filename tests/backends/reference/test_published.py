"""Tests of taking a published reference: what is kept of it, and what is refused."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.backends.reference.published import fitted
from enginery.backends.reference.recipe import ReferenceParameters
from enginery.backends.reference.step import require_fitting, unanswered
from enginery.backends.reference.tokenizers import tokenizer_digest
from enginery.builds import Reference
from enginery.core.errors import SourceError
from tests.support.paths import CHECKOUT
from tests.support.references import answer, text, write_reference

MODEL = CHECKOUT / "examples" / "tiny-llama" / "model"


@pytest.fixture
def published(tmp_path: Path) -> Reference:
    answers = [answer("prompt 1", "How?"), answer("prompt 2", "Why?", prompt_ids=(1, 8), answer_ids=(9, 10, 2))]
    return write_reference(tmp_path / "published", [text(), *answers])


def taken(published: Reference, directory: Path, prompts: Sequence[tuple[str, int]], window: int = 512) -> Reference:
    directory.mkdir()
    return fitted(published, prompts, window, directory)


def test_answers_are_found_by_what_is_asked_and_get_the_specs_own_numbers(published: Reference, tmp_path: Path) -> None:
    made = taken(published, tmp_path / "mine", [("Where?", 9), ("Why?", 9)])
    assert [(one.name, one.prompt) for one in made.answers] == [("prompt 2", "Why?")]
    assert list(unanswered(made, 2)) == [1]
    rows = {one.name: rows for one, rows in published.rows()}["prompt 2"]
    assert (made.logprobs.top_logprobs[-3:] == published.logprobs.top_logprobs[rows]).all()
    assert made.facts.total_rows == 4 + 3


def test_all_rows_are_kept_if_all_prompts_are_asked(published: Reference, tmp_path: Path) -> None:
    made = taken(published, tmp_path / "mine", [("How?", 3), ("Why?", 3)])
    assert made.sequences == published.sequences
    assert (made.logprobs.next_logprobs == published.logprobs.next_logprobs).all()


def test_longer_answers_and_texts_are_cut_with_their_rows(published: Reference, tmp_path: Path) -> None:
    made = taken(published, tmp_path / "mine", [("How?", 2)], window=3)
    assert [(one.name, one.rows, one.finish, one.text) for one in made.sequences] == [
        ("english-1", 2, "", ""),
        ("prompt 1", 2, "length", ""),
    ]
    whole = published.logprobs.next_logprobs
    assert (made.logprobs.next_logprobs == np.concatenate([whole[:2], whole[4:6]])).all()


def test_a_reference_without_any_answer_that_is_asked_has_its_texts(published: Reference, tmp_path: Path) -> None:
    assert [one.name for one in taken(published, tmp_path / "mine", []).sequences] == ["english-1"]


def with_digests(published: Reference, **digests: str) -> Reference:
    return Reference(published.directory, published.facts.model_copy(update=digests))


def test_a_reference_of_another_tokenizer_is_refused(published: Reference) -> None:
    parameters = ReferenceParameters(max_tokens=9, registry="s3://engines", build="tiny/b-1")
    require_fitting(with_digests(published, tokenizer_sha256="a"), parameters, "a")
    with pytest.raises(SourceError, match="another tokenizer") as error:
        require_fitting(with_digests(published, tokenizer_sha256="a"), parameters, "b")
    assert "s3://engines#tiny/b-1" in str(error.value)


def test_a_reference_of_other_texts_than_the_spec_names_is_refused(published: Reference) -> None:
    found = with_digests(published, texts_sha256="a")
    for wanted in ("", "a"):
        require_fitting(found, ReferenceParameters(max_tokens=9, build="tiny/b-1", texts_sha256=wanted), "")
    with pytest.raises(SourceError, match="other texts"):
        require_fitting(found, ReferenceParameters(max_tokens=9, build="tiny/b-1", texts_sha256="b"), "")


def a_tokenizer(directory: Path, **changes: Any) -> Path:
    directory.mkdir()
    whole = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    (directory / "tokenizer.json").write_text(json.dumps(whole | changes), encoding="utf-8")
    return directory


def test_the_layout_of_a_tokenizers_file_does_not_change_its_digest(tmp_path: Path) -> None:
    assert tokenizer_digest(a_tokenizer(tmp_path / "same", truncation=None, padding=None)) == tokenizer_digest(MODEL)


@pytest.mark.parametrize("part", ["model", "pre_tokenizer", "post_processor", "added_tokens"])
def test_what_decides_the_tokens_changes_the_digest(tmp_path: Path, part: str) -> None:
    assert tokenizer_digest(a_tokenizer(tmp_path / "other", **{part: None})) != tokenizer_digest(MODEL)


def test_older_tokenizers_are_told_apart_by_their_files(tmp_path: Path) -> None:
    assert tokenizer_digest(tmp_path) == ""
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    first = tokenizer_digest(tmp_path)
    assert first
    (tmp_path / "tokenizer.model").write_bytes(b"other pieces")
    assert tokenizer_digest(tmp_path) != first


def test_a_tokenizer_file_that_is_no_json_has_a_digest(tmp_path: Path) -> None:
    shutil.copy(MODEL / "config.json", tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"damaged")
    assert tokenizer_digest(tmp_path)
