"""Tests of the tree that shows how a build was made."""

import json
from io import StringIO
from itertools import pairwise
from typing import Any, cast

from rich.console import Console

from enginery.builds.lineage import lineage_json, lineage_tree
from enginery.builds.manifest import Manifest
from tests.builds.test_manifest import a_manifest


def printed(manifest: Manifest) -> str:
    out = StringIO()
    Console(file=out, width=200, color_system=None).print(lineage_tree(manifest))
    return out.getvalue()


def test_the_tree_leads_from_the_published_build_back_to_the_source() -> None:
    text = printed(a_manifest())
    expected = ["tiny-llama/cpu-int4-0123456789ab", "validate cpu-int4", "build cpu-int4", "download cpu-int4"]
    places = [text.index(part) for part in expected]
    assert all(earlier < later for earlier, later in pairwise(places))


def test_the_tree_says_where_the_weights_came_from() -> None:
    text = printed(a_manifest())
    assert "location: owner/tiny" in text
    assert "commit: c0ffee" in text


def test_the_tree_says_with_what_the_engine_was_made() -> None:
    text = printed(a_manifest())
    assert "ran python -m onnxruntime_genai.models.builder -p int4" in text
    assert "with onnxruntime-genai 0.18.0" in text
    assert "on builder-1, 4.2 s" in text


def test_the_tree_says_where_the_build_is_and_what_it_is_for() -> None:
    text = printed(a_manifest())
    assert "published s3://engines/prod/models/tiny-llama/builds/cpu-int4-0123456789ab" in text
    assert "target cpu-int4: cpu, onnxruntime 0.18.0, int4" in text
    assert "1 of 1 prompts answered as expected" in text


def test_a_step_that_several_need_is_described_once() -> None:
    text = printed(a_manifest())
    assert text.count("ran python -m onnxruntime_genai.models.builder") == 1
    assert "(as above)" in text


def test_a_step_that_is_not_recorded_is_named() -> None:
    manifest = a_manifest()
    without_weights = manifest.model_copy(update={"steps": manifest.steps[1:]})
    assert f"weights {manifest.steps[0].key[:12]}: not recorded" in printed(without_weights)


def test_text_that_looks_like_markup_is_printed_as_it_is() -> None:
    manifest = a_manifest()
    odd = manifest.steps[0].model_copy(update={"host": "[bold]host[/nonsense]"})
    assert "[bold]host[/nonsense]" in printed(manifest.model_copy(update={"steps": (odd, *manifest.steps[1:])}))


def test_the_json_holds_every_step_with_its_inputs() -> None:
    manifest = a_manifest()
    found = cast("dict[str, Any]", json.loads(json.dumps(lineage_json(manifest))))
    assert [step["stage"] for step in found["steps"]] == ["download", "build", "validate", "package"]
    assert found["steps"][1]["inputs"] == {"weights": manifest.steps[0].key}
    assert found["steps"][1]["commands"] == [["python", "-m", "onnxruntime_genai.models.builder", "-p", "int4"]]
    assert found["published"]["uri"] == "s3://engines/prod/models/tiny-llama/builds/cpu-int4-0123456789ab"
