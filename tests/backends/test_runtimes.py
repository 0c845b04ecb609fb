"""The plan says so if a runtime gives no logits, because the comparison with the reference then sees little."""

from typing import Any

import pytest

from enginery.backends.runtimes import Kind, logits_notes
from enginery.spec.build import BuildOptions


@pytest.mark.parametrize(
    ("kind", "release", "options", "remedy"),
    [
        ("tensorrt", "0.12.0", {}, "set build.gather_context_logits"),
        ("tensorrt", "0.12.0", {"gather_context_logits": True}, None),
        ("tensorrt", "0.12.0", {"gather_all_token_logits": True}, None),
        ("pytorch", "0.19.0", {}, "releases from 1.0.0 on"),
        ("pytorch", "1.0.0", {}, None),
    ],
)
def test_a_runtime_without_logits_is_told_with_what_helps(
    kind: Kind, release: str, options: dict[str, Any], remedy: str | None
) -> None:
    notes = logits_notes(kind, release, BuildOptions.model_validate(options))
    assert len(notes) == (remedy is not None)
    assert all("only the likeliest token" in note and str(remedy) in note for note in notes)
