"""Tests of the verdict on each release for each target."""

from pathlib import Path
from typing import Any

import pytest

from enginery.core.errors import SourceError, ToolchainError
from enginery.pipeline.plan import make_plan
from enginery.pipeline.promotion import rebuilds, verdict_rows
from enginery.pipeline.verdict import Kind, Verdict, fleet_verdicts, rebuild_spec
from enginery.registry import publish
from enginery.releases.index import Listing
from enginery.sources import ResolvedSource, resolve
from enginery.spec.spec import Source, Spec
from tests.support.plans.watched import CPU, SOURCE, listed, watched_spec
from tests.support.registry.builds import Build
from tests.support.s3.fixtures import bucket, server

__all__ = ["bucket", "server"]

OLD = {"release": "1.1.0", "toolchain": "container"}
"""A target for which newer releases have an image."""


def verdicts(spec: Spec, found: Listing) -> list[Verdict]:
    return fleet_verdicts([spec], lambda _project: found)


def kinds(spec: Spec, found: Listing) -> dict[str, Kind]:
    return {one.release: one.kind for one in verdicts(spec, found)}


def test_a_new_release_that_can_be_built_is_a_rebuild() -> None:
    (found,) = verdicts(watched_spec(OLD), listed("1.1.0", "1.2.1"))
    assert (found.kind, found.release, found.present, found.backend) == (Kind.REBUILD, "1.2.1", "1.1.0", "tensorrt")
    assert "tensorrt-llm-1.2.1 (container nvidia/tritonserver" in found.reason
    assert found.build_id.startswith("target-0-")


def test_no_newer_release_leaves_the_spec_current() -> None:
    (found,) = verdicts(watched_spec(OLD), listed("1.0.0", "1.1.0"))
    assert (found.kind, found.release) == (Kind.CURRENT, "1.1.0")
    assert "the newest listed is 1.1.0" in found.reason


def test_a_yanked_release_counts_for_nothing() -> None:
    assert kinds(watched_spec(OLD), listed("1.1.0", "1.2.1", yanked=("1.2.1",))) == {"1.1.0": Kind.CURRENT}


def test_that_the_specs_own_release_was_withdrawn_is_said() -> None:
    (found,) = verdicts(watched_spec(OLD), listed("1.1.0", yanked=("1.1.0",)))
    assert "the spec's release was withdrawn" in found.reason


def test_previews_count_only_when_the_spec_says_so() -> None:
    index = listed("1.1.0", "1.2.0rc1")
    assert kinds(watched_spec(OLD), index) == {"1.1.0": Kind.CURRENT}
    assert "1.2.0rc1" in kinds(watched_spec(OLD, prereleases=True), index)


def test_a_range_of_the_policy_bounds_what_is_looked_at() -> None:
    assert kinds(watched_spec(OLD, within="<1.2.1"), listed("1.1.0", "1.2.0", "1.2.1")) == {"1.2.0": Kind.REBUILD}


def test_a_range_in_the_target_bounds_it_too() -> None:
    spec = watched_spec({"release": ">=1.0,<1.2", "toolchain": "container"})
    assert kinds(spec, listed("1.1.0", "1.2.1")) == {"1.1.0": Kind.CURRENT}


def test_a_release_without_builder_names_the_last_one_with_it_and_what_to_change() -> None:
    """The watch also finds the newest release that can be built."""
    spec = watched_spec(OLD)
    newest, below = verdicts(spec, listed("1.1.0", "1.2.1", "1.4.0"))
    assert newest.kind is Kind.CHECKPOINT_ONLY
    assert "1.3.0rc20 is the last release with an engine builder" in newest.reason
    assert "backend: pytorch" in newest.reason
    assert newest.facts == "1.3.0rc3"
    assert (below.release, below.kind) == ("1.2.1", Kind.REBUILD)


def test_a_flag_that_the_release_refuses_is_named() -> None:
    spec = watched_spec({**OLD, "build": {"streamingllm": True}}, prereleases=True)
    newest, *_ = verdicts(spec, listed("1.1.0", "1.3.0rc15"))
    assert newest.kind is Kind.UNSUPPORTED_FLAG
    assert "build.streamingllm" in newest.reason
    assert "1.3.0rc15 has --streamingllm and refuses to enable it" in newest.reason


def test_an_argument_of_the_llm_api_that_the_release_has_not_is_named() -> None:
    target = {"backend": "pytorch", "release": "1.0.0", "toolchain": "container", "llm": {"no_such_key": 1}}
    (found,) = verdicts(watched_spec(target), listed("1.0.0", "1.2.1"))
    assert found.kind is Kind.UNSUPPORTED_FLAG
    assert "llm.no_such_key" in found.reason


def test_an_image_that_is_not_known_is_a_toolchain_that_cannot_be_had() -> None:
    target = {"backend": "pytorch", "release": "1.2.1", "toolchain": "container"}
    (found,) = verdicts(watched_spec(target), listed("1.2.1", "1.4.0"))
    assert found.kind is Kind.NO_TOOLCHAIN
    assert "no container image is known" in found.reason


def test_a_source_package_alone_is_a_stub() -> None:
    target = {"backend": "pytorch", "release": "1.1.0"}
    (found,) = verdicts(watched_spec(target), listed("1.1.0", SOURCE.format("1.2.1")))
    assert found.kind is Kind.NO_TOOLCHAIN
    assert "no wheel for Python 3.12 is listed, only tensorrt_llm-1.2.1.tar.gz (12.0 kB)" in found.reason
    assert "toolchain: container" in found.remedy


def test_a_wheel_for_the_releases_python_will_do() -> None:
    target = {"backend": "pytorch", "release": "1.1.0"}
    assert kinds(watched_spec(target), listed("1.1.0", "1.2.1")) == {"1.2.1": Kind.REBUILD}


def test_an_index_that_did_not_answer_is_reported_beside_a_missing_wheel() -> None:
    index = listed("1.1.0", SOURCE.format("1.2.1"), silent=("https://other.invalid: cannot be reached: no",))
    (found,) = verdicts(watched_spec({"backend": "pytorch", "release": "1.1.0"}), index)
    assert "https://other.invalid" in found.reason


def test_a_release_newer_than_the_facts_says_whose_facts_were_taken() -> None:
    target = {"backend": "pytorch", "release": "1.2.1"}
    (found,) = verdicts(watched_spec(target), listed("1.2.1", "1.5.0"))
    assert (found.kind, found.facts) == (Kind.REBUILD, "1.3.0rc3")
    assert "nothing is recorded of 1.5.0: facts of 1.3.0rc3" in found.row["why"]


def test_a_release_that_no_index_lists_is_said_to_be_missing() -> None:
    (found,) = verdicts(watched_spec({"backend": "pytorch", "release": "9.9.9"}), listed("1.2.1"))
    assert (found.kind, found.release) == (Kind.NO_SUCH_RELEASE, "9.9.9")
    assert "tensorrt-llm 9.9.9, which no package index lists; the newest listed is 1.2.1" in found.reason


def test_a_release_that_an_unreachable_index_may_have_is_not_said_to_be_missing() -> None:
    index = listed("1.2.1", silent=("https://other.invalid: cannot be reached: no",))
    (found,) = verdicts(watched_spec({"backend": "pytorch", "release": "9.9.9"}), index)
    assert found.kind is Kind.CURRENT


def test_a_missing_release_does_not_hide_newer_ones() -> None:
    spec = watched_spec({**OLD, "release": "1.1.7"})
    assert kinds(spec, listed("1.1.0", "1.2.1")) == {"1.1.7": Kind.NO_SUCH_RELEASE, "1.2.1": Kind.REBUILD}


def test_a_release_of_a_spec_that_is_no_number_is_one_verdict() -> None:
    (found,) = verdicts(watched_spec({"release": "banana"}), listed("1.1.0", "1.2.1"))
    assert found.kind is Kind.NO_SUCH_RELEASE
    assert "'banana' is no version" in found.reason


def test_a_release_older_than_all_facts_is_unsupported() -> None:
    assert kinds(watched_spec({"release": "<0.8"}), listed("0.5.0")) == {"0.5.0": Kind.UNSUPPORTED}


def test_only_the_targets_of_the_policy_are_looked_at() -> None:
    spec = watched_spec(OLD, OLD, targets=["target-1"])
    assert [one.target for one in verdicts(spec, listed("1.1.0", "1.2.1"))] == ["target-1"]


def test_an_index_that_fails_leaves_every_target_undecided_and_is_asked_once() -> None:
    calls: list[str] = []

    def failing(project: str) -> Listing:
        calls.append(project)
        raise ToolchainError("no package index lists a release of it", subject=project, remedy="check it")

    found = fleet_verdicts([watched_spec(OLD, OLD)], failing)
    assert [one.kind for one in found] == [Kind.UNDECIDED, Kind.UNDECIDED]
    assert "no package index lists a release of it" in found[0].why
    assert "check it" in found[0].why
    assert calls == ["tensorrt-llm"]


def test_each_backend_has_its_own_project() -> None:
    calls: list[str] = []

    def ask(project: str) -> Listing:
        calls.append(project)
        return listed("1.1.0")

    gpu = {"gpu": "H100-SXM5-80GB", "backend": "onnxruntime", "precision": "int4"}
    fleet_verdicts([watched_spec(OLD, {**CPU}, {**gpu, "name": "cuda"})], ask)
    assert calls == ["tensorrt-llm", "onnxruntime-genai", "onnxruntime-genai-cuda"]


def test_a_source_that_cannot_be_asked_decides_nothing_and_is_asked_once() -> None:
    calls: list[Source] = []

    def resolver(source: Source) -> ResolvedSource:
        calls.append(source)
        raise SourceError("the Hub cannot be reached", subject="owner/tiny", remedy="check the network")

    found = fleet_verdicts([watched_spec(OLD, OLD)], lambda _: listed("1.1.0", "1.2.0", "1.2.1"), resolver)
    assert [(one.release, one.kind) for one in found] == [("1.2.1", Kind.UNDECIDED)] * 2
    assert "the Hub cannot be reached" in found[0].reason
    assert len(calls) == 1


def test_what_a_release_cannot_do_is_said_also_without_the_source() -> None:
    def resolver(source: Source) -> ResolvedSource:
        raise SourceError("the Hub cannot be reached", subject="owner/tiny")

    spec = watched_spec({**OLD, "toolchain": "venv"})
    (found, *_) = fleet_verdicts([spec], lambda _: listed("1.1.0", "1.4.0"), resolver)
    assert found.kind is Kind.CHECKPOINT_ONLY
    assert "Hub" not in found.reason


def test_releases_with_the_same_verdict_are_one_row() -> None:
    target = {"backend": "pytorch", "release": "1.0.0"}
    index = listed("1.0.0", *(SOURCE.format(one) for one in ("1.1.0", "1.2.0", "1.2.1")))
    (row,) = verdict_rows(verdicts(watched_spec(target), index))
    assert (row["release"], row["verdict"]) == ("1.2.1 to 1.1.0", "toolchain not installable")
    assert "1.2.1" in row["why"]


def new_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """Write a pin file for a release of ONNX Runtime GenAI, as a user would."""
    pins = "# backend: onnxruntime\n# release: {0}\n# python: >=3.11,<3.13\nonnxruntime-genai=={0}\n"
    (tmp_path / f"onnxruntime-{release}.txt").write_text(pins.format(release))
    monkeypatch.setenv("ENGINERY_TOOLCHAINS", str(tmp_path))


def test_a_release_of_onnxruntime_without_pins_says_to_write_them() -> None:
    (found,) = verdicts(watched_spec({**CPU, "release": "0.18.0"}), listed("0.18.0", "0.19.0"))
    assert found.kind is Kind.NO_TOOLCHAIN
    assert "write a pin file" in found.remedy


def test_with_pins_it_is_a_rebuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_onnxruntime(tmp_path, monkeypatch, "0.19.0")
    assert kinds(watched_spec({**CPU, "release": "0.18.0"}), listed("0.18.0", "0.19.0")) == {"0.19.0": Kind.REBUILD}


def test_a_published_build_is_already_built(bucket: str, tmp_path: Path) -> None:
    spec = watched_spec(OLD, to=f"s3://{bucket}/engines")
    index = listed("1.1.0", "1.2.0", "1.2.1")
    (found,) = verdicts(spec, index)
    assert found.kind is Kind.REBUILD
    build = Build(build_id=found.build_id, model=spec.name, target=found.target)
    publish(build.context(tmp_path, f"s3://{bucket}/engines"))
    assert [(one.release, one.kind) for one in verdicts(spec, index)] == [("1.2.1", Kind.BUILT)]


def test_a_registry_that_does_not_answer_decides_nothing(bucket: str) -> None:
    (found,) = verdicts(watched_spec(OLD, to="s3://no-such-bucket-here/engines"), listed("1.1.0", "1.2.1"))
    assert found.kind is Kind.UNDECIDED
    assert "no-such-bucket-here" in found.reason


def test_a_rebuild_keeps_the_steps_of_the_spec_and_publishes_elsewhere(bucket: str) -> None:
    """The rebuild's steps equal those of the spec after it names the release."""
    spec = watched_spec(OLD, to=f"s3://{bucket}/engines")
    anew = rebuild_spec(spec, {"target-0": "1.2.1"})
    named = spec.model_copy(update={"targets": (spec.targets[0].model_copy(update={"release": "1.2.1"}),)})
    ours, theirs = (make_plan(one, resolve) for one in (anew, named))
    assert ours.targets[0].build_id == theirs.targets[0].build_id
    *made, publishing = [step.key for step in ours.steps]
    assert made == [step.key for step in theirs.steps][:-1]
    assert publishing != theirs.steps[-1].key
    assert anew.publish is not None
    assert (anew.publish.channel, anew.rollout) == ("rebuild", None)


def test_the_policy_is_no_part_of_any_key() -> None:
    first, second = (make_plan(watched_spec(OLD, within=within)) for within in ("", "<9"))
    assert [step.key for step in first.steps] == [step.key for step in second.steps]


def test_targets_that_go_to_one_release_are_one_rebuild_with_one_key(bucket: str) -> None:
    spec = watched_spec(OLD, OLD, to=f"s3://{bucket}/engines")
    found = verdicts(spec, listed("1.1.0", "1.2.1"))
    (one,), (again,) = rebuilds([spec], found), rebuilds([spec], list(reversed(found)))
    assert one.run.targets == ("target-0", "target-1")
    assert one.run.key == again.run.key
    assert one.run.key.startswith("rebuild tiny 1.2.1 ")
    assert [target.release for target in one.spec.targets] == ["1.2.1", "1.2.1"]


def test_the_key_of_a_rebuild_changes_with_what_it_makes_and_where_it_goes(bucket: str) -> None:
    def key(to: str, **target: Any) -> str:
        spec = watched_spec({**OLD, **target}, to=f"s3://{bucket}/{to}")
        return rebuilds([spec], verdicts(spec, listed("1.1.0", "1.2.1")))[0].run.key

    assert len({key("a"), key("a"), key("b"), key("a", precision="float16")}) == 3


def test_a_policy_that_only_reports_has_no_rebuilds(bucket: str) -> None:
    spec = watched_spec(OLD, to=f"s3://{bucket}/engines", rebuild=False)
    assert not rebuilds([spec], verdicts(spec, listed("1.1.0", "1.2.1")))
