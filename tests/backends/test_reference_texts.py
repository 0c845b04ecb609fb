"""Tests of the texts that come with Enginery: they are all there, told in their README, and well-formed."""

import re
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import enginery
from tests.support.paths import TINY_LLAMA

TEXTS = Path(enginery.__file__).parent / "backends" / "reference" / "texts"
FILES = sorted(TEXTS.glob("*.txt"))
ROW = re.compile(r"^\| `(?P<name>[^`]+)` \| (?P<smollm2>\d+) \|(?: \d+ \|){3} (?P<tiny>\d+) \|", re.MULTILINE)
README = (TEXTS / "README.md").read_text(encoding="utf-8")
LANGUAGES = "arabic chinese english french german hindi italian japanese korean polish portuguese russian spanish"
CODE = "c html javascript python shell sql"
SPECIAL = re.compile(r"<\|[^|]*\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")
"""The markers of the usual chat templates."""


def read(path: Path) -> str:
    return path.read_bytes().decode("utf-8")


def words_in(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines() if len(line) > 60}


def test_the_readme_lists_every_text_with_its_true_number_of_tokens() -> None:
    tokenizer = Tokenizer.from_file(str(TINY_LLAMA / "tokenizer.json"))
    counted = {path.name: len(tokenizer.encode(read(path).strip(), add_special_tokens=False).ids) for path in FILES}
    assert {row["name"]: int(row["tiny"]) for row in ROW.finditer(README)} == counted


def test_all_texts_together_fit_in_the_default_number_of_tokens() -> None:
    assert 7_500 < sum(int(row["smollm2"]) for row in ROW.finditer(README)) <= 8_192


def test_there_are_the_promised_languages_and_kinds_of_code() -> None:
    kinds = {path.stem.split("-")[0] for path in FILES}
    assert set(LANGUAGES.split()) <= kinds
    assert {f"code-{language}" for language in CODE.split()} <= {path.stem for path in FILES}
    assert {"data", "dialogue", "instructions", "markdown", "numbers", "reasoning"} <= kinds


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_text_is_normalized_ends_with_one_newline_and_has_no_special_tokens(path: Path) -> None:
    text = read(path)
    assert unicodedata.is_normalized("NFC", text)
    assert text == f"{text.strip()}\n"
    assert not [each for each in text if unicodedata.category(each) in {"Cc", "Cf", "Co"} and each != "\n"]
    assert SPECIAL.search(text) is None


def test_no_long_line_is_in_two_texts() -> None:
    seen: set[str] = set()
    for path in FILES:
        lines = words_in(read(path))
        assert not lines & seen, path.name
        seen |= lines
