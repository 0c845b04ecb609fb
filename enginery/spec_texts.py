"""The texts in a spec that have a form: each as a type for its field, and in words for who got it wrong."""

from typing import Annotated

from pydantic import StringConstraints

NAME_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"
S3_PATTERN = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s]*)?$"
HTTP_PATTERN = r"^https?://[^\s/@]+$"
HUB_PATTERN = r"^[\w.-]+(/[\w.-]+)?$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"
WARNING_PATTERN = r"^W\d{3}$"
IMAGE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/-]*(@sha256:[0-9a-f]{64})?$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
S3Address = Annotated[str, StringConstraints(pattern=S3_PATTERN)]
HttpAddress = Annotated[str, StringConstraints(pattern=HTTP_PATTERN)]
"""Without user name and password: specs, records and artifacts are no place for them."""
HubRepository = Annotated[str, StringConstraints(pattern=HUB_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]
WarningCode = Annotated[str, StringConstraints(pattern=WARNING_PATTERN)]
ImageName = Annotated[str, StringConstraints(pattern=IMAGE_PATTERN)]

IN_WORDS = {
    NAME_PATTERN: "is not a name; use lower-case letters, digits, '.', '_' and '-', at most 63",
    S3_PATTERN: "is not an address in S3; write it as s3://bucket/prefix",
    HTTP_PATTERN: "is not a server's address; write it as http://host:port, without path or credentials",
    IMAGE_PATTERN: "is not the name of an image; write it as repository/name:tag, with @sha256:… to fix its content",
    HUB_PATTERN: "is not a repository on the Hugging Face Hub; write it as owner/name",
    WARNING_PATTERN: "is not the code of a warning, such as W201; errors cannot be accepted",
    SHA256_PATTERN: "is not a SHA-256; write its 64 hex digits, in lower case",
}
"""Pattern -> what is wrong with a text that it does not match, and how to write it."""
