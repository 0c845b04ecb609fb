"""Tests of channels: a move fails if the channel has changed since it was read, and no race loses history."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from enginery.core.errors import RegistryError, UsageError
from enginery.core.s3 import Prefix
from enginery.registry import ChannelPointer, Registry, channels, publish
from enginery.registry.channels import Action, Move
from enginery.registry.layout import channel_path, manifest_path
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.registry.builds import Build
from tests.support.registry.manifests import a_build, put
from tests.support.s3.fixtures import bucket, proxy, server  # noqa: F401  fixtures

PATH = channel_path("llama", "stable", "h100")
A, B, C = (f"h100-{letter}" for letter in "abc")


@pytest.fixture
def registry(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Registry:  # noqa: F811
    monkeypatch.setenv("ENGINERY_WHO", "ada@lab")
    opened = Registry(f"s3://{bucket}/prod")
    put(opened, *(a_build(build_id=name) for name in (A, B, C)))
    return opened


def pointer(registry: Registry) -> ChannelPointer:
    found = registry.channel("llama", "stable", "h100")
    assert found is not None
    return found


def moves(registry: Registry) -> list[tuple[str, str, str | None]]:
    return [(move.action.value, move.build_id, move.previous) for move in pointer(registry).history]


# Promotion


def test_a_promotion_says_who_when_why_and_from_what(registry: Registry) -> None:
    before = datetime.now(UTC)
    registry.promote(A, "stable")
    registry.promote(f"llama/{B}", "stable", reason="faster by a tenth")
    last = pointer(registry).last
    assert (last.build_id, last.previous, last.by, last.reason) == (B, A, "ada@lab", "faster by a tenth")
    assert before <= last.moved <= datetime.now(UTC)
    assert moves(registry) == [("promote", A, None), ("promote", B, A)]


def test_a_build_is_promoted_from_one_channel_to_another(registry: Registry) -> None:
    registry.promote(A, "candidate")
    registry.promote("llama@candidate/h100", "stable")
    assert pointer(registry).build_id == A


def test_a_promotion_to_where_the_channel_is_writes_nothing(registry: Registry) -> None:
    registry.promote(A, "stable")
    before = registry.prefix.get_bytes(PATH)
    registry.promote(A, "stable", reason="again")
    assert registry.prefix.get_bytes(PATH) == before


def test_targets_have_pointers_of_their_own(registry: Registry) -> None:
    put(registry, a_build("l40s", gpu="L40S"))
    registry.promote(A, "stable")
    registry.promote("l40s-0123456789ab", "stable")
    registry.promote(B, "candidate")
    found = [(one.channel, one.target, one.build_id) for one in registry.channels("llama")]
    assert found == [("candidate", "h100", B), ("stable", "h100", A), ("stable", "l40s", "l40s-0123456789ab")]
    assert registry.channels("lla") == []


def test_a_build_that_does_not_exist_is_not_promoted(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="no build 'h100-d'"):
        registry.promote("h100-d", "stable")
    assert registry.channels("llama") == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", "Stable", "stable\n", "x" * 64])
def test_a_channel_with_no_proper_name_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(UsageError, match="is not a name"):
        registry.promote(A, name)
    assert registry.channels("llama") == []


def test_a_build_that_failed_its_validation_is_promoted_only_by_force_with_a_reason(registry: Registry) -> None:
    put(registry, a_build(build_id="h100-bad", passed=False))
    with pytest.raises(RegistryError, match="failed a gate: validation: 1 of 1 answers") as caught:
        registry.promote("h100-bad", "stable")
    assert "--force" in caught.value.remedy
    with pytest.raises(UsageError, match="needs a reason"):
        registry.promote("h100-bad", "stable", force=True, reason="  ")
    assert registry.channels("llama") == []
    registry.promote("h100-bad", "stable", force=True, reason="the prompt is wrong")
    last = pointer(registry).last
    assert last.reason == "the prompt is wrong"
    assert last.forced == ("validation: 1 of 1 answers are not as expected",)


def test_force_is_recorded_only_where_it_was_needed(registry: Registry) -> None:
    registry.promote(A, "stable", force=True, reason="in a hurry")
    assert pointer(registry).last.forced == ()


def test_further_gates_stop_a_promotion_too(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "enginery.registry.resolving.compatibility.GATES", (lambda _: iter(["speed: half of what serves now"]),)
    )
    with pytest.raises(RegistryError, match="speed: half of what serves now"):
        registry.promote(A, "stable")


def test_a_promotion_can_ask_that_the_channel_is_still_where_it_was_looked_at(registry: Registry) -> None:
    with pytest.raises(RegistryError, match=f"points at nothing, not at {A} as expected"):
        registry.promote(B, "stable", expected=A)
    registry.promote(A, "stable")
    registry.promote(B, "stable", expected=A)
    with pytest.raises(RegistryError, match=f"points at {B}, moved there by ada@lab, not at {A} as expected"):
        registry.promote(C, "stable", expected=A)
    assert pointer(registry).build_id == B


def test_an_endpoint_that_ignores_conditions_is_refused_unless_it_is_accepted(
    registry: Registry,
    proxy: Proxy,  # noqa: F811
) -> None:
    proxy.drops |= {"if-match", "if-none-match"}
    with pytest.raises(RegistryError, match="ignores If-Match") as caught:
        registry.promote(A, "stable")
    assert "--allow-unconditional-writes" in caught.value.remedy
    with pytest.raises(RegistryError, match="ignores If-Match"):
        registry.demote("llama@stable/h100")
    assert registry.promote(A, "stable", allow_unconditional_writes=True).build_id == A


# Who moved it


def test_the_actor_is_user_and_host_by_default(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINERY_WHO")
    monkeypatch.setenv("LOGNAME", "grace")
    monkeypatch.setattr("socket.gethostname", lambda: "builder-7")
    assert registry.promote(A, "stable").last.by == "grace@builder-7"


def test_a_user_without_a_name_is_recorded_by_number(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.delenv("ENGINERY_WHO")
    monkeypatch.setattr("getpass.getuser", nobody)
    assert registry.promote(A, "stable").last.by.startswith(f"{os.getuid()}@")


def test_no_secret_and_no_line_break_gets_into_the_history(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_TOKEN", "s3cr3t-t0ken-of-the-job")
    registry.promote(A, "stable", reason="job\nwith s3cr3t-t0ken-of-the-job " + "x" * 500)
    reason = pointer(registry).last.reason
    assert reason.startswith("job with *** xxx")
    assert len(reason) == 200


# Demotion


def test_a_demotion_goes_back_and_once_more_goes_one_further_back(registry: Registry) -> None:
    for build in (A, B, C):
        registry.promote(build, "stable")
    assert registry.demote("llama@stable/h100", reason="answers nonsense").build_id == B
    assert pointer(registry).last.reason == "answers nonsense"
    assert registry.demote("llama@stable/h100").build_id == A
    assert moves(registry)[3:] == [("demote", B, C), ("demote", A, B)]
    with pytest.raises(RegistryError, match=f"pointed at nothing before {A}"):
        registry.demote("llama@stable/h100")


def test_a_demoted_build_is_not_gone_back_to(registry: Registry) -> None:
    registry.promote(A, "stable")
    registry.promote(B, "stable")
    registry.demote("llama@stable/h100")
    registry.promote(C, "stable")
    assert registry.demote("llama@stable/h100").build_id == A


def test_a_build_that_is_not_published_any_more_is_not_gone_back_to(registry: Registry) -> None:
    for build in (A, B, C):
        registry.promote(build, "stable")
    registry.prefix.delete(manifest_path("llama", B))
    with pytest.raises(RegistryError, match=f"pointed at {B} before, which is not published any more") as caught:
        registry.demote("llama@stable/h100")
    assert f"enginery promote llama/{A} stable" in caught.value.remedy
    assert pointer(registry).build_id == C


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("llama@stable", "does not name a channel and a target"),
        ("h100-a", "does not name a channel and a target"),
        ("llama@stable/l40s", "points at nothing, so it cannot go back"),
        ("llama@stable/../x", "is not a name"),
    ],
)
def test_a_demotion_of_what_is_no_channel_is_refused(registry: Registry, reference: str, problem: str) -> None:
    registry.promote(A, "stable")
    with pytest.raises((RegistryError, UsageError), match=problem):
        registry.demote(reference)


def test_two_demotions_of_the_same_build_go_back_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for build in (A, B, C):
        registry.promote(build, "stable")
    swap = Prefix.swap

    def overtaken(*arguments: Any) -> str | None:
        monkeypatch.setattr(Prefix, "swap", swap)
        registry.demote("llama@stable/h100")
        return swap(*arguments)

    monkeypatch.setattr(Prefix, "swap", overtaken)
    with pytest.raises(RegistryError, match=f"points at {B}, moved there by ada@lab, not at {C} as expected"):
        registry.demote("llama@stable/h100")
    assert moves(registry)[3:] == [("demote", B, C)]


# Races, and the content of the pointer


def test_two_promotions_at_once_are_both_in_the_history(registry: Registry) -> None:
    builds = [f"h100-{number}" for number in range(8)]
    put(registry, *(a_build(build_id=name) for name in builds))
    with ThreadPoolExecutor(len(builds)) as pool:
        list(pool.map(lambda build: Registry(registry.address).promote(build, "stable"), builds))
    history = pointer(registry).history
    assert sorted(move.build_id for move in history) == builds
    assert [move.previous for move in history] == [None, *(move.build_id for move in history[:-1])]


def test_a_promoter_that_is_overtaken_adds_its_move_to_the_others(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = Prefix.swap

    def overtaken(*arguments: Any) -> str | None:
        monkeypatch.setattr(Prefix, "swap", swap)
        registry.promote(B, "stable")
        return swap(*arguments)

    monkeypatch.setattr(Prefix, "swap", overtaken)
    registry.promote(A, "stable")
    assert moves(registry) == [("promote", B, None), ("promote", A, B)]


def test_a_move_whose_answer_is_lost_is_in_the_history_once(
    registry: Registry,
    proxy: Proxy,  # noqa: F811
) -> None:
    registry.promote(A, "stable")
    proxy.fail(Fault("reset", after=True, matches=lambda method, path: method == "PUT" and PATH in path))
    registry.promote(B, "stable")
    assert moves(registry) == [("promote", A, None), ("promote", B, A)]


def test_a_move_whose_answer_is_lost_is_not_made_again_over_a_later_one(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = Prefix.swap

    def lost(*arguments: Any) -> str | None:
        assert swap(*arguments)
        monkeypatch.setattr(Prefix, "swap", swap)
        registry.promote(B, "stable")
        return None

    monkeypatch.setattr(Prefix, "swap", lost)
    registry.promote(A, "stable")
    assert moves(registry) == [("promote", A, None), ("promote", B, A)]


def test_promotions_over_a_failing_network_are_each_in_the_history_once(
    registry: Registry,
    proxy: Proxy,  # noqa: F811
) -> None:
    builds = [f"h100-{number}" for number in range(6)]
    put(registry, *(a_build(build_id=name) for name in builds))
    requests = count(1)
    matches: Any = lambda *_: next(requests) % 5 == 0  # noqa: E731
    proxy.fail(Fault("reset", times=1000, after=True, matches=matches))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda build: Registry(registry.address).promote(build, "stable"), builds))
    assert sorted(move.build_id for move in pointer(registry).history) == builds


def test_the_error_says_that_somebody_else_keeps_moving_the_channel(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Prefix, "swap", lambda *_: None)
    with pytest.raises(RegistryError, match="others keep moving the channel"):
        registry.promote(A, "stable")


def test_a_long_history_is_cut_and_says_how_much_is_missing(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "KEPT_MOVES", 3)
    for build in (A, B, A, B, C):
        registry.promote(build, "stable")
    assert (pointer(registry).dropped, len(pointer(registry).history)) == (2, 3)
    assert [registry.demote("llama@stable/h100").build_id for _ in range(2)] == [B, A]


def test_the_pointer_stays_small_enough_to_be_read_at_every_pull() -> None:
    move = Move(action=Action.PROMOTE, build_id="x" * 76, previous="y" * 76, moved=datetime.now(UTC), by="z" * 60)
    facts: dict[str, Any] = {"model": "llama", "channel": "stable", "target": "h100", "build_id": "x" * 76}
    made = ChannelPointer(**facts, previous=None, moved=move.moved, history=(move,) * channels.KEPT_MOVES)
    assert len(made.model_dump_json(indent=1)) < 100_000


def recorded_v1(**changes: Any) -> bytes:
    """A pointer as Enginery's first version wrote it."""
    known = {"schema_version": 1, "model": "llama", "channel": "stable", "target": "h100", "build_id": B, "previous": A}
    return json.dumps({**known, "moved": "2026-11-22T12:00:00Z", **changes}).encode()


def test_a_pointer_of_schema_1_is_read_moved_and_gone_back_from(registry: Registry) -> None:
    registry.prefix.put_bytes(PATH, recorded_v1())
    assert (pointer(registry).build_id, pointer(registry).previous) == (B, A)
    assert moves(registry) == [("unknown", B, A)]
    registry.promote(C, "stable")
    assert moves(registry) == [("unknown", B, A), ("promote", C, B)]
    assert json.loads(registry.prefix.get_bytes(PATH) or b"")["schema_version"] == 2
    assert [registry.demote("llama@stable/h100").build_id for _ in range(2)] == [B, A]


def test_a_pointer_of_a_newer_schema_asks_for_an_upgrade_and_is_not_written_over(registry: Registry) -> None:
    newer = recorded_v1(schema_version=3, more="news")
    registry.prefix.put_bytes(PATH, newer)
    with pytest.raises(RegistryError, match="newer Enginery") as caught:
        registry.promote(A, "stable")
    assert caught.value.remedy == "upgrade Enginery"
    assert registry.prefix.get_bytes(PATH) == newer


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        recorded_v1(build_id="../../secrets"),
        recorded_v1(build_id=None),
        recorded_v1(schema_version=2, history=[]),
        recorded_v1(schema_version="1"),
        recorded_v1(schema_version=1, more="x"),
    ],
)
def test_what_is_no_pointer_is_named_and_not_written_over(registry: Registry, data: bytes) -> None:
    registry.prefix.put_bytes(PATH, data)
    with pytest.raises(RegistryError, match="is not a channel pointer") as caught:
        registry.promote(A, "stable")
    assert caught.value.subject == registry.prefix.where(PATH)
    assert registry.prefix.get_bytes(PATH) == data


def test_the_pointer_of_another_channel_is_not_taken_for_this_one(registry: Registry) -> None:
    registry.prefix.put_bytes(PATH, recorded_v1(channel="candidate"))
    with pytest.raises(RegistryError, match="is the pointer of another channel: llama@candidate/h100"):
        registry.channel("llama", "stable", "h100")


# How a publish moves its channel


@pytest.fixture
def address(bucket: str) -> str:  # noqa: F811
    return f"s3://{bucket}/prod"


def published(directory: Path, address: str, build_id: str) -> list[str]:
    """Publish a build. Returns the step's log lines about its channel."""
    lines: list[str] = []
    context = Build(build_id=build_id).context(directory / str(len(list(directory.iterdir()))), address)
    context.log = lines.append
    publish(context)
    return [line for line in lines if line.startswith("channel ")]


def on_candidate(address: str) -> str:
    found = Registry(address).channel("tiny-llama", "candidate", "cpu-int4")
    assert found is not None
    return found.build_id


def test_publishing_moves_the_channel_to_each_new_build(address: str, tmp_path: Path) -> None:
    for build in ("cpu-int4-1", "cpu-int4-2"):
        assert published(tmp_path, address, build) == [f"channel candidate of tiny-llama for cpu-int4 is now {build}"]
    assert on_candidate(address) == "cpu-int4-2"
    again = published(tmp_path, address, "cpu-int4-2")
    assert again == ["channel candidate of tiny-llama for cpu-int4 is already cpu-int4-2"]


def test_publishing_a_superseded_build_again_leaves_the_channel_and_says_so(address: str, tmp_path: Path) -> None:
    published(tmp_path, address, "cpu-int4-1")
    published(tmp_path, address, "cpu-int4-2")
    (line,) = published(tmp_path, address, "cpu-int4-1")
    assert "stays cpu-int4-2" in line
    assert "`enginery promote tiny-llama/cpu-int4-1 candidate` does" in line
    assert on_candidate(address) == "cpu-int4-2"


def test_publishing_a_demoted_build_again_leaves_the_channel(address: str, tmp_path: Path) -> None:
    published(tmp_path, address, "cpu-int4-1")
    published(tmp_path, address, "cpu-int4-2")
    Registry(address).demote("tiny-llama@candidate/cpu-int4", reason="worse")
    (line,) = published(tmp_path, address, "cpu-int4-2")
    assert "stays cpu-int4-1 (demote" in line
    assert on_candidate(address) == "cpu-int4-1"
    Registry(address).promote("cpu-int4-2", "candidate")
    assert on_candidate(address) == "cpu-int4-2"


def test_a_build_older_than_the_kept_history_is_not_brought_back(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "KEPT_MOVES", 1)
    for build in ("cpu-int4-1", "cpu-int4-2", "cpu-int4-3"):
        published(tmp_path, address, build)
    published(tmp_path, address, "cpu-int4-1")
    assert on_candidate(address) == "cpu-int4-3"
