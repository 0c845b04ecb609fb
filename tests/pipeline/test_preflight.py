"""Tests of the estimates before a build: memory of GPU and host, space on the disk."""

from pathlib import Path
from typing import Any

import psutil
import pytest

from enginery.backends import Request
from enginery.core.errors import PlanError, SpecError
from enginery.models.facts import ModelFacts
from enginery.models.size import parameter_count
from enginery.pipeline import preflight, run
from enginery.pipeline.plan import make_plan
from enginery.pipeline.preflight import (
    estimate_findings,
    estimate_notes,
    kv_cache_bytes,
    longest_sequence,
    need_of,
    weight_bytes,
)
from enginery.sources import ResolvedSource, SourceFile
from enginery.spec import gpus
from enginery.spec.findings import Finding, stopping, warning
from enginery.spec.read import accepting
from enginery.spec.spec import parse_spec
from enginery.spec.types import Precision
from tests.models.test_size import DEEPSEEK_V3, QWEN3_30B
from tests.support.models.examples import LLAMA_3_8B, LLAMA_3_70B
from tests.support.plans.plan import planned, spec_data

GB = 10**9


def request(
    config: dict[str, Any] = LLAMA_3_8B, *, gpu: str = "H100-SXM5-80GB", weights: int = 0, **more: Any
) -> Request:
    target = {"name": "one", "gpu": gpu, "backend": "tensorrt", "precision": "bfloat16", **more.pop("target", {})}
    spec = parse_spec({"name": "llama", "source": {"path": "model"}, "targets": [target], **more})
    return Request(spec, spec.targets[0], gpus.find(gpu), ModelFacts.from_config(config, weight_bytes=weights))


def model_of(wanted: Request) -> ModelFacts:
    assert wanted.model is not None
    return wanted.model


def findings(wanted: Request, *, local: bool = False) -> list[Finding]:
    return list(estimate_findings(wanted, local=local))


# Estimates


@pytest.mark.parametrize(
    ("backend", "precision", "largest"),
    [("tensorrt", "bfloat16", 64), ("pytorch", "bfloat16", 64), ("onnxruntime", "int4", 8)],
)
def test_a_batch_is_as_large_as_the_backend_makes_it_where_the_spec_does_not_say(
    backend: str, precision: str, largest: int
) -> None:
    target = {"backend": backend, "precision": precision}
    unset, given = request(target=target), request(target=target, serving={"max_batch_size": largest})
    smaller = request(target=target, serving={"max_batch_size": largest - 1})
    assert need_of(unset, model_of(unset)).activations == need_of(given, model_of(given)).activations
    assert need_of(unset, model_of(unset)).activations > need_of(smaller, model_of(smaller)).activations


@pytest.mark.parametrize(
    ("config", "parameters"), [(LLAMA_3_8B, 8_030_261_248), (LLAMA_3_70B, 70_553_706_496)], ids=["8B", "70B"]
)
def test_the_number_of_weights_follows_from_the_shape(config: dict[str, Any], parameters: int) -> None:
    """The published numbers. They include the norms, which the estimate leaves out."""
    assert parameter_count(ModelFacts.from_config(config)) == pytest.approx(parameters, rel=1e-4)


def test_the_files_say_it_better_than_the_shape() -> None:
    assert parameter_count(ModelFacts.from_config(LLAMA_3_8B, weight_bytes=16_060_522_496)) == 8_030_261_248


def test_files_of_a_quantized_model_do_not_say_it() -> None:
    config = LLAMA_3_8B | {"quantization_config": {"quant_method": "modelopt"}}
    assert parameter_count(ModelFacts.from_config(config, weight_bytes=9 * GB)) == pytest.approx(8.03e9, rel=1e-3)


@pytest.mark.parametrize(
    ("precision", "gigabytes"),
    [("bfloat16", 16.06), ("fp8", 9.08), ("int4_awq", 5.7), ("nvfp4", 6.03), ("float32", 32.1)],
)
def test_weights_in_each_precision(precision: str, gigabytes: float) -> None:
    assert weight_bytes(ModelFacts.from_config(LLAMA_3_8B), Precision(precision)) / GB == pytest.approx(
        gigabytes, rel=0.01
    )


FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


@pytest.mark.parametrize(
    ("config", "precision", "files", "gigabytes"),
    [
        # DeepSeek V3's repository has 688,586,727,753 bytes of weights, 14B weights of one more layer among them.
        (DEEPSEEK_V3 | FP8, "fp8", 0, 672.9),
        (DEEPSEEK_V3 | FP8, "fp8", 688_586_727_753, 688.6),
        (QWEN3_30B | FP8, "fp8", 0, 31.17),
        (QWEN3_30B | FP8, "fp8", 1_000_000, 31.17),
        (QWEN3_30B | FP8, "fp8", 31_100_000_000, 31.1),
    ],
)
def test_a_model_that_is_quantized_already_is_as_large_as_its_files(
    config: dict[str, Any], precision: str, files: int, gigabytes: float
) -> None:
    model = ModelFacts.from_config(config, weight_bytes=files)
    assert weight_bytes(model, Precision(precision)) / GB == pytest.approx(gigabytes, rel=0.001)


def test_fp8_mixtures_are_planned_on_the_gpus_that_hold_them() -> None:
    """The plans of two public models: 31 GB on one H200, and 671 GB on eight."""
    target = {"backend": "pytorch", "precision": "fp8"}
    one = request(QWEN3_30B | FP8 | {"max_position_embeddings": 40960}, gpu="H200-SXM5-141GB", target=target)
    assert findings(one) == []
    assert need_of(one, model_of(one)).weights / GB == pytest.approx(31.2, rel=0.01)
    positions = {"max_position_embeddings": 163840}
    eight = request(DEEPSEEK_V3 | FP8 | positions, gpu="H200-SXM5-141GB", target={**target, "tensor_parallel": 8})
    assert findings(eight) == []
    assert need_of(eight, model_of(eight)).sequence == 163840 * 61 * 576 * 2


def test_nothing_is_converted_of_a_model_that_is_served_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "memory_bytes", lambda: 24 * GB)
    wanted = request(QWEN3_30B | FP8, gpu="H200-SXM5-141GB", target={"backend": "pytorch", "precision": "fp8"})
    assert findings(wanted, local=True) == []


def test_a_quantized_model_says_whether_its_cache_is_quantized_too() -> None:
    target = {"backend": "pytorch", "precision": "fp8"}
    plain = request(QWEN3_30B | FP8, target=target)
    with_cache = {
        "quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
    }
    small = request(QWEN3_30B | with_cache, target=target)
    large = kv_cache_bytes(plain, model_of(plain), 100)
    assert large == 100 * 48 * 2 * 4 * 128 * 2
    assert kv_cache_bytes(small, model_of(small), 100) == large / 2


def test_a_tied_embedding_counts_once() -> None:
    tied = ModelFacts.from_config(LLAMA_3_8B | {"tie_word_embeddings": True})
    assert parameter_count(ModelFacts.from_config(LLAMA_3_8B)) - parameter_count(tied) == 128256 * 4096


@pytest.mark.parametrize(
    ("target", "convert", "expected"),
    [
        ({}, {}, 131072),
        ({"precision": "fp8"}, {}, 65536),
        ({}, {"kv_cache": "fp8"}, 65536),
        ({"tensor_parallel": 4}, {}, 32768),
        ({"tensor_parallel": 16}, {}, 16384),
        ({"pipeline_parallel": 2}, {}, 65536),
    ],
)
def test_the_kv_cache_of_a_token(target: dict[str, Any], convert: dict[str, Any], expected: int) -> None:
    wanted = request(target=target, convert=convert)
    assert kv_cache_bytes(wanted, model_of(wanted), 1000) == expected * 1000


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        ({}, 8192),
        ({"max_seq_len": 4096}, 4096),
        ({"max_input_len": 2000, "max_output_len": 500}, 2500),
        ({"max_output_len": 500}, 1524),
    ],
)
def test_the_longest_sequence(build: dict[str, Any], expected: int) -> None:
    wanted = request(build=build)
    assert longest_sequence(wanted, model_of(wanted)) == expected


@pytest.mark.parametrize(
    ("release", "build", "expected"),
    [
        ("0.8.0", {}, 2048),
        ("0.10.0", {"max_input_len": 3000}, 4024),
        ("0.11.0", {}, 8192),
        ("latest", {}, 8192),
    ],
)
def test_a_length_that_is_left_out_is_the_releases_own(release: str, build: dict[str, Any], expected: int) -> None:
    wanted = request(target={"release": release}, build=build)
    assert longest_sequence(wanted, model_of(wanted)) == expected


def test_an_engine_of_the_releases_own_length_needs_no_room_for_the_models() -> None:
    wanted = request(LLAMA_3_8B | {"max_position_embeddings": 131072}, gpu="A10", target={"release": "0.8.0"})
    assert findings(wanted) == []


# Findings


def test_a_model_that_fits_has_no_findings() -> None:
    assert findings(request()) == []


def test_a_model_too_large_for_the_gpu_is_reported_with_figures_and_the_number_of_gpus() -> None:
    (found,) = findings(request(LLAMA_3_70B))
    assert (found.code, found.level, found.path) == ("W201", "warning", "tensor_parallel")
    assert "weights 141.1 GB" in found.problem
    assert "H100-SXM5-80GB has 80.0 GB" in found.problem
    assert "tensor_parallel: 2" in found.remedy
    assert "--force W201" in str(found)


def test_the_remedy_is_one_that_helps() -> None:
    wanted = request(LLAMA_3_70B, target={"tensor_parallel": 2})
    assert findings(wanted) == []
    assert need_of(wanted, model_of(wanted)).total < 80 * GB


def test_a_long_sequence_alone_can_be_too_much() -> None:
    (found,) = findings(request(gpu="L4", build={"max_seq_len": 131072}))
    assert "one sequence of 131072 tokens 17.2 GB" in found.problem


def test_what_no_number_of_gpus_helps_says_what_does() -> None:
    (found,) = findings(request(gpu="T4", build={"max_num_tokens": 4_000_000}))
    assert "smaller" in found.remedy or "larger GPU" in found.remedy
    assert "tensor_parallel:" not in found.remedy


def test_the_room_for_the_cache_is_noted() -> None:
    (note,) = [note for note in estimate_notes(request(), local=False) if "KV cache" in note]
    assert "weights 16.1 GB" in note
    assert "sequences of 8,192" in note


def test_nothing_is_estimated_of_an_unknown_shape_or_for_a_cpu() -> None:
    assert findings(request({"architectures": ["Other"]})) == []
    assert findings(request(gpu="cpu", target={"precision": "float32", "backend": "onnxruntime"})) == []


def test_too_little_host_memory_is_reported_for_the_machine_that_converts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "memory_bytes", lambda: 24 * GB)
    (found,) = findings(request(), local=True)
    assert found.code == "W202"
    assert "32.1 GB of host memory; this machine has 24.0 GB" in found.problem
    assert findings(request(), local=False) == []


def test_what_another_machine_must_have_is_noted() -> None:
    assert "converting takes about 32.1 GB of host memory" in list(estimate_notes(request(), local=False))


def test_what_is_served_as_it_is_needs_no_memory_for_converting() -> None:
    plain, quantized = (request(target={"backend": "pytorch", "precision": name}) for name in ("bfloat16", "fp8"))
    assert not [note for note in estimate_notes(plain, local=False) if "converting" in note]
    assert [note for note in estimate_notes(quantized, local=False) if "converting" in note]


def test_the_memory_of_this_machine_is_known() -> None:
    assert preflight.memory_bytes() == pytest.approx(psutil.virtual_memory().total, rel=0.01)


# Accepting warnings


def test_an_accepted_warning_does_not_stop_and_an_error_always_does() -> None:
    found = [warning("W201", "gpu", "small"), warning("W202", "gpu", "small"), Finding("E110", "gpu", "unknown")]
    assert [finding.code for finding in stopping(found, ("W201", "E110"))] == ["W202", "E110"]


@pytest.mark.parametrize("code", ["E110", "memory", "W1"])
def test_only_warnings_can_be_accepted(code: str) -> None:
    with pytest.raises(SpecError, match="force"):
        accepting(parse_spec(spec_data()), (code,))


def test_accepting_keeps_what_the_spec_accepts() -> None:
    spec = accepting(parse_spec(spec_data(force=["W203"])), ("W201",))
    assert spec.force == ("W203", "W201")
    assert spec.targets == parse_spec(spec_data()).targets


def plan_for_8b_on(gpu: str, **more: Any) -> None:
    source = ResolvedSource(
        kind="path",
        location="model",
        commit="0" * 40,
        files=(SourceFile(name="model.safetensors", size=16_060_522_496),),
        config=LLAMA_3_8B,
    )
    target = {"name": "one", "gpu": gpu, "backend": "onnxruntime", "precision": "float16"}
    data = {"name": "llama", "source": {"path": "model"}, "targets": [target], **more}
    make_plan(parse_spec(data), resolver=lambda _: source)


def test_a_plan_stops_at_a_warning_until_it_is_accepted() -> None:
    with pytest.raises(PlanError, match=r"targets\.0 \(one\)\.tensor_parallel: .*\[W201\]"):
        plan_for_8b_on("A16")
    plan_for_8b_on("A16", force=["W201"])


# The disk


def test_only_what_is_still_to_be_made_needs_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = planned()
    download = plan.find("download")
    large = download.model_copy(update={"estimated_bytes": 10**18})
    plan = plan.model_copy(update={"steps": (large, *plan.steps[1:])})
    (found,) = run.disk_findings(plan, set(), tmp_path / "not" / "there" / "yet")
    assert found.code == "W203"
    assert "make about 1000000.0 TB" in found.problem
    assert list(run.disk_findings(plan, {download.key}, tmp_path)) == []
    with pytest.raises(PlanError, match="W203"):
        run.require_disk_space(plan, set(), str(tmp_path))
    accepted = plan.model_copy(update={"spec": accepting(plan.spec, ("W203",))})
    run.require_disk_space(accepted, set(), str(tmp_path))


def test_a_store_in_s3_needs_room_in_the_local_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENGINERY_HOME", str(tmp_path))
    assert run.local_place("s3://bucket/store") == run.local_place(None) == tmp_path / "store"
    assert run.local_place(str(tmp_path / "other")) == tmp_path / "other"


def test_a_plan_estimates_what_its_steps_make() -> None:
    assert planned().find("download").estimated_bytes == 12
