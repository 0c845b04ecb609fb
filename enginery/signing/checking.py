"""Whether a build is what a trusted key has signed: the manifest byte for byte, and each file that it names."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from enginery.digests import bytes_digest
from enginery.errors import RegistryError
from enginery.manifest import MANIFEST_FILE, Manifest, read_manifest
from enginery.signing.keys import short
from enginery.signing.policy import Policy

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
    from enginery.signing.bundles import read_claim, verifies  # noqa: PLC0415  seconds to import

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
