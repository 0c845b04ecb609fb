# ruff: noqa: F811  fixtures are imported
"""All kinds of AWS credentials are used by both clients of S3. See docs/s3.md."""

import datetime as dt
import hashlib
import json
import sys
from pathlib import Path

import pytest

from enginery.core import s3
from enginery.core.errors import StoreError
from tests.support.s3.fixtures import bucket, prefix, server  # noqa: F401
from tests.support.s3.recorder import Recorder
from tests.support.s3.using import SMALL, config, recorder, use_everything  # noqa: F401

# Credentials


def both_used(recorder: Recorder, key_id: str) -> None:
    assert all(recorder.by_each_client())
    assert {request.key_id for request in recorder.requests} == {key_id}


@pytest.fixture
def no_keys(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


@pytest.mark.usefixtures("no_keys")
@pytest.mark.parametrize("variable", ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"])
def test_the_profile_is_used_by_both_clients(  # noqa: PLR0913, PLR0917
    prefix: s3.Prefix, recorder: Recorder, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    config.write_text("[profile ours]\naws_access_key_id = OURS\naws_secret_access_key = x\n")
    monkeypatch.setenv(variable, "ours")
    use_everything(prefix, tmp_path, large=False)
    both_used(recorder, "OURS")


@pytest.mark.usefixtures("no_keys", "config")
def test_the_shared_credentials_are_used_by_both_clients(
    prefix: s3.Prefix, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = SHARED\naws_secret_access_key = x\naws_session_token = token\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    use_everything(prefix, tmp_path, large=False)
    both_used(recorder, "SHARED")
    assert {request.headers["x-amz-security-token"] for request in recorder.requests} == {"token"}


PROCESS = """
import datetime as dt, json, pathlib, sys
calls = pathlib.Path(sys.argv[1])
calls.open("a").write("x")
expires = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=int(sys.argv[2]))
print(json.dumps({"Version": 1, "AccessKeyId": f"PROCESS{calls.stat().st_size}", "SecretAccessKey": "x",
    "SessionToken": "t", "Expiration": expires.isoformat()}))
"""


def a_process(config: Path, tmp_path: Path, minutes: int) -> None:
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    command = f"{sys.executable} {script} {tmp_path / 'calls'} {minutes}"
    config.write_text(f"[default]\ncredential_process = {command}\n")


@pytest.mark.usefixtures("no_keys")
def test_a_process_gives_the_credentials_to_both_clients(
    prefix: s3.Prefix, recorder: Recorder, config: Path, tmp_path: Path
) -> None:
    a_process(config, tmp_path, 60)
    use_everything(prefix, tmp_path, large=False)
    both_used(recorder, "PROCESS1")


@pytest.mark.usefixtures("no_keys")
def test_credentials_are_renewed_for_both_clients(
    prefix: s3.Prefix, recorder: Recorder, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginery.core.s3.small.CREDENTIALS_SECONDS", 0.0)
    a_process(config, tmp_path, 5)  # so short that boto3 renews them for every request
    use_everything(prefix, tmp_path, large=False)
    by_boto3, others = recorder.by_each_client()
    assert len({request.key_id for request in others}) > 1
    assert not {request.key_id for request in others} & {request.key_id for request in by_boto3}


@pytest.mark.usefixtures("no_keys")
def test_a_process_that_fails_is_an_error_with_a_remedy(prefix: s3.Prefix, recorder: Recorder, config: Path) -> None:
    config.write_text("[default]\ncredential_process = /bin/false\n")
    with pytest.raises(StoreError, match="there are no credentials") as caught:
        prefix.get("x")
    assert "~/.aws/config" in caught.value.remedy
    assert recorder.requests == []


# Credentials that a server gives


@pytest.mark.usefixtures("no_keys")
@pytest.mark.parametrize("kind", ["role", "web identity"])
def test_a_role_is_assumed_for_both_clients(  # noqa: PLR0913, PLR0917
    prefix: s3.Prefix, recorder: Recorder, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    role = "arn:aws:iam::123456789012:role/builder"
    token = tmp_path / "token"
    token.write_text("a.b.c")
    config.write_text(
        f"[profile role]\nrole_arn = {role}\nsource_profile = keys\n"
        "[profile keys]\naws_access_key_id = KEYS\naws_secret_access_key = x\n"
        f"[profile identity]\nrole_arn = {role}\nweb_identity_token_file = {token}\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "role" if kind == "role" else "identity")
    use_everything(prefix, tmp_path, large=False)
    signed = [request for request in recorder.requests if request.key_id != "KEYS" and "x-amz-date" in request.headers]
    assert len({request.key_id for request in signed}) == 1
    assert all("x-amz-security-token" in request.headers for request in signed if request.key_id)
    assert any(not request.by_boto3 for request in signed)
    assert {request.method for request in recorder.requests if request not in signed} == {"POST"}


@pytest.mark.usefixtures("no_keys")
def test_a_role_that_is_refused_is_named(prefix: s3.Prefix, recorder: Recorder, config: Path) -> None:
    config.write_text(
        "[default]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = keys\n"
        "[profile keys]\naws_access_key_id = KEYS\naws_secret_access_key = x\n"
    )
    body = (
        b'<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Code>AccessDenied</Code>'
        b"<Message>KEYS may not assume it</Message></Error></ErrorResponse>"
    )
    recorder.answer = lambda _: (403, body, {})
    with pytest.raises(StoreError, match=r"AssumeRole was refused \(AccessDenied: KEYS may not assume it\)") as caught:
        prefix.get("x")
    assert "~/.aws/config" in caught.value.remedy


def in_the_future(minutes: int = 60) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


def signed_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: Path, recorder: Recorder, expires: str) -> None:
    """Single sign-on: a profile, and the file that `aws sso login` leaves. The recorder is the sign-on service too."""
    monkeypatch.setattr(
        "botocore.tokens.SSOTokenProvider._SSO_TOKEN_CACHE_DIR", str(tmp_path / ".aws" / "sso" / "cache")
    )
    monkeypatch.setattr(
        "botocore.credentials.SSOProvider._SSO_TOKEN_CACHE_DIR", str(tmp_path / ".aws" / "sso" / "cache")
    )
    config.write_text(
        "[default]\nsso_session = ours\nsso_account_id = 123456789012\nsso_role_name = builder\n"
        "[sso-session ours]\nsso_region = us-east-1\nsso_start_url = https://ours.test/start\n"
        "sso_registration_scopes = sso:account:access\n"
    )
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    token = {
        "startUrl": "https://ours.test/start",
        "region": "us-east-1",
        "accessToken": "secret",
        "expiresAt": expires,
    }
    (cache / f"{hashlib.sha1(b'ours').hexdigest()}.json").write_text(json.dumps(token))
    keys = {"accessKeyId": "SSO", "secretAccessKey": "x", "sessionToken": "t", "expiration": 4_000_000_000_000}
    body = json.dumps({"roleCredentials": keys}).encode()
    recorder.answer = lambda request: (200, body, {}) if "/federation/credentials" in request.target else None


@pytest.mark.usefixtures("no_keys")
def test_single_sign_on_gives_the_credentials_to_both_clients(
    prefix: s3.Prefix, recorder: Recorder, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in(monkeypatch, tmp_path, config, recorder, in_the_future())
    use_everything(prefix, tmp_path, large=False)
    recorder.requests = [request for request in recorder.requests if "/federation/" not in request.target]
    both_used(recorder, "SSO")


@pytest.mark.usefixtures("no_keys")
def test_when_single_sign_on_has_expired_the_remedy_is_to_sign_in(
    prefix: s3.Prefix, recorder: Recorder, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in(monkeypatch, tmp_path, config, recorder, in_the_future(-60))
    with pytest.raises(StoreError, match="there are no credentials") as caught:
        prefix.get("x")
    assert "aws sso login" in caught.value.remedy


@pytest.mark.usefixtures("no_keys")
def test_a_containers_credentials_are_used_by_both_clients(
    prefix: s3.Prefix, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"AccessKeyId": "CONTAINER", "SecretAccessKey": "x", "Token": "t", "Expiration": in_the_future()}
    body = json.dumps(keys).encode()
    recorder.answer = lambda request: (200, body, {}) if request.target == "/keys" else None
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{recorder.url}/keys")
    use_everything(prefix, tmp_path, large=False)
    recorder.requests = [request for request in recorder.requests if request.target != "/keys"]
    both_used(recorder, "CONTAINER")
