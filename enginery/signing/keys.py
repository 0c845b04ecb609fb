"""Elliptic-curve keys in PEM files: the private one that signs, and the public ones that are trusted.

A key's fingerprint is the SHA-256 of its public half as PEM: what `sha256sum key.pub.pem` prints.
"""

import hashlib
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from enginery.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

SIGNING_KEY = "ENGINERY_SIGNING_KEY"
SIGNING_KEY_PASSWORD = "ENGINERY_SIGNING_KEY_PASSWORD"  # noqa: S105  the name of a variable
SHOWN_DIGITS = 16
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_MAKE_ONE = "make a key with: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


@dataclass(frozen=True)
class SigningKey:
    """A private key that can be used.

    Attributes:
        path: its PEM file.
        fingerprint: of its public half, 64 hex digits.
        password: what opens the file; None where it is not encrypted.
    """

    path: Path
    fingerprint: str
    password: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls) -> "SigningKey | None":
        """The key that `ENGINERY_SIGNING_KEY` names; None where nothing is to be signed.

        Raises:
            UsageError: when it cannot be used.
        """
        path = os.environ.get(SIGNING_KEY)
        return cls.read(Path(path)) if path else None

    @classmethod
    def read(cls, path: Path) -> "SigningKey":
        """Open a private key, with the password in `ENGINERY_SIGNING_KEY_PASSWORD` where it is encrypted.

        Raises:
            UsageError: when it cannot be read, is no private elliptic-curve key, or the password does not open it.
        """
        require_packages()
        password = os.environ.get(SIGNING_KEY_PASSWORD) or None
        private = _open_private(path, _read(path), password)
        return cls(path.expanduser().absolute(), _fingerprint(private.public_key()), password)


@dataclass(frozen=True)
class TrustedKey:
    """A public key whose signatures count.

    Attributes:
        path: its PEM file.
        fingerprint: 64 hex digits.
        pem: the key itself.
    """

    path: Path
    fingerprint: str
    pem: bytes = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> "TrustedKey":
        """Read a public key.

        Raises:
            UsageError: when it cannot be read or is no public elliptic-curve key.
        """
        require_packages()
        public = _open_public(path, _read(path))
        return cls(path, _fingerprint(public), _pem(public))


def short(fingerprint: str) -> str:
    """A fingerprint as it is shown and as it is part of a file's name."""
    return fingerprint[:SHOWN_DIGITS]


def require_packages() -> None:
    """Refuse to go on without the packages that sign and verify.

    Raises:
        UsageError: naming the extra that brings them.
    """
    if find_spec("model_signing") is None:
        remedy = "in a clone of Enginery: pip install -c constraints.txt '.[signing]'"
        raise UsageError("signatures need the package model-signing, not installed here", remedy=remedy)


def _read(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        problem = f"this key cannot be read: {error.strerror or error}"
        raise UsageError(problem, subject=str(path), remedy="correct the path, or let this user read it") from error


def _open_private(path: Path, data: bytes, password: str | None) -> "EllipticCurvePrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  not needed to make a plan
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    if b"PRIVATE KEY" not in data and b"PUBLIC KEY" in data:
        remedy = f"name the private key in {SIGNING_KEY}; the public one is for those who verify"
        raise UsageError("is a public key, which cannot sign", subject=str(path), remedy=remedy)
    try:
        key = load_pem_private_key(data, password.encode() if password else None)
    except TypeError as error:  # what the library raises for a password too many and for one that is missing
        problem, remedy = _password_problem(needed=password is None)
        raise UsageError(problem, subject=str(path), remedy=remedy) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unreadable(path, password) from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise UsageError("is not an elliptic-curve key", subject=str(path), remedy=_MAKE_ONE)
    _require_curve(path, key.curve.name)
    return key


def _password_problem(*, needed: bool) -> tuple[str, str]:
    if needed:
        return "is encrypted, and no password is given", f"set {SIGNING_KEY_PASSWORD}"
    return "is not encrypted, but a password is given", f"unset {SIGNING_KEY_PASSWORD}, or encrypt the key"


def _unreadable(path: Path, password: str | None) -> UsageError:
    if password:
        remedy = f"correct {SIGNING_KEY_PASSWORD}"
        return UsageError("cannot be opened: the password is wrong, or it is no key", subject=str(path), remedy=remedy)
    return UsageError("is not a private key in PEM", subject=str(path), remedy=_MAKE_ONE)


def _open_public(path: Path, data: bytes) -> "EllipticCurvePublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    make = f"make the public key with: openssl pkey -in key.pem -pubout -out {path.name}"
    if b"PRIVATE KEY" in data:
        problem = "is a private key where a public one belongs"
        raise UsageError(problem, subject=str(path), remedy=f"{make}; and keep the private key from those who verify")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError("is not a public key in PEM", subject=str(path), remedy=make) from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise UsageError("is not an elliptic-curve key", subject=str(path), remedy=_MAKE_ONE)
    _require_curve(path, key.curve.name)
    return key


def _require_curve(path: Path, curve: str) -> None:
    if curve not in CURVES:
        problem = f"is a key on the curve {curve}; signatures are made with {', '.join(CURVES.values())}"
        raise UsageError(problem, subject=str(path), remedy=_MAKE_ONE)


def _pem(key: "EllipticCurvePublicKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _fingerprint(key: "EllipticCurvePublicKey") -> str:
    return hashlib.sha256(_pem(key)).hexdigest()
