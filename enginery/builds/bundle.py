"""One signature in the format of OpenSSF's model-signing, made and checked from digests that are known already.

model-signing brings the whole of sigstore, which takes a second to import, and is an extra of the installation.
"""

import json
import os
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from enginery.builds.keys import Policy, SigningKey, TrustedKey, short
from enginery.builds.manifest import MANIFEST_FILE, Manifest, read_manifest
from enginery.core.digests import bytes_digest
from enginery.core.errors import RegistryError
from enginery.core.late import late

if TYPE_CHECKING:
    from cryptography import exceptions as cryptography_exceptions
    from model_signing import hashing, manifest, signing, verifying
    from model_signing._hashing import hashing as hashes  # a manifest's items take no other digests
else:
    cryptography_exceptions = late("cryptography.exceptions")
    hashing, manifest = late("model_signing.hashing"), late("model_signing.manifest")
    signing, verifying = late("model_signing.signing"), late("model_signing.verifying")
    hashes = late("model_signing._hashing.hashing")

IGNORED = ("signatures",)
"""What the upstream tool passes over when it verifies a directory: the signatures themselves."""

Unreadable = (ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What model-signing raises for bytes that are no signature of its own, whatever they are instead."""


class Claim(NamedTuple):
    """What a signature says of itself; not to be believed before it is verified.

    Attributes:
        fingerprint: the key it names; empty when it names none.
        digests: paths -> SHA-256 that it covers.
    """

    fingerprint: str
    digests: Mapping[str, str]


@cache
def _hashing_config() -> Any:
    """The class of hashing configurations whose digests are known; made when model-signing is first needed."""

    class KnownDigests(hashing.Config):
        """Stands in for model-signing's reading of a directory: nothing is read again."""

        def __init__(self, digests: Mapping[str, str]) -> None:
            super().__init__()  # type: ignore[no-untyped-call]  # typed, but for this
            self.digests = digests

        def hash(
            self,
            model_path: "hashing.PathLike",
            *,
            files_to_hash: "Iterable[hashing.PathLike] | None" = None,  # noqa: ARG002  all that is known is meant
        ) -> "manifest.Manifest":
            """The digests as model-signing has them of a directory."""
            how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(IGNORED)}
            kind = manifest.SerializationType.from_args(how)
            known = ((path, hashes.Digest("sha256", bytes.fromhex(sha))) for path, sha in self.digests.items())
            items = [kind.new_item(path, digest) for path, digest in known]
            return manifest.Manifest(os.fsdecode(model_path), items, kind)

    return KnownDigests


def make_bundle(name: str, digests: Mapping[str, str], key: SigningKey) -> bytes:
    """Sign these files; `name` says of what they are, for people."""
    # The library hands the password to cryptography as it is, which takes bytes, whatever the annotation says.
    password: Any = key.password.encode() if key.password else None
    with TemporaryDirectory(prefix="enginery-") as scratch:
        made = Path(scratch) / "signature"
        signer = signing.Config().use_elliptic_key_signer(private_key=key.path, password=password)
        signer.set_hashing_config(_hashing_config()(digests)).sign(name, made)
        return made.read_bytes()


def verifies(bundle: bytes, key: TrustedKey, digests: Mapping[str, str]) -> bool:
    """Whether the signature is by this key and covers just these files with just these digests."""
    with TemporaryDirectory(prefix="enginery-") as scratch:
        signature, public = Path(scratch) / "signature", Path(scratch) / "key"
        signature.write_bytes(bundle)
        public.write_bytes(key.pem)
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
        try:
            verifier.set_hashing_config(_hashing_config()(digests)).verify("build", signature)
        except (cryptography_exceptions.InvalidSignature, *Unreadable):
            return False
    return True


def read_claim(bundle: bytes) -> Claim | None:
    """What a signature says of itself, or None when the bytes are no signature, or only a part of one."""
    try:
        plain = json.loads(bundle)
        statement = json.loads(b64decode(plain["dsseEnvelope"]["payload"], validate=True))
        digests = {str(file["name"]): str(file["digest"]) for file in statement["predicate"]["resources"]}
        return Claim(str(plain["verificationMaterial"]["publicKey"].get("hint") or ""), digests)
    except Unreadable:
        return None


# Whether a build is what a trusted key has signed: the manifest byte for byte, and each file that it names.


SHOWN = 3


class SignatureFile(NamedTuple):
    """A signature as it lies beside a build: its path there, and its bytes."""

    path: str
    data: bytes


def signed_digests(manifest: Manifest, manifest_json: bytes) -> dict[str, str]:
    """What a signature of a build covers: paths -> SHA-256 of every file, and of the manifest's own bytes."""
    return {**{file.path: file.sha256 for file in manifest.files}, MANIFEST_FILE: bytes_digest(manifest_json)}


def require_trusted(
    manifest_json: bytes, signatures: Sequence[SignatureFile], policy: Policy, subject: str
) -> SignatureFile | None:
    """Make sure that a trusted key has signed just this manifest and the files that it names.

    Args:
        manifest_json: the manifest's bytes, as they were read.
        signatures: those that lie beside it.
        policy: the keys that are trusted; with none, nothing is required and None is returned.
        subject: names the manifest in messages.

    Raises:
        RegistryError: when no signature does: what is wrong with those that are there.
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


class _Problem(NamedTuple):
    """What is wrong with a signature; the one that is graver is told first."""

    gravity: int
    text: str


def _problem(signature: SignatureFile, policy: Policy, digests: Mapping[str, str]) -> _Problem | None:
    """What is wrong with a signature; None for one that is good."""
    claim = read_claim(signature.data)
    if claim is None:
        return _Problem(1, f"{signature.path} is not a whole signature")
    key = policy.key(claim.fingerprint)
    if key is None:
        return _Problem(0, f"it is signed by another key: {short(claim.fingerprint) or 'one it does not name'}")
    if verifies(signature.data, key, digests):
        return None
    if verifies(signature.data, key, claim.digests):
        return _Problem(3, f"what {short(key.fingerprint)} signed is other than {_different(claim.digests, digests)}")
    return _Problem(2, f"{signature.path} was altered: it is not by the key that it names, {short(key.fingerprint)}")


def _different(signed: Mapping[str, str], found: Mapping[str, str]) -> str:
    """The files that were signed otherwise; the manifest, which changes with any of them, only when it is alone."""
    paths = sorted(path for path in signed.keys() | found.keys() if signed.get(path) != found.get(path))
    files = [path for path in paths if path != MANIFEST_FILE] or paths
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return f"{', '.join(files[:SHOWN])}{more} here"


def _refused(problems: Iterable[_Problem], policy: Policy, subject: str) -> RegistryError:
    told = sorted(set(problems), reverse=True)
    what = "; ".join(problem.text for problem in told[:SHOWN]) or "it is not signed"
    if told and told[0].gravity:
        remedy = "do not use this build: find out who changed it, and publish it again"
    else:
        remedy = "sign it with a trusted key (`enginery sign`), or trust its key, if you know whose it is"
    return RegistryError(
        f"no trusted key has signed this: {what}; trusted: {policy.shown}", subject=subject, remedy=remedy
    )
