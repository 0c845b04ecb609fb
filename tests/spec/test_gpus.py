"""Tests of the table of GPUs, and of finding the GPUs of this machine."""

from pathlib import Path

import pytest

from enginery.core.errors import UsageError
from enginery.releases.facts import builds_engines, releases
from enginery.releases.models import capabilities
from enginery.spec import gpus
from enginery.spec.gpus import CPU, TABLE, Gpu
from enginery.spec.types import Precision
from tests.support.toolchains import nvidia_smi

H100 = gpus.find("H100-SXM5-80GB")


@pytest.mark.parametrize(
    "name",
    [
        "H100-SXM5-80GB",
        "h100-sxm5-80gb",
        "H100 SXM5 80GB",
        "NVIDIA H100-SXM5-80GB",
        "NVIDIA H100 80GB HBM3",
        "NVIDIA-H100-80GB-HBM3",
        "nvidia h100 80gb hbm3",
        "NVIDIA-H100-80GB-HBM3-SHARED",
    ],
)
def test_a_gpu_is_found_by_each_of_its_names(name: str) -> None:
    assert gpus.find(name) == H100


@pytest.mark.parametrize(
    ("model", "variants"),
    [
        ("H100", "H100-SXM5-80GB, H100-PCIE-80GB, H100-NVL-94GB"),
        ("nvidia a100", "A100-SXM4-40GB, A100-SXM4-80GB, A100-PCIE-40GB, A100-PCIE-80GB, A100X"),
        ("H100-SXM", "H100-SXM5-80GB"),
    ],
)
def test_the_error_for_a_gpu_of_several_variants_lists_them(model: str, variants: str) -> None:
    with pytest.raises(UsageError, match=f"such as {variants}; or"):
        gpus.find(model)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Tesla-T4", "T4"),
        ("Tesla-V100-SXM2-16GB", "V100-SXM2-16GB"),
        ("NVIDIA-A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("NVIDIA-A100-80GB-PCIe", "A100-PCIE-80GB"),
        ("NVIDIA-A10G", "A10G"),
        ("NVIDIA-L40S", "L40S"),
        ("NVIDIA-GeForce-RTX-4090", "RTX-4090"),
        ("NVIDIA-H200", "H200-SXM5-141GB"),
        ("NVIDIA-B200", "B200"),
        ("Tesla-V100S-PCIE-32GB", "V100S-PCIE-32GB"),
        ("Quadro-RTX-6000", "Quadro-RTX-6000"),
        ("NVIDIA-A30X", "A30X"),
        ("NVIDIA-RTX-A2000-12GB", "RTX-A2000-12GB"),
        ("NVIDIA-RTX-5880-Ada-Generation", "RTX-5880-Ada"),
        ("NVIDIA-H800", "H800-SXM5-80GB"),
        ("NVIDIA-H20-3e", "H20-141GB"),
        ("NVIDIA-GH200-120GB", "GH200-96GB-120GB"),
        ("NVIDIA-RTX-PRO-4000-Blackwell-SFF-Edition", "RTX-PRO-4000-SFF"),
    ],
)
def test_kubernetes_labels_are_understood_and_written(label: str, name: str) -> None:
    gpu = gpus.find(label)
    assert gpu.name == name
    assert gpu.label == label


def test_cpu_is_a_target_without_a_gpu() -> None:
    assert gpus.find("CPU") == CPU
    assert CPU.compute_capability == ""
    assert CPU.supports(Precision.BFLOAT16)


def test_no_two_gpus_share_a_name() -> None:
    names = [gpus._normalized(name) for gpu in TABLE for name in {gpu.name, gpu.product}]
    names_of = {gpus._normalized(gpu.name): gpu for gpu in TABLE}
    assert len(names_of) == len(TABLE)
    assert all(gpus.find(name) in TABLE for name in names)
    assert all(gpus.find(gpu.product) == gpus.find(gpu.name) == gpu for gpu in TABLE)


def test_every_gpu_of_the_table_is_volta_or_newer_and_has_memory() -> None:
    assert all(gpu.capability >= (7, 0) and gpu.memory_gb >= 6 for gpu in TABLE)


def test_there_is_a_gpu_for_every_compute_capability_that_a_release_lists() -> None:
    listed = {one for release in releases() if builds_engines(release) for one in capabilities(release).value}
    assert {(7, 0), (8, 9), (12, 0)} <= listed <= {gpu.capability for gpu in TABLE}


def test_a_gpu_is_never_taken_for_a_longer_name() -> None:
    assert gpus.find("L4").memory_gb == 24
    assert gpus.find("L40").memory_gb == 48
    assert gpus.find("A10") != gpus.find("A10G")
    assert gpus.find("RTX-A2000").memory_gb == 6
    assert gpus.find("H20").memory_gb == 96
    assert gpus.find("Quadro RTX 6000").capability < gpus.find("NVIDIA RTX 6000 Ada Generation").capability


def test_an_unknown_gpu_is_refused_with_near_names_and_where_to_add_it() -> None:
    with pytest.raises(UsageError) as caught:
        gpus.find("H100-SMX5-80GB")
    assert str(caught.value).startswith("gpu: unknown GPU 'H100-SMX5-80GB'")
    assert "H100-SXM5-80GB" in caught.value.remedy
    assert "enginery/spec/gpus.py" in caught.value.remedy


def test_an_unknown_gpu_that_is_like_nothing_is_refused_with_examples() -> None:
    with pytest.raises(UsageError) as caught:
        gpus.find("???")
    assert "`cpu`" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "has", "lacks"),
    [
        ("T4", Precision.FLOAT16, Precision.BFLOAT16),
        ("A100-SXM4-80GB", Precision.BFLOAT16, Precision.FP8),
        ("L4", Precision.FP8, Precision.NVFP4),
        ("H100-SXM5-80GB", Precision.FP8, Precision.NVFP4),
        ("L4", Precision.W4A8_AWQ, Precision.NVFP4),
        ("A10G", Precision.INT4_AWQ, Precision.W4A8_AWQ),
    ],
)
def test_precisions_follow_the_compute_capability(name: str, has: Precision, lacks: Precision) -> None:
    assert gpus.find(name).supports(has)
    assert not gpus.find(name).supports(lacks)


def test_blackwell_computes_in_every_precision() -> None:
    for precision in Precision:
        assert gpus.find("B200").supports(precision)
        assert gpus.find("RTX-5090").supports(precision)


def test_a_machine_without_nvidia_smi_has_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.detect() is None


def test_the_gpu_of_this_machine_is_looked_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvidia_smi.install(monkeypatch, tmp_path, "NVIDIA H100 80GB HBM3, 9.0, 81559\nNVIDIA H100 80GB HBM3, 9.0, 81559")
    assert gpus.detect() == H100


def test_every_gpu_of_the_machine_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvidia_smi.install(monkeypatch, tmp_path, "NVIDIA H100 80GB HBM3, 9.0, 81559\nTesla T4, 7.5, 15360")
    assert gpus.detect_all() == (H100, gpus.find("T4"))
    nvidia_smi.install(monkeypatch, tmp_path, "\n".join(["NVIDIA H100 80GB HBM3, 9.0, 81559"] * 16))
    assert gpus.detect_all() == (H100,) * 16


def test_a_gpu_that_is_not_in_the_table_is_usable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvidia_smi.install(monkeypatch, tmp_path, "NVIDIA H900 (Early Sample), 13.1, 163840")
    assert gpus.detect() == Gpu("H900-Early-Sample", "NVIDIA H900 (Early Sample)", (13, 1), 160)


def test_a_gpu_that_shares_the_machines_memory_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvidia_smi.install(monkeypatch, tmp_path, "NVIDIA GB10, 12.1, [N/A]")
    assert gpus.detect() == gpus.find("GB10")


@pytest.mark.parametrize("status", [0, 6])
def test_a_driver_without_devices_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int) -> None:
    nvidia_smi.install(monkeypatch, tmp_path, "No devices were found", status=status)
    assert gpus.detect() is None


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9),
        ("something else entirely", 0),
    ],
)
def test_a_broken_driver_is_not_taken_for_no_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, status: int
) -> None:
    nvidia_smi.install(monkeypatch, tmp_path, answer, status=status)
    with pytest.raises(UsageError, match="nvidia-smi does not say which GPU this is"):
        gpus.detect()
