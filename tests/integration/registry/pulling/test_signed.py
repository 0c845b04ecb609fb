"""Tests of pulls under a policy: only a build that a trusted key signed is pulled."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from enginery.builds.keys import SIGNING_KEY, TRUSTED_KEYS, SigningKey
from enginery.builds.manifest import Manifest
from enginery.cli.app import app
from enginery.core.errors import RegistryError
from enginery.registry import Registry
from enginery.registry.pulling import pull
from enginery.registry.signatures import sign_build
from enginery.registry.upkeep.verifying import verify_directory
from tests.support.registry.builds import Build
from tests.support.registry.keys import KeyPair, a_key_pair
from tests.support.registry.pulls import address, registry
from tests.support.s3.fixtures import bucket, server

__all__ = ["address", "bucket", "registry", "server"]

BUILD = "cpu-int4-111111111111"


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyPair:
    for name in (SIGNING_KEY, TRUSTED_KEYS):
        monkeypatch.delenv(name, raising=False)
    return a_key_pair(tmp_path / "keys")


@pytest.fixture
def manifest(registry: Registry, address: str, pair: KeyPair) -> Manifest:
    """The manifest of a build that is not signed by `pair`."""
    Build().publish(address)
    return registry.manifest("tiny-llama", BUILD)


def sign(registry: Registry, manifest: Manifest, pair: KeyPair) -> str:
    prefix = registry.build_prefix(manifest.model, manifest.build_id)
    data = registry.manifest_json(manifest.model, manifest.build_id)
    return sign_build(prefix, data, SigningKey.read(pair.private))


def run(address: str, to: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["pull", f"tiny-llama/{BUILD}", "--registry", address, "--to", str(to), *words])


def test_a_signed_build_is_pulled_with_the_signature_that_counts(
    registry: Registry, address: str, manifest: Manifest, pair: KeyPair, tmp_path: Path
) -> None:
    path = sign(registry, manifest, pair)
    ended = run(address, tmp_path / "models", "--trusted-keys", str(pair.public))
    assert ended.exit_code == 0, ended.stderr
    assert (tmp_path / "models" / "current" / path).is_file()
    assert verify_directory(tmp_path / "models") == []


def test_a_build_that_is_not_signed_is_refused_and_nothing_appears(
    address: str, manifest: Manifest, pair: KeyPair, tmp_path: Path
) -> None:
    ended = run(address, tmp_path / "models", "--trusted-keys", str(pair.public))
    assert isinstance(ended.exception, RegistryError)
    assert "no trusted key has signed this" in str(ended.exception)
    assert not (tmp_path / "models" / "current").exists()


def test_a_build_that_another_key_has_signed_is_refused(
    registry: Registry, address: str, manifest: Manifest, pair: KeyPair, tmp_path: Path
) -> None:
    sign(registry, manifest, a_key_pair(tmp_path / "others"))
    ended = run(address, tmp_path / "models", "--trusted-keys", str(pair.public))
    assert isinstance(ended.exception, RegistryError)
    assert not (tmp_path / "models" / "current").exists()


def test_the_policy_in_the_environment_holds_for_the_library_too(
    registry: Registry, manifest: Manifest, pair: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUSTED_KEYS, str(pair.public))
    with pytest.raises(RegistryError, match="no trusted key has signed this"):
        pull(registry, manifest, tmp_path / "models")
    sign(registry, manifest, pair)
    pull(registry, manifest, tmp_path / "models")
    assert (tmp_path / "models" / "model_repository" / "ensemble").is_dir()


def test_without_keys_an_unsigned_build_is_pulled(address: str, manifest: Manifest, tmp_path: Path) -> None:
    assert run(address, tmp_path / "models").exit_code == 0
