"""Small objects, quickly: a request by the general client costs more time than the bytes of a small file.

This is the short way of `Prefix.upload` and `Prefix.download`, by a client in Rust. It tries once; whatever it cannot
do is left to the long way, which is patient and says what is wrong.
"""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from enginery.s3_client import CONNECT_SECONDS, Connection, is_aws, read_seconds

if TYPE_CHECKING:
    from obstore.store import S3Store

    from enginery.s3 import Prefix

SMALL_BYTES = 1 << 20


def put_small(prefix: "Prefix", path: str, data: bytes, sha256: str) -> bool:
    """Write an object with its SHA-256, for the server to check and in its metadata; False when it could not be."""
    from obstore import put  # noqa: PLC0415  only for those who send
    from obstore.exceptions import BaseError  # noqa: PLC0415

    store = _store(prefix.connection(), prefix.address.bucket)
    if store is None:
        return False
    try:
        put(store, prefix.address.key(path), data, attributes={"sha256": sha256}, use_multipart=False)
    except (BaseError, FileNotFoundError):  # as it has it for a bucket that is not there
        return False
    return True


def get_small(prefix: "Prefix", path: str, etag: str | None) -> bytes | None:
    """An object's bytes, unchecked; None when they could not be had."""
    from obstore import get  # noqa: PLC0415  only for those who fetch
    from obstore.exceptions import BaseError  # noqa: PLC0415

    store = _store(prefix.connection(), prefix.address.bucket)
    if store is None:
        return None
    try:
        return get(store, prefix.address.key(path), options={"if_match": etag} if etag else {}).bytes().to_bytes()
    except (BaseError, FileNotFoundError):  # as it has it for an object that is not there
        return None


def _store(used: Connection, bucket: str) -> "S3Store | None":
    if bucket not in used.stores:
        used.stores[bucket] = _open(used, bucket)
    return used.stores[bucket]


def _open(used: Connection, bucket: str) -> "S3Store | None":
    """None without credentials, and where the user trusts authorities of their own, which it does not know."""
    from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415
    from obstore.store import S3Store  # noqa: PLC0415

    endpoint = used.client.meta.endpoint_url
    own_authorities = used.session.get_config_variable("ca_bundle") and endpoint.startswith("https:")
    if own_authorities or used.session.get_credentials() is None:
        return None
    return S3Store(
        bucket,
        credential_provider=Boto3CredentialProvider(used.session),
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
    """Where the bucket is: Amazon's have hosts of their own, but for dots in names, which certificates do not cover."""
    if not is_aws(endpoint) or "." in bucket:
        return {"endpoint": endpoint, "virtual_hosted_style_request": False}
    scheme, _, host = endpoint.partition("://")
    return {"endpoint": f"{scheme}://{bucket}.{host}", "virtual_hosted_style_request": True}
