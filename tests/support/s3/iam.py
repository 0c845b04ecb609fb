"""IAM with moto's server: users with one policy each, which is enforced for every request.

It enforces for S3 the signature, and the action on the resource, for every request on a bucket or an object. It does
not enforce conditions (`s3:prefix`), the source of a copy, and the 403 for a missing object without ListBucket.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen
from uuid import uuid4

import boto3

from tests.support.s3.server import CREDENTIALS, S3Server

NEVER = "inf"
"""The number of requests before the server begins to enforce policies."""


def a_user(server: S3Server, policy: Mapping[str, Any]) -> dict[str, str]:
    """A new user with this policy; returns the environment variables to act as this user."""
    name = f"user-{uuid4().hex[:12]}"
    iam = boto3.client(
        "iam",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="role", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    iam.close()
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


@contextmanager
def enforced(server: S3Server) -> Iterator[None]:
    """Inside the block, every request needs a user with the permission for it."""
    _after(server, "0")
    try:
        yield
    finally:
        _after(server, NEVER)


def _after(server: S3Server, requests: str) -> None:
    plain = {"Content-Type": "text/plain"}
    url = f"{server.url}/moto-api/reset-auth"
    urlopen(Request(url, data=requests.encode(), headers=plain, method="POST")).close()
