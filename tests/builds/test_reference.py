import json
import math
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from enginery.builds import LOGPROBS_FILE, REFERENCE_FILE, read_reference
from enginery.core.errors import StoreError
from tests.support.references import answer, text, write_reference


def test_a_reference_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = write_reference(tmp_path, [text(), answer()])
    read = read_reference(tmp_path)
    assert read == written
    assert read.logprobs.top_ids.shape == (4 + 3, 64)
    assert [sequence.name for sequence in read.answers] == ["prompt 1"]
    assert [(sequence.name, rows.start, rows.stop) for sequence, rows in read.rows()] == [
        ("english-1", 0, 4),
        ("prompt 1", 4, 7),
    ]


def test_the_most_likely_tokens_come_first(tmp_path: Path) -> None:
    logprobs = write_reference(tmp_path).logprobs
    assert (np.diff(logprobs.top_logprobs, axis=1) <= 0).all()


def test_perplexities_are_those_of_whole_texts_and_of_all_answers(tmp_path: Path) -> None:
    logits = np.zeros((4 + 4 + 3, 100), dtype=np.float32)
    reference = write_reference(tmp_path, [text("my-text-1"), text("my-text-2"), answer()], logits)
    found = reference.perplexities()
    assert set(found) == {"my-text", "answers"}
    assert all(math.isclose(value, 100, rel_tol=1e-5) for value in found.values())


def test_a_small_vocabulary_is_kept_whole(tmp_path: Path) -> None:
    assert write_reference(tmp_path, vocabulary=10).logprobs.top_ids.shape == (7, 10)


def test_damage_anywhere_in_the_predictions_is_an_error_with_their_path(tmp_path: Path) -> None:
    path = tmp_path / LOGPROBS_FILE
    logits = np.random.default_rng(0).normal(size=(300, 320)).astype(np.float32)
    write_reference(tmp_path, [text("long-1", range(301))], logits, vocabulary=320)
    with np.load(path) as arrays:
        np.savez_compressed(path, **arrays)
    good = path.read_bytes()
    for place in range(0, len(good), max(1, len(good) // 500)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        with suppress(StoreError):
            assert read_reference(tmp_path).logprobs  # some bytes decide nothing, such as those of dates


def test_a_missing_reference_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a reference") as error:
        read_reference(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_reference_of_another_schema_is_refused(tmp_path: Path) -> None:
    write_reference(tmp_path)
    path = tmp_path / REFERENCE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    with pytest.raises(StoreError, match="schema 2"):
        read_reference(tmp_path)


def test_a_sequence_that_predicts_nothing_is_refused(tmp_path: Path) -> None:
    write_reference(tmp_path)
    path = tmp_path / REFERENCE_FILE
    data = json.loads(path.read_text())
    data["sequences"][0]["first"] = 5
    path.write_text(json.dumps(data))
    with pytest.raises(StoreError, match="english-1 has 5 tokens"):
        read_reference(tmp_path)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ({"top_ids": np.zeros((6, 64), np.int32)}, "top_ids is int32 of shape"),
        ({"next_logprobs": np.zeros(7, np.float64)}, "next_logprobs is float64"),
        ({"next_logprobs": np.full(7, np.nan, np.float32)}, "NaN or infinite"),
        ({"top_ids": np.full((7, 64), 100, np.int32)}, "not among the 100"),
    ],
)
def test_rows_that_do_not_fit_the_sequences_are_refused(
    tmp_path: Path, damage: dict[str, np.ndarray], problem: str
) -> None:
    with np.load(write_reference(tmp_path).directory / LOGPROBS_FILE) as arrays:
        good = dict(arrays)
    np.savez_compressed(tmp_path / LOGPROBS_FILE, **(good | damage))
    with pytest.raises(StoreError, match=problem):
        read_reference(tmp_path).logprobs  # noqa: B018  it is read when it is first used


@pytest.mark.parametrize("data", [b"", b"no numpy file", b"PK\x03\x04 cut off"])
def test_predictions_that_are_damaged_are_an_error_with_a_remedy(tmp_path: Path, data: bytes) -> None:
    write_reference(tmp_path)
    (tmp_path / LOGPROBS_FILE).write_bytes(data)
    with pytest.raises(StoreError, match="remove the step"):
        read_reference(tmp_path).logprobs  # noqa: B018  it is read when it is first used
