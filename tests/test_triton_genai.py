"""Which tokens the engine takes for filling and for the end it never sees."""

import os

import pytest

from enginery.triton.models.genai import _filler, _last_token, default_threads


@pytest.mark.parametrize(
    ("facts", "end_ids", "filler", "last_token"),
    [
        ({"bos_token_id": 0, "pad_token_id": 2}, [1], 2, 0),
        ({"bos_token_id": 0, "pad_token_id": 1}, [1], 99, 0),  # filled with the end token, as often
        ({"bos_token_id": 0, "pad_token_id": 0}, [1], 99, 0),
        ({"bos_token_id": 0}, [1], 99, 0),
        ({"bos_token_id": 50, "pad_token_id": 50}, [50], 99, 99),  # one token for everything, as in GPT-2
        ({"bos_token_id": 0, "pad_token_id": 3}, [1, 0], 3, 3),
    ],
)
def test_neither_is_a_token_that_ends_answers(
    facts: dict[str, object], end_ids: list[int], filler: int, last_token: int
) -> None:
    facts["vocab_size"] = 100
    assert _filler(facts, end_ids) == filler
    assert _last_token(facts, end_ids, filler) == last_token
    assert not {filler, last_token} & set(end_ids)


def test_threads_leave_room_for_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, threads in ((1, 1), (2, 1), (3, 1), (16, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, count=processors: set(range(count)))
        assert default_threads() == threads
