"""Tests of how many build workers fit into the memory of the machine and of every control group."""

from pathlib import Path

import psutil
import pytest

from enginery.backends.tensorrt.build import (
    COPIES,
    WORKER_BYTES,
    Workers,
    affordable_workers,
    available_memory,
    largest_rank_bytes,
    needed_bytes,
)
from enginery.core.errors import UsageError

GB = 1 << 30
MUCH = 1 << 50


def test_a_worker_needs_its_weights_several_times_and_something_besides() -> None:
    assert needed_bytes(0) == WORKER_BYTES
    assert needed_bytes(16 * GB) == COPIES * 16 * GB + WORKER_BYTES


def test_all_workers_are_started_if_they_fit() -> None:
    assert affordable_workers(4, 10 * GB, 4 * needed_bytes(10 * GB)) == Workers(4)


def test_only_as_many_workers_as_fit_are_started_and_the_log_has_the_figures() -> None:
    workers = affordable_workers(4, 10 * GB, 2 * needed_bytes(10 * GB) + 1)
    assert workers.count == 2
    assert workers.note == (
        "2 instead of 4 workers: each worker needs about 38.7 GB of the machine's memory (3 x 10.7 GB of weights and"
        " 6.4 GB), and 77.3 GB are free"
    )


def test_the_build_is_refused_with_a_remedy_if_not_even_one_worker_fits() -> None:
    with pytest.raises(UsageError, match=r"does not fit.*about 38\.7 GB.*1\.1 GB are free") as caught:
        affordable_workers(4, 10 * GB, GB)
    assert "tensor_parallel" in caught.value.remedy
    assert "`force`" in caught.value.remedy


def test_one_worker_is_tried_if_that_is_accepted() -> None:
    workers = affordable_workers(4, 10 * GB, GB, accepted=True)
    assert workers.count == 1
    assert "although it may not fit" in workers.note


def test_the_largest_rank_counts(tmp_path: Path) -> None:
    for name, size in (("rank0.safetensors", 5), ("rank1.safetensors", 7), ("config.json", 100)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert largest_rank_bytes(tmp_path) == 7
    assert largest_rank_bytes(tmp_path / "nothing") == 0


# Control groups


def own(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "self"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def group(directory: Path, **files: object) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name.replace("_", ".", 1)).write_text(f"{content}\n")


def test_outside_of_groups_the_machine_decides(tmp_path: Path) -> None:
    assert 0 < available_memory(tmp_path, tmp_path / "nothing") <= psutil.virtual_memory().total


def test_a_group_without_limit_changes_nothing(tmp_path: Path) -> None:
    group(tmp_path / "job", memory_max="max", memory_current=5)
    assert available_memory(tmp_path, own(tmp_path, "0::/job")) > MB


MB = 1 << 20


def test_the_groups_limit_counts_without_what_the_kernel_can_take_back(tmp_path: Path) -> None:
    group(tmp_path / "job", memory_max=8 * MB, memory_current=6 * MB)
    (tmp_path / "job" / "memory.stat").write_text(f"anon {3 * MB}\ninactive_file {MB}\nactive_file {MB}\n")
    assert available_memory(tmp_path, own(tmp_path, "0::/job")) == 3 * MB


def test_the_tightest_of_all_groups_above_counts(tmp_path: Path) -> None:
    group(tmp_path / "pod" / "job", memory_max=8 * MB, memory_current=MB)
    group(tmp_path / "pod", memory_max=4 * MB, memory_current=3 * MB)
    assert available_memory(tmp_path, own(tmp_path, "0::/pod/job")) == MB


def test_the_groups_of_version_1_count_too(tmp_path: Path) -> None:
    directory = tmp_path / "memory" / "job"
    directory.mkdir(parents=True)
    (directory / "memory.limit_in_bytes").write_text(f"{8 * MB}\n")
    (directory / "memory.usage_in_bytes").write_text(f"{7 * MB}\n")
    (directory / "memory.stat").write_text(f"total_inactive_file {2 * MB}\n")
    assert available_memory(tmp_path, own(tmp_path, "4:cpu,cpuacct:/job", "5:memory:/job")) == 3 * MB


def test_a_group_that_is_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    group(tmp_path / "job", memory_max=MB, memory_current=2 * MB)
    assert available_memory(tmp_path, own(tmp_path, "0::/job")) == 0


def test_a_path_outside_of_the_groups_that_can_be_seen_is_harmless(tmp_path: Path) -> None:
    assert available_memory(tmp_path / "groups", own(tmp_path, "0::/../../other")) > MB
