"""What a command prints, as lines for people: decoded, cut to a sensible length, without secrets."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import unquote

LONGEST_LINE_BYTES = 8192
SHORTEST_SECRET = 8
SHORTEST_TOKEN = 16
"""What stands alone before the host of an address is a token when it is as long, else the name of a user."""
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|KEY", re.IGNORECASE)
SIGN_IN = re.compile(r"(?<=://)[^\s/]+(?=@)")
"""User name and password in a URL, such as those of a package index or a proxy."""
MASK = "***"


def secrets_in(*environments: Mapping[str, str]) -> tuple[str, ...]:
    """What must not be shown, longest first.

    These are the values of variables whose names look secret, each line of a long one by itself, and what signs in to
    the addresses in any variable (`https://user:password@host`).
    """
    values = {
        line.strip()
        for environment in environments
        for name, value in environment.items()
        if SECRET_NAME.search(name)
        for line in value.splitlines()
    }
    sign_ins = {found for environment in environments for value in environment.values() for found in _sign_ins(value)}
    long_enough = {value for value in values if len(value) >= SHORTEST_SECRET}
    return tuple(sorted(long_enough | sign_ins, key=len, reverse=True))


def _sign_ins(value: str) -> Iterator[str]:
    """What signs in to the addresses in a value, whole and its password alone; also as it reads when decoded."""
    for written in SIGN_IN.findall(value):
        for sign_in in {written, unquote(written)}:
            user, colon, password = sign_in.partition(":")
            yield f"{sign_in}@"
            if colon:
                yield from (found for found in (sign_in, password) if len(found) >= SHORTEST_SECRET)
            elif len(user) >= SHORTEST_TOKEN:
                yield user


def without_sign_in(address: str) -> str:
    """An address without user name and password, to be shown."""
    return re.sub(rf"{SIGN_IN.pattern}@", "", address)


def masked(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret replaced by `***`."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


# Quantities as people read them.


UNIT_STEP = 1000.0


def human_bytes(count: float) -> str:
    """A number of bytes for people, such as `16.1 GB`, in steps of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < UNIT_STEP:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= UNIT_STEP
    return f"{count:.1f} TB"


def first_of(texts: Sequence[str], most: int) -> str:
    """The first texts in one line, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
