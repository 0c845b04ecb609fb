"""Text for people: the lines that a command prints, with secrets masked, and readable numbers of bytes."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import unquote

LONGEST_LINE_BYTES = 8192
SHORTEST_SECRET = 8
SHORTEST_TOKEN = 16
"""In `https://word@host`, a word of at least so many characters is a token. A shorter word is a user's name."""
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|KEY", re.IGNORECASE)
SIGN_IN = re.compile(r"(?<=://)[^\s/]+(?=@)")
"""User name and password in a URL, such as those of a package index or a proxy."""
MASK = "***"
UNIT_STEP = 1000.0


def secrets_in(*environments: Mapping[str, str]) -> tuple[str, ...]:
    """The secrets in environment variables, longest first.

    If a variable's name looks secret, each line of its value is a secret. In every variable, user names and passwords
    in URLs (`https://user:password@host`) are secrets.
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
    """The secrets in the URLs of a value: user name with password, password, token. Each also URL-decoded."""
    for written in SIGN_IN.findall(value):
        for sign_in in {written, unquote(written)}:
            user, colon, password = sign_in.partition(":")
            yield f"{sign_in}@"
            if colon:
                yield from (found for found in (sign_in, password) if len(found) >= SHORTEST_SECRET)
            elif len(user) >= SHORTEST_TOKEN:
                yield user


def without_sign_in(address: str) -> str:
    """A URL without user name and password, to show to people."""
    return re.sub(rf"{SIGN_IN.pattern}@", "", address)


def masked(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret replaced by `***`."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def human_bytes(count: float) -> str:
    """A number of bytes for people, such as `16.1 GB`. One kB is 1000 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < UNIT_STEP:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= UNIT_STEP
    return f"{count:.1f} TB"


def first_of(texts: Sequence[str], most: int) -> str:
    """The first `most` texts in one line, and the number of the rest."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def indented(lines: Iterable[str]) -> str:
    """A command's last lines, indented, to show below its error."""
    return "".join(f"\n  | {line}" for line in lines)


class LineReader:
    r"""Splits a stream of bytes into lines of text and masks secrets. A carriage return ends a line too.

    Bytes that are not UTF-8 are replaced. The end of a very long line is cut off, so the memory in use has a limit.
    """

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self.secrets = secrets
        # A secret that crosses the limit must be complete, or else it is not masked.
        self.keep = LONGEST_LINE_BYTES + max((len(os.fsencode(secret)) for secret in secrets), default=0)
        self.pending = bytearray()
        self.dropped = False
        self.after_return = False

    def lines(self, output: Iterable[bytes]) -> Iterator[str]:
        """The lines of the output, each as soon as it is complete. The last line may have no line end."""
        for data in output:
            for piece in re.split(rb"(\r\n|\n|\r)", data):
                if piece in (b"\n", b"\r", b"\r\n"):
                    yield from self._end(piece)
                elif piece:
                    self._add(piece)
        if self.pending:
            yield self._take()

    def _add(self, piece: bytes) -> None:
        self.after_return = False
        space = self.keep - len(self.pending)
        self.pending += piece[:space]
        self.dropped = self.dropped or len(piece) > space

    def _end(self, mark: bytes) -> list[str]:
        rest_of_mark = self.after_return and mark == b"\n"  # a \r\n came in two reads
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
