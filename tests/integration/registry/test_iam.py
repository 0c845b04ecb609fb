"""Tests of what the IAM policies allow and refuse. A real S3 API enforces them (tests/support/s3/iam.py)."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from typer.testing import CliRunner

from enginery.builds.manifest import MANIFEST
from enginery.cli.app import app
from enginery.core import s3
from enginery.core.errors import EngineryError, RegistryError
from enginery.core.s3.upload import abort_upload, unfinished_uploads
from enginery.registry import Registry
from enginery.registry.iam import EXAMPLE, Role, policy
from enginery.registry.pulling import pull
from enginery.registry.upkeep.auditing import audit
from enginery.registry.upkeep.pruning import Retention, _put_back, prune
from tests.support.http.faulty_proxy import Proxy
from tests.support.registry.builds import Build
from tests.support.registry.upkeep import LATER, begin_upload, build_id, put_build, uploads, write
from tests.support.s3.fixtures import bucket, proxy, server
from tests.support.s3.iam import a_user, enforced
from tests.support.s3.server import S3Server

__all__ = ["bucket", "proxy", "server"]

CHECKOUT = Path(__file__).parents[3]
ROLES: tuple[Role, ...] = get_args(Role)
HOME = f"models/tiny-llama/builds/{build_id(1)}"


@pytest.fixture
def address(bucket: str) -> str:
    """The address of a new registry."""
    return f"s3://{bucket}/prod"


@pytest.fixture
def filled(server: S3Server, address: str) -> str:
    """A registry with three builds and all that killed publishers leave. It is made before policies are enforced."""
    put_build(address, build_id(1), channel=None)
    for number in (2, 3):
        put_build(address, build_id(number))
    write(server, address, ".probe-1-1", b"first")
    begin_upload(server, address, f"{HOME}/model_repository/big")
    write(server, address, f"models/tiny-llama/builds/{build_id(9)}/model_repository/a", b"half")
    return address


# The work of each role


def publishes(address: str) -> None:
    """Do a complete publish, and abort the uploads that a killed publisher left."""
    Build().publish(address)
    prefix = Registry(address).prefix
    for upload in unfinished_uploads(prefix, HOME):
        abort_upload(prefix, upload)


def consumes(address: str) -> None:
    """Read everything that `list`, `show`, `MODEL@CHANNEL/TARGET`, `resolve` and `pull` read."""
    registry = Registry(address)
    assert len(registry.builds()) >= 3
    assert registry.find(build_id(2)[:-1] + "2").build_id == build_id(2)
    manifest = registry.find("tiny-llama@candidate/cpu-int4")
    assert registry.channel("tiny-llama", "stable", "cpu-int4") is None
    assert registry.resolve("tiny-llama", channel="candidate", gpu="cpu").manifest == manifest
    with TemporaryDirectory() as directory:
        pull(registry, manifest, Path(directory) / "pulled")


def audits(address: str) -> None:
    result = audit(Registry(address))
    assert result.builds == 3
    assert not result.damaged


def prunes(address: str) -> None:
    """Prune a build, an unfinished build, an upload and a probe. Also put back the manifest of a build in use."""
    prefix = Registry(address).build_prefix("tiny-llama", build_id(3))
    manifest = prefix.get(MANIFEST)
    assert manifest
    prefix.delete(MANIFEST)
    _put_back(prefix, manifest)
    done = prune(Registry(address), Retention(keep=0), dry_run=False, now=datetime.now(UTC) + LATER)
    assert {verdict.kind for verdict in done.removable} == {"build", "unfinished build", "upload", "probe"}


WORK: dict[Role, Callable[[str], None]] = {
    "publisher": publishes,
    "consumer": consumes,
    "auditor": audits,
    "pruner": prunes,
}


@contextmanager
def acting(server: S3Server, allowed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In this context, the process is a user with this policy."""
    with monkeypatch.context() as settings:
        for name, value in a_user(server, allowed).items():
            settings.setenv(name, value)
        with enforced(server):
            yield
        s3.close_clients()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_can_do_its_work(server: S3Server, filled: str, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
    with acting(server, policy(role, filled), monkeypatch):
        WORK[role](filled)


def pieces(role: Role) -> list[tuple[str, str, str]]:
    """Each action that the role is granted, with each of its resources."""
    return [
        (statement["Sid"], action, resource)
        for statement in policy(role, EXAMPLE)["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
    ]


def without(allowed: dict[str, Any], sid: str, resource: str) -> dict[str, Any]:
    """The policy without one resource of one statement. Moto refuses empty statements, so those are left out."""
    less = copy.deepcopy(allowed)
    for statement in less["Statement"]:
        if statement["Sid"] == sid:
            statement["Resource"] = [one for one in statement["Resource"] if not one.endswith(resource)]
    less["Statement"] = [statement for statement in less["Statement"] if statement["Resource"]]
    return less


@pytest.mark.parametrize(
    ("role", "sid", "action", "resource"), [(role, *piece) for role in ROLES for piece in pieces(role)]
)
def test_nothing_that_a_role_is_allowed_could_be_left_out(  # noqa: PLR0913, PLR0917  the policy, piece by piece
    server: S3Server, filled: str, monkeypatch: pytest.MonkeyPatch, role: Role, sid: str, action: str, resource: str
) -> None:
    allowed = policy(role, filled)
    bucket = filled.split("/")[2]
    ending = resource.removeprefix("arn:aws:s3:::engines").removeprefix("/prod")
    less = without(allowed, sid, ending or bucket)
    assert less != allowed
    with acting(server, less, monkeypatch), pytest.raises(EngineryError, match="not allowed"):
        WORK[role](filled)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_asks_only_for_listings_that_its_policy_allows(
    server: S3Server, filled: str, proxy: Proxy, role: Role
) -> None:
    """The server ignores the condition, so the test compares the requests with it."""
    proxy.requests.clear()
    WORK[role](filled)
    (patterns,) = (
        statement["Condition"]["StringLike"]["s3:prefix"]
        for statement in policy(role, filled)["Statement"]
        if "Condition" in statement
    )
    listings = {
        parse_qs(urlsplit(path).query)["prefix"][0]
        for method, path in proxy.requests
        if method == "GET" and "list-type=2" in path
    }
    assert listings
    assert [one for one in listings if not any(fnmatchcase(one, pattern) for pattern in patterns)] == []


def granted(allowed: dict[str, Any], action: str, resource: str) -> bool:
    return any(
        action in statement["Action"] and any(fnmatchcase(resource, pattern) for pattern in statement["Resource"])
        for statement in allowed["Statement"]
    )


@pytest.mark.parametrize("role", ROLES)
def test_a_source_that_is_copied_on_the_server_may_be_read(role: Role) -> None:
    """The server ignores the source of a copy. S3 requires GetObject for it."""
    source = f"arn:aws:s3:::engines/prod/{HOME}/model_repository/a/1/model.onnx"
    assert granted(policy(role, EXAMPLE), "s3:GetObject", source)


# What each role may not do


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(RegistryError, match="not allowed"):
        call()


@pytest.mark.parametrize("role", ["consumer", "auditor"])
def test_roles_that_only_read_cannot_write_or_remove(
    server: S3Server, filled: str, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    prefix = Registry(filled).prefix
    with acting(server, policy(role, filled), monkeypatch):
        for path in (f"{HOME}/manifest.json", f"{HOME}/new", "models/tiny-llama/channels/stable/cpu-int4.json"):
            refused(lambda path=path: prefix.put_bytes(path, b"x"))  # type: ignore[misc]
            refused(lambda path=path: prefix.delete(path))  # type: ignore[misc]
        refused(lambda: Build().publish(filled))
        refused(lambda: prune(Registry(filled), Retention(keep=0), dry_run=False, now=datetime.now(UTC) + LATER))


def test_a_publisher_cannot_remove_a_build_or_a_channel(
    server: S3Server, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = Registry(filled).prefix
    with acting(server, policy("publisher", filled), monkeypatch):
        for path in (f"{HOME}/manifest.json", f"{HOME}/report.json", "models/tiny-llama/channels/candidate/cpu.json"):
            refused(lambda path=path: prefix.delete(path))  # type: ignore[misc]


def test_a_pruner_cannot_move_a_channel_or_change_a_file(
    server: S3Server, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = Registry(filled).prefix
    with acting(server, policy("pruner", filled), monkeypatch):
        refused(lambda: prefix.put_bytes("models/tiny-llama/channels/stable/cpu-int4.json", b"x"))
        refused(lambda: prefix.delete("models/tiny-llama/channels/candidate/cpu-int4.json"))
        refused(lambda: prefix.put_bytes(f"{HOME}/report.json", b"x"))


@pytest.mark.parametrize("role", ROLES)
def test_nobody_reaches_what_lies_beside_the_registry(
    server: S3Server, filled: str, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    beside = Registry(filled.replace("/prod", "/production")).prefix
    with acting(server, policy(role, filled), monkeypatch):
        refused(lambda: beside.get_bytes(f"{HOME}/manifest.json"))
        refused(lambda: beside.put_bytes(f"{HOME}/manifest.json", b"x"))
        refused(lambda: beside.delete(f"{HOME}/manifest.json"))


def test_a_user_whom_the_server_does_not_know_gets_nothing(server: S3Server, filled: str) -> None:
    with enforced(server), pytest.raises(RegistryError, match="does not accept the credentials"):
        consumes(filled)
    assert uploads(server, filled)


# The printed policies


@pytest.mark.parametrize("role", ROLES)
def test_the_examples_are_what_the_command_prints(role: Role) -> None:
    printed = CliRunner().invoke(app, ["iam", role, EXAMPLE])
    example = json.loads((CHECKOUT / "infra" / "iam" / f"{role}.json").read_text())
    assert json.loads(printed.stdout) == example, "write them anew with: make docs"


@pytest.mark.parametrize(
    ("address", "objects", "listed"),
    [
        ("s3://bucket", "arn:aws:s3:::bucket/models/*", "models/*"),
        ("s3://bucket/a/b/", "arn:aws:s3:::bucket/a/b/models/*", "a/b/models/*"),
    ],
)
def test_a_policy_is_for_one_address(address: str, objects: str, listed: str) -> None:
    read, list_bucket = policy("consumer", address)["Statement"]
    assert read["Resource"] == [objects]
    assert list_bucket["Resource"] == ["arn:aws:s3:::bucket"]
    assert list_bucket["Condition"] == {"StringLike": {"s3:prefix": [listed]}}
    assert unquote(objects) == objects


@pytest.mark.parametrize("arguments", [["emperor", EXAMPLE], ["consumer", "bucket/prefix"]])
def test_an_unknown_role_and_a_bad_address_are_refused(arguments: list[str]) -> None:
    refused = CliRunner().invoke(app, ["iam", *arguments])
    assert refused.exit_code == 2 or "is not an address in S3" in str(refused.exception)


def test_a_publisher_publishes_beside_what_it_may_not_remove(
    server: S3Server, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed publisher has left a file. The new build has no file of that name."""
    build = Build(build_id="cpu-int4-999999999999")
    Registry(filled).build_prefix("tiny-llama", build.build_id).put_bytes("model_repository/old/1/x", b"left")
    with acting(server, policy("publisher", filled), monkeypatch):
        build.publish(filled)
    assert Registry(filled).manifest("tiny-llama", build.build_id)
