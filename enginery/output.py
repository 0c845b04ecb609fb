"""What a command prints, as lines for people: decoded, cut to a sensible length, without secrets."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
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


class LineReader:
    r"""Makes lines of bytes as they come. A carriage return ends a line too, as progress bars use it.

    Undecodable bytes are replaced. Of a huge line the beginning is kept, so memory stays bounded.
    """

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self.secrets = secrets
        # A secret that straddles the cut must be seen whole, or its first half would escape the mask.
        self.keep = LONGEST_LINE_BYTES + max((len(os.fsencode(secret)) for secret in secrets), default=0)
        self.pending = bytearray()
        self.dropped = False
        self.after_return = False

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        lines = []
        for piece in re.split(rb"(\r\n|\n|\r)", data):
            if piece in (b"\n", b"\r", b"\r\n"):
                lines += self._end(piece)
            elif piece:
                self._add(piece)
        return lines

    def finish(self) -> list[str]:
        """The last line, when the output does not end with a line end."""
        return [self._take()] if self.pending else []

    def _add(self, piece: bytes) -> None:
        self.after_return = False
        room = self.keep - len(self.pending)
        self.pending += piece[:room]
        self.dropped = self.dropped or len(piece) > room

    def _end(self, mark: bytes) -> list[str]:
        rest_of_mark = self.after_return and mark == b"\n"  # of a line end cut in two between reads
        self.after_return = mark == b"\r"
        if not self.pending and (rest_of_mark or self.after_return):
            return []
        return [self._take()]

    def _take(self) -> str:
        text = masked(self.pending.decode(errors="replace"), self.secrets)
        cut = self.dropped or len(text) > LONGEST_LINE_BYTES
        self.pending.clear()
        self.dropped = False
        return f"{text[:LONGEST_LINE_BYTES]} … (cut)" if cut else text
