"""A registry with a build, signed or not. A test module imports the fixtures it uses, and those that these use."""

# ruff: noqa: F811  fixtures that are imported

import json
from pathlib import Path

import pytest

from enginery.builds.bundle import SignatureFile
from enginery.builds.keys import SIGNING_KEY, SIGNING_KEY_PASSWORD, TRUSTED_KEYS, Policy
from enginery.builds.manifest import Manifest
from enginery.core.errors import RegistryError
from enginery.core.s3.objects import Prefix
from enginery.registry import Registry
from enginery.registry.layout import signature_path
from enginery.registry.signatures import require_signed, sign_if_configured
from tests.builds.test_manifest import a_manifest
from tests.support.registry.builds import Build
from tests.support.registry.keys import KeyPair, a_key_pair
from tests.support.s3.fixtures import bucket, server  # noqa: F401

ORDER = ("preprocessing", "tensorrt_llm", "postprocessing", "tensorrt_llm_bls", "ensemble")
OTHER = "cpu-int4-222222222222"


@pytest.fixture
def pair(tmp_path: Path) -> KeyPair:
    return a_key_pair(tmp_path / "keys")


class Place:
    """A registry with a build, and the key that signs."""

    def __init__(self, address: str, pair: KeyPair, manifest: Manifest) -> None:
        self.address, self.pair, self.manifest = address, pair, manifest
        self.registry = Registry(address)
        self.policy = Policy.read(str(pair.public))

    @classmethod
    def written(cls, address: str, pair: KeyPair) -> "Place":
        """A registry with a manifest and a signature as publishing makes it, but without the build's files."""
        made = cls(address, pair, a_manifest(*(f"model_repository/{name}/config.pbtxt" for name in ORDER)))
        sign_if_configured(made.build, made.manifest.to_json())
        made.build.put_bytes("manifest.json", made.manifest.to_json())
        return made

    @classmethod
    def published(cls, address: str, pair: KeyPair) -> "Place":
        """A registry with a really published build."""
        return cls(address, pair, Build().publish(address))

    @property
    def build(self) -> Prefix:
        return self.registry.build_prefix("tiny-llama", self.manifest.build_id)

    @property
    def manifest_json(self) -> bytes:
        return self.registry.manifest_json("tiny-llama", self.manifest.build_id)

    @property
    def signature(self) -> str:
        return signature_path(self.manifest_json, self.pair.fingerprint)

    def check(self, policy: Policy | None = None) -> tuple[SignatureFile, ...]:
        return require_signed(self.build, self.manifest_json, policy or self.policy)

    def refusal(self, policy: Policy | None = None) -> RegistryError:
        with pytest.raises(RegistryError, match="no trusted key has signed this") as caught:
            self.check(policy)
        assert caught.value.subject == self.build.where("manifest.json")
        return caught.value

    def edit_manifest(self, **changes: object) -> None:
        edited = json.loads(self.manifest_json) | changes
        self.build.put_bytes("manifest.json", json.dumps(edited, indent=1).encode())


@pytest.fixture
def address(bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in (SIGNING_KEY, SIGNING_KEY_PASSWORD, TRUSTED_KEYS):
        monkeypatch.delenv(name, raising=False)
    return f"s3://{bucket}/prod"


@pytest.fixture
def signed(address: str, pair: KeyPair, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv(SIGNING_KEY, str(pair.private))
    return Place.written(address, pair)


@pytest.fixture
def published(address: str, pair: KeyPair, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv(SIGNING_KEY, str(pair.private))
    return Place.published(address, pair)


@pytest.fixture
def unsigned(address: str, pair: KeyPair) -> Place:
    return Place.written(address, pair)
