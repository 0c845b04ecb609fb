"""Addresses in S3. This is the only place that decides which addresses are accepted."""

import re
from dataclasses import dataclass
from typing import Self

from enginery.core.errors import UsageError

SCHEME = "s3://"
LONGEST_PREFIX = 512
"""Bytes. A key has at most 1024, and the names of a build's files come after the prefix."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_IP_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""Control characters, and what is no character at all: XML cannot carry them, so S3 cannot list them."""
_DOTS = {".", ".."}


@dataclass(frozen=True)
class Address:
    """A bucket and a prefix in it, written `s3://bucket/prefix`. A slash at the end is not part of `prefix`."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, text: str, *, empty_parts: bool = False) -> Self:
        """The address in a text such as `s3://bucket/prefix`.

        Args:
            text: the address. One slash at its end is left out.
            empty_parts: also accept prefixes with empty parts, such as `a//b`, under which others may have put objects.

        Raises:
            UsageError: when the text is not such an address.
        """
        if mistake := address_mistake(text, empty_parts=empty_parts):
            problem, remedy = mistake
            raise UsageError(problem, subject=text or "(nothing)", remedy=remedy)
        bucket, prefix = _split(text)
        return cls(bucket, prefix)

    def key(self, *parts: str) -> str:
        """The key of an object: the prefix and `parts`, joined with slashes."""
        return "/".join(part for part in (self.prefix, *parts) if part)

    def __str__(self) -> str:
        text = f"{SCHEME}{self.bucket}/{self.prefix}" if self.prefix else f"{SCHEME}{self.bucket}"
        return f"{text}/" if self.prefix.endswith("/") else text  # `parse` leaves one slash out


def is_address(text: str) -> bool:
    """Whether a text is meant to be an address in S3, in contrast to a directory."""
    return text.lower().startswith(SCHEME)


def address_mistake(text: str, *, empty_parts: bool = False) -> tuple[str, str] | None:
    """What is wrong with an address in S3, and the remedy; None for a good address."""
    bucket, prefix = _split(text)
    if not text.startswith(SCHEME) or not bucket:
        return "is not an address in S3", "write it as s3://bucket/prefix"
    if text != text.strip():
        return "begins or ends with a space, so it is not an address in S3", "write it as s3://bucket/prefix"
    if text.endswith(f"{SCHEME}{bucket}//") or ("//" in text.removeprefix(SCHEME) and not empty_parts):
        problem = "has an empty part in its prefix: slashes side by side"
        return problem, "write the prefix with single slashes"
    return _bucket_mistake(bucket) or _prefix_mistake(prefix)


def _split(text: str) -> tuple[str, str]:
    bucket, _, prefix = text.removeprefix(SCHEME).partition("/")
    return bucket, prefix.removesuffix("/")


def _bucket_mistake(bucket: str) -> tuple[str, str] | None:
    if bucket.startswith("arn:"):
        problem = "is not an address in S3: it names a resource by its ARN"
        return problem, "write s3://bucket/prefix; an access point has an alias, which can stand for the bucket"
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or _IP_ADDRESS.fullmatch(bucket):
        problem = f"is not an address in S3: {bucket!r} cannot be the name of a bucket"
        remedy = "write it as s3://bucket/prefix; a bucket's name has 3 to 63 lower-case letters, digits, '-' and '.'"
        return problem, remedy
    return None


def _prefix_mistake(prefix: str) -> tuple[str, str] | None:
    if found := _NOT_TEXT.search(prefix):
        return f"has the character {found[0]!r}, which S3 cannot list", "write a prefix without it"
    if dots := _DOTS.intersection(prefix.split("/")):
        problem = f"has the part {min(dots)!r}, which is a name in S3, but other programs follow it like a path"
        return problem, "write the prefix without it"
    if (size := len(prefix.encode())) > LONGEST_PREFIX:
        return f"has a prefix of {size} bytes, more than {LONGEST_PREFIX}", "use a shorter prefix"
    return None
