# ruff: noqa: F811  fixtures are imported
"""Every AWS setting counts for every request, whichever of the two clients sends it. See docs/s3.md."""

from collections.abc import Callable
from pathlib import Path

import pytest

from enginery.core import s3
from enginery.core.digests import bytes_digest
from enginery.core.errors import StoreError
from enginery.core.s3.client import bucket_url, connection
from enginery.core.s3.settings import allow_second_client
from enginery.core.s3.upload import upload_file
from tests.support.s3.fixtures import bucket, prefix, server  # noqa: F401
from tests.support.s3.recorder import Recorder, Request, an_authority, recording
from tests.support.s3.server import S3Server
from tests.support.s3.using import SMALL, config, recorder, use_everything  # noqa: F401


def test_usually_the_second_client_sends_small_objects_and_checksums_are_sent(
    prefix: s3.Prefix, recorder: Recorder, tmp_path: Path
) -> None:
    use_everything(prefix, tmp_path)
    by_boto3, others = recorder.by_each_client()
    assert {request.method for request in others} == {"PUT", "GET"}
    assert by_boto3
    puts = [request for request in recorder.requests if request.method == "PUT" and "copy" not in request.target]
    assert all("x-amz-checksum-sha256" in request.headers for request in puts)


# Region


@pytest.mark.parametrize(
    ("variables", "profile", "region"),
    [
        ({"AWS_DEFAULT_REGION": "garage"}, "", "garage"),
        ({"AWS_REGION": "garage"}, "", "garage"),
        ({"AWS_DEFAULT_REGION": "garage", "AWS_REGION": "other"}, "", "garage"),
        ({"AWS_DEFAULT_REGION": "", "AWS_REGION": "garage"}, "", "garage"),
        ({"AWS_REGION": "garage"}, "region = other", "garage"),
        ({}, "region = garage", "garage"),
        ({}, "", "us-east-1"),
    ],
)
def test_both_clients_use_the_region_that_is_set(  # noqa: PLR0913, PLR0917
    prefix: s3.Prefix,
    recorder: Recorder,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    profile: str,
    region: str,
) -> None:
    config.write_text(f"[default]\n{profile}\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    use_everything(prefix, tmp_path, large=False)
    assert all(recorder.by_each_client())
    assert {request.region for request in recorder.requests} == {region}


@pytest.mark.parametrize("head", [False, True])
def test_a_wrong_region_is_named_with_the_variables_and_the_servers_words(
    prefix: s3.Prefix, recorder: Recorder, *, head: bool
) -> None:
    body = (
        b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>unexpected scope: x/us-east-1/s3</Message></Error>"
    )
    recorder.answer = lambda request: None if request.region == "garage" else (400, body, {})
    with pytest.raises(StoreError, match="unexpected scope") as caught:
        prefix.head("x") if head else prefix.get("x")
    assert "AWS_DEFAULT_REGION (or AWS_REGION)" in caught.value.remedy
    assert not caught.value.transient


def test_the_region_that_the_server_names_is_in_the_remedy(prefix: s3.Prefix, recorder: Recorder) -> None:
    body = (
        b"<Error><Code>IllegalLocationConstraintException</Code><Message>no</Message><Region>eu-west-9</Region></Error>"
    )
    recorder.answer = lambda _: (400, body, {})
    with pytest.raises(StoreError) as caught:
        prefix.get("x")
    assert "the bucket's region, eu-west-9" in caught.value.remedy


# The server's address


def test_the_endpoint_of_s3_comes_before_the_general_one(
    prefix: s3.Prefix, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", recorder.url)
    use_everything(prefix, tmp_path, large=False)
    assert all(recorder.by_each_client())


@pytest.mark.parametrize(
    "text",
    [
        "[default]\nendpoint_url = {url}\n",
        "[default]\nservices = mine\n[services mine]\ns3 =\n  endpoint_url = {url}\n",
        "[profile other]\nendpoint_url = {url}\n",
    ],
)
def test_the_config_file_may_name_the_endpoint(  # noqa: PLR0913, PLR0917
    prefix: s3.Prefix, recorder: Recorder, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    config.write_text(text.format(url=recorder.url))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    if "other" in text:
        monkeypatch.setenv("AWS_PROFILE", "other")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
        credentials = tmp_path / "credentials"
        credentials.write_text("[other]\naws_access_key_id = testing\naws_secret_access_key = testing\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    use_everything(prefix, tmp_path, large=False)
    assert all(recorder.by_each_client())


def test_endpoints_can_be_ignored(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert bucket_url(connection(), "engines") == "https://engines.s3.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    ("style", "url"),
    [
        ("path", "http://s3.local:1/engines"),
        ("virtual", "http://engines.s3.local:1"),
        ("auto", "http://s3.local:1/engines"),
    ],
)
def test_the_addressing_style_can_be_set(
    bucket: str, config: Path, monkeypatch: pytest.MonkeyPatch, style: str, url: str
) -> None:
    config.write_text(f"[default]\ns3 =\n  addressing_style = {style}\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.local:1")
    assert bucket_url(connection(), "engines") == url


@pytest.mark.parametrize(
    ("variables", "section", "url"),
    [
        ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "", "https://engines.s3.dualstack.eu-west-1.amazonaws.com"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "", "https://engines.s3-fips.us-east-2.amazonaws.com"),
        ({"AWS_DEFAULTS_MODE": "standard"}, "", "https://engines.s3.us-east-1.amazonaws.com"),
        ({}, "use_accelerate_endpoint = true", "https://engines.s3-accelerate.amazonaws.com"),
        ({}, "us_east_1_regional_endpoint = regional", "https://engines.s3.us-east-1.amazonaws.com"),
        ({}, "addressing_style = path", "https://s3.eu-west-1.amazonaws.com/engines"),
    ],
)
def test_both_clients_use_the_kind_of_endpoint_that_is_set(  # noqa: PLR0913, PLR0917
    bucket: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    section: str,
    url: str,
) -> None:
    region = "us-east-2" if "fips" in url else "us-east-1" if "us-east-1" in url else "eu-west-1"
    config.write_text(f"[default]\nregion = {region}\ns3 =\n  {section or 'multipart_threshold = 8MB'}\n")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert bucket_url(connection(), "engines") == url


# Checksums


@pytest.mark.parametrize("by", ["environment", "file"])
def test_no_client_sends_checksums_when_they_are_not_wanted(  # noqa: PLR0913, PLR0917
    prefix: s3.Prefix, recorder: Recorder, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    if by == "environment":
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    else:
        config.write_text(
            "[default]\nrequest_checksum_calculation = when_required\nresponse_checksum_validation = when_required\n"
        )
    use_everything(prefix, tmp_path)
    assert all(recorder.by_each_client())
    sent = {name for request in recorder.requests for name in request.headers}
    assert not [name for name in sent if "checksum" in name or name in {"content-md5", "x-amz-trailer"}]
    bodies = [request for request in recorder.requests if request.method == "PUT" and "copy" not in request.target]
    assert all(len(request.headers["x-amz-content-sha256"]) == 64 for request in bodies)  # part of the signature


def not_known(request: Request) -> tuple[int, bytes, dict[str, str]] | None:
    """The answer of a server that knows none of the newer checksums."""
    bad = [name for name in request.headers if name.startswith(("x-amz-checksum-a", "x-amz-checksum-s", "x-amz-sdk"))]
    body = f"<Error><Code>NotImplemented</Code><Message>not implemented: {bad}</Message></Error>".encode()
    return (501, body, {}) if bad else None


def test_what_a_server_does_not_know_is_final_and_said_in_its_words(
    prefix: s3.Prefix, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "30")
    recorder.answer = not_known
    file = tmp_path / "file"
    file.write_bytes(SMALL)
    with pytest.raises(StoreError, match=r"NotImplemented: not implemented: \['x-amz-checksum-sha256'") as caught:
        upload_file(prefix, "x", file, bytes_digest(SMALL))
    assert not caught.value.transient
    assert "AWS_REQUEST_CHECKSUM_CALCULATION" in caught.value.remedy
    assert len([request for request in recorder.requests if request.by_boto3]) == 1
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    use_everything(prefix, tmp_path)


# The authority that signed the server's certificate


@pytest.mark.parametrize("by", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "file"])
def test_a_server_is_trusted_by_the_users_authority(  # noqa: PLR0913, PLR0917
    server: S3Server, prefix: s3.Prefix, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    bundle, tls = an_authority(tmp_path)
    with recording(server.host, server.port, tls) as recorder:
        monkeypatch.setenv("AWS_ENDPOINT_URL", recorder.url)
        with pytest.raises(StoreError, match="no trusted connection") as caught:
            prefix.get("x")
        assert "AWS_CA_BUNDLE" in caught.value.remedy
        if by == "file":
            config.write_text(f"[default]\nca_bundle = {bundle}\n")
            monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")  # the file is read by a new connection
        else:
            monkeypatch.setenv(by, str(bundle))
        use_everything(prefix, tmp_path, large=False)
        assert recorder.requests
    s3.close_clients()


def test_a_ca_bundle_that_is_missing_is_named(
    server: S3Server, prefix: s3.Prefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/no/such.pem")
    with recording(server.host, server.port, an_authority(tmp_path)[1]) as recorder:
        monkeypatch.setenv("AWS_ENDPOINT_URL", recorder.url)
        with pytest.raises(StoreError, match="CA bundle for S3 at https://.* cannot be read") as caught:
            prefix.get("x")
    assert "AWS_CA_BUNDLE" in caught.value.remedy
    assert not caught.value.transient
    s3.close_clients()


# Proxies


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
def test_every_request_goes_through_the_proxy(  # noqa: PLR0913, PLR0917
    prefix: s3.Prefix,
    recorder: Recorder,
    server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.only-the-proxy-knows.test")
    monkeypatch.setenv(name, recorder.url)
    use_everything(prefix, tmp_path)
    assert recorder.requests
    assert all(request.target.startswith("http://s3.only-the-proxy") for request in recorder.requests)


def test_a_host_in_no_proxy_is_asked_directly(
    prefix: s3.Prefix, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    use_everything(prefix, tmp_path, large=False)
    assert all(not request.target.startswith("http") for request in recorder.requests)


# Attempts


@pytest.mark.parametrize(("attempts", "seen"), [("1", 1), ("3", 3)])
def test_the_number_of_attempts_can_be_set(
    prefix: s3.Prefix, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, attempts: str, seen: int
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", attempts)
    recorder.answer = lambda _: (503, b"<Error><Code>SlowDown</Code><Message>please wait</Message></Error>", {})
    with pytest.raises(StoreError, match="SlowDown: please wait"):
        prefix.get("x")
    assert len(recorder.requests) == seen


@pytest.mark.parametrize(("setting", "mode"), [("", "standard"), ("retry_mode = adaptive", "adaptive")])
def test_the_retry_mode_can_be_set(recorder: Recorder, config: Path, setting: str, mode: str) -> None:
    config.write_text(f"[default]\n{setting}\n")
    found = connection().client.meta.config.retries  # type: ignore[attr-defined]
    assert found["mode"] == mode


# Settings that only boto3 knows: it sends everything


@pytest.mark.parametrize(
    ("setting", "shows"),
    [
        ("sdk_ua_app_id = our-builds", lambda request: "app/our-builds" in request.headers["user-agent"]),
        ("s3 =\n  signature_version = s3", lambda request: request.by_boto3),
        ("tcp_keepalive = true", lambda request: request.by_boto3),
        ("auth_scheme_preference = sigv4", lambda request: request.by_boto3),
    ],
)
def test_with_a_setting_that_only_boto3_knows_it_sends_everything(  # noqa: PLR0913, PLR0917
    prefix: s3.Prefix,
    recorder: Recorder,
    config: Path,
    tmp_path: Path,
    setting: str,
    shows: Callable[[Request], bool],
) -> None:
    config.write_text(f"[default]\n{setting}\n")
    use_everything(prefix, tmp_path, large=False)
    assert all(shows(request) and request.by_boto3 for request in recorder.requests)


@pytest.mark.parametrize(
    "variable", ["AWS_UNSIGNED_PAYLOAD", "AWS_SKIP_SIGNATURE", "AWS_REQUEST_PAYER", "AWS_S3_EXPRESS"]
)
def test_variables_that_only_the_second_client_knows_change_nothing(
    prefix: s3.Prefix, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "true")
    use_everything(prefix, tmp_path, large=False)
    assert all(request.by_boto3 for request in recorder.requests)


@pytest.mark.parametrize(("value", "unsigned"), [("false", True), ("true", False)])
def test_whether_payloads_are_signed_can_be_set(  # noqa: PLR0913, PLR0917
    server: S3Server,
    prefix: s3.Prefix,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    *,
    unsigned: bool,
) -> None:
    bundle, tls = an_authority(tmp_path)
    config.write_text(f"[default]\nca_bundle = {bundle}\ns3 =\n  payload_signing_enabled = {value}\n")
    with recording(server.host, server.port, tls) as recorder:
        monkeypatch.setenv("AWS_ENDPOINT_URL", recorder.url)
        use_everything(prefix, tmp_path, large=False)
        puts = [request for request in recorder.requests if request.method == "PUT" and "copy" not in request.target]
        assert {request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD" for request in puts} == {unsigned}
    s3.close_clients()


def test_a_directory_bucket_is_left_to_boto3(bucket: str) -> None:
    used = connection()
    assert allow_second_client(used.session, used.client, "engines")
    assert not allow_second_client(used.session, used.client, "engines--use1-az4--x-s3")


def test_keepalive_may_be_set_by_its_variable(
    prefix: s3.Prefix, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOTOCORE_TCP_KEEPALIVE", "true")
    use_everything(prefix, tmp_path, large=False)
    assert all(request.by_boto3 for request in recorder.requests)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_MAX_ATTEMPTS", "many"),
        ("AWS_RETRY_MODE", "sometimes"),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "never"),
        ("AWS_PROFILE", "nobody"),
        ("AWS_ENDPOINT_URL", "127.0.0.1:9"),
        ("AWS_ENDPOINT_URL_S3", "not a url"),
        ("AWS_DEFAULTS_MODE", "odd"),
        ("AWS_CONFIG_FILE", "broken"),
        ("AWS_CA_BUNDLE", " "),
        ("AWS_DEFAULT_REGION", "no region!"),
        ("AWS_REGION", "no region!"),
    ],
)
def test_a_setting_that_makes_no_sense_is_an_error_with_a_remedy(
    prefix: s3.Prefix, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
) -> None:
    (tmp_path / "broken").write_text("[default\nregion")
    monkeypatch.setenv(variable, str(tmp_path / value) if value == "broken" else value)
    with pytest.raises(StoreError) as caught:
        prefix.get("x")
    assert caught.value.remedy
    assert not caught.value.transient


def test_other_descriptions_of_services_are_searched(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    assert str(tmp_path) in connection().session.get_component("data_loader").search_paths
