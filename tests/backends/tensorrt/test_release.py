"""Tests of how the release of TensorRT-LLM is chosen, and which releases are refused."""

import pytest

from enginery.backends.tensorrt.backend import TensorRT
from enginery.backends.tensorrt.release import chosen_release, refusal
from enginery.core.errors import PlanError
from enginery.releases.facts import releases
from tests.support.plans.tensorrt import codes, findings, request_of


@pytest.mark.parametrize(
    ("wanted", "release"),
    [
        ("latest", "1.2.1"),
        ("0.8.0", "0.8.0"),
        (">=0.10,<0.13", "0.12.0"),
        ("<1", "0.21.0"),
        ("==0.16.*", "0.16.0"),
        ("0.17.0", "0.17.0"),
        ("1.3.0rc3", "1.3.0rc3"),
        ("1.3.0rc20", "1.3.0rc20"),
        ("1.2.0rc5", "1.2.0rc5"),
        (">=1.3.0rc1,<1.3.0rc9", "1.3.0rc3"),
        ("1.0.3.2510", "1.0.3.2510"),
        ("v0.16.0", "0.16.0"),
        ("0.16", "0.16.0"),
        ("1.3.0-rc3", "1.3.0rc3"),
    ],
)
def test_what_is_asked_for_comes_to_a_release(wanted: str, release: str) -> None:
    assert chosen_release(wanted) == release
    assert TensorRT().release(request_of(release=wanted).target) == release


@pytest.mark.parametrize("release", releases())
def test_every_known_release_is_itself(release: str) -> None:
    assert chosen_release(release) == release


@pytest.mark.parametrize(
    ("wanted", "code", "says"),
    [
        ("newest", "E101", "no version"),
        ("0.7.1", "E101", "older than 0.8.0"),
        ("0.5.0", "E101", "older than 0.8.0"),
        ("0.17.5", "E102", "no release 0.17.5"),
        ("0.99.0", "E102", "no release 0.99.0"),
        ("1.0.7", "E102", "no release 1.0.7"),
        ("<0.5", "E102", "no known release fits"),
        ("1.3.0", "E103", "1.3.0rc20 is the last release with an engine builder"),
        ("1.3.0rc21", "E103", "1.3.0rc20"),
        ("1.4.0rc1", "E103", "1.3.0rc20"),
        ("2.0", "E103", "1.3.0rc20"),
        (">=1.3", "E103", "1.3.0rc20"),
    ],
)
def test_a_release_that_is_none_or_builds_no_engines_is_refused(wanted: str, code: str, says: str) -> None:
    request = request_of(release=wanted)
    (finding,) = findings(request)
    assert (finding.code, finding.path) == (code, "release")
    assert says in finding.problem
    assert finding.remedy
    with pytest.raises(PlanError, match=says):
        TensorRT().release(request.target)


def test_a_release_without_engines_says_which_backend_to_use() -> None:
    refused = refusal("1.3.0")
    assert refused is not None
    assert "backend: pytorch" in refused.remedy


def test_a_release_that_is_refused_hides_no_other_mistake_behind_a_crash() -> None:
    assert codes(request_of(release="0.99.0", precision="nvfp4", tensor_parallel=7)) == ["E102"]


def test_a_release_newer_than_all_known_ones_takes_the_nearest_facts_and_says_so() -> None:
    request = request_of(release="1.3.0rc10", precision="float16")
    assert codes(request) == []
    notes = TensorRT().notes(request)
    assert any("flags of 1.3.0rc10's trtllm-build: known of 1.3.0rc3" in note for note in notes)
