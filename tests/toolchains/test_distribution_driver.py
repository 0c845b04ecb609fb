"""Tests of what keeps an engine's predictions, which drivers import. They need no toolchain."""

from pathlib import Path

import numpy as np
import pytest

from enginery.builds import read_distribution
from enginery.toolchains.drivers.distribution import Recorder, as_float
from tests.support.references import log_softmax, text, write_reference

IDS = (3, 5, 7, 9, 11)
VOCABULARY = 20


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(8).normal(size=(len(IDS) - 1, VOCABULARY)).astype(np.float32) * 5


@pytest.fixture
def recorder(tmp_path: Path, logits: np.ndarray) -> Recorder:
    write_reference(tmp_path, [text(ids=IDS)], logits, VOCABULARY)
    return Recorder(tmp_path)


def test_it_keeps_the_log_probabilities_of_the_references_tokens(
    tmp_path: Path, recorder: Recorder, logits: np.ndarray
) -> None:
    other = logits[:, ::-1] * 2
    recorder.logits(recorder.sequences[0], other)
    recorder.write(tmp_path / "distribution.npz")
    reference = write_reference(tmp_path, [text(ids=IDS)], logits, VOCABULARY)
    found = read_distribution(tmp_path, reference.facts)
    wanted = log_softmax(other)
    assert found is not None
    assert found.measured.all()
    assert np.allclose(found.next_logprobs, wanted[np.arange(4), IDS[1:]], atol=1e-5)
    top = reference.logprobs.top_ids.astype(np.int64)
    assert np.allclose(found.top_logprobs, np.take_along_axis(wanted, top, axis=1), atol=1e-5)
    assert found.argmax.tolist() == other.argmax(axis=1).tolist()


def test_padding_of_the_vocabulary_is_left_out(recorder: Recorder, logits: np.ndarray) -> None:
    padded = np.concatenate([logits, np.full((4, 12), 1e4, np.float32)], axis=1)
    recorder.logits(recorder.sequences[0], padded)
    assert recorder.argmax.tolist() == logits.argmax(axis=1).tolist()
    assert np.allclose(recorder.next_logprobs, log_softmax(logits)[np.arange(4), IDS[1:]], atol=1e-5)


def test_an_engine_with_fewer_logits_than_tokens_is_an_error(recorder: Recorder, logits: np.ndarray) -> None:
    with pytest.raises(ValueError, match="the engine has 10 logits, the original weights 20"):
        recorder.logits(recorder.sequences[0], logits[:, :10])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_logit_that_is_no_number_is_counted_for_any_token(
    recorder: Recorder, logits: np.ndarray, value: float
) -> None:
    logits[1, 17] = value
    recorder.logits(recorder.sequences[0], logits)
    assert recorder.nonfinite.tolist() == [0, 1, 0, 0]


def test_a_forbidden_token_counts_only_if_the_reference_finds_it_likely(tmp_path: Path) -> None:
    logits = np.tile(-np.arange(100, dtype=np.float32), (4, 1))
    write_reference(tmp_path, [text(ids=IDS)], logits, 100)
    recorder = Recorder(tmp_path)
    logits[0, 90] = -np.inf
    logits[2, 0] = -np.inf
    recorder.logits(recorder.sequences[0], logits)
    assert recorder.nonfinite.tolist() == [0, 0, 1, 0]


def test_pieces_of_a_sequence_make_the_whole(recorder: Recorder, logits: np.ndarray) -> None:
    for place in range(4):
        recorder.logits(recorder.sequences[0], logits[place : place + 1], place)
    assert recorder.measured.all()
    assert recorder.described("logits", "") == {"method": "logits", "why": "", "rows": 4}


def test_single_tokens_leave_the_other_rows_unmeasured(recorder: Recorder) -> None:
    recorder.token(2, 9)
    assert recorder.argmax.tolist() == [-1, -1, 9, -1]
    described = recorder.described("prefixes", "no logits")
    assert described == {"method": "prefixes", "why": "no logits; 3 of 4 predictions were not measured", "rows": 1}


def test_nothing_measured_is_no_method(recorder: Recorder) -> None:
    assert recorder.described("logits", "")["method"] == "none"


def test_bits_of_bfloat16_are_numbers() -> None:
    exact = np.array([1.5, -2.0, 0.0], np.float32)
    assert as_float((exact.view(np.uint32) >> 16).astype(np.uint16)).tolist() == exact.tolist()
    assert as_float(exact.astype(np.float16)).tolist() == exact.tolist()
