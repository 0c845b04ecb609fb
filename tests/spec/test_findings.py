"""Tests of a plan's findings: their texts, and that each code is documented."""

import re
from pathlib import Path

import pytest

import enginery
from enginery.spec.findings import Finding, stopping, warning

SOURCES = Path(enginery.__file__).parent
DOCUMENT = SOURCES.parent / "docs" / "tensorrt-llm.md"
CODE = re.compile(r'"([EW]\d{3})"')


def used_codes() -> set[str]:
    return {code for path in SOURCES.rglob("*.py") for code in CODE.findall(path.read_text(encoding="utf-8"))}


def documented_codes() -> set[str]:
    found: set[str] = set()
    for first, last in re.findall(r"\b([EW]\d{3})(?:\u2013([EW]\d{3}))?", DOCUMENT.read_text(encoding="utf-8")):
        end = int(last[1:]) if last else int(first[1:])
        found |= {f"{first[0]}{number}" for number in range(int(first[1:]), end + 1)}
    return found


def test_an_error_says_where_what_and_what_to_do() -> None:
    found = Finding("E120", "precision", "fp8 needs 8.9, this GPU has 8.0", "use bfloat16")
    assert str(found) == "precision: fp8 needs 8.9, this GPU has 8.0; use bfloat16 [E120]"


def test_a_warning_says_besides_how_to_accept_it() -> None:
    assert str(warning("W201", "gpu", "too small", "take two")).endswith(
        "take two, or accept it with --force W201 [W201]"
    )


def test_a_findings_path_can_be_put_under_its_target() -> None:
    assert Finding("E120", "precision", "no").under("targets.0 (a).").path == "targets.0 (a).precision"


@pytest.mark.parametrize(("accepted", "left"), [((), 2), (("W201",), 1), (("E120",), 2)])
def test_only_warnings_can_be_accepted(accepted: tuple[str, ...], left: int) -> None:
    assert len(stopping([Finding("E120", "a", "b"), warning("W201", "a", "b")], accepted)) == left


def test_every_code_is_explained() -> None:
    assert sorted(used_codes() - documented_codes()) == []


def test_every_code_that_begins_with_w_is_a_warnings() -> None:
    """Readers rely on the letter."""
    for path in SOURCES.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'Finding\(\s*"W\d{3}"(?![^)]*"warning")', text), path
        assert not re.findall(r'warning\(\s*"E\d{3}"', text), path
