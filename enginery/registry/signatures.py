"""Signatures beside a published build: one file for each key that has signed one manifest.

The names are made from the manifest's digest and the key's fingerprint. So they are found without listing, several keys
can sign, and of two publishers at once neither writes over the signature of the other's manifest.
"""

from enginery.builds import (
    MANIFEST_FILE,
    Manifest,
    Policy,
    SignatureFile,
    SigningKey,
    make_bundle,
    read_manifest,
    require_trusted,
    short,
    signed_digests,
)
from enginery.core.digests import bytes_digest
from enginery.core.errors import RegistryError
from enginery.core.s3 import Prefix, is_denied
from enginery.registry.registry import Registry

SIGNATURES = "signatures"


def signature_path(manifest_json: bytes, fingerprint: str) -> str:
    """Where a key's signature of a manifest lies, relative to the build."""
    return f"{SIGNATURES}/{short(bytes_digest(manifest_json))}-{short(fingerprint)}.sig"


def is_signature(path: str) -> bool:
    """Whether a path in a build is that of a signature: no manifest lists those."""
    return path.startswith(f"{SIGNATURES}/")


def sign_build(prefix: Prefix, manifest_json: bytes, key: SigningKey) -> str:
    """Sign a build, the files by the digests that its manifest names; returns the path of the signature.

    Raises:
        RegistryError: when it is no manifest, or the signature cannot be written.
    """
    manifest = read_manifest(manifest_json, subject=prefix.where(MANIFEST_FILE))
    path = signature_path(manifest_json, key.fingerprint)
    prefix.put_bytes(path, make_bundle(manifest.build_id, signed_digests(manifest, manifest_json), key))
    return path


def sign_when_asked(prefix: Prefix, manifest_json: bytes) -> None:
    """Sign a build if `ENGINERY_SIGNING_KEY` is set; to be called before the manifest is written.

    Raises:
        UsageError: when the key cannot be used.
        RegistryError: when the signature cannot be written.
    """
    if key := SigningKey.from_environment():
        sign_build(prefix, manifest_json, key)


def require_signed(prefix: Prefix, manifest_json: bytes, policy: Policy) -> tuple[SignatureFile, ...]:
    """Make sure that a trusted key has signed the build at `prefix`; its signature is fetched.

    Args:
        prefix: the build.
        manifest_json: the manifest's bytes as they were read, and as they will be used.
        policy: the keys that are trusted; with none, nothing is required or fetched.

    Returns:
        The signature that counts, to be kept beside the manifest; nothing where none is required.

    Raises:
        RegistryError: when none has: not signed, by other keys only, or other bytes than these.
    """
    if not policy.required:
        return ()
    signatures = _by_trusted_keys(prefix, manifest_json, policy) or _all(prefix)
    found = require_trusted(manifest_json, signatures, policy, prefix.where(MANIFEST_FILE))
    return (found,) if found else ()


def trusted_manifest(registry: "Registry", model: str, build_id: str, policy: Policy) -> Manifest:
    """The manifest of a published build, from the very bytes that a trusted key has signed.

    Raises:
        RegistryError: when there is no such build, or no trusted key has signed it.
    """
    data = registry.manifest_json(model, build_id)
    require_signed(registry.build_prefix(model, build_id), data, policy)
    return registry.parse(model, build_id, data)


def _by_trusted_keys(prefix: Prefix, manifest_json: bytes, policy: Policy) -> list[SignatureFile]:
    paths = [signature_path(manifest_json, key.fingerprint) for key in policy.keys]
    found = ((path, _get(prefix, path)) for path in paths)
    return [SignatureFile(path, data) for path, data in found if data is not None]


def _get(prefix: Prefix, path: str) -> bytes | None:
    """A signature; None when it is not there, which S3 answers with a refusal to who may not list the bucket."""
    try:
        return prefix.get_bytes(path)
    except RegistryError as error:
        if is_denied(error):
            return None
        raise


def _all(prefix: Prefix) -> list[SignatureFile]:
    """Every signature there is, of whatever it is, to say why none of them counts; none to who may not list."""
    try:
        paths = [info.path for info in prefix.list(SIGNATURES)]
    except RegistryError as error:
        if is_denied(error):
            return []
        raise
    found = ((path, _get(prefix, path)) for path in paths)
    return [SignatureFile(path, data) for path, data in found if data is not None]
