"""Two builds are compared by their manifests alone."""

from enginery.builds.compare import Comparison, compare_builds
from enginery.builds.manifest import read_manifest
from tests.support.plans.watched import a_manifest

OTHER = "cpu-int4-222222222222"


def test_a_build_compared_with_itself_has_no_differences() -> None:
    found = compare_builds(a_manifest(), a_manifest())
    assert not found.changes
    assert not found.different_answers
    assert found.tokens_per_second.percent == found.engine_bytes.percent == found.making_seconds.percent == 0.0
    assert not found.notes


def test_another_release_and_another_package_are_named_with_both_values() -> None:
    old = a_manifest(toolchain={"onnxruntime-genai": "0.17.1", "torch": "2.12.0"})
    new = a_manifest(OTHER, release="0.18.0", toolchain={"onnxruntime-genai": "0.18.0", "numpy": "1.26.4"})
    changes = {one.name: (one.before, one.after) for one in compare_builds(old, new).changes}
    assert changes == {
        "release": ("0.17.1", "0.18.0"),
        "build with onnxruntime-genai": ("0.17.1", "0.18.0"),
        "build with torch": ("2.12.0", ""),
        "build with numpy": ("", "1.26.4"),
    }


def test_answers_are_compared_prompt_by_prompt() -> None:
    old = a_manifest(answers={"a": "1", "b": "2", "gone": "3"})
    new = a_manifest(OTHER, answers={"a": "1", "b": "two", "new": "4"})
    found = compare_builds(old, new)
    assert [(one.prompt, one.said) for one in found.answers] == [
        ("a", "same"),
        ("b", "different"),
        ("gone", "only before"),
        ("new", "only after"),
    ]
    assert found.answers[1].before == "2"
    assert found.answers[1].after == "two"
    assert "not asked the same prompts" in found.notes[0]


def test_figures_tell_both_values_and_the_change() -> None:
    old = a_manifest(speed=100.0, engine=1000, seconds=10.0)
    found = compare_builds(old, a_manifest(OTHER, speed=125.0, engine=900, seconds=40.0))
    assert found.tokens_per_second.percent == 25.0
    assert (found.engine_bytes.before, found.engine_bytes.after, found.engine_bytes.percent) == (1000, 900, -10.0)
    assert found.making_seconds.percent == 300.0


def test_a_figure_that_is_not_recorded_has_no_change() -> None:
    assert compare_builds(a_manifest(speed=None), a_manifest(OTHER)).tokens_per_second.percent is None
    assert compare_builds(a_manifest(), a_manifest(OTHER, speed=None)).tokens_per_second.percent is None


def test_speeds_of_different_machines_are_said_to_be() -> None:
    (note,) = compare_builds(a_manifest(host="a"), a_manifest(OTHER, host="b")).notes
    assert "different machines: a and b" in note


def test_manifests_from_a_registry_will_do() -> None:
    """Only their bytes are needed."""
    old, new = (read_manifest(one.to_json()) for one in (a_manifest(), a_manifest(OTHER, speed=50.0)))
    assert compare_builds(old, new).tokens_per_second.after == 50.0


def test_a_comparison_survives_json() -> None:
    found = compare_builds(a_manifest(), a_manifest(OTHER, speed=50.0))
    assert Comparison.model_validate_json(found.model_dump_json()) == found
