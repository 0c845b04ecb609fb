"""Two builds are compared by their manifests alone."""

import pytest

from enginery.builds.compare import Comparison, compare_builds
from enginery.builds.manifest import read_manifest
from tests.support.plans.watched import a_manifest
from tests.support.speeds import GPU, a_speed

OTHER = "cpu-int4-222222222222"


def test_a_build_compared_with_itself_has_no_differences() -> None:
    found = compare_builds(a_manifest(), a_manifest())
    assert not found.changes
    assert not found.different_answers
    assert found.speed[0].gap_ms.percent == found.engine_bytes.percent == found.making_seconds.percent == 0.0
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
    old = a_manifest(engine=1000, seconds=10.0)
    found = compare_builds(old, a_manifest(OTHER, speed=a_speed(1.25), engine=900, seconds=40.0))
    (speed,) = found.speed
    assert speed.concurrency == 1
    assert speed.first_ms.percent == pytest.approx(25.0, abs=0.1)
    assert speed.gap_ms.percent == pytest.approx(25.0, abs=0.1)
    assert speed.tokens_per_second.percent == pytest.approx(-20.0, abs=0.1)
    assert (found.engine_bytes.before, found.engine_bytes.after, found.engine_bytes.percent) == (1000, 900, -10.0)
    assert found.making_seconds.percent == 300.0


def test_a_speed_that_was_not_measured_is_not_compared_and_the_notes_say_so() -> None:
    older = compare_builds(a_manifest(speed=None), a_manifest(OTHER))
    assert older.speed == ()
    assert older.notes == ("the speed of the first build was not measured",)
    assert compare_builds(a_manifest(), a_manifest(OTHER, speed=None)).speed == ()


def test_speeds_of_different_machines_are_said_to_be() -> None:
    (note,) = compare_builds(a_manifest(), a_manifest(OTHER, speed=a_speed(machine=GPU))).notes
    assert note == "their speeds cannot be compared: GPU NVIDIA H200, not none; driver 570.86.15, not none"


def test_a_speed_that_other_programs_disturbed_is_said_to_be() -> None:
    (note,) = compare_builds(a_manifest(), a_manifest(OTHER, speed=a_speed(disturbed=True))).notes
    assert "other programs slowed down the machine" in note


def test_only_numbers_of_sequences_that_both_were_measured_with_are_compared() -> None:
    old, new = a_manifest(speed=a_speed(concurrency=(1, 8))), a_manifest(OTHER, speed=a_speed(concurrency=(8, 32)))
    assert [one.concurrency for one in compare_builds(old, new).speed] == [8]


def test_manifests_from_a_registry_will_do() -> None:
    """Only their bytes are needed."""
    old, new = (read_manifest(one.to_json()) for one in (a_manifest(), a_manifest(OTHER, speed=a_speed(2.0))))
    assert compare_builds(old, new).speed[0].gap_ms.percent == pytest.approx(100.0, abs=0.1)


def test_a_comparison_survives_json() -> None:
    found = compare_builds(a_manifest(), a_manifest(OTHER, speed=a_speed(2.0)))
    assert Comparison.model_validate_json(found.model_dump_json()) == found
