"""Tests of engines whose build options do not fit the spec's `serving`."""

from typing import Any

import pytest

from enginery.backends.tensorrt.checks import NEEDS, serving_findings
from enginery.spec.build import BuildOptions
from enginery.spec.serving import ServingOptions


def found(release: str, serving: dict[str, Any], **build: Any) -> list[str]:
    options = BuildOptions.model_validate(build)
    return [str(one) for one in serving_findings(options, ServingOptions.model_validate(serving), release)]


@pytest.mark.parametrize(
    ("release", "serving", "build"),
    [
        ("0.18.2", {"enable_kv_cache_reuse": True}, {"use_paged_context_fmha": True}),
        ("0.19.0", {"enable_kv_cache_reuse": True}, {}),
        ("0.18.2", {"enable_kv_cache_reuse": False}, {}),
        ("0.18.2", {}, {}),
        ("0.8.0", {"max_beam_width": 1}, {}),
        ("0.8.0", {"max_beam_width": 4}, {"max_beam_width": 4}),
        ("0.16.0", {"gpu_weights_percent": 0.5}, {"weight_streaming": True}),
        ("0.16.0", {"gpu_weights_percent": 1.0}, {}),
        ("1.3.0rc21", {"max_beam_width": 4}, {}),
    ],
)
def test_what_the_engine_is_built_for_is_accepted(release: str, serving: dict[str, Any], build: dict[str, Any]) -> None:
    assert found(release, serving, **build) == []


@pytest.mark.parametrize(
    ("release", "serving", "build", "message"),
    [
        (
            "0.18.2",
            {"enable_kv_cache_reuse": True},
            {},
            (
                "serving.enable_kv_cache_reuse: is true, and the engine is built with use_paged_context_fmha false, "
                "the default of 0.18.2; set build.use_paged_context_fmha to true"
            ),
        ),
        (
            "1.2.1",
            {"enable_chunked_context": True},
            {"use_paged_context_fmha": False},
            "serving.enable_chunked_context: is true, and the engine is built with use_paged_context_fmha false; set",
        ),
        (
            "0.8.0",
            {"max_beam_width": 4},
            {"max_beam_width": 2},
            "serving.max_beam_width: is 4, and the engine is built with max_beam_width 2; set build.max_beam_width to",
        ),
        (
            "0.16.0",
            {"gpu_weights_percent": 0.5},
            {},
            "serving.gpu_weights_percent: is 0.5, and the engine is built with weight_streaming false, the default of",
        ),
    ],
)
def test_what_the_engine_is_not_built_for_is_a_warning_that_says_what_to_set(
    release: str, serving: dict[str, Any], build: dict[str, Any], message: str
) -> None:
    (finding,) = found(release, serving, **build)
    assert finding.startswith(message)
    assert finding.endswith("or accept it with --force W165 [W165]")


def test_the_needs_name_fields_that_exist() -> None:
    assert {need.serving for need in NEEDS} <= set(ServingOptions.model_fields)
    assert {need.build for need in NEEDS} <= set(BuildOptions.model_fields)
