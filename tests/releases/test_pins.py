"""Tests of the versions, containers, precisions, families and LLM API arguments of releases."""

from typing import Any

import pytest

from enginery.core.errors import UsageError
from enginery.releases.facts import Certainty, containers, pin, pins, releases
from enginery.releases.flags import arguments, classes, script
from enginery.releases.models import (
    architectures,
    capabilities,
    families,
    families_of,
    model_formats,
    precisions,
)
from enginery.spec.gpus import TABLE
from enginery.spec.types import Precision

PINNED: tuple[tuple[str, str, Any], ...] = (
    ("0.8.0", "tensorrt", "==9.2.0.post12.dev5"),
    ("0.8.0", "torch", "<=2.2.0a"),
    ("0.8.0", "transformers", "==4.36.1"),
    ("0.8.0", "cuda", "12.3"),
    ("0.8.0", "pytorch_image", "nvidia/pytorch:23.12-py3"),
    ("0.8.0", "quantizer", "nvidia-ammo~=0.7.0"),
    ("0.9.0", "tensorrt", "==9.3.0.post12.dev1"),
    ("0.10.0", "quantizer", "nvidia-modelopt~=0.11,<0.12"),
    ("0.11.0", "tensorrt", "==10.1.0"),
    ("0.12.0", "tensorrt", "~=10.3.0"),
    ("0.15.0", "python", ["3.10"]),
    ("0.16.0", "python", ["3.10", "3.12"]),
    ("1.2.1", "python", ["3.10", "3.12"]),
    ("0.16.0", "tensorrt", "~=10.7.0"),
    ("0.17.0.post1", "tensorrt", "~=10.8.0"),
    ("0.18.0", "tensorrt", "10.9"),
    ("0.18.1", "transformers", "4.48.3"),
    ("0.19.0", "tensorrt", "10.9.0.34"),
    ("0.20.0", "tensorrt", "10.10.0"),
    ("0.21.0", "torch", "2.7.1"),
    ("1.0.0", "tensorrt", "10.11.0.33"),
    ("1.0.0", "transformers", "4.53.1"),
    ("1.1.0", "torch", "2.9.0"),
    ("1.2.0", "transformers", "4.57.3"),
    ("1.2.1", "tensorrt", "10.14.1.48"),
    ("1.3.0rc3", "cuda", "13.1"),
)

CONTAINERS = (
    ("0.8.0", ("24.02",)),
    ("0.9.0", ("24.05", "24.04")),
    ("0.10.0", ("24.06",)),
    ("0.16.0", ("24.12",)),
    ("0.17.0", ("25.01",)),
    ("0.17.0.post1", ("25.02",)),
    ("0.18.0", ("25.03",)),
    ("0.18.1", ()),
    ("0.18.2", ("25.04",)),
    ("0.20.0", ("25.07", "25.06")),
    ("1.0.0", ("25.10", "25.09")),
    ("1.0.3.2510", ("25.11",)),
    ("1.1.0", ("26.02", "26.01", "25.12")),
    ("1.2.0", ("26.03",)),
    ("1.2.1", ("26.07", "26.06", "26.05", "26.04")),
    ("1.3.0rc3", ()),
)


@pytest.mark.parametrize(("release", "name", "value"), PINNED)
def test_a_pin(release: str, name: str, value: Any) -> None:
    found = pin(release, name)
    assert found.value == value
    assert found.provenance.certainty is not Certainty.NEAREST


@pytest.mark.parametrize("release", releases())
def test_every_pin_of_a_known_release_is_answered(release: str) -> None:
    found = pins(release)
    assert list(found) == [
        *("python", "python_requires", "cuda", "tensorrt", "torch", "quantizer", "transformers"),
        *("pytorch_image", "triton_image"),
    ]
    assert all(known.value for known in found.values())


def test_a_pin_of_the_nearest_release_is_called_that() -> None:
    found = pin("0.18.1", "tensorrt")
    assert found.value == "10.9"
    assert found.provenance.certainty is Certainty.NEAREST
    assert found.provenance.release == "0.18.0"


def test_tensorrt_is_not_needed_once_engines_are_gone() -> None:
    assert pin("1.3.0rc20", "tensorrt").value == "~=10.14.1"
    gone = pin("1.3.0rc22", "tensorrt")
    assert gone.value is None
    assert gone.provenance.certainty is Certainty.RENDERED


def test_there_is_no_pin_for_what_nobody_knows() -> None:
    with pytest.raises(UsageError, match="cudnn"):
        pin("1.2.1", "cudnn")


@pytest.mark.parametrize(("release", "triton"), CONTAINERS)
def test_the_containers_of_a_release_are_exactly_its_own(release: str, triton: tuple[str, ...]) -> None:
    found = [one.image for one in containers(release).value]
    assert found == [f"nvidia/tritonserver:{one}-trtllm-python-py3" for one in triton]


def test_a_container_names_what_is_in_it() -> None:
    inside = containers("1.2.0").value[0]
    assert (inside.python, inside.tensorrt, inside.cuda) == ("3.12.3", "10.14.1.48", "13.1.0.036")
    assert inside.driver == "590.44.01"


@pytest.mark.parametrize(("release", "python"), [("0.15.0", "3.10.12"), ("0.16.0", "3.12.3")])
def test_the_containers_python(release: str, python: str) -> None:
    assert containers(release).value[0].python == python


@pytest.mark.parametrize("release", releases())
def test_no_image_names_the_host_of_a_registry(release: str) -> None:
    found = [one.image for one in containers(release).value]
    found += [pin(release, name).value for name in ("pytorch_image", "triton_image")]
    assert all(image.startswith("nvidia/") for image in found)


@pytest.mark.parametrize(
    ("release", "capability", "precision", "able"),
    [
        *(("0.8.0", (7, 0), Precision.FLOAT16, True), ("0.8.0", (7, 0), Precision.BFLOAT16, False)),
        *(("0.8.0", (7, 5), Precision.INT8_SMOOTHQUANT, False), ("0.8.0", (7, 5), Precision.INT8_WEIGHT_ONLY, True)),
        *(("0.8.0", (7, 5), Precision.INT4_AWQ, False), ("0.8.0", (8, 0), Precision.INT4_AWQ, True)),
        *(("0.8.0", (8, 0), Precision.BFLOAT16, True), ("0.8.0", (8, 0), Precision.FP8, False)),
        *(("0.8.0", (8, 6), Precision.W4A8_AWQ, False), ("0.8.0", (8, 9), Precision.W4A8_AWQ, True)),
        *(("0.8.0", (9, 0), Precision.FP8, True), ("0.8.0", (9, 0), Precision.NVFP4, False)),
        *(("0.14.0", (7, 0), Precision.FLOAT16, True), ("0.15.0", (7, 0), Precision.FLOAT16, False)),
        *(("0.15.0", (7, 5), Precision.FLOAT16, False), ("0.16.0", (10, 0), Precision.BFLOAT16, False)),
        *(("0.17.0", (10, 0), Precision.NVFP4, True), ("1.3.0rc3", (10, 0), Precision.NVFP4, True)),
        *(("1.3.0rc3", (12, 0), Precision.NVFP4, True), ("1.3.0rc3", (9, 0), Precision.NVFP4, False)),
        *(("1.2.1", (10, 3), Precision.FP8, True), ("1.2.1", (8, 0), Precision.FP8, False)),
    ],
)
def test_a_precision_on_a_compute_capability(
    release: str, capability: tuple[int, int], precision: Precision, *, able: bool
) -> None:
    assert (precision in precisions(release, capability).value) is able


@pytest.mark.parametrize("release", ["0.8.0", "0.12.0", "0.16.0", "1.3.0rc3"])
def test_no_release_claims_what_the_hardware_cannot_do(release: str) -> None:
    for gpu in TABLE:
        assert all(gpu.supports(one) for one in precisions(release, gpu.capability).value), gpu.name


def test_the_capabilities_of_a_release() -> None:
    assert capabilities("0.8.0").value == ((7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0))
    assert capabilities("0.15.0").value == ((8, 0), (8, 6), (8, 9), (9, 0))
    assert capabilities("1.3.0rc3").value == ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0))
    assert precisions("0.8.0", (6, 1)).value == frozenset()


def test_blackwell_in_0_17_is_called_inferred() -> None:
    assert precisions("0.17.0", (10, 0)).provenance.certainty is Certainty.INFERRED


def test_formats_by_model() -> None:
    assert "FP8" in model_formats("0.16.0", "LLaMA").value
    assert "FP8" not in model_formats("0.16.0", "BERT").value
    with pytest.raises(UsageError, match="Mixtral"):
        model_formats("0.16.0", "Llama-9")


@pytest.mark.parametrize(("release", "count"), [
    ("0.8.0", 14), ("0.9.0", 15), ("0.10.0", 19), ("0.11.0", 23), ("0.12.0", 24), ("0.13.0", 24), ("0.14.0", 26),
    ("0.15.0", 30), ("0.16.0", 31), ("1.3.0rc3", 34),
])  # fmt: skip
def test_as_many_families_as_there_are_converters(release: str, count: int) -> None:
    found = families(release).value
    assert len(found) == count
    assert all(script(release, f"convert_checkpoint.py {name}").value for name in found)


@pytest.mark.parametrize(
    ("release", "architecture", "family"),
    [
        ("0.8.0", "LlamaForCausalLM", "llama"),
        ("0.16.0", "MistralForCausalLM", "llama"),
        ("0.16.0", "MixtralForCausalLM", "llama"),
        ("0.16.0", "Qwen2ForCausalLM", "qwen"),
        ("0.16.0", "Phi3ForCausalLM", "phi"),
        ("1.3.0rc3", "LlamaForCausalLM", "llama"),
        ("0.10.0", "GemmaForCausalLM", "gemma"),
        ("0.16.0", "BloomForCausalLM", "bloom"),
    ],
)
def test_the_family_that_serves_an_architecture(release: str, architecture: str, family: str) -> None:
    assert family in {one.name for one in families_of(release, architecture).value}


def test_an_architecture_that_came_later_is_unknown_before() -> None:
    assert families_of("0.8.0", "GemmaForCausalLM").value == ()
    assert "GemmaForCausalLM" not in architectures("0.8.0").value
    assert architectures("0.16.0").value["MistralForCausalLM"] == "LLaMAForCausalLM"


def test_the_surest_family_comes_first() -> None:
    found = families_of("0.16.0", "LlamaForCausalLM").value
    assert found[0].tie == "script"
    assert {one.tie for one in families("0.16.0").value.values()} == {"script", "module name"}


def test_no_families_once_engines_are_gone() -> None:
    assert not families("1.3.0rc21").value
    assert not architectures("1.3.0rc21").value


@pytest.mark.parametrize(
    ("name", "default"),
    [("tensor_parallel_size", 1), ("dtype", "auto"), ("enable_chunked_prefill", False), ("enable_lora", False)],
)
def test_arguments_come_with_those_of_the_base_class(name: str, default: Any) -> None:
    found = arguments("1.3.0rc3").value[name]
    assert found.default == default
    assert not found.required


def test_arguments_of_the_kv_cache() -> None:
    found = arguments("1.3.0rc3", "KvCacheConfig").value
    assert found["free_gpu_memory_fraction"].default == 0.9
    assert found["enable_block_reuse"].default is True
    assert found["tokens_per_block"].default == 32
    assert found["dtype"].default == "auto"


def test_which_arguments_must_be_given() -> None:
    assert [one.name for one in arguments("1.3.0rc3").value.values() if one.required] == ["model"]


def test_an_unknown_key_is_not_among_them() -> None:
    found = arguments("1.3.0rc3").value
    assert "max_batch_sizes" not in found
    assert "(bases)" not in found


def test_the_engines_class_is_not_of_the_pytorch_backend() -> None:
    assert "build_config" in arguments("1.3.0rc3", "TrtLlmArgs").value
    assert "build_config" not in arguments("1.3.0rc3", "TorchLlmArgs").value
    assert not arguments("0.16.0", "TorchLlmArgs").value
    assert "tensor_parallel_size" in arguments("0.16.0", "LlmArgs").value
    assert {"TorchLlmArgs", "LlmArgs", "CudaGraphConfig"} <= set(classes())


def test_arguments_after_the_removal_are_read_by_eye() -> None:
    found = arguments("1.3.0rc22", "BaseLlmArgs")
    assert found.provenance.release == "1.3.0rc20+main"
    assert found.value["load_format"].choices == ("auto", "dummy")
