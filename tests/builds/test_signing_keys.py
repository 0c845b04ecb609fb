"""Tests of the settings and files for signing keys and trusted keys."""

import hashlib
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from enginery.builds.keys import SIGNING_KEY, SIGNING_KEY_PASSWORD, TRUSTED_KEYS, Policy, SigningKey, TrustedKey
from enginery.core.errors import UsageError
from tests.support.registry.keys import a_key_pair, an_rsa_pair


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SIGNING_KEY, SIGNING_KEY_PASSWORD, TRUSTED_KEYS):
        monkeypatch.delenv(name, raising=False)


def test_without_a_setting_nothing_is_signed_and_nothing_is_required() -> None:
    assert SigningKey.from_environment() is None
    assert not Policy.chosen().required


def test_both_halves_of_a_pair_have_the_fingerprint_that_sha256sum_prints_of_the_public_one(tmp_path: Path) -> None:
    pair = a_key_pair(tmp_path)
    expected = hashlib.sha256(pair.public.read_bytes()).hexdigest()
    assert SigningKey.read(pair.private).fingerprint == TrustedKey.read(pair.public).fingerprint == expected


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_keys_made_with_openssl_as_the_guide_says_can_be_used(tmp_path: Path) -> None:
    commands = (
        "openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
        "openssl pkey -in key.pem -pubout -out key.pub.pem",
    )
    for command in commands:
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    printed = hashlib.sha256((tmp_path / "key.pub.pem").read_bytes()).hexdigest()
    assert SigningKey.read(tmp_path / "key.pem").fingerprint == printed


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_each_curve_that_model_signing_takes_is_taken(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    pair = a_key_pair(tmp_path, curve=curve)
    assert SigningKey.read(pair.private).fingerprint == TrustedKey.read(pair.public).fingerprint


def test_another_curve_is_refused_by_name(tmp_path: Path) -> None:
    pair = a_key_pair(tmp_path, curve=ec.SECP256K1())
    for read in (lambda: SigningKey.read(pair.private), lambda: TrustedKey.read(pair.public)):
        with pytest.raises(UsageError, match="on the curve secp256k1.*P-256, P-384, P-521"):
            read()


def test_a_key_of_another_kind_is_refused_on_either_side(tmp_path: Path) -> None:
    pair = an_rsa_pair(tmp_path)
    for read in (lambda: SigningKey.read(pair.private), lambda: TrustedKey.read(pair.public)):
        with pytest.raises(UsageError, match="is not an elliptic-curve key"):
            read()


def test_a_public_key_cannot_sign(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a public key, which cannot sign") as caught:
        SigningKey.read(a_key_pair(tmp_path).public)
    assert SIGNING_KEY in caught.value.remedy


@pytest.mark.parametrize("password", ["", "sesame-open"])
def test_a_private_key_is_refused_where_a_public_one_belongs(tmp_path: Path, password: str) -> None:
    with pytest.raises(UsageError, match="is a private key where a public one belongs") as caught:
        TrustedKey.read(a_key_pair(tmp_path, password=password).private)
    assert "openssl pkey" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_public_key_is_refused_by_its_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.pem").write_bytes(content)
    with pytest.raises(UsageError, match="is not a public key in PEM") as caught:
        TrustedKey.read(tmp_path / "odd.pem")
    assert caught.value.subject.endswith("odd.pem")


def test_what_is_no_private_key_is_refused_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "odd.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(UsageError, match="is not a private key in PEM"):
        SigningKey.read(tmp_path / "odd.pem")


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for read in (SigningKey.read, TrustedKey.read):
        with pytest.raises(UsageError, match="cannot be read: No such file") as caught:
            read(tmp_path / "nowhere.pem")
        assert caught.value.subject.endswith("nowhere.pem")


def test_an_encrypted_key_is_opened_with_the_password_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = a_key_pair(tmp_path, password="sesame-open")
    monkeypatch.setenv(SIGNING_KEY, str(pair.private))
    monkeypatch.setenv(SIGNING_KEY_PASSWORD, "sesame-open")
    key = SigningKey.from_environment()
    assert key is not None
    assert key.fingerprint == pair.fingerprint
    assert "sesame-open" not in repr(key)


@pytest.mark.parametrize(
    ("encrypted_with", "given", "problem"),
    [
        ("sesame-open", "", "is encrypted, and no password is given"),
        ("sesame-open", "wrong-word", "the password is wrong"),
        ("", "sesame-open", "is not encrypted, but a password is given"),
    ],
)
def test_a_wrong_password_has_its_own_error_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypted_with: str, given: str, problem: str
) -> None:
    pair = a_key_pair(tmp_path, password=encrypted_with)
    monkeypatch.setenv(SIGNING_KEY_PASSWORD, given)
    with pytest.raises(UsageError, match=problem) as caught:
        SigningKey.read(pair.private)
    assert SIGNING_KEY_PASSWORD in caught.value.remedy
    assert not given or given not in str(caught.value)


def test_without_the_package_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = a_key_pair(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr("enginery.builds.keys.find_spec", lambda name: None if name == "model_signing" else found(name))
    for read in (lambda: SigningKey.read(pair.private), lambda: Policy.read(str(pair.public))):
        with pytest.raises(UsageError, match="model-signing, not installed here") as caught:
            read()
        assert "'.[signing]'" in caught.value.remedy


def test_a_policy_takes_the_public_keys_of_a_directory_and_of_files(tmp_path: Path) -> None:
    first, second = a_key_pair(tmp_path / "1", "first"), a_key_pair(tmp_path / "2", "second")
    keys = tmp_path / "keys"
    keys.mkdir()
    for pair in (first, second):
        shutil.copy(pair.public, keys)
    (keys / "README").write_text("who has these keys")
    expected = {first.fingerprint, second.fingerprint}
    assert {key.fingerprint for key in Policy.read(str(keys)).keys} == expected
    assert {key.fingerprint for key in Policy.read(f"{first.public}:{second.public}").keys} == expected
    assert {key.fingerprint for key in Policy.read(f"{keys}:{first.public}").keys} == expected
    assert len(Policy.read(f"{keys}:{first.public}").keys) == 2


def test_a_policy_follows_the_links_of_a_mounted_secret(tmp_path: Path) -> None:
    pair = a_key_pair(tmp_path / "..data")
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "key.pem").symlink_to(pair.public)
    assert [key.fingerprint for key in Policy.read(str(keys)).keys] == [pair.fingerprint]


def test_a_directory_without_keys_is_refused_and_not_taken_for_no_policy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no keys") as caught:
        Policy.read(str(tmp_path))
    assert caught.value.subject == str(tmp_path)


@pytest.mark.parametrize("places", ["", " ", ":"])
def test_a_policy_that_names_nothing_is_refused_and_not_taken_for_none(
    monkeypatch: pytest.MonkeyPatch, places: str
) -> None:
    monkeypatch.setenv(TRUSTED_KEYS, places)
    with pytest.raises(UsageError, match="names no keys"):
        Policy.chosen()


def test_one_bad_key_spoils_a_policy(tmp_path: Path) -> None:
    pair = a_key_pair(tmp_path)
    with pytest.raises(UsageError, match="private key where a public one belongs") as caught:
        Policy.read(str(tmp_path))
    assert caught.value.subject == str(pair.private)


def test_an_option_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = a_key_pair(tmp_path, "first"), a_key_pair(tmp_path, "second")
    monkeypatch.setenv(TRUSTED_KEYS, str(first.public))
    assert [key.path for key in Policy.chosen(None).keys] == [first.public]
    assert [key.path for key in Policy.chosen(str(second.public)).keys] == [second.public]
