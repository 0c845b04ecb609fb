"""Tests of how the engine is loaded, and of its tokens for padding and for the end of a text."""

import ctypes
import json
import os
from pathlib import Path

import pytest

from enginery.triton.models.generation import GenaiEngine, _filler, _last_token, _shortest_cache, default_threads
from tests.support.engines.genai import FakeGenai


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    facts = {"eos_token_id": [1], "bos_token_id": 0, "pad_token_id": 2, "context_length": 256, "vocab_size": 448}
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": facts}))
    return tmp_path


def test_the_cuda_libraries_are_loaded_before_an_engine_for_a_gpu(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = FakeGenai(device="CUDA")
    libraries.install(monkeypatch)
    GenaiEngine(engine, provider="cuda", device=3)
    assert libraries.calls == ["preload_dlls", "cuda.device_id=3", "Model"]


def test_a_library_that_the_runtime_leaves_out_is_loaded_too(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = engine / "nvidia" / "cu13" / "lib"
    wheel.mkdir(parents=True)
    for name in ("libnvrtc.so.13", "libnvrtc-builtins.so.13.0", "libnvrtc-builtins.alt.so.13.0"):
        (wheel / name).touch()
    libraries = FakeGenai(device="CUDA", site=engine)
    libraries.install(monkeypatch)
    monkeypatch.setattr(ctypes, "CDLL", libraries.calls.append)
    GenaiEngine(engine, provider="cuda")
    builtins = str(wheel / "libnvrtc-builtins.so.13.0")
    assert libraries.calls == ["preload_dlls", builtins, "cuda.device_id=0", "Model"]


def test_an_engine_for_a_cpu_needs_no_cuda_libraries(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = FakeGenai(device="CPU")
    libraries.install(monkeypatch)
    GenaiEngine(engine)
    assert libraries.calls == ["Model"]


def test_an_engine_for_a_gpu_is_not_served_on_the_cpu(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGenai(device="CPU").install(monkeypatch)
    with pytest.raises(RuntimeError, match="is to run on CUDA device 0 but runs on CPU"):
        GenaiEngine(engine, provider="cuda")


@pytest.mark.parametrize(
    ("facts", "end_ids", "filler", "last_token"),
    [
        ({"bos_token_id": 0, "pad_token_id": 2}, [1], 2, 0),
        ({"bos_token_id": 0, "pad_token_id": 1}, [1], 99, 0),  # padded with the end token, as usual
        ({"bos_token_id": 0, "pad_token_id": 0}, [1], 99, 0),
        ({"bos_token_id": 0, "pad_token_id": -1}, [1], 99, 0),
        ({"bos_token_id": 0, "pad_token_id": None}, [1], 99, 0),
        ({"bos_token_id": 0}, [1], 99, 0),
        ({"bos_token_id": 50, "pad_token_id": 50}, [50], 99, 50),  # the only special token
        ({"bos_token_id": 99, "pad_token_id": 99}, [99], 98, 99),  # the only special token, and the last, as in GPT-2
        ({"bos_token_id": 0, "pad_token_id": 3}, [1, 0], 3, 1),
        ({"bos_token_id": None, "pad_token_id": 98}, [99, 98], 97, 99),  # as in Qwen
        ({"bos_token_id": -1}, [1], 99, 1),
    ],
)
def test_the_filler_is_none_of_the_tokens_with_a_meaning(
    facts: dict[str, object], end_ids: list[int], filler: int, last_token: int
) -> None:
    facts["vocab_size"] = 100
    assert _filler(facts, end_ids) == filler
    assert _last_token(facts, end_ids) == last_token
    assert filler not in {*end_ids, last_token}


def test_threads_leave_room_for_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, threads in ((1, 1), (2, 1), (3, 1), (16, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, count=processors: set(range(count)))
        assert default_threads() == threads


def test_a_layer_with_a_sliding_window_gets_a_cache_for_the_whole_window() -> None:
    assert _shortest_cache({"decoder": {"sliding_window": {"window_size": 4096}}}) == 4096
    assert _shortest_cache({"decoder": {}}) == _shortest_cache({}) == 0
