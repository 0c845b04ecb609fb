"""Whose signatures are required: the public keys that whoever pulls or rolls out trusts."""

import os
from dataclasses import dataclass
from pathlib import Path

from enginery.errors import UsageError
from enginery.signing.keys import TrustedKey, short

TRUSTED_KEYS = "ENGINERY_TRUSTED_KEYS"
ENDINGS = (".pem", ".pub")
"""The files of a directory that are taken for keys."""


@dataclass(frozen=True)
class Policy:
    """The keys that are trusted: with any, a build must be signed by one of them; with none, nothing is required."""

    keys: tuple[TrustedKey, ...] = ()

    @classmethod
    def from_environment(cls) -> "Policy":
        """The policy that `ENGINERY_TRUSTED_KEYS` sets.

        Raises:
            UsageError: when it names no keys, or one that cannot be used.
        """
        return cls.read(os.environ.get(TRUSTED_KEYS))

    @classmethod
    def chosen(cls, option: str | None) -> "Policy":
        """The policy that a command's option sets; the environment's where it is left out.

        Raises:
            UsageError: when it names no keys, or one that cannot be used.
        """
        return cls.from_environment() if option is None else cls.read(option)

    @classmethod
    def read(cls, places: str | None) -> "Policy":
        """The keys in a directory, or in files with a colon between them; None requires nothing.

        Raises:
            UsageError: when there are no keys, or one that cannot be used: a policy is never weaker than it looks.
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
        """The trusted keys, for messages."""
        return ", ".join(f"{short(key.fingerprint)} ({key.path.name})" for key in self.keys)

    def key(self, fingerprint: str) -> TrustedKey | None:
        """The trusted key with that fingerprint."""
        return next((key for key in self.keys if key.fingerprint == fingerprint), None)


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    found = sorted(file for file in place.iterdir() if file.suffix in ENDINGS and file.is_file())
    if not found:
        problem = f"this directory holds no keys ({' or '.join(f'*{ending}' for ending in ENDINGS)})"
        raise UsageError(problem, subject=str(place), remedy="put the public keys there that are to be trusted")
    return found
