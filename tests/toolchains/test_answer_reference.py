"""The reference's driver gives a prompt the same tokens as the drivers of the engines do."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest

from enginery.toolchains import ANSWER_REFERENCE

BOS, BOS_TEXT = 1, "<s>"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The driver as a module. Its libraries are in a toolchain, and splitting a prompt into tokens needs none."""
    for name in ("torch", "transformers", "transformers.models.auto.modeling_auto", "reference_model"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    found = importlib.util.spec_from_file_location("answer_reference_tested", ANSWER_REFERENCE)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, found.name, module)
    found.loader.exec_module(module)
    return module


def tokenizer(text: str, *, add_special_tokens: bool, verbose: bool) -> dict[str, list[int]]:
    """Knows BOS by its text, adds it in front, and has one token for each other character."""
    own = [BOS] * text.startswith(BOS_TEXT)
    rest = [ord(one) for one in text.removeprefix(BOS_TEXT)]
    return {"input_ids": [BOS] * add_special_tokens + own + rest}


@pytest.mark.parametrize(
    ("text", "special", "ids"),
    [
        ("Hi", True, [BOS, ord("H"), ord("i")]),
        ("<s>Hi", True, [BOS, ord("H"), ord("i")]),
        ("<s>Hi", False, [BOS, ord("H"), ord("i")]),
        ("Hi", False, [ord("H"), ord("i")]),
    ],
)
def test_a_prompt_that_begins_with_bos_does_not_get_it_twice(
    driver: ModuleType, text: str, *, special: bool, ids: list[int]
) -> None:
    model = SimpleNamespace(tokenizer=tokenizer, positions=256)
    prompt = {"name": "prompt 1", "text": text, "add_special_tokens": special, "max_tokens": 8}
    asked = driver._asked(model, prompt)
    assert asked.ids == ids
    assert asked.first == len(ids)
