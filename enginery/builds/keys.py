"""Elliptic-curve keys in PEM files: the private key that signs builds, and the public keys that are trusted.

A key's fingerprint is the SHA-256 of its public key in PEM, as `sha256sum key.pub.pem` prints it.
"""

import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from enginery.core.digests import bytes_digest
from enginery.core.errors import UsageError
from enginery.core.late import late

if TYPE_CHECKING:
    from cryptography import exceptions as cryptography_exceptions
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
else:
    cryptography_exceptions = late("cryptography.exceptions")
    ec = late("cryptography.hazmat.primitives.asymmetric.ec")
    serialization = late("cryptography.hazmat.primitives.serialization")

SIGNING_KEY = "ENGINERY_SIGNING_KEY"
SIGNING_KEY_PASSWORD = "ENGINERY_SIGNING_KEY_PASSWORD"  # noqa: S105  the name of a variable
SHOWN_DIGITS = 16
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
TRUSTED_KEYS = "ENGINERY_TRUSTED_KEYS"
ENDINGS = (".pem", ".pub")
"""In a directory of keys, the files with these endings are read."""
MAKE_A_KEY = "make a key with: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


@dataclass(frozen=True)
class SigningKey:
    """A private key that has been opened.

    Attributes:
        path: its PEM file.
        fingerprint: the fingerprint of its public key, 64 hex digits.
        password: the password of the file; None when the file is not encrypted.
    """

    path: Path
    fingerprint: str
    password: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls) -> "SigningKey | None":
        """Read the key that `ENGINERY_SIGNING_KEY` names; None when the variable is not set."""
        path = os.environ.get(SIGNING_KEY)
        return cls.read(Path(path)) if path else None

    @classmethod
    def read(cls, path: Path) -> "SigningKey":
        """Read a private key, with the password in `ENGINERY_SIGNING_KEY_PASSWORD` if it is encrypted.

        Raises:
            UsageError: when the file cannot be read, is not a private elliptic-curve key, or the password is wrong.
        """
        _require_packages()
        password = os.environ.get(SIGNING_KEY_PASSWORD) or None
        private = _open_private(path, _read(path), password)
        return cls(path.expanduser().absolute(), bytes_digest(_pem(private.public_key())), password)


@dataclass(frozen=True)
class TrustedKey:
    """A public key whose signatures are accepted.

    Attributes:
        path: its PEM file.
        fingerprint: 64 hex digits.
        pem: the key in PEM.
    """

    path: Path
    fingerprint: str
    pem: bytes = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> "TrustedKey":
        """Read a public key.

        Raises:
            UsageError: when the file cannot be read or is not a public elliptic-curve key.
        """
        _require_packages()
        pem = _pem(_open_public(path, _read(path)))
        return cls(path, bytes_digest(pem), pem)


@dataclass(frozen=True)
class Policy:
    """The trusted keys. One of them must have signed a build. Without any key, no signature is required."""

    keys: tuple[TrustedKey, ...] = ()

    @classmethod
    def chosen(cls, option: str | None = None) -> "Policy":
        """Read the keys that a command's option names; without the option, those of `ENGINERY_TRUSTED_KEYS`."""
        return cls.read(os.environ.get(TRUSTED_KEYS) if option is None else option)

    @classmethod
    def read(cls, places: str | None) -> "Policy":
        """Read the keys in files or directories, separated by colons; for None, no signature is required.

        Raises:
            UsageError: when no keys are found, or a key cannot be used; no key is skipped.
        """
        if places is None:
            return cls()
        named = [Path(place).expanduser() for place in places.split(os.pathsep) if place.strip()]
        if not named:
            raise UsageError("is set but names no keys", subject=TRUSTED_KEYS, remedy="name some, or unset it")
        keys = (TrustedKey.read(file) for place in named for file in _files(place))
        return cls(tuple({key.fingerprint: key for key in keys}.values()))

    @property
    def required(self) -> bool:
        """Whether a build must be signed."""
        return bool(self.keys)

    @property
    def shown(self) -> str:
        """The trusted keys, for errors."""
        return ", ".join(f"{short(key.fingerprint)} ({key.path.name})" for key in self.keys)

    def key(self, fingerprint: str) -> TrustedKey | None:
        """The trusted key with that fingerprint."""
        return next((key for key in self.keys if key.fingerprint == fingerprint), None)


def short(fingerprint: str) -> str:
    """A fingerprint, shortened for errors and file names."""
    return fingerprint[:SHOWN_DIGITS]


def _require_packages() -> None:
    """Make sure that the packages that sign and verify are installed."""
    if find_spec("model_signing") is None:
        remedy = "in a clone of Enginery: pip install -c constraints.txt '.[signing]'"
        raise UsageError("signatures need the package model-signing, not installed here", remedy=remedy)


def _read(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        problem = f"this key cannot be read: {error.strerror or error}"
        raise UsageError(problem, subject=str(path), remedy="correct the path, or let this user read it") from error


def _open_private(path: Path, data: bytes, password: str | None) -> "ec.EllipticCurvePrivateKey":
    if b"PRIVATE KEY" not in data and b"PUBLIC KEY" in data:
        remedy = f"name the private key in {SIGNING_KEY}; the public one is for those who verify"
        raise UsageError("is a public key, which cannot sign", subject=str(path), remedy=remedy)
    try:
        key = serialization.load_pem_private_key(data, password.encode() if password else None)
    except (TypeError, ValueError, cryptography_exceptions.UnsupportedAlgorithm) as error:
        problem, remedy = _cannot_open(error, password)
        raise UsageError(problem, subject=str(path), remedy=remedy) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise _unfit(path, key)
    return key


def _cannot_open(error: Exception, password: str | None) -> tuple[str, str]:
    """What is wrong with a private key, and the remedy."""
    if isinstance(error, TypeError):  # raised for a missing password, and for a password that is not needed
        if password is None:
            return "is encrypted, and no password is given", f"set {SIGNING_KEY_PASSWORD}"
        return "is not encrypted, but a password is given", f"unset {SIGNING_KEY_PASSWORD}, or encrypt the key"
    if password:
        return "cannot be opened: the password is wrong, or the file is no key", f"correct {SIGNING_KEY_PASSWORD}"
    return "is not a private key in PEM", MAKE_A_KEY


def _open_public(path: Path, data: bytes) -> "ec.EllipticCurvePublicKey":
    make = f"make the public key with: openssl pkey -in key.pem -pubout -out {path.name}"
    if b"PRIVATE KEY" in data:
        problem = "is a private key where a public one belongs"
        raise UsageError(problem, subject=str(path), remedy=f"{make}; do not give the private key to those who verify")
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, cryptography_exceptions.UnsupportedAlgorithm) as error:
        raise UsageError("is not a public key in PEM", subject=str(path), remedy=make) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise _unfit(path, key)
    return key


def _unfit(path: Path, key: object) -> UsageError:
    """The error for a key of another kind, or on a curve that signatures cannot use."""
    problem = "is not an elliptic-curve key"
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        problem = f"is a key on the curve {key.curve.name}; signatures are made with {', '.join(CURVES.values())}"
    return UsageError(problem, subject=str(path), remedy=MAKE_A_KEY)


def _pem(key: "ec.EllipticCurvePublicKey") -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    found = sorted(file for file in place.iterdir() if file.suffix in ENDINGS and file.is_file())
    if not found:
        problem = f"this directory holds no keys ({' or '.join(f'*{ending}' for ending in ENDINGS)})"
        raise UsageError(problem, subject=str(place), remedy="put the trusted public keys into it")
    return found
