"""Tests of serving options that a release does not have."""

from pathlib import Path
from typing import Any

import pytest

from enginery.backends.tensorrt.backend import TensorRT
from enginery.core.errors import PlanError, UsageError
from enginery.pipeline.plan import make_plan
from enginery.spec.findings import Finding
from enginery.spec.serving import ServingOptions
from enginery.spec.spec import Rollout, parse_spec
from enginery.triton.problems import (
    rollout_problems,
    serving_notes,
    serving_problems,
    set_fields,
    tokenizer_problems,
)
from tests.support.models.directories import safetensors, write
from tests.support.models.examples import LLAMA_3_8B
from tests.support.plans.tensorrt import request_of

ENDPOINTS = ("http://triton:8000",)


def problems(release: str, **serving: Any) -> list[Finding]:
    return serving_problems(ServingOptions(**serving), release)


@pytest.mark.parametrize("release", ["0.8.0", "0.12.0", "0.16.0", "0.19.0", "1.2.1", "1.3.0rc3"])
def test_what_every_release_has_is_no_problem(release: str) -> None:
    common = {"max_batch_size": 4, "decoupled": True, "max_beam_width": 2, "kv_cache_free_gpu_mem_fraction": 0.9}
    assert problems(release, **common) == []
    assert problems(release) == []


def test_a_field_that_came_later_names_the_releases_that_have_it() -> None:
    (found,) = problems("0.8.0", decoding_mode="top_k")
    assert (found.code, found.level, found.path) == ("E170", "error", "serving.decoding_mode")
    assert "0.8.0" in found.problem
    assert "from 0.9.0 to 1.3.0rc3" in found.remedy


def test_a_field_that_is_not_known_of_a_release_without_facts_can_be_accepted() -> None:
    (found,) = problems("0.20.0", enable_trt_overlap=True)
    assert (found.code, found.level) == ("W170", "warning")
    assert "--force W170" in str(found)


def test_every_problem_is_reported_at_once() -> None:
    found = problems("0.8.0", cuda_graph_mode=True, gpu_weights_percent=0.5, max_queue_size=3)
    assert {one.path for one in found} == {
        "serving.cuda_graph_mode",
        "serving.gpu_weights_percent",
        "serving.max_queue_size",
    }


def test_windows_for_each_layer_came_with_0_13() -> None:
    (found,) = problems("0.12.0", max_attention_window_size=[64, 32])
    assert found.code == "E171"
    assert problems("0.12.0", max_attention_window_size=64) == []
    assert problems("0.13.0", max_attention_window_size=[64, 32]) == []


@pytest.mark.parametrize(
    ("release", "mode", "code"),
    [("0.9.0", "medusa", "E172"), ("0.15.0", "eagle", "E172"), ("0.16.0", "eagle", None), ("0.9.0", "top_k", None)],
)
def test_decoding_modes_that_the_backend_would_pass_over(release: str, mode: str, code: str | None) -> None:
    assert [one.code for one in problems(release, decoding_mode=mode)] == ([code] if code else [])


def test_lookahead_needs_its_sizes() -> None:
    (found,) = problems("0.19.0", decoding_mode="lookahead", lookahead_window_size=4)
    assert found.code == "E173"
    assert "lookahead_ngram_size, lookahead_verification_set_size" in found.problem
    sizes = {"lookahead_window_size": 4, "lookahead_ngram_size": 3, "lookahead_verification_set_size": 4}
    assert problems("0.19.0", decoding_mode="lookahead", **sizes) == []
    assert problems("0.16.0", decoding_mode="lookahead") == []


@pytest.mark.parametrize("field", ["guided_decoding_backend", "xgrammar_tokenizer_info_path"])
def test_guided_decoding_needs_both_its_fields(field: str) -> None:
    both = {"guided_decoding_backend": "xgrammar", "xgrammar_tokenizer_info_path": "/info.json"}
    (found,) = problems("0.19.0", **{field: both[field]})
    assert (found.code, found.path) == ("E174", f"serving.{field}")
    assert problems("0.19.0", **both) == []


def test_a_release_without_engines_has_nothing_to_find() -> None:
    assert problems("1.3.0rc21", decoding_mode="top_k") == []


def test_what_is_no_release_is_refused() -> None:
    with pytest.raises(UsageError):
        problems("newest")


def test_an_engine_cannot_be_rolled_out_to_s3() -> None:
    rollout = Rollout(endpoints=ENDPOINTS)
    (found,) = rollout_problems(rollout, "s3://engines/prod/serving/llama")
    assert (found.code, found.path) == ("E175", "rollout.model_repository")
    assert rollout_problems(rollout, "/srv/models") == []
    assert rollout_problems(None, "s3://engines/prod/serving/llama") == []


def test_fields_that_mean_nothing_elsewhere_are_named() -> None:
    assert set_fields(ServingOptions()) == []
    assert set_fields(ServingOptions(max_batch_size=3, decoupled=True, max_queue_delay_microseconds=1)) == []
    assert set_fields(ServingOptions(decoding_mode="top_k", scheduler_policy="max_utilization")) == [
        "scheduler_policy",
        "decoding_mode",
    ]


@pytest.mark.parametrize("mount", ["models", "/models/", "/", "/a b", "/a:b", "/${x}"])
def test_a_mount_is_an_absolute_path_without_odd_characters(mount: str) -> None:
    with pytest.raises(ValueError, match="mount"):
        ServingOptions(mount=mount)


@pytest.mark.parametrize("only", ["tokenizer.model", "tekken.json", "vocab.json"])
def test_a_tokenizer_that_cannot_be_served_is_found_while_planning(only: str) -> None:
    (found,) = tokenizer_problems(["config.json", "model.safetensors", only])
    assert (found.code, found.path) == ("E176", "source")
    assert f"has its tokenizer as {only} only" in found.problem
    assert "save_pretrained" in found.remedy
    assert tokenizer_problems(["tokenizer.json", only]) == []


def test_a_plan_is_refused_for_a_tokenizer_that_cannot_be_served_beside_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorRT, "findings", lambda *_: [])
    target = {"name": "one", "gpu": "H100-SXM5-80GB", "backend": "tensorrt", "release": "0.16.0"}
    write(tmp_path, {"config.json": LLAMA_3_8B, "model.safetensors": safetensors(), "tokenizer.model": b"x"})
    spec = {"name": "a", "source": {"path": str(tmp_path)}, "targets": [{**target, "precision": "bfloat16"}]}
    with pytest.raises(PlanError, match=r"source: has its tokenizer as tokenizer\.model only.*\[E176\]"):
        make_plan(parse_spec(spec))


def notes(release: str, **serving: Any) -> str:
    return "\n".join(serving_notes(ServingOptions(**serving), release))


def test_what_was_decided_for_the_user_is_noted() -> None:
    found = notes("0.8.0")
    assert "serving.max_batch_size is 64" in found
    assert "max_tokens_in_paged_kv_cache 2560" in found
    assert "kv_cache_free_gpu_mem_fraction 0.5" in found
    text = notes("0.8.0", max_batch_size=8, kv_cache_free_gpu_mem_fraction=0.9)
    assert "max_batch_size" not in text
    assert "kv_cache_free_gpu_mem_fraction" not in text
    assert "2560" not in notes("0.9.0")


def test_a_plan_of_an_engine_has_the_notes_on_serving_it() -> None:
    found = TensorRT().notes(request_of(release="0.8.0", convert={"examples": "examples"}))
    for note in serving_notes(ServingOptions(), "0.8.0"):
        assert note in found


def test_prompts_that_are_validated_and_served_differently_are_noted() -> None:
    assert "serving.add_special_tokens is false" in notes("0.8.0")
    assert "add_special_tokens" not in notes("0.8.0", add_special_tokens=True)
    assert "add_special_tokens" not in notes("0.9.0")


def test_borrowed_templates_are_noted() -> None:
    assert "templates of 1.3.0rc3 are filled" in notes("1.2.1")
    assert "not of 1.2.1" in notes("1.2.1")
    assert "templates" not in notes("0.16.0")


def test_nothing_is_noted_of_a_release_without_engines() -> None:
    assert not notes("1.3.0rc21")
