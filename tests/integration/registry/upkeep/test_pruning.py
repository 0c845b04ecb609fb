"""Tests of what `prune` removes and keeps, on a real S3 API."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from enginery.cli.app import app
from enginery.core import s3
from enginery.core.errors import RegistryError
from enginery.registry import Registry
from enginery.registry.claims import CLAIM, PRUNING
from enginery.registry.upkeep.auditing import audit
from enginery.registry.upkeep.pruning import Pruning, Retention, prune
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.registry.builds import Build
from tests.support.registry.upkeep import (
    LATER,
    a_claim,
    at,
    begin_upload,
    build_id,
    claim_path,
    listed,
    move,
    objects,
    publish_builds,
    put_build,
    remove,
    uploads,
    write,
)
from tests.support.s3.fixtures import bucket, proxy, server
from tests.support.s3.server import S3Server

__all__ = ["bucket", "proxy", "server"]

MODEL = "tiny-llama"
OLD_UPLOADS = datetime(2010, 11, 10, 20, 48, 33, tzinfo=UTC)
"""The date that the server gives every multipart upload."""


@pytest.fixture
def address(bucket: str) -> str:
    return f"s3://{bucket}/prod"


def pruned(address: str, *, keep: int = 3, days: float = 30.0, dry_run: bool = False, **more: Any) -> Pruning:
    """Run a prune whose clock is two months ahead."""
    more.setdefault("now", datetime.now(UTC) + LATER)
    return prune(Registry(address), Retention(keep=keep, days=days), dry_run=dry_run, **more)


def gone(pruning: Pruning) -> list[str]:
    return [verdict.name for verdict in pruning.removable]


def why(pruning: Pruning, name: str) -> str:
    (verdict,) = (verdict for verdict in pruning.verdicts if name in verdict.name)
    return verdict.reason


# Which builds


def test_the_newest_of_each_target_stay(address: str) -> None:
    small = publish_builds(address, 4)
    large = publish_builds(address, 3, "cpu-fp32")
    pruning = pruned(address, keep=3)
    assert gone(pruning) == [f"{MODEL}/{small[0]}"]
    assert listed(address) == sorted([*small[1:], *large])
    assert why(pruning, large[0]) == "one of the 3 newest"


def test_what_is_young_stays(address: str) -> None:
    names = publish_builds(address, 4)
    pruning = pruned(address, keep=1, days=90)
    assert gone(pruning) == []
    assert why(pruning, names[0]) == "younger than 90 days"
    assert gone(pruned(address, keep=1, days=59))


def test_what_a_channel_points_at_stays_and_the_build_that_it_would_go_back_to(address: str) -> None:
    names = publish_builds(address, 5)
    for name in names[:3]:
        move(address, "stable", name)
    pruning = pruned(address, keep=0)
    assert gone(pruning) == [f"{MODEL}/{names[0]}"]
    assert why(pruning, names[2]) == "on channel stable"
    assert why(pruning, names[1]) == "the previous build of channel stable"
    assert why(pruning, names[3]) == "the previous build of channel candidate"


def test_only_the_builds_of_the_model_that_is_named_go(address: str) -> None:
    names = publish_builds(address, 3)
    for name in names:
        put_build(address, name, model="other")
    assert gone(pruned(address, keep=0, model="other")) == [f"other/{names[0]}"]
    assert len(listed(address)) == 5


def test_a_dry_run_says_what_would_go_and_removes_nothing(server: S3Server, address: str) -> None:
    names = publish_builds(address, 3)
    before = objects(server, address)
    pruning = pruned(address, keep=0, dry_run=True)
    assert [(verdict.name, verdict.fate) for verdict in pruning.removable] == [(f"{MODEL}/{names[0]}", "goes")]
    assert pruning.removable[0].size == sum(
        len(data) for path, data in before.items() if names[0] in path and "channels" not in path
    )
    assert objects(server, address) == before


def test_all_of_a_removed_build_goes_and_nothing_of_another(server: S3Server, address: str) -> None:
    names = publish_builds(address, 3)
    write(server, address, f"models/{MODEL}/builds/{names[0]}/signatures/model.sig", b"signature")
    before = objects(server, address)
    lines: list[str] = []
    pruned(address, keep=0, log=lines.append)
    assert objects(server, address) == {path: data for path, data in before.items() if f"/{names[0]}/" not in path}
    assert lines == [f"build {MODEL}/{names[0]}: removed"]
    assert audit(Registry(address)).problems == ()


def test_a_removed_build_can_be_published_again(address: str) -> None:
    names = publish_builds(address, 3)
    pruned(address, keep=0)
    put_build(address, names[0])
    assert names[0] in listed(address)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "its manifest is not JSON"),
        (b'{"schema_version": 99}', "its manifest was written by a newer Enginery"),
        (b'{"schema_version": 1}', "its manifest is not a valid manifest"),
    ],
)
def test_a_build_whose_manifest_cannot_be_judged_stays(
    server: S3Server, address: str, data: bytes, reason: str
) -> None:
    names = publish_builds(address, 3)
    write(server, address, f"models/{MODEL}/builds/{names[0]}/manifest.json", data)
    pruning = pruned(address, keep=0)
    assert gone(pruning) == []
    assert reason in why(pruning, names[0])


def test_nothing_goes_when_a_channel_cannot_be_read(server: S3Server, address: str) -> None:
    publish_builds(address, 3)
    write(server, address, f"models/{MODEL}/channels/stable/cpu-int4.json", b"{}")
    before = objects(server, address)
    with pytest.raises(RegistryError, match=r"channels/stable/cpu-int4\.json: is not a channel pointer"):
        pruned(address, keep=0)
    assert objects(server, address) == before


# What killed publishers have left


def unfinished(server: S3Server, address: str, number: int = 9) -> str:
    """Write files of a build whose publisher was killed."""
    name = build_id(number)
    write(server, address, f"models/{MODEL}/builds/{name}/model_repository/a/config.pbtxt", b"files")
    return name


def test_a_build_that_was_never_finished_goes_after_a_day(server: S3Server, address: str) -> None:
    name = unfinished(server, address)
    write(server, address, claim_path(name), b"not a claim")
    soon = datetime.now(UTC) + timedelta(hours=23)
    assert why(pruned(address, now=soon), name) == "younger than a day: its writer may be at work"
    assert gone(pruned(address, now=soon + timedelta(hours=2))) == [f"{MODEL}/{name}"]
    assert objects(server, address) == {}


@pytest.mark.parametrize("claim", [a_claim(), a_claim(f"{PRUNING} elsewhere")])
def test_a_build_that_someone_is_at_work_on_stays_however_old_its_files_are(
    server: S3Server, address: str, claim: bytes
) -> None:
    name = unfinished(server, address)
    write(server, address, claim_path(name), claim)
    before = objects(server, address)
    pruning = pruned(address)
    assert gone(pruning) == []
    assert why(pruning, name) == "someone is at work on it"
    assert objects(server, address) == before


def test_a_published_build_that_someone_is_removing_is_left_to_them(server: S3Server, address: str) -> None:
    names = publish_builds(address, 3)
    write(server, address, claim_path(names[0]), a_claim(f"{PRUNING} elsewhere"))
    before = objects(server, address)
    assert gone(pruned(address, keep=0)) == []
    assert objects(server, address) == before


def test_files_without_a_manifest_stay_while_a_channel_points_at_them(server: S3Server, address: str) -> None:
    names = publish_builds(address, 1)
    remove(server, address, f"models/{MODEL}/builds/{names[0]}/manifest.json")
    assert why(pruned(address), names[0]) == "on channel candidate"


def test_the_claim_of_a_publisher_that_died_after_its_manifest_goes(server: S3Server, address: str) -> None:
    names = publish_builds(address, 1)
    write(server, address, claim_path(names[0]), b"not a claim")
    assert gone(pruned(address)) == [claim_path(names[0])]
    assert listed(address) == names
    assert not [path for path in objects(server, address) if path.endswith(CLAIM)]


def test_an_upload_that_was_never_completed_is_aborted_after_a_day(server: S3Server, address: str) -> None:
    path = f"models/{MODEL}/builds/{build_id(9)}/model_repository/a/1/model.onnx"
    begin_upload(server, address, path)
    assert gone(pruned(address, now=OLD_UPLOADS + timedelta(hours=23))) == []
    assert uploads(server, address) == [f"prod/{path}"]
    assert gone(pruned(address, now=OLD_UPLOADS + timedelta(hours=25))) == [path]
    assert uploads(server, address) == []


def test_an_upload_of_a_publisher_at_work_stays(server: S3Server, address: str) -> None:
    path = f"models/{MODEL}/builds/{build_id(9)}/model_repository/a/1/model.onnx"
    begin_upload(server, address, path)
    write(server, address, claim_path(build_id(9)), a_claim())
    pruned(address)
    assert uploads(server, address) == [f"prod/{path}"]


def test_uploads_under_another_address_of_the_bucket_are_not_ours(server: S3Server, address: str) -> None:
    bucket, _ = at(address)
    begin_upload(server, f"s3://{bucket}/other", "models/x/builds/y/model")
    write(server, f"s3://{bucket}/other", ".probe-1-1", b"first")
    assert pruned(address).verdicts == ()


def test_a_forgotten_probe_goes_after_a_day(server: S3Server, address: str) -> None:
    write(server, address, ".probe-1-1", b"first")
    assert gone(pruned(address, now=datetime.now(UTC))) == []
    assert gone(pruned(address)) == [".probe-1-1"]
    assert objects(server, address) == {}


def test_an_empty_registry_has_nothing_to_prune(address: str) -> None:
    assert pruned(address).verdicts == ()


# Others work at the same time, each at the worst moment


def at_request(proxy: Proxy, method: str, part: str, do: Callable[[], object]) -> list[object]:
    """Do something once, just before the first such request is passed on. Returns a list for its result."""
    done: list[object] = []

    def watch(seen: str, path: str) -> None:
        if seen == method and part in path:
            proxy.watch = None
            done.append(do())

    proxy.watch = watch
    return done


def test_a_build_that_a_channel_is_moved_to_while_its_manifest_goes_is_there_again(
    server: S3Server, address: str, proxy: Proxy
) -> None:
    names = publish_builds(address, 3)
    before = objects(server, address)
    moved = at_request(proxy, "DELETE", "manifest.json", lambda: move(address, "stable", names[0]))
    pruning = pruned(address, keep=0)
    assert moved
    assert gone(pruning) == []
    assert why(pruning, names[0]) == "on channel stable, which was moved just now"
    stable = f"models/{MODEL}/channels/stable/cpu-int4.json"
    after = objects(server, address)
    assert after.pop(stable)
    assert after == before


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_channel_is_not_left_at_a_build_that_is_removed_before_or_while_it_is_moved(
    address: str, proxy: Proxy, method: str
) -> None:
    names = publish_builds(address, 4)
    move(address, "stable", names[1])
    part = "manifest.json" if method == "GET" else "/channels/stable/"
    done = at_request(proxy, method, part, lambda: pruned(address, keep=0))
    with pytest.raises(RegistryError, match=r"no build|was removed while the channel was moved to it"):
        Registry(address).promote(f"{MODEL}/{names[0]}", "stable")
    assert [gone(pruning) for pruning in done if isinstance(pruning, Pruning)] == [[f"{MODEL}/{names[0]}"]]
    pointer = Registry(address).channel(MODEL, "stable", "cpu-int4")
    assert pointer is not None
    assert pointer.build_id == names[1]
    assert audit(Registry(address)).problems == ()


def test_a_build_that_was_published_again_since_it_was_judged_stays(
    server: S3Server, address: str, proxy: Proxy
) -> None:
    names = publish_builds(address, 3)
    manifest = f"models/{MODEL}/builds/{names[0]}/manifest.json"
    other = objects(server, address)[manifest].replace(b'"channel": "candidate"', b'"channel": "elsewhere"')
    at_request(proxy, "PUT", CLAIM, lambda: write(server, address, manifest, other))
    assert why(pruned(address, keep=0), names[0]) == "it was published or removed meanwhile"
    assert objects(server, address)[manifest] == other


def test_a_new_build_is_whole_although_an_old_one_with_the_same_files_goes_meanwhile(
    address: str, proxy: Proxy
) -> None:
    for number in (1, 2, 3):
        Build(build_id=build_id(number), model="other").publish(address)
    done = at_request(proxy, "PUT", f"{build_id(4)}/model_repository", lambda: pruned(address, keep=0, model="other"))
    Build(build_id=build_id(4)).publish(address)
    assert [gone(pruning) for pruning in done if isinstance(pruning, Pruning)] == [[f"other/{build_id(1)}"]]
    assert listed(address) == [build_id(2), build_id(3), build_id(4)]
    assert audit(Registry(address)).problems == ()


def test_two_prunes_at_once_remove_the_same_once(address: str, proxy: Proxy) -> None:
    names = publish_builds(address, 4)
    done = at_request(proxy, "PUT", CLAIM, lambda: pruned(address, keep=0))
    outer = pruned(address, keep=0)
    assert done
    assert listed(address) == names[2:]
    assert why(outer, names[1]) == "it was published or removed meanwhile"
    assert audit(Registry(address)).problems == ()


def test_a_prune_whose_server_goes_away_after_the_manifest_puts_it_back(
    server: S3Server, address: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = publish_builds(address, 3)
    before = objects(server, address)
    body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"

    def refuse_channels() -> None:
        proxy.fail(Fault("answer", times=1, status=403, body=body, matches=lambda _, path: "list-type" in path))

    at_request(proxy, "DELETE", "manifest.json", refuse_channels)
    with pytest.raises(RegistryError, match="not allowed"):
        pruned(address, keep=0)
    assert objects(server, address) == before
    assert names[0] in listed(address)


def test_a_manifest_that_cannot_be_put_back_is_named(address: str, proxy: Proxy) -> None:
    names = publish_builds(address, 3)
    body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"

    def move_and_refuse() -> None:
        move(address, "stable", names[0])
        proxy.fail(Fault("answer", times=1, status=403, body=body, matches=lambda method, _: method == "PUT"))

    at_request(proxy, "DELETE", "manifest.json", move_and_refuse)
    with pytest.raises(RegistryError, match="not allowed") as caught:
        pruned(address, keep=0)
    assert [note for note in caught.value.__notes__ if "could not be put back: publish the build again" in note]


# The command


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["prune", *arguments])


def test_the_command_removes_nothing_without_yes(address: str) -> None:
    names = publish_builds(address, 3)
    looked = run("--registry", address, "--keep", "0", "--days", "0")
    assert looked.exit_code == 0
    assert "1 of 3 would go; nothing was removed" in looked.stdout
    assert "remove them with --yes" in looked.stdout
    assert listed(address) == names
    done = run("--registry", address, "--keep", "0", "--days", "0", "--yes", "--json")
    fates = {verdict["name"]: verdict["fate"] for verdict in json.loads(done.stdout)["verdicts"]}
    assert fates == {f"{MODEL}/{names[0]}": "gone", f"{MODEL}/{names[1]}": "stays", f"{MODEL}/{names[2]}": "stays"}
    assert listed(address) == names[1:]


def test_the_table_says_of_each_build_why_it_stays(address: str) -> None:
    publish_builds(address, 2)
    shown = run("--registry", address).stdout
    assert "on channel candidate" in shown
    assert "the previous build of channel candidate" in shown
    assert "0 of 2 would go" in shown


@pytest.mark.parametrize("option", [["--keep", "-1"], ["--days", "-1"]])
def test_a_count_below_zero_is_refused(address: str, option: list[str]) -> None:
    assert run("--registry", address, *option).exit_code == 2


def test_no_registry_is_named_in_the_error() -> None:
    assert "no registry is named" in str(run().exception)


def teardown_module() -> None:
    s3.close_clients()
