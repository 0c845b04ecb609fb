"""Any change in the bucket after the signature is noticed, and the error names it."""

# ruff: noqa: F811  fixtures that are imported

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginery.builds.bundle import require_trusted
from enginery.builds.keys import SIGNING_KEY, Policy
from enginery.core.digests import bytes_digest
from enginery.core.errors import RegistryError
from enginery.registry import publish
from enginery.registry.layout import signature_path
from enginery.registry.signatures import require_signed
from tests.support.registry.builds import Build
from tests.support.registry.keys import a_key_pair
from tests.support.registry.signed import ORDER, OTHER, Place, address, pair, published, signed  # noqa: F401
from tests.support.s3.fixtures import bucket, server  # noqa: F401


def test_a_manifest_that_was_edited_is_noticed(signed: Place) -> None:
    target = json.loads(signed.manifest_json)["target"]
    signed.edit_manifest(target={**target, "gpu": "H100-SXM5-80GB"})
    refusal = signed.refusal()
    assert "does not match manifest.json here" in refusal.problem
    assert "do not use this build" in refusal.remedy


def test_an_edited_manifest_whose_signature_was_given_the_new_name_is_noticed(signed: Place) -> None:
    data = signed.check()[0].data
    signed.edit_manifest(channel="stable")
    signed.build.put_bytes(signed.signature, data)
    assert "does not match manifest.json here" in signed.refusal().problem


def test_a_digest_that_was_changed_in_the_manifest_is_noticed_whichever_file_it_is_of(signed: Place) -> None:
    manifest, signatures = json.loads(signed.manifest_json), signed.check()
    assert len(manifest["files"]) == len(ORDER)
    for file in manifest["files"]:
        changed = {**file, "sha256": f"{int(file['sha256'], 16) ^ 1:064x}"}
        files = [changed if one is file else one for one in manifest["files"]]
        data = json.dumps({**manifest, "files": files}).encode()
        with pytest.raises(RegistryError, match=f"does not match {re.escape(file['path'])} here"):
            require_trusted(data, signatures, signed.policy, "it")


def test_a_file_that_was_slipped_into_the_manifest_is_noticed(signed: Place) -> None:
    files = json.loads(signed.manifest_json)["files"]
    added = {"path": "model_repository/ensemble/1/extra.py", "sha256": "0" * 64, "size": 1}
    signed.edit_manifest(files=[*files, added])
    assert "model_repository/ensemble/1/extra.py here" in signed.refusal().problem


def test_a_signature_of_another_build_does_not_count(published: Place) -> None:
    other = Build(build_id=OTHER).publish(published.address)
    theirs = published.registry.build_prefix("tiny-llama", OTHER)
    (signature,) = require_signed(theirs, published.registry.manifest_json("tiny-llama", OTHER), published.policy)
    assert other.build_id == OTHER
    published.build.put_bytes(published.signature, signature.data)
    assert "does not match" in published.refusal().problem


def test_the_signature_from_before_a_build_was_removed_and_published_again_does_not_count(
    published: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SIGNING_KEY)
    published.build.delete("manifest.json")
    publish(Build().context(tmp_path, published.address))
    assert "does not match manifest.json here" in published.refusal().problem


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_signature_that_was_cut_off_does_not_count(signed: Place, kept: float) -> None:
    data = signed.check()[0].data
    signed.build.put_bytes(signed.signature, data[: int(len(data) * kept)])
    assert f"{signed.signature} is not a whole signature" in signed.refusal().problem


@pytest.mark.parametrize("data", [b"[]", b"{}", b"null", b'{"dsseEnvelope": 3}', b"\xff\xfe", b'{"dsseEnvelope": []}'])
def test_what_is_no_signature_does_not_count(signed: Place, data: bytes) -> None:
    signed.build.put_bytes(signed.signature, data)
    assert "is not a whole signature" in signed.refusal().problem


def altered(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    bundle = json.loads(data)
    change(bundle)
    return json.dumps(bundle).encode()


def _other_payload(bundle: dict[str, Any]) -> None:
    envelope = bundle["dsseEnvelope"]
    envelope["payload"] = b64encode(b64decode(envelope["payload"]) + b" ").decode()


def _other_signature(bundle: dict[str, Any]) -> None:
    one = bundle["dsseEnvelope"]["signatures"][0]
    raw = bytearray(b64decode(one["sig"]))
    raw[-1] ^= 1
    one["sig"] = b64encode(bytes(raw)).decode()


def _no_signature(bundle: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["signatures"] = []


def _other_kind(bundle: dict[str, Any]) -> None:
    bundle["mediaType"] = "application/vnd.dev.sigstore.bundle.v9+json"


@pytest.mark.parametrize("change", [_other_payload, _other_signature, _no_signature, _other_kind])
def test_a_signature_that_was_altered_does_not_count(signed: Place, change: Callable[[dict[str, Any]], object]) -> None:
    signed.build.put_bytes(signed.signature, altered(signed.check()[0].data, change))
    assert f"{signed.signature} was altered" in signed.refusal().problem


def test_a_payload_that_covers_the_new_manifest_under_the_old_signature_does_not_count(signed: Place) -> None:
    """An attacker without a key replaces the signed payload and keeps the bytes of the signature."""
    data = signed.check()[0].data
    old = bytes_digest(signed.manifest_json)
    signed.edit_manifest(channel="stable")

    def cover(bundle: dict[str, Any]) -> None:
        envelope = bundle["dsseEnvelope"]
        statement = b64decode(envelope["payload"]).replace(old.encode(), bytes_digest(signed.manifest_json).encode())
        envelope["payload"] = b64encode(statement).decode()

    signed.build.put_bytes(signed.signature, altered(data, cover))
    assert "was altered" in signed.refusal().problem


def test_a_signature_that_only_says_it_is_by_a_trusted_key_does_not_count(signed: Place, tmp_path: Path) -> None:
    trusted = a_key_pair(tmp_path, "trusted")

    def pretend(bundle: dict[str, Any]) -> None:
        bundle["verificationMaterial"]["publicKey"]["hint"] = trusted.fingerprint

    path = signature_path(signed.manifest_json, trusted.fingerprint)
    signed.build.put_bytes(path, altered(signed.check()[0].data, pretend))
    assert "was altered" in signed.refusal(Policy.read(str(trusted.public))).problem


def test_a_signature_that_names_no_key_does_not_count(signed: Place) -> None:
    def forget(bundle: dict[str, Any]) -> None:
        del bundle["verificationMaterial"]["publicKey"]["hint"]

    signed.build.put_bytes(signed.signature, altered(signed.check()[0].data, forget))
    assert "another key: one that it does not name" in signed.refusal().problem
