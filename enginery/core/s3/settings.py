"""The AWS settings: environment variables, `~/.aws/config` and `~/.aws/credentials`.

Boto3 reads almost all of them by itself. This file adds `AWS_REGION`, and says whether the second client may send
requests too. That client knows few of the settings. So with an unusual setting, boto3 sends everything.
"""

import os
from typing import TYPE_CHECKING, Any

from enginery.core import __version__
from enginery.core.late import late

if TYPE_CHECKING:
    from botocore import config as botocore_config
    from botocore import utils as botocore_utils
    from botocore.session import Session
    from mypy_boto3_s3 import S3Client
else:
    botocore_config = late("botocore.config")
    botocore_utils = late("botocore.utils")

DEFAULT_REGION = "us-east-1"
CONNECTIONS = 32
CONNECT_SECONDS = 5.0
OTHER_VARIABLES = frozenset({"REQUESTS_CA_BUNDLE", "BOTOCORE_TCP_KEEPALIVE"})
"""Settings of boto3 that do not begin with `AWS_`."""
PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})
"""In lower or upper case."""
ONLY_SECOND_CLIENT = frozenset({
    "AWS_CHECKSUM_ALGORITHM", "AWS_CONDITIONAL_PUT", "AWS_COPY_IF_NOT_EXISTS", "AWS_DISABLE_TAGGING",
    "AWS_REQUEST_PAYER", "AWS_S3_EXPRESS", "AWS_SERVER_SIDE_ENCRYPTION", "AWS_SKIP_SIGNATURE",
    "AWS_SSE_BUCKET_KEY_ENABLED", "AWS_SSE_CUSTOMER_KEY_BASE64", "AWS_SSE_KMS_KEY_ID", "AWS_UNSIGNED_PAYLOAD",
})  # fmt: skip
"""Variables that the second client reads by itself, and boto3 does not."""
EXPRESS = "--x-s3"
"""The end of the names of directory buckets, which have their own kind of sign-in."""


def variables() -> frozenset[tuple[str, str]]:
    """Every environment variable that changes how requests are sent, with its value."""
    return frozenset(item for item in os.environ.items() if _counts(item[0]))


def _counts(name: str) -> bool:
    return name.startswith("AWS_") or name in OTHER_VARIABLES or name.lower() in PROXIES


def set_region(session: "Session") -> None:
    """Set the region of a session: `AWS_DEFAULT_REGION`, `AWS_REGION`, the profile's, or us-east-1.

    Boto3 does not know `AWS_REGION`, which the other AWS libraries read.
    """
    if not os.environ.get("AWS_DEFAULT_REGION"):
        region = os.environ.get("AWS_REGION") or session.get_config_variable("region") or DEFAULT_REGION
        session.set_config_variable("region", region)


def client_config(session: "Session", *, attempts: int, read_seconds: float) -> "botocore_config.Config":
    """What Enginery sets in boto3's client, as far as the user has not set it.

    Args:
        session: the AWS settings.
        attempts: how often boto3 tries a request, if the user has not set it.
        read_seconds: for how long a server may send nothing.
    """
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "max_pool_connections": CONNECTIONS,
        "read_timeout": read_seconds,
        "user_agent_extra": f"enginery/{__version__}",
    }
    if session.get_config_variable("max_attempts") is None:
        options["retries"] = {"total_max_attempts": attempts}
    return botocore_config.Config(**options)


def sends_checksums(client: "S3Client") -> bool:
    """Whether requests may carry S3's newer checksums, which some servers do not know.

    Without them, the digest of the bytes is still in the request: it is part of the signature.
    """
    config: Any = client.meta.config
    return bool(config.request_checksum_calculation != "when_required")


def allow_second_client(session: "Session", client: "S3Client", bucket: str) -> bool:
    """Whether the second client would send a request as boto3 does. It knows only the common settings."""
    config: Any = client.meta.config
    return not (
        bucket.endswith(EXPRESS)
        or ONLY_SECOND_CLIENT.intersection(os.environ)
        or _uses_proxy(client.meta.endpoint_url)
        or _has_own_ca(session, client.meta.endpoint_url)
        or config.signature_version != "s3v4"
        or config.sigv4a_signing_region_set
        or config.auth_scheme_preference
        or config.user_agent_appid
        or session.get_config_variable("tcp_keepalive")
        or (config.s3 or {}).get("payload_signing_enabled") is False
    )


def _uses_proxy(url: str) -> bool:
    """Whether a proxy is set. The second client reads the variables too, but not as boto3 does."""
    return bool(botocore_utils.get_environ_proxies(url)) or any(
        value and name.lower() in PROXIES - {"no_proxy"} for name, value in os.environ.items()
    )


def _has_own_ca(session: "Session", url: str) -> bool:
    own = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    return bool(own) and url.startswith("https:")
