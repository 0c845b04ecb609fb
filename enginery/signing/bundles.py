"""One signature in the format of OpenSSF's model-signing, made and checked from digests that are known already.

Importing this takes seconds, as model-signing brings the whole of sigstore: do it inside functions.
"""

import json
import os
from base64 import b64decode
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from model_signing import hashing, manifest, signing, verifying
from model_signing._hashing.hashing import Digest  # a manifest's items take nothing else

from enginery.signing.keys import SigningKey, TrustedKey

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


class _KnownDigests(hashing.Config):
    """Stands in for model-signing's reading of a directory: the digests are known, nothing is read again."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # typed, but for this
        self.digests = digests

    def hash(
        self,
        model_path: hashing.PathLike,
        *,
        files_to_hash: Iterable[hashing.PathLike] | None = None,  # noqa: ARG002  everything that is known is meant
    ) -> manifest.Manifest:
        """The digests as model-signing has them of a directory."""
        how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(IGNORED)}
        kind = manifest.SerializationType.from_args(how)
        items = [kind.new_item(path, Digest("sha256", bytes.fromhex(sha))) for path, sha in self.digests.items()]
        return manifest.Manifest(os.fsdecode(model_path), items, kind)


def make_bundle(name: str, digests: Mapping[str, str], key: SigningKey) -> bytes:
    """Sign these files; `name` says of what they are, for people."""
    # The library hands the password to cryptography as it is, which takes bytes, whatever the annotation says.
    password: Any = key.password.encode() if key.password else None
    with TemporaryDirectory(prefix="enginery-") as scratch:
        made = Path(scratch) / "signature"
        signer = signing.Config().use_elliptic_key_signer(private_key=key.path, password=password)
        signer.set_hashing_config(_KnownDigests(digests)).sign(name, made)
        return made.read_bytes()


def verifies(bundle: bytes, key: TrustedKey, digests: Mapping[str, str]) -> bool:
    """Whether the signature is by this key and covers just these files with just these digests."""
    with TemporaryDirectory(prefix="enginery-") as scratch:
        signature, public = Path(scratch) / "signature", Path(scratch) / "key"
        signature.write_bytes(bundle)
        public.write_bytes(key.pem)
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
        try:
            verifier.set_hashing_config(_KnownDigests(digests)).verify("build", signature)
        except (InvalidSignature, *Unreadable):
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
