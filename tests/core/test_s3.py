"""Tests of S3 addresses, errors, retries and clients that need no data in a bucket."""

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from botocore import exceptions
from hypothesis import given
from hypothesis import strategies as st

from enginery.core import s3
from enginery.core.errors import EngineryError, RegistryError, SourceError, StoreError, UsageError
from enginery.core.s3.download import download_file


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only these AWS settings."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0")
    yield
    s3.close_clients()


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [
        ("s3://engines", "engines", ""),
        ("s3://engines/", "engines", ""),
        ("s3://engines/prod", "engines", "prod"),
        ("s3://engines/prod/eu/", "engines", "prod/eu"),
    ],
)
def test_an_address_is_a_bucket_and_a_prefix(text: str, bucket: str, prefix: str) -> None:
    assert s3.Address.parse(text) == s3.Address(bucket, prefix)


@given(
    st.from_regex(r"[a-z0-9][a-z0-9-]{2,20}[a-z]", fullmatch=True),
    st.lists(st.from_regex(r"[a-z0-9]{1,5}", fullmatch=True)),
)
def test_an_address_reads_what_it_writes(bucket: str, parts: list[str]) -> None:
    address = s3.Address(bucket, "/".join(parts))
    assert s3.Address.parse(str(address)) == address


@pytest.mark.parametrize("text", ["", "engines/prod", "s3://", "s3:///prod", "https://engines/prod", "s3://a b/prod"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="s3://bucket/prefix"):
        s3.Address.parse(text)


@pytest.mark.parametrize(
    "prefix",
    ["with space", "ü+plus%2Fpct", "x?y#z", "a\\b", "~a'b(c)*!", "日本/語", "...", "a/.b/c..", "%2e%2e/x", "e\u0301"],
)
def test_odd_prefixes_are_accepted_as_they_are(prefix: str) -> None:
    assert s3.Address.parse(f"s3://engines/{prefix}") == s3.Address("engines", prefix)
    assert s3.Address.parse(f"s3://engines/{prefix}/") == s3.Address("engines", prefix)


NO_ADDRESSES = {
    "s3://engines/a//b": "empty part",
    "s3://engines//a": "empty part",
    "s3://engines//": "empty part",
    "s3://engines/a//": "empty part",
    "s3://engines/../x": "'..'",
    "s3://engines/./x": "'.'",
    "s3://engines/x/..": "'..'",
    "s3://engines/x/./": "'.'",
    "s3://engines/..": "'..'",
    "s3://engines/a\nb": "character",
    "s3://engines/a\x00b": "character",
    "s3://engines/a\tb": "character",
    "s3://engines/a\udc80b": "character",
    "s3://engines/a\uffffb": "character",
    " s3://engines/a": "not an address",
    "s3://engines/a ": "space",
    "s3://engines/" + "a" * 600: "600 bytes",
    "s3://engines/" + "ü" * 300: "600 bytes",
    "s3://ENGINES/x": "name of a bucket",
    "s3://my_bucket/x": "name of a bucket",
    "s3://en..gines/x": "name of a bucket",
    "s3://10.0.0.1/x": "name of a bucket",
    "s3://ab/x": "name of a bucket",
    "s3://-abc/x": "name of a bucket",
    "s3://abc-/x": "name of a bucket",
    "s3://user:pass@host/x": "name of a bucket",
    "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/x": "ARN",
    "S3://engines/x": "not an address",
    "s3:/engines/x": "not an address",
    "s3:engines": "not an address",
}


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_an_address_that_cannot_work_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        s3.Address.parse(text)
    assert NO_ADDRESSES[text] in caught.value.problem
    assert caught.value.remedy


def test_empty_parts_are_accepted_where_others_may_have_put_the_objects() -> None:
    parse = partial(s3.Address.parse, empty_parts=True)
    assert parse("s3://engines/a//b") == s3.Address("engines", "a//b")
    assert parse("s3://engines//b/").key("x") == "/b/x"
    for text in ("s3://engines/a//", "s3://engines//a", "s3://engines/a///b//", "s3://engines///"):
        assert str(parse(text)) == text
        assert parse(str(parse(text))) == parse(text)
    with pytest.raises(UsageError, match=r"'\.\.'"):
        parse("s3://engines/a//../b")


@given(st.text())
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    for address in (text, f"s3://{text}", f"s3://engines/{text}"):
        try:
            parsed = s3.Address.parse(address)
        except UsageError:
            continue
        assert s3.Address.parse(str(parsed)) == parsed


def test_keys_are_under_the_prefix() -> None:
    assert s3.Address("b", "prod").key("models", "llama", "x.json") == "prod/models/llama/x.json"
    assert s3.Address("b", "").key("models") == "models"
    assert s3.Address("b", "prod").key("") == "prod"


def answer(code: str, status: int) -> exceptions.ClientError:
    metadata = {"HTTPStatusCode": status}
    return exceptions.ClientError({"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": metadata}, "X")  # type: ignore[typeddict-item]


def test_a_password_in_the_address_of_the_server_is_not_told() -> None:
    failed = exceptions.SSLError(endpoint_url="https://bob:hidden-word@s3", error=OSError("expired"))
    assert "https://s3 expired" in str(translated(failed))
    assert "hidden-word" not in str(translated(failed))


def translated(error: Exception, error_class: type[EngineryError] = StoreError) -> EngineryError:
    with (
        pytest.raises(EngineryError) as caught,
        s3.translated_errors("s3://engines/prod/x", error_class, endpoint="http://s3:9000"),
    ):
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("code", "status", "problem", "remedy"),
    [
        ("NoSuchBucket", 404, "bucket engines does not exist at http://s3:9000", "create it, or correct"),
        ("InvalidAccessKeyId", 403, "does not accept the credentials", "correct AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", 403, "does not accept the credentials", "AWS_SECRET_ACCESS_KEY"),
        ("ExpiredToken", 400, "does not accept the credentials", "sign in again"),
        ("AccessDenied", 403, "not allowed", "give them access to s3://engines/prod/x"),
        ("403", 403, "not allowed", "give them access to"),
        ("PermanentRedirect", 301, "not in the region", "AWS_DEFAULT_REGION"),
        ("RequestTimeTooSkewed", 403, "clock", "set the clock"),
        ("BadDigest", 400, "not the bytes that were sent", "nothing changes the file"),
        ("NotImplemented", 400, "refused: NotImplemented: m", "what the server can do"),
    ],
)
def test_what_cannot_pass_is_named_with_its_remedy(code: str, status: int, problem: str, remedy: str) -> None:
    error = translated(answer(code, status))
    assert problem in error.problem
    assert remedy in error.remedy
    assert not error.transient
    assert error.subject == "s3://engines/prod/x"


@pytest.mark.parametrize(
    ("code", "status"), [("SlowDown", 503), ("InternalError", 500), ("502", 502), ("Odd", 429), ("RequestTimeout", 400)]
)
def test_what_a_busy_server_says_can_pass(code: str, status: int) -> None:
    error = translated(answer(code, status))
    assert error.transient
    assert code in error.problem


@pytest.mark.parametrize(
    ("error", "problem", "transient"),
    [
        (exceptions.NoCredentialsError(), "there are no credentials", False),
        (exceptions.PartialCredentialsError(provider="env", cred_var="x"), "there are no credentials", False),
        (exceptions.EndpointConnectionError(endpoint_url="u"), "cannot be reached", True),
        (exceptions.ConnectTimeoutError(endpoint_url="u"), "cannot be reached", True),
        (exceptions.ProxyConnectionError(proxy_url="u"), "cannot be reached", True),
        (exceptions.ReadTimeoutError(endpoint_url="u"), "broke off", True),
        (exceptions.ConnectionClosedError(endpoint_url="u"), "broke off", True),
        (exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2), "broke off", True),
        (exceptions.FlexibleChecksumError(error_msg="x"), "altered", True),
        (exceptions.SSLError(endpoint_url="u", error=OSError("e")), "no trusted connection", False),
        (exceptions.ProfileNotFound(profile="p"), "S3 cannot be used", False),
        (OSError(errno.ENOSPC, "full"), "the disk is full", False),
    ],
)
def test_what_the_client_meets_is_named(error: Exception, problem: str, *, transient: bool) -> None:
    found = translated(error)
    assert problem in found.problem
    assert found.remedy
    assert found.transient is transient


@pytest.mark.parametrize("error_class", [StoreError, RegistryError, SourceError])
def test_the_caller_chooses_the_kind_of_error(error_class: type[EngineryError]) -> None:
    assert type(translated(answer("AccessDenied", 403), error_class)) is error_class
    assert type(translated(exceptions.NoCredentialsError(), error_class)) is error_class


def test_a_failed_condition_is_an_error_of_its_own() -> None:
    assert isinstance(translated(answer("PreconditionFailed", 412)), s3.PreconditionFailed)


def test_other_errors_go_through_as_they_are() -> None:
    with pytest.raises(FileNotFoundError), s3.translated_errors("s3://b/x"):
        raise FileNotFoundError(errno.ENOENT, "no such file")
    with pytest.raises(UsageError), s3.translated_errors("s3://b/x"):
        raise UsageError("ours")


def failing(times: int, error: EngineryError) -> tuple[list[int], Callable[[], str]]:
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return calls, call


def test_what_can_pass_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "20")
    calls, call = failing(2, StoreError("busy", transient=True))
    assert s3.patiently(call) == "done"
    assert len(calls) == 3


def test_what_cannot_pass_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "20")
    calls, call = failing(1, StoreError("refused"))
    with pytest.raises(StoreError, match="refused"):
        s3.patiently(call)
    assert len(calls) == 1


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0.5")
    calls, call = failing(1000, StoreError("busy", transient=True))
    with pytest.raises(StoreError, match="busy"):
        s3.patiently(call)
    assert 1 < len(calls) < 20


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The default patience, with a clock that moves only during waits."""
    monkeypatch.delenv("ENGINERY_S3_PATIENCE")
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_an_outage_of_ten_seconds_is_survived_by_default(clock: list[float]) -> None:
    def call() -> str:
        if clock[0] < 20.0:
            raise StoreError("away", transient=True)
        return "back"

    assert s3.patiently(call) == "back"
    assert clock[0] < 30.0


def test_the_clock_starts_with_the_first_failure_not_with_the_work(clock: list[float]) -> None:
    calls: list[int] = []

    def long_upload() -> str:
        calls.append(1)
        if len(calls) == 1:
            clock[0] += 3600.0
            raise StoreError("broke off", transient=True)
        return "done"

    assert s3.patiently(long_upload) == "done"


def test_one_answer_that_never_comes_does_not_use_up_all_patience(clock: list[float]) -> None:
    calls: list[int] = []

    def reset_then_stalled() -> str:
        calls.append(1)
        clock[0] += {1: 0.1, 2: s3.patience() + 1.0}.get(len(calls), 0.1)
        if len(calls) <= 2:
            raise StoreError("broke off", transient=True)
        return "done"

    assert s3.patiently(reset_then_stalled) == "done"


def test_without_patience_nothing_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0")
    calls, call = failing(1000, StoreError("busy", transient=True))
    with pytest.raises(StoreError, match="busy"):
        s3.patiently(call)
    assert len(calls) == 1


def test_there_is_one_client_for_one_set_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    first = s3.connection().client
    assert s3.connection().client is first
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:10")
    assert s3.connection().client is not first


def test_other_servers_are_asked_by_path_and_aws_by_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")

    def url() -> str:
        return s3.connection().client.generate_presigned_url("get_object", Params={"Bucket": "engines", "Key": "k"})

    assert url().startswith("https://engines.s3.")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio.local:9000")
    assert url().startswith("http://minio.local:9000/engines/k")


def test_the_region_is_us_east_1_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3.connection().client.meta.region_name == "us-east-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert s3.connection().client.meta.region_name == "eu-central-1"


def test_a_password_in_the_endpoint_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:secret@127.0.0.1:9")
    assert s3.endpoint() == "http://127.0.0.1:9"


def test_an_endpoint_that_is_no_url_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url")
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL"):
        s3.connection()


def test_no_credentials_is_an_error_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    prefix = s3.Prefix(s3.Address("engines", ""), RegistryError)
    with pytest.raises(RegistryError, match=r"no credentials for S3 at http://127\.0\.0\.1:9"):
        download_file(prefix, "x", tmp_path / "x", size=1)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_profile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(RegistryError, match="nobody"):
        s3.Prefix(s3.Address("engines", ""), RegistryError).get_bytes("x")


def test_half_the_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "only this")
    with pytest.raises(StoreError, match="there are no credentials for S3\n") as caught:
        s3.Prefix(s3.Address("engines", "")).get_bytes("x")
    assert "AWS_SECRET_ACCESS_KEY" in caught.value.remedy
    assert "only this" not in str(caught.value)


def test_a_patience_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "long")
    with pytest.raises(UsageError, match="ENGINERY_S3_PATIENCE"):
        s3.patience()


def test_a_probe_that_cannot_be_written_names_the_address_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    prefix = s3.Prefix(s3.Address("engines", "prod"), RegistryError)
    with pytest.raises(RegistryError) as caught:
        s3.honours_conditional_writes(prefix)
    assert caught.value.subject == "s3://engines/prod"
