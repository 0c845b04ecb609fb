"""A fast client for small objects: with boto3, the overhead of a small object takes longer than its transfer.

`upload_file` and `download_file` first try this client, which is written in Rust. It tries once. If it fails, they use
boto3, with retries and clear errors. With AWS settings that this client does not know, it is not used at all.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from enginery.core.late import late
from enginery.core.s3.client import Connection, bucket_url, read_seconds
from enginery.core.s3.objects import Prefix
from enginery.core.s3.settings import CONNECT_SECONDS, allow_second_client

if TYPE_CHECKING:
    import obstore
    from botocore import exceptions as botocore_exceptions
    from botocore.credentials import Credentials
    from obstore import exceptions as obstore_exceptions
    from obstore import store as obstore_store
    from obstore.store import S3Store
else:
    botocore_exceptions = late("botocore.exceptions")
    obstore = late("obstore")
    obstore_exceptions = late("obstore.exceptions")
    obstore_store = late("obstore.store")


SMALL_BYTES = 1 << 20
UNSENDABLE = {"", ".", ".."}
"""Parts of keys that this client refuses, or leaves out."""
CREDENTIALS_SECONDS = 60.0
"""Boto3 renews credentials early. So those that it gives can be used for this time."""


def put_small(prefix: Prefix, path: str, data: bytes, sha256: str) -> bool:
    """Write an object. The server checks its SHA-256 and keeps it in the metadata. False when the request failed."""
    store = _store(prefix, path)
    if store is None:
        return False
    try:
        obstore.put(store, prefix.address.key(path), data, attributes={"sha256": sha256}, use_multipart=False)
    except (obstore_exceptions.BaseError, FileNotFoundError, ValueError):  # no such bucket, or not a key for it
        return False
    return True


def get_small(prefix: Prefix, path: str, etag: str | None) -> bytes | None:
    """The bytes of an object, not checked; None when the request failed."""
    store = _store(prefix, path)
    if store is None:
        return None
    options: Any = {"if_match": etag} if etag else {}
    try:
        return obstore.get(store, prefix.address.key(path), options=options).bytes().to_bytes()
    except (obstore_exceptions.BaseError, FileNotFoundError, ValueError):  # no such object, or not a key for it
        return None


def _store(prefix: Prefix, path: str) -> "S3Store | None":
    """The Rust client for an object; None if boto3 must be used."""
    if UNSENDABLE.intersection(prefix.address.key(path).split("/")):
        return None
    used, bucket = prefix.connection(), prefix.address.bucket
    if bucket not in used.stores:
        used.stores[bucket] = _open(used, bucket)
    return used.stores[bucket]


class _Credentials:
    """Gives boto3's credentials to the Rust client. Boto3 finds and renews them, whatever kind they are."""

    refresh_threshold = timedelta(0)

    def __init__(self, credentials: "Credentials") -> None:
        self.credentials = credentials

    def __call__(self) -> dict[str, Any]:
        frozen = self.credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=CREDENTIALS_SECONDS),
        }


def _open(used: Connection, bucket: str) -> "S3Store | None":
    """The Rust client; None without credentials, and with settings that it does not know."""
    try:
        credentials = used.session.get_credentials()
        if credentials is None or not allow_second_client(used.session, used.client, bucket):
            return None
        url = bucket_url(used, bucket)
    except (botocore_exceptions.BotoCoreError, botocore_exceptions.ClientError):  # boto3 will raise it once more
        return None
    provider: Any = _Credentials(credentials)
    checksums: Any = {"checksum_algorithm": "SHA256"} if used.checksums else {}
    return obstore_store.S3Store(
        bucket,
        credential_provider=provider,
        endpoint=url,
        virtual_hosted_style_request=True,  # the URL names the bucket already, in its host or in its path
        region=used.client.meta.region_name,
        retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
        client_options={
            "allow_http": True,
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "timeout": timedelta(seconds=read_seconds()),
        },
        **checksums,
    )
