"""A fast client for small objects: with boto3, the overhead of a small object takes longer than its transfer.

`upload_file` and `download_file` first try this client, which is written in Rust. It tries once. If it fails, they use
boto3, with retries and clear errors.
"""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from enginery.core.late import late
from enginery.core.s3.client import CONNECT_SECONDS, Connection, is_aws, read_seconds
from enginery.core.s3.objects import Prefix

if TYPE_CHECKING:
    import obstore
    from obstore import exceptions as obstore_exceptions
    from obstore import store as obstore_store
    from obstore.auth import boto3 as obstore_auth_boto3
    from obstore.store import S3Store
else:
    obstore = late("obstore")
    obstore_auth_boto3 = late("obstore.auth.boto3")
    obstore_exceptions = late("obstore.exceptions")
    obstore_store = late("obstore.store")


SMALL_BYTES = 1 << 20


def put_small(prefix: Prefix, path: str, data: bytes, sha256: str) -> bool:
    """Write an object. The server checks its SHA-256 and keeps it in the metadata. False when the request failed."""
    store = _store(prefix.connection(), prefix.address.bucket)
    if store is None:
        return False
    try:
        obstore.put(store, prefix.address.key(path), data, attributes={"sha256": sha256}, use_multipart=False)
    except (obstore_exceptions.BaseError, FileNotFoundError):  # raised when there is no such bucket
        return False
    return True


def get_small(prefix: Prefix, path: str, etag: str | None) -> bytes | None:
    """The bytes of an object, not checked; None when the request failed."""
    store = _store(prefix.connection(), prefix.address.bucket)
    if store is None:
        return None
    options: Any = {"if_match": etag} if etag else {}
    try:
        return obstore.get(store, prefix.address.key(path), options=options).bytes().to_bytes()
    except (obstore_exceptions.BaseError, FileNotFoundError):  # raised when there is no such object
        return None


def _store(used: Connection, bucket: str) -> "S3Store | None":
    if bucket not in used.stores:
        used.stores[bucket] = _open(used, bucket)
    return used.stores[bucket]


def _open(used: Connection, bucket: str) -> "S3Store | None":
    """The Rust client. None without credentials, or with the user's own CA bundle, which it cannot read."""
    endpoint = used.client.meta.endpoint_url
    own_ca_bundle = used.session.get_config_variable("ca_bundle") and endpoint.startswith("https:")
    if own_ca_bundle or used.session.get_credentials() is None:
        return None
    return obstore_store.S3Store(
        bucket,
        credential_provider=obstore_auth_boto3.Boto3CredentialProvider(used.session),
        region=used.client.meta.region_name,
        checksum_algorithm="SHA256",
        retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
        client_options={
            "allow_http": True,
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "timeout": timedelta(seconds=read_seconds()),
        },
        **_place(endpoint, bucket),
    )


def _place(endpoint: str, bucket: str) -> Any:
    """The URL of the bucket. Amazon has a host for each bucket, but its certificates do not cover names with dots."""
    if not is_aws(endpoint) or "." in bucket:
        return {"endpoint": endpoint, "virtual_hosted_style_request": False}
    scheme, _, host = endpoint.partition("://")
    return {"endpoint": f"{scheme}://{bucket}.{host}", "virtual_hosted_style_request": True}
