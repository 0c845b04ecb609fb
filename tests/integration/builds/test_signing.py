"""Tests of signatures in the registry: only what a trusted key signed is accepted, and errors give the reason."""

# ruff: noqa: F811  fixtures that are imported

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from enginery.builds.bundle import require_trusted
from enginery.builds.keys import SIGNING_KEY, SIGNING_KEY_PASSWORD, Policy, SigningKey
from enginery.cli.app import app
from enginery.core.errors import RegistryError, UsageError
from enginery.core.process.command import Command
from enginery.core.s3.objects import Prefix
from enginery.registry import Registry, publish, require_publishable
from enginery.registry.layout import is_signature, signature_path
from enginery.registry.signatures import require_signed, sign_build, trusted_manifest
from tests.support.registry.builds import Build
from tests.support.registry.keys import KeyPair, a_key_pair
from tests.support.registry.signed import Place, address, pair, published, signed, unsigned  # noqa: F401
from tests.support.s3.fixtures import bucket, server  # noqa: F401
from tests.support.s3.server import S3Server


def test_a_build_that_is_published_with_a_key_is_signed(published: Place) -> None:
    (found,) = published.check()
    assert found.path == published.signature
    assert found.path.startswith("signatures/")
    assert found.data == published.build.get_bytes(found.path)
    assert (
        trusted_manifest(published.registry, "tiny-llama", published.manifest.build_id, published.policy)
        == published.manifest
    )


def test_without_a_key_nothing_is_signed_and_without_a_policy_nothing_is_required(unsigned: Place) -> None:
    assert not list(unsigned.build.list("signatures"))
    assert unsigned.check(Policy()) == ()
    assert require_trusted(unsigned.manifest_json, [], Policy(), "it") is None


def test_a_signature_covers_the_manifest_and_every_file_that_it_names(published: Place) -> None:
    bundle = json.loads(published.check()[0].data)
    statement = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))
    covered = {file["name"]: file["digest"] for file in statement["predicate"]["resources"]}
    assert covered.pop("manifest.json")
    assert covered == {file.path: file.sha256 for file in published.manifest.files}
    assert not any(is_signature(path) for path in covered)
    assert statement["subject"][0]["name"] == published.manifest.build_id
    assert bundle["verificationMaterial"]["publicKey"]["hint"] == published.pair.fingerprint


def publish_and_die_before_the_manifest(address: str, directory: Path) -> None:
    kept = Prefix.put_bytes

    def put_bytes(self: Prefix, path: str, data: bytes, **options: Any) -> str:
        if path == "manifest.json":
            raise ConnectionError("killed here")
        return kept(self, path, data, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prefix, "put_bytes", put_bytes)
        with pytest.raises(ConnectionError):
            publish(Build().context(directory, address))


def test_the_signature_is_there_before_the_manifest(
    address: str, pair: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SIGNING_KEY, str(pair.private))
    publish_and_die_before_the_manifest(address, tmp_path)
    build = Registry(address).build_prefix("tiny-llama", Build().build_id)
    assert len(list(build.list("signatures"))) == 1
    assert build.head("manifest.json") is None


def test_what_a_publish_that_died_has_signed_does_not_harm_the_next_one(
    address: str, pair: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SIGNING_KEY, str(pair.private))
    publish_and_die_before_the_manifest(address, tmp_path)
    place = Place.published(address, pair)
    assert len(list(place.build.list("signatures"))) == 2
    assert place.check()[0].path == place.signature


def test_of_two_publishers_at_once_neither_spoils_the_signature_of_the_other(
    published: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second publisher finds no build, sends its files, signs its own manifest, and comes too late."""
    look, looks = Registry.read, iter((None, None))
    monkeypatch.setattr(Registry, "read", lambda *asked: next(looks, look) and look(*asked))
    publish(Build().context(tmp_path, published.address))
    assert len(list(published.build.list("signatures"))) == 2
    assert published.check()[0].path == published.signature


def test_publishing_a_signed_build_again_leaves_its_signature(published: Place, tmp_path: Path) -> None:
    before = published.check()
    publish(Build().context(tmp_path, published.address))
    assert published.check() == before


def test_a_build_without_a_signature_is_refused_under_a_policy(unsigned: Place) -> None:
    refusal = unsigned.refusal()
    assert "it is not signed" in refusal.problem
    assert unsigned.pair.fingerprint[:16] in refusal.problem
    assert "enginery sign" in refusal.remedy


def test_a_build_that_another_key_has_signed_is_refused_with_both_fingerprints(signed: Place, tmp_path: Path) -> None:
    trusted = a_key_pair(tmp_path, "trusted")
    refusal = signed.refusal(Policy.read(str(trusted.public)))
    assert f"signed by another key: {signed.pair.fingerprint[:16]}" in refusal.problem
    assert f"trusted: {trusted.fingerprint[:16]} (trusted.pub.pem)" in refusal.problem


def test_a_build_is_signed_later_by_command(
    unsigned: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(SIGNING_KEY, str(unsigned.pair.private))
    app(["sign", "tiny-llama/cpu-int4-0", "--registry", unsigned.address], standalone_mode=False)
    assert capsys.readouterr().out == f"{unsigned.build.where(unsigned.signature)}\n"
    assert unsigned.check()[0].path == unsigned.signature


def test_signing_by_command_needs_a_key(unsigned: Place) -> None:
    with pytest.raises(UsageError, match="no key is named"):
        app(["sign", unsigned.manifest.build_id, "--registry", unsigned.address], standalone_mode=False)


def test_keys_can_be_changed_with_both_trusted_for_a_while(signed: Place, tmp_path: Path) -> None:
    new = a_key_pair(tmp_path, "new")
    only_new, both = Policy.read(str(new.public)), Policy.read(f"{signed.pair.public}:{new.public}")
    assert signed.check(both)[0].path == signed.signature
    signed.refusal(only_new)
    sign_build(signed.build, signed.manifest_json, SigningKey.read(new.private))
    assert signed.check(only_new)[0].path == signature_path(signed.manifest_json, new.fingerprint)
    assert signed.check(signed.policy)[0].path == signed.signature


def test_a_broken_signature_by_one_trusted_key_does_not_hide_a_good_one_by_another(
    signed: Place, tmp_path: Path
) -> None:
    new = a_key_pair(tmp_path, "new")
    sign_build(signed.build, signed.manifest_json, SigningKey.read(new.private))
    signed.build.put_bytes(signed.signature, b"broken")
    both = Policy.read(f"{signed.pair.public}:{new.public}")
    assert signed.check(both)[0].path == signature_path(signed.manifest_json, new.fingerprint)


def test_an_encrypted_key_signs(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = a_key_pair(tmp_path, password="sesame-open")
    monkeypatch.setenv(SIGNING_KEY, str(pair.private))
    monkeypatch.setenv(SIGNING_KEY_PASSWORD, "sesame-open")
    assert Place.written(address, pair).check()


def test_the_password_is_in_nothing_that_is_published_logged_or_recorded(
    server: S3Server,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = a_key_pair(tmp_path / "keys", password="sesame-open")
    monkeypatch.setenv(SIGNING_KEY, str(pair.private))
    monkeypatch.setenv(SIGNING_KEY_PASSWORD, "sesame-open")
    monkeypatch.setenv("HF_TOKEN", "hf_a-secret-of-the-user")
    lines: list[str] = []
    context = Build().context(tmp_path / "step", address)
    context.log = lines.append
    facts = publish(context)
    bucket_name = address.removeprefix("s3://").split("/")[0]
    objects = [
        Prefix(Registry(address).prefix.address).get_bytes(key.removeprefix("prod/")) or b""
        for key in server.keys(bucket_name)
    ]
    outputs = [path.read_bytes() for path in context.output.iterdir()]
    everything = b"".join([*objects, *outputs, json.dumps(facts).encode(), "".join(lines).encode()])
    assert len(objects) > 10
    assert all(objects)
    assert not [
        secret for secret in (b"sesame-open", b"hf_a-secret", b"PRIVATE KEY", b"keys/key.pem") if secret in everything
    ]


def test_no_command_is_given_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIGNING_KEY_PASSWORD, "sesame-open")
    assert SIGNING_KEY_PASSWORD not in Command(["true"], cwd=None, env=None).environment
    given = {SIGNING_KEY_PASSWORD: "sesame-open", "PATH": "/usr/bin:/bin"}
    assert SIGNING_KEY_PASSWORD not in Command(["true"], cwd=None, env=given).environment


def test_a_key_that_cannot_be_used_is_found_before_anything_is_built_or_sent(
    server: S3Server,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "nowhere.pem"))
    with pytest.raises(UsageError, match="cannot be read"):
        require_publishable(Build().parameters(address))
    with pytest.raises(UsageError, match="cannot be read"):
        publish(Build().context(tmp_path, address))
    assert server.keys(address.removeprefix("s3://").split("/")[0]) == []


def test_a_user_who_may_not_list_still_finds_the_signature_of_a_trusted_key(
    signed: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a missing object, S3 answers 403 and not 404 if the user may not list the bucket."""
    unlisted(signed, monkeypatch)
    new = a_key_pair(tmp_path, "new")
    assert signed.check(Policy.read(f"{new.public}:{signed.pair.public}"))[0].path == signed.signature


def test_a_user_who_may_not_list_learns_that_no_signature_was_found(
    unsigned: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlisted(unsigned, monkeypatch)
    assert "it is not signed" in unsigned.refusal().problem


def test_a_server_that_is_away_is_not_taken_for_an_unsigned_build(
    unsigned: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = unsigned.manifest_json
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0.1")
    with pytest.raises(RegistryError, match="cannot be reached") as caught:
        require_signed(unsigned.build, data, unsigned.policy)
    assert caught.value.transient


def unlisted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer as S3 does to credentials without s3:ListBucket."""
    from enginery.core import s3

    client = s3.connection().client
    there = {f"{place.build.address.prefix}/{info.path}" for info in place.build.list()}

    def refuse(operation: str, status: int = 403) -> None:
        from botocore.exceptions import ClientError

        answer: Any = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise ClientError(answer, operation)

    class Unlisted:
        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        def list_objects_v2(self, **_options: Any) -> None:
            refuse("ListObjectsV2")

        def get_object(self, **options: Any) -> Any:
            return client.get_object(**options) if options["Key"] in there else refuse("GetObject")

    monkeypatch.setattr(s3, "client", Unlisted)
