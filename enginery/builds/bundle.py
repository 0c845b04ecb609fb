"""Signatures in the format of OpenSSF's model-signing: makes them from known digests, and checks them.

A signature covers the digest of the manifest and the digest of each file that the manifest names. The package
model-signing is an optional extra of the installation. It imports all of sigstore, which takes a second.
"""

import json
import os
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from enginery.builds.keys import Policy, SigningKey, TrustedKey, short
from enginery.builds.manifest import MANIFEST, Manifest, read_manifest
from enginery.core.digests import bytes_digest
from enginery.core.errors import RegistryError
from enginery.core.late import late
from enginery.core.text import first_of

if TYPE_CHECKING:
    from cryptography import exceptions as cryptography_exceptions
    from model_signing import hashing, manifest, signing, verifying
    from model_signing._hashing import hashing as hashes  # a manifest's items take no other digests
else:
    cryptography_exceptions = late("cryptography.exceptions")
    hashing, manifest = late("model_signing.hashing"), late("model_signing.manifest")
    signing, verifying = late("model_signing.signing"), late("model_signing.verifying")
    hashes = late("model_signing._hashing.hashing")

SHOWN = 3
"""The largest number of problems, and of files, that an error names."""
IGNORED = ("signatures",)
"""The directories that model-signing's own tool must ignore when it verifies a build: the signatures themselves."""

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError)
"""The errors that model-signing raises for bytes that are not a signature in its format."""


class SignatureFile(NamedTuple):
    """A signature of a build: its path relative to the build, and its bytes."""

    path: str
    data: bytes


class SignatureClaim(NamedTuple):
    """The content of a signature. It must not be trusted before the signature is verified.

    Attributes:
        fingerprint: the fingerprint of the key that the signature names; empty when it names none.
        digests: the files that the signature covers: path -> SHA-256.
    """

    fingerprint: str
    digests: Mapping[str, str]


def require_trusted(
    manifest_json: bytes, signatures: Sequence[SignatureFile], policy: Policy, subject: str
) -> SignatureFile | None:
    """The signature by which a trusted key has signed exactly this manifest and the files that it names.

    Args:
        manifest_json: the manifest's bytes, as they were read.
        signatures: the signatures beside the manifest.
        policy: the trusted keys; with none, no signature is required and None is returned.
        subject: the manifest's name in errors.

    Raises:
        RegistryError: when no signature is good; says what is wrong with each of them.
    """
    if not policy.required:
        return None
    digests = signed_digests(read_manifest(manifest_json, subject=subject), manifest_json)
    problems = []
    for signature in signatures:
        problem = _problem(signature, policy, digests)
        if problem is None:
            return signature
        problems.append(problem)
    raise _refused(problems, policy, subject)


def signed_digests(manifest: Manifest, manifest_json: bytes) -> dict[str, str]:
    """The digests that a signature of a build covers: path -> SHA-256 of every file and of the manifest."""
    return {**{file.path: file.sha256 for file in manifest.files}, MANIFEST: bytes_digest(manifest_json)}


def make_bundle(name: str, digests: Mapping[str, str], key: SigningKey) -> bytes:
    """Sign these digests with `key`; `name` is the name of the build in the signature."""
    # The library's annotation says str, but it passes the password on to cryptography, which takes bytes.
    password: Any = key.password.encode() if key.password else None
    with TemporaryDirectory(prefix="enginery-") as scratch:
        made = Path(scratch) / "signature"
        signer = signing.Config().use_elliptic_key_signer(private_key=key.path, password=password)
        signer.set_hashing_config(_hashing_config(digests)).sign(name, made)
        return made.read_bytes()


def verifies(bundle: bytes, key: TrustedKey, digests: Mapping[str, str]) -> bool:
    """Whether `key` made the signature, and it covers exactly these files with these digests."""
    with TemporaryDirectory(prefix="enginery-") as scratch:
        signature, public = Path(scratch) / "signature", Path(scratch) / "key"
        signature.write_bytes(bundle)
        public.write_bytes(key.pem)
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
        try:
            verifier.set_hashing_config(_hashing_config(digests)).verify("build", signature)
        except (cryptography_exceptions.InvalidSignature, *UNREADABLE):
            return False
    return True


def read_claim(bundle: bytes) -> SignatureClaim | None:
    """Read a signature without verifying it; None when the bytes are not a whole signature."""
    try:
        plain = json.loads(bundle)
        statement = json.loads(b64decode(plain["dsseEnvelope"]["payload"], validate=True))
        digests = {str(file["name"]): str(file["digest"]) for file in statement["predicate"]["resources"]}
        return SignatureClaim(str(plain["verificationMaterial"]["publicKey"].get("hint") or ""), digests)
    except UNREADABLE:
        return None


def _problem(signature: SignatureFile, policy: Policy, digests: Mapping[str, str]) -> tuple[int, str] | None:
    """The severity of a signature's problem, 1 to 3, and its text; None when the signature is good."""
    claim = read_claim(signature.data)
    if claim is None:
        return (1, f"{signature.path} is not a whole signature")
    key = policy.key(claim.fingerprint)
    if key is None:
        return (0, f"it is signed by another key: {short(claim.fingerprint) or 'one that it does not name'}")
    if verifies(signature.data, key, digests):
        return None
    if verifies(signature.data, key, claim.digests):
        return (3, f"the signature by {short(key.fingerprint)} does not match {_different(claim.digests, digests)}")
    return (2, f"{signature.path} was altered: the key that it names, {short(key.fingerprint)}, did not make it")


def _different(signed: Mapping[str, str], found: Mapping[str, str]) -> str:
    """The files that differ from what was signed. The manifest is only named when no other file differs."""
    paths = sorted(path for path in signed.keys() | found.keys() if signed.get(path) != found.get(path))
    files = [path for path in paths if path != MANIFEST] or paths
    return f"{first_of(files, SHOWN)} here"


def _refused(problems: Iterable[tuple[int, str]], policy: Policy, subject: str) -> RegistryError:
    gravest = sorted(set(problems), reverse=True)
    what = "; ".join(problem for _, problem in gravest[:SHOWN]) or "it is not signed"
    if gravest and gravest[0][0]:
        remedy = "do not use this build: find out who changed it, and publish it again"
    else:
        remedy = "sign it with a trusted key (`enginery sign`), or trust its key, if you know whose it is"
    problem = f"no trusted key has signed this: {what}; trusted: {policy.shown}"
    return RegistryError(problem, subject=subject, remedy=remedy)


def _hashing_config(digests: Mapping[str, str]) -> "hashing.Config":
    """A configuration with which model-signing uses these digests and does not read the files."""

    def known_digests(model_path: "hashing.PathLike", **_: Any) -> "manifest.Manifest":
        how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(IGNORED)}
        kind = manifest.SerializationType.from_args(how)
        known = ((path, hashes.Digest("sha256", bytes.fromhex(sha))) for path, sha in digests.items())
        items = [kind.new_item(path, digest) for path, digest in known]
        return manifest.Manifest(os.fsdecode(model_path), items, kind)

    config = hashing.Config()
    config.hash = known_digests  # type: ignore[method-assign]
    return config
