"""The permissions that each role needs in a registry's bucket, as IAM policies.

`python -m enginery.registry.iam infra/iam` writes the policies for the example registry `s3://engines/prod`. A test
compares the files in infra/iam/ with this module.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from enginery.builds import MANIFEST, MODELS
from enginery.core.files import write_atomic
from enginery.core.s3 import PROBE, Address
from enginery.registry.claims import CLAIM
from enginery.registry.layout import CHANNELS

Role = Literal["consumer", "publisher", "pruner", "auditor"]
EXAMPLE = "s3://engines/prod"

ALL = f"{MODELS}/*"
BUILDS = f"{MODELS}/*/builds/*"
CLAIMS = f"{BUILDS}/{CLAIM}"
PROBES = f"{PROBE}*"


class Grant(NamedTuple):
    """One statement of a policy: which actions are allowed on which objects.

    Attributes:
        sid: the statement's name, which says what it is for.
        actions: the names of actions in S3.
        paths: patterns of objects, relative to the registry; empty for a statement about the bucket itself.
        listed: patterns of the prefixes that may be listed.
    """

    sid: str
    actions: tuple[str, ...]
    paths: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()


READ = Grant("Read", ("s3:GetObject",), (ALL,))
LIST = Grant("List", ("s3:ListBucket",), listed=(ALL,))
LIST_ALL = LIST._replace(listed=(ALL, PROBES))
LIST_UPLOADS = Grant("ListUploads", ("s3:ListBucketMultipartUploads",))

ROLES: Mapping[Role, Sequence[Grant]] = {
    "consumer": (READ, LIST),
    "publisher": (
        Grant("ReadAndProbe", ("s3:GetObject",), (ALL, PROBES)),
        Grant("Write", ("s3:PutObject",), (f"{BUILDS}", f"{MODELS}/*/{CHANNELS}/*", PROBES)),
        Grant("AbortOwnUploads", ("s3:AbortMultipartUpload",), (BUILDS,)),
        Grant("RemoveClaimsAndProbes", ("s3:DeleteObject",), (CLAIMS, PROBES)),
        LIST,
        LIST_UPLOADS,
    ),
    "pruner": (
        READ,
        Grant("ClaimAndPutBack", ("s3:PutObject",), (CLAIMS, f"{BUILDS}/{MANIFEST}")),
        Grant("Remove", ("s3:DeleteObject",), (BUILDS, PROBES)),
        Grant("AbortUploads", ("s3:AbortMultipartUpload",), (ALL,)),
        LIST_ALL,
        LIST_UPLOADS,
    ),
    "auditor": (READ, LIST_ALL, LIST_UPLOADS),
}


def policy(role: Role, address: str) -> dict[str, Any]:
    """The smallest policy that lets a role work in the registry at `address`.

    Raises:
        UsageError: when `address` is not an address in S3.
    """
    parsed = Address.parse(address)
    return {"Version": "2012-10-17", "Statement": [_statement(grant, parsed) for grant in ROLES[role]]}


def _statement(grant: Grant, address: Address) -> dict[str, Any]:
    bucket = f"arn:aws:s3:::{address.bucket}"
    objects = [f"{bucket}/{address.key(path)}" for path in grant.paths]
    stated: dict[str, Any] = {
        "Sid": grant.sid,
        "Effect": "Allow",
        "Action": list(grant.actions),
        "Resource": objects or [bucket],
    }
    if grant.listed:
        stated["Condition"] = {"StringLike": {"s3:prefix": [address.key(path) for path in grant.listed]}}
    return stated


if __name__ == "__main__":
    for each in ROLES:
        write_atomic(Path(sys.argv[1]) / f"{each}.json", json.dumps(policy(each, EXAMPLE), indent=2) + "\n")
