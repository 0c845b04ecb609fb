"""Resolving finds one build, or near misses with reasons, or the options that distinguish several builds."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from enginery.builds.manifest import Manifest
from enginery.core.errors import RegistryError, UsageError
from enginery.registry import Registry
from enginery.registry.layout import channel_path, manifest_path
from enginery.registry.resolving.compatibility import Host, gpu_match, misfits
from enginery.registry.resolving.query import BuildQuery
from enginery.registry.resolving.resolve import Candidate, NothingFits, SeveralFit, choose
from enginery.spec import gpus
from enginery.spec.gpus import CPU, TABLE
from enginery.spec.types import Precision
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.registry.manifests import CREATED, a_build, put
from tests.support.s3.fixtures import bucket, proxy, server  # noqa: F401  fixtures
from tests.support.toolchains import nvidia_smi

H100, L40S = "H100-SXM5-80GB", "L40S"
FOR_CPU = {"gpu": "cpu", "backend": "onnxruntime", "release": "0.18.0", "precision": "int4"}


@pytest.fixture
def registry(bucket: str) -> Registry:  # noqa: F811
    return Registry(f"s3://{bucket}/prod")


def found(registry: Registry, **query: Any) -> str:
    return registry.resolve("llama", **query).build_id


@pytest.fixture
def fleet(registry: Registry) -> Registry:
    """Builds of one model for two kinds of GPU and for the CPU, all on channel stable."""
    put(registry, a_build("h100"), a_build("l40s", gpu=L40S), a_build("cpu", **FOR_CPU))
    for name in ("h100", "l40s", "cpu"):
        registry.promote(f"llama/{name}-0123456789ab", "stable")
    return registry


@pytest.mark.parametrize(
    ("gpu", "target"),
    [("H100-SXM5-80GB", "h100"), ("nvidia h100 80gb hbm3", "h100"), ("NVIDIA-L40S", "l40s"), ("cpu", "cpu")],
)
@pytest.mark.parametrize("channel", ["stable", None])
def test_a_gpu_in_any_spelling_gets_the_build_for_it(
    fleet: Registry, gpu: str, target: str, channel: str | None
) -> None:
    assert found(fleet, gpu=gpu, channel=channel) == f"{target}-0123456789ab"


def test_auto_asks_nvidia_smi_for_the_gpu_and_how_many_there_are(
    fleet: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(fleet, a_build("h100-tp2", tensor_parallel=2))
    nvidia_smi.install(monkeypatch, tmp_path, "NVIDIA H100 80GB HBM3, 9.0, 81559")
    assert found(fleet) == "h100-0123456789ab"
    with pytest.raises(NothingFits) as caught:
        fleet.resolve("llama", target="h100-tp2")
    assert "gpu auto (H100-SXM5-80GB): no build fits" in str(caught.value)
    assert "needs 2 GPUs, there is 1" in str(caught.value)
    nvidia_smi.install(monkeypatch, tmp_path, "\n".join(["NVIDIA H100 80GB HBM3, 9.0, 81559"] * 2))
    assert found(fleet, target="h100-tp2") == "h100-tp2-0123456789ab"


def test_auto_without_a_gpu_is_the_cpu(fleet: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvidia_smi.install(monkeypatch, tmp_path, "No devices were found", status=6)
    assert found(fleet, channel="stable") == "cpu-0123456789ab"


def test_what_was_read_of_the_channel_comes_with_the_build(fleet: Registry) -> None:
    resolved = fleet.resolve("llama", channel="stable", gpu="cpu")
    head = fleet.prefix.head(channel_path("llama", "stable", "cpu"))
    assert head is not None
    assert resolved.etag == head.etag
    assert resolved.pointer == fleet.channel("llama", "stable", "cpu")
    assert resolved.uri == f"{fleet.address}/models/llama/builds/cpu-0123456789ab"
    without = fleet.resolve("llama", gpu="cpu")
    assert (without.pointer, without.etag) == (None, None)


def test_a_channel_that_moves_after_it_was_read_changes_nothing_but_its_etag(fleet: Registry) -> None:
    before = fleet.resolve("llama", channel="stable", gpu=H100)
    put(fleet, a_build("h100", build_id="h100-ffffffffffff"))
    fleet.promote("h100-ffffffffffff", "stable")
    assert before.build_id == "h100-0123456789ab"
    pointed = fleet.channel("llama", "stable", "h100")
    assert pointed is not None
    assert pointed.etag != before.etag
    assert found(fleet, channel="stable", gpu=H100) == "h100-ffffffffffff"


def test_nothing_that_fits_lists_the_near_misses_with_their_reasons(fleet: Registry) -> None:
    with pytest.raises(NothingFits) as caught:
        fleet.resolve("llama", channel="stable", gpu="A10", runtime="1.1.0")
    message = str(caught.value)
    assert (
        "llama/h100-0123456789ab: built for compute capability 9.0 (H100-SXM5-80GB), this GPU is 8.6 (A10)" in message
    )
    assert "needs TensorRT-LLM 1.2.1, this runtime has 1.1.0" in message
    assert "llama/cpu-0123456789ab: is served by ONNX Runtime" in message
    assert {miss.reference for miss in caught.value.misses} == {
        f"llama/{one}-0123456789ab" for one in ("h100", "l40s", "cpu")
    }
    assert caught.value.exit_code == 8


def test_the_nearest_miss_comes_first(fleet: Registry) -> None:
    with pytest.raises(NothingFits) as caught:
        fleet.resolve("llama", gpu=H100, runtime="1.1.0", gpus=1, backend="tensorrt")
    lines = str(caught.value).splitlines()
    assert lines[1] == "  llama/h100-0123456789ab: needs TensorRT-LLM 1.2.1, this runtime has 1.1.0"


def test_only_the_cpu_build_fits_and_says_what_does_not(fleet: Registry) -> None:
    resolved = fleet.resolve("llama", channel="stable", gpu="A10")
    assert resolved.build_id == "cpu-0123456789ab"
    assert resolved.warnings[0] == "it runs on the CPU, and leaves the A10 idle"
    assert "no GPU build fits: llama/h100-0123456789ab: built for compute capability 9.0" in resolved.warnings[1]


def test_several_builds_that_fit_are_distinguished_by_the_options_that_differ(registry: Registry) -> None:
    put(
        registry,
        a_build("bf16"),
        a_build("fp8", precision="fp8"),
        a_build("fp8-tp2", precision="fp8", tensor_parallel=2),
    )
    with pytest.raises(SeveralFit) as caught:
        registry.resolve("llama", gpu=H100)
    message = str(caught.value)
    assert "3 builds fit equally well" in message
    for option in ("--target (bf16, fp8, fp8-tp2)", "--precision (bfloat16, fp8)", "--world-size (1, 2)"):
        assert option in message
    assert found(registry, gpu=H100, precision="bfloat16") == "bf16-0123456789ab"
    assert found(registry, gpu=H100, precision="fp8", world_size=2) == "fp8-tp2-0123456789ab"
    assert found(registry, gpu=H100, target="fp8") == "fp8-0123456789ab"


def test_each_option_that_is_named_leads_to_a_build(registry: Registry) -> None:
    put(registry, a_build("a"), a_build("b", backend="pytorch"))
    with pytest.raises(SeveralFit) as caught:
        registry.resolve("llama", gpu=H100)
    assert caught.value.options == {"--target": ["a", "b"], "--backend": ["pytorch", "tensorrt"]}
    for backend in ("tensorrt", "pytorch"):
        assert registry.resolve("llama", gpu=H100, backend=backend).manifest.target.backend == backend


def test_builds_that_differ_only_in_their_id_are_distinguished_by_it(registry: Registry) -> None:
    put(registry, a_build(build_id="h100-1"), a_build(build_id="h100-2"))
    with pytest.raises(SeveralFit) as caught:
        registry.resolve("llama", gpu=H100)
    assert caught.value.remedy == "tell them apart with --build (h100-1, h100-2)"
    assert found(registry, gpu=H100, build="h100-2") == "h100-2"


def test_without_a_channel_the_highest_release_counts_then_the_last_one_published(registry: Registry) -> None:
    later = CREATED + timedelta(days=1)
    put(
        registry,
        a_build(build_id="old", release="1.1.0", created=later),
        a_build(build_id="new", release="1.2.1"),
        a_build(build_id="newer", release="1.2.1", created=later),
    )
    assert found(registry, gpu=H100) == "newer"
    assert found(registry, gpu=H100, release="<1.2") == "old"
    assert found(registry, gpu=H100, runtime="1.1.0") == "old"


@pytest.mark.parametrize(("release", "build"), [("1.1.0", "a"), (">=1.2,<1.3", "b"), ("==1.1.*", "a"), ("latest", "b")])
def test_a_release_is_asked_for_by_version_or_range(registry: Registry, release: str, build: str) -> None:
    put(registry, a_build(build_id="a", release="1.1.0"), a_build(build_id="b", release="1.2.1"))
    assert found(registry, gpu=H100, release=release) == build


def test_another_product_is_only_taken_when_asked_and_the_very_one_goes_first(registry: Registry) -> None:
    put(registry, a_build("sxm"))
    with pytest.raises(NothingFits, match="--other-product accepts it"):
        registry.resolve("llama", gpu="H100-PCIE-80GB")
    resolved = registry.resolve("llama", gpu="H100-PCIE-80GB", other_product=True)
    assert resolved.build_id == "sxm-0123456789ab"
    assert resolved.warnings
    put(registry, a_build("pcie", gpu="H100-PCIE-80GB"))
    assert found(registry, gpu="H100-PCIE-80GB", other_product=True) == "pcie-0123456789ab"


def test_any_gpu_leaves_the_choice_to_the_target(fleet: Registry) -> None:
    assert found(fleet, gpu="any", channel="stable", target="l40s") == "l40s-0123456789ab"
    with pytest.raises(SeveralFit):
        fleet.resolve("llama", gpu="any", channel="stable")


def test_a_build_that_failed_a_gate_is_found_by_its_id_or_its_channel_only(registry: Registry) -> None:
    put(registry, a_build(passed=False))
    with pytest.raises(NothingFits, match="failed a gate: validation: 1 of 1 answers are not as expected"):
        registry.resolve("llama", gpu=H100)
    assert found(registry, gpu=H100, build="h100-") == "h100-0123456789ab"
    registry.promote("h100-0123456789ab", "stable", force=True, reason="the prompt is wrong")
    assert found(registry, gpu=H100, channel="stable") == "h100-0123456789ab"


def test_a_build_that_is_not_sound_is_a_near_miss_and_stands_in_nobodys_way(fleet: Registry) -> None:
    path = manifest_path("llama", "h100-0123456789ab")
    fleet.prefix.put_bytes(path, b"{}")
    assert found(fleet, channel="stable", gpu=L40S) == "l40s-0123456789ab"
    with pytest.raises(NothingFits) as caught:
        fleet.resolve("llama", channel="stable", target="h100", gpu=H100)
    assert f"{fleet.prefix.where(path)}: is not a manifest" in str(caught.value)


def test_a_build_that_was_removed_from_under_its_channel_is_a_near_miss(fleet: Registry) -> None:
    fleet.prefix.delete(manifest_path("llama", "h100-0123456789ab"))
    with pytest.raises(NothingFits, match="llama@stable/h100: points at h100-0123456789ab, which is not published"):
        fleet.resolve("llama", channel="stable", target="h100", gpu=H100)


DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def test_a_channel_and_a_target_are_read_where_the_bucket_may_not_be_listed(
    fleet: Registry,
    proxy: Proxy,  # noqa: F811
) -> None:
    proxy.fail(Fault("answer", times=100, status=403, body=DENIED, matches=lambda _, path: "list-type=2" in path))
    assert found(fleet, channel="stable", target="h100", gpu=H100) == "h100-0123456789ab"
    assert found(fleet, build="h100-0123456789ab", gpu=H100) == "h100-0123456789ab"
    with pytest.raises(RegistryError, match="not allowed to do this") as caught:
        fleet.resolve("llama", channel="stable", gpu=H100)
    assert "name the target too (--target)" in caught.value.__notes__[0]


@pytest.mark.parametrize("query", [{"channel": "nightly"}, {"channel": "stable", "target": "b200"}])
def test_a_channel_that_points_at_nothing_says_so(fleet: Registry, query: dict[str, Any]) -> None:
    with pytest.raises(NothingFits, match="nothing is published there") as caught:
        fleet.resolve("llama", gpu="cpu", **query)
    assert "enginery channels llama" in caught.value.remedy


def test_a_model_that_is_not_there_says_so(fleet: Registry) -> None:
    with pytest.raises(NothingFits, match="lama: nothing is published there"):
        fleet.resolve("lama", gpu="cpu")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"gpu": "H9000"}, "unknown GPU 'H9000'"),
        ({"release": "new"}, "release 'new' is no version"),
        ({"runtime": ">=1.0"}, "runtime '>=1.0' is not a version"),
        ({"backend": "tensor"}, "backend 'tensor' is not one of onnxruntime, pytorch, tensorrt"),
        ({"precision": "fp9"}, "precision 'fp9' is not one of bfloat16"),
        ({"gpus": 0}, "gpus is 0"),
        ({"world_size": -1}, "world_size is -1"),
        ({"channel": "../x"}, "channel: '../x' is not a name"),
        ({"target": "A/B"}, "target: 'A/B' is not a name"),
        ({"channel": "stable", "build": "x"}, "a channel and a build are named"),
    ],
)
def test_contradictory_options_are_refused_before_anything_is_read(query: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Registry("s3://no-such-bucket").resolve("llama", **query)
    assert message in str(caught.value)


def test_all_contradictory_options_are_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Registry("s3://no-such-bucket").resolve("llama", backend="x", precision="y", gpus=0)
    assert all(field in str(caught.value) for field in ("backend", "precision", "gpus"))


def test_a_manifest_of_schema_1_is_resolved_like_any_other(registry: Registry) -> None:
    recorded = (Path(__file__).parents[3] / "golden" / "manifest_schema_1.json").read_bytes()
    model, build_id = (json.loads(recorded)[field] for field in ("model", "build_id"))
    registry.prefix.put_bytes(manifest_path(model, build_id), recorded)
    assert registry.resolve(model, gpu=H100, gpus=2, runtime="0.16.0").build_id == build_id
    with pytest.raises(NothingFits, match=r"built for compute capability 9\.0"):
        registry.resolve(model, gpu=L40S)


# Properties of any builds and any query

NAMES = st.sampled_from([gpu.name for gpu in TABLE if gpu.capability >= (8, 0)] + ["cpu", "H900-Sample"])
RELEASES = st.sampled_from(["0.16.0", "1.1.0", "1.2.0rc2", "1.2.1", "1.2.1.post1"])


@st.composite
def builds(draw: st.DrawFn) -> Manifest:
    gpu = draw(NAMES)
    backend = "onnxruntime" if gpu == "cpu" else draw(st.sampled_from(["tensorrt", "pytorch", "onnxruntime"]))
    return a_build(
        draw(st.sampled_from("abc")),
        gpu=gpu,
        backend=backend,
        release=draw(RELEASES),
        precision=draw(st.sampled_from(list(Precision))).value,
        tensor_parallel=draw(st.sampled_from([1, 2, 4])),
        size=draw(st.sampled_from([10, 30 * 10**9, 100 * 10**9])),
        created=CREATED + timedelta(hours=draw(st.integers(0, 3))),
        build_id=f"b-{draw(st.integers(0, 10**9))}",
        passed=draw(st.sampled_from([True, True, True, False])),
    )


def nothing_or(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


ASKED = st.builds(
    BuildQuery,
    model=st.just("llama"),
    target=nothing_or(st.sampled_from("abc")),
    release=nothing_or(st.sampled_from(["==1.1.0", ">=1.1", ">=1.1,<1.2"])),
    world_size=nothing_or(st.sampled_from([1, 2])),
    backend=nothing_or(st.sampled_from(["tensorrt", "pytorch"])),
)
HOSTS = st.builds(
    Host,
    gpu=nothing_or(st.sampled_from([*TABLE, CPU])),
    gpus=nothing_or(st.sampled_from([1, 2, 8])),
    runtime=nothing_or(RELEASES),
    other_product=st.booleans(),
)


def runs(build: Manifest, host: Host) -> bool:
    """What must be true for a build that is found. This does not use the rules that find it."""
    target, gpu = build.target, host.gpu
    on_cpu = target.gpu == "cpu"
    if not on_cpu and (gpu == CPU or (host.gpus is not None and target.world_size > host.gpus)):
        return False
    if host.runtime is not None:
        same, later = (
            Version(host.runtime) == Version(target.release),
            Version(host.runtime) > Version(target.release),
        )
        if not {"tensorrt": same, "pytorch": same or later, "onnxruntime": False}[target.backend]:
            return False
    if gpu is None or on_cpu:
        return True
    if gpu.memory_gb * 10**9 <= build.bytes_per_gpu:
        return False
    if target.backend == "tensorrt":
        known = {one.name: one.capability for one in TABLE}
        return target.gpu == gpu.name or (host.other_product and known.get(target.gpu) == gpu.capability)
    return gpu.supports(Precision(target.precision))


@given(st.lists(builds(), max_size=6, unique_by=lambda build: build.build_id), ASKED, HOSTS)
def test_what_is_found_runs_there_and_whatever_is_refused_has_a_reason(
    there: list[Manifest], query: BuildQuery, host: Host
) -> None:
    outcome = chosen_of(there, query, host)
    if isinstance(outcome, SeveralFit):
        assert len(outcome.references) > 1
        assert all(len(values) > 1 for values in outcome.options.values())
        assert outcome.options
        return
    if isinstance(outcome, NothingFits):
        assert {miss.reference for miss in outcome.misses} == {build.reference for build in there}
        assert all(miss.reasons and all(miss.reasons) for miss in outcome.misses)
        return
    assert isinstance(outcome, Manifest)
    assert runs(outcome, host)
    assert outcome.validation.passed
    assert query.world_size in {None, outcome.target.world_size}
    assert query.target in {None, outcome.target.name}
    assert query.backend in {None, outcome.target.backend}
    assert query.release is None or SpecifierSet(query.release).contains(outcome.target.release, prereleases=True)


def chosen_of(there: list[Manifest], query: BuildQuery, host: Host) -> Manifest | RegistryError:
    try:
        return choose([Candidate(build) for build in there], query, host)[0].manifest
    except RegistryError as error:
        return error


@given(builds(), HOSTS)
def test_a_build_has_no_reason_against_it_exactly_where_it_runs(build: Manifest, host: Host) -> None:
    assert (not misfits(build, host)) == runs(build, host)


@given(st.lists(builds(), min_size=1, max_size=6, unique_by=lambda build: build.build_id), HOSTS)
def test_the_chosen_build_is_the_nearest(there: list[Manifest], host: Host) -> None:
    outcome = chosen_of(there, BuildQuery(model="llama"), host)
    if isinstance(outcome, Manifest):
        others = [build for build in there if runs(build, host) and build.validation.passed]
        assert gpu_match(outcome, host) == min(gpu_match(build, host) for build in others)


@given(st.permutations(["a", "b", "c"]), st.sampled_from(["1.1.0", "1.2.1"]))
def test_the_order_of_the_listed_builds_does_not_matter(order: list[str], runtime: str) -> None:
    known = {"a": a_build("a", release="1.1.0"), "b": a_build("b", release="1.2.1"), "c": a_build("c", gpu=L40S)}
    host = Host(gpu=gpus.find(H100), runtime=runtime)
    chosen, _ = choose([Candidate(known[name]) for name in order], BuildQuery(model="llama"), host)
    assert chosen.manifest.target.name == {"1.1.0": "a", "1.2.1": "b"}[runtime]
