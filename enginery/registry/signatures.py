"""Signatures beside a published build: one object for each key that has signed the manifest.

The object's name is made from the manifest's digest and the key's fingerprint. So a signature is found without a
listing, several keys can sign a build, and two publishers at once do not overwrite each other's signature.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from enginery.builds import (
    MANIFEST,
    Manifest,
    Policy,
    SignatureFile,
    SigningKey,
    make_bundle,
    read_manifest,
    require_trusted,
    signed_digests,
)
from enginery.core.errors import RegistryError
from enginery.core.s3 import Prefix, is_denied
from enginery.registry.layout import SIGNATURES, signature_path
from enginery.registry.registry import Registry

T = TypeVar("T")


def sign_build(prefix: Prefix, manifest_json: bytes, key: SigningKey) -> str:
    """Sign a build: the manifest, and the digests of the files that it names. Returns the path of the signature.

    Raises:
        RegistryError: when the manifest is not valid, or the signature cannot be written.
    """
    manifest = read_manifest(manifest_json, subject=prefix.where(MANIFEST))
    path = signature_path(manifest_json, key.fingerprint)
    prefix.put_bytes(path, make_bundle(manifest.build_id, signed_digests(manifest, manifest_json), key))
    return path


def sign_if_configured(prefix: Prefix, manifest_json: bytes) -> None:
    """Sign a build if `ENGINERY_SIGNING_KEY` is set. Call it before the manifest is written.

    Raises:
        UsageError: when the key cannot be used.
        RegistryError: when the signature cannot be written.
    """
    if key := SigningKey.from_environment():
        sign_build(prefix, manifest_json, key)


def require_signed(prefix: Prefix, manifest_json: bytes, policy: Policy) -> tuple[SignatureFile, ...]:
    """Make sure that a trusted key has signed the build at `prefix`.

    Args:
        prefix: the prefix of the build.
        manifest_json: the manifest's bytes; the caller must use exactly these bytes afterwards.
        policy: the trusted keys; with none, no signature is required or fetched.

    Returns:
        The accepted signature, which a pull keeps beside the manifest; empty when no signature is required.

    Raises:
        RegistryError: when the build is not signed, only other keys have signed it, or other bytes were signed.
    """
    if not policy.required:
        return ()
    expected = [signature_path(manifest_json, key.fingerprint) for key in policy.keys]
    signatures = _read(prefix, expected)
    if not signatures:
        listed = _unless_denied(lambda: [info.path for info in prefix.list(SIGNATURES)])
        signatures = _read(prefix, listed or ())
    found = require_trusted(manifest_json, signatures, policy, prefix.where(MANIFEST))
    return (found,) if found else ()


def trusted_manifest(registry: Registry, model: str, build_id: str, policy: Policy) -> Manifest:
    """The manifest of a published build, read from the bytes that a trusted key has signed.

    Raises:
        RegistryError: when there is no such build, or no trusted key has signed it.
    """
    data = registry.manifest_json(model, build_id)
    require_signed(registry.build_prefix(model, build_id), data, policy)
    return registry.parse(model, build_id, data)


def _read(prefix: Prefix, paths: Iterable[str]) -> list[SignatureFile]:
    found = ((path, _unless_denied(partial(prefix.get_bytes, path))) for path in paths)
    return [SignatureFile(path, data) for path, data in found if data is not None]


def _unless_denied(read: Callable[[], T]) -> T | None:
    """The result of `read`; None when S3 denies it, as it does for a missing object if the user may not list."""
    try:
        return read()
    except RegistryError as error:
        if is_denied(error):
            return None
        raise
