"""Key pairs in PEM files, as openssl writes them."""

from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from enginery.builds.keys import TrustedKey


class KeyPair(NamedTuple):
    private: Path
    public: Path

    @property
    def fingerprint(self) -> str:
        return TrustedKey.read(self.public).fingerprint


def a_key_pair(
    directory: Path, name: str = "key", *, curve: ec.EllipticCurve | None = None, password: str = ""
) -> KeyPair:
    """A pair on the curve P-256, or on another one."""
    return _written(directory, name, ec.generate_private_key(curve or ec.SECP256R1()), password)


def an_rsa_pair(directory: Path) -> KeyPair:
    return _written(directory, "rsa", rsa.generate_private_key(public_exponent=65537, key_size=2048), "")


def _written(directory: Path, name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: str) -> KeyPair:
    directory.mkdir(parents=True, exist_ok=True)
    pair = KeyPair(directory / f"{name}.pem", directory / f"{name}.pub.pem")
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    pair.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    pair.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return pair
