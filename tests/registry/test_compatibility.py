"""Tests of which build runs where, for each backend, and of the reason if it does not."""

from typing import Any

import pytest

from enginery.registry import BuildOptions, BuildQuery
from enginery.registry.resolving.compatibility import Host, fit_warnings, gpu_match, misfits
from enginery.spec import gpus
from enginery.spec.gpus import CPU, Gpu
from tests.support.registry.manifests import a_build

H100, H100_PCIE, H200 = (gpus.find(name) for name in ("H100-SXM5-80GB", "H100-PCIE-80GB", "H200-SXM5-141GB"))
L40S, A100, T4 = (gpus.find(name) for name in ("L40S", "A100-SXM4-80GB", "T4"))


def why_not(host: Host, **build: Any) -> str:
    return "; ".join(misfits(a_build(**build), host))


def test_an_engine_runs_on_the_product_and_the_release_it_was_built_for() -> None:
    assert misfits(a_build(), Host(gpu=H100, gpus=1, runtime="1.2.1")) == ()
    assert fit_warnings(a_build(), Host(gpu=H100, gpus=1, runtime="1.2.1")) == ()


def test_an_engine_does_not_run_on_another_compute_capability() -> None:
    reason = "built for compute capability 9.0 (H100-SXM5-80GB), this GPU is 8.9 (L40S)"
    assert why_not(Host(gpu=L40S)) == reason
    assert why_not(Host(gpu=L40S, other_product=True)) == reason


def test_an_engine_needs_the_very_release() -> None:
    for runtime in ("1.1.0", "1.2.0", "1.3.0", "1.2.1rc1"):
        assert why_not(Host(gpu=H100, runtime=runtime)) == f"needs TensorRT-LLM 1.2.1, this runtime has {runtime}"


@pytest.mark.parametrize("runtime", ["1.2.1", "1.2.1+cu13", "v1.2.1"])
def test_a_release_is_the_same_however_it_is_written(runtime: str) -> None:
    assert misfits(a_build(), Host(gpu=H100, runtime=runtime)) == ()


def test_an_engine_of_another_product_is_a_near_miss_that_can_be_accepted_with_a_warning() -> None:
    for other in (H100_PCIE, H200):
        assert f"this GPU is {other.name}: of the same compute capability 9.0" in why_not(Host(gpu=other))
        accepting = Host(gpu=other, other_product=True)
        assert misfits(a_build(), accepting) == ()
        assert "NVIDIA does not support that" in fit_warnings(a_build(), accepting)[0]
        assert gpu_match(a_build(), accepting) > gpu_match(a_build(gpu=other.name), accepting)


def test_an_engine_does_not_run_without_a_gpu() -> None:
    assert why_not(Host(gpu=CPU)) == "built for H100-SXM5-80GB, this machine has no NVIDIA GPU"


def test_an_engine_for_more_gpus_than_there_are_does_not_run() -> None:
    assert why_not(Host(gpu=H100, gpus=2), tensor_parallel=4) == "needs 4 GPUs, there are 2"
    assert why_not(Host(gpu=H100, gpus=1), tensor_parallel=2, pipeline_parallel=2) == "needs 4 GPUs, there is 1"
    assert not why_not(Host(gpu=H100, gpus=8), tensor_parallel=4)
    assert why_not(Host(gpus=1), tensor_parallel=2) == "needs 2 GPUs, there is 1"


def test_an_engine_that_is_larger_than_the_memory_does_not_run() -> None:
    a30 = {"gpu": "A100-SXM4-80GB", "size": 24 * 10**9}
    reasons = why_not(Host(gpu=gpus.find("A30"), other_product=True), **a30)
    assert reasons == "takes 24.0 GB on each GPU, A30 has 24 GB"
    assert not why_not(Host(gpu=gpus.find("A100-PCIE-40GB"), other_product=True), **a30)


def test_an_engine_of_a_gpu_that_is_not_in_the_table_runs_on_the_very_product_only() -> None:
    sample = Gpu("H900-Sample", "NVIDIA H900 Sample", (13, 1), 160)
    build = {"gpu": "H900-Sample"}
    assert not why_not(Host(gpu=sample), **build)
    assert "compute capability is not known" in why_not(Host(gpu=H100, other_product=True), **build)


def test_what_is_not_known_of_a_place_decides_nothing() -> None:
    for backend in ("tensorrt", "pytorch", "onnxruntime"):
        assert misfits(a_build(backend=backend, tensor_parallel=8), Host()) == ()


def test_a_checkpoint_runs_on_any_gpu_that_computes_in_its_precision() -> None:
    fp8 = {"backend": "pytorch", "precision": "fp8"}
    assert not why_not(Host(gpu=L40S), **fp8)
    assert why_not(Host(gpu=A100), **fp8) == "fp8 needs compute capability 8.9, this GPU is 8.0 (A100-SXM4-80GB)"
    assert why_not(Host(gpu=T4), backend="pytorch") == "bfloat16 needs compute capability 8.0, this GPU is 7.5 (T4)"
    assert not why_not(Host(gpu=T4), backend="pytorch", precision="float16")


def test_a_checkpoint_needs_its_release_or_a_later_one() -> None:
    checkpoint = {"backend": "pytorch"}
    older = "needs TensorRT-LLM 1.2.1 or later, this runtime has 1.1.0"
    assert why_not(Host(gpu=H100, runtime="1.1.0"), **checkpoint) == older
    assert not why_not(Host(gpu=H100, runtime="1.3.0"), **checkpoint)
    warnings = fit_warnings(a_build(**checkpoint), Host(gpu=H100, runtime="1.3.0"))
    assert warnings == ("it was checked with TensorRT-LLM 1.2.1, and not with 1.3.0",)
    assert fit_warnings(a_build(**checkpoint), Host(gpu=H100, runtime="1.2.1")) == ()


def test_a_checkpoint_must_fit_into_the_memory_of_the_gpus_that_share_it() -> None:
    large = {"backend": "pytorch", "size": 40 * 10**9}
    assert "takes 40.0 GB on each GPU" in why_not(Host(gpu=gpus.find("L4")), **large)
    assert not why_not(Host(gpu=H100), **large)
    assert not why_not(Host(gpu=gpus.find("A100-SXM4-40GB")), backend="pytorch", size=20 * 10**9, tensor_parallel=2)


def test_a_model_for_the_cpu_runs_anywhere_and_says_so_beside_a_gpu() -> None:
    for_cpu = {"backend": "onnxruntime", "gpu": "cpu", "precision": "int4"}
    for gpu in (CPU, H100, T4):
        assert not why_not(Host(gpu=gpu, gpus=1), **for_cpu)
    assert fit_warnings(a_build(**for_cpu), Host(gpu=CPU)) == ()
    assert fit_warnings(a_build(**for_cpu), Host(gpu=H100)) == (
        "it runs on the CPU, and leaves the H100-SXM5-80GB idle",
    )


def test_a_model_for_cuda_runs_on_any_nvidia_gpu_that_computes_in_its_precision() -> None:
    cuda = {"backend": "onnxruntime", "gpu": "H200-SXM5-141GB", "precision": "float16", "release": "0.18.0"}
    for gpu in (H200, H100, T4):
        assert not why_not(Host(gpu=gpu), **cuda)
    assert "this machine has no NVIDIA GPU" in why_not(Host(gpu=CPU), **cuda)
    assert "bfloat16 needs" in why_not(Host(gpu=T4), **{**cuda, "precision": "bfloat16"})


def test_onnxruntime_is_not_served_by_tensorrt_llm() -> None:
    reason = "is served by ONNX Runtime, this runtime has TensorRT-LLM 1.2.1"
    assert why_not(Host(gpu=CPU, runtime="1.2.1"), backend="onnxruntime", gpu="cpu") == reason


@pytest.mark.parametrize("changes", [{"backend": "mlx"}, {"backend": "pytorch", "precision": "fp2"}])
def test_what_this_version_does_not_know_asks_for_an_upgrade(changes: dict[str, str]) -> None:
    assert "upgrade" in why_not(Host(gpu=H100), **changes)


def test_every_reason_is_reported_at_once() -> None:
    reasons = misfits(a_build(tensor_parallel=2), Host(gpu=L40S, gpus=1, runtime="1.1.0"))
    assert len(reasons) == 3


def test_the_options_of_resolve_are_the_fields_of_a_query() -> None:
    assert {"model", *BuildOptions.__annotations__} == BuildQuery.model_fields.keys()
