"""The command line prints its last sentence with the summary. The run's log does not have it too."""

import pytest

from enginery.pipeline.flows.console import build_from_cli
from tests.support.plans.small_pipeline import SmallPipeline, pipeline, small_spec

__all__ = ["pipeline"]

pytestmark = pytest.mark.usefixtures("prefect_api")


def test_the_closing_sentence_is_left_to_the_summary(pipeline: SmallPipeline) -> None:
    lines: list[str] = []
    summary = build_from_cli(small_spec("a"), say=lines.append)
    assert pipeline.runs("build/a") == 1
    assert any(line.endswith("build a: done") for line in lines)
    assert summary.sentence not in lines
