"""OpenSSF's own command verifies the signatures of a copied build. It does not use Enginery."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from enginery.builds.bundle import SignatureFile, require_trusted
from enginery.builds.keys import SIGNING_KEY, SIGNING_KEY_PASSWORD, Policy, SigningKey
from enginery.core import s3
from enginery.core.s3.objects import Prefix
from enginery.registry import Registry
from enginery.registry.layout import signature_path
from enginery.registry.signatures import sign_build
from tests.support.registry.builds import Build
from tests.support.registry.keys import KeyPair, a_key_pair
from tests.support.s3.server import running_s3_server

PASSWORD = "sesame-open"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return a_key_pair(tmp_path_factory.mktemp("keys"), password=PASSWORD)


@pytest.fixture(scope="module")
def build(keys: KeyPair) -> Iterator[Prefix]:
    """A build that was signed with one key when it was published, and later with a second key."""
    with running_s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        bucket = f"engines-{uuid4().hex[:12]}"
        server.create_bucket(bucket)
        patch.setenv(SIGNING_KEY, str(keys.private))
        patch.setenv(SIGNING_KEY_PASSWORD, PASSWORD)
        manifest = Build().publish(f"s3://{bucket}/prod")
        patch.delenv(SIGNING_KEY_PASSWORD)
        prefix = Registry(f"s3://{bucket}/prod").build_prefix(manifest.model, manifest.build_id)
        second = a_key_pair(keys.private.parent, "second")
        sign_build(prefix, prefix.get_bytes("manifest.json") or b"", SigningKey.read(second.private))
        yield prefix
        s3.close_clients()


@pytest.fixture(scope="module")
def mirror(build: Prefix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every object of the build, as `aws s3 sync` copies them."""
    directory = tmp_path_factory.mktemp("mirror") / "build"
    for info in build.list():
        file = directory / info.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(build.get_bytes(info.path) or b"")
    return directory


def signature_of(mirror: Path, pair: KeyPair) -> Path:
    return mirror / signature_path((mirror / "manifest.json").read_bytes(), pair.fingerprint)


def model_signing(*command: str | Path) -> tuple[int, str]:
    """Run OpenSSF's command. Returns its exit status and its output."""
    argv = [sys.executable, "-m", "model_signing", *command]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout + done.stderr


def verify(mirror: Path, signature: Path, public: Path) -> tuple[int, str]:
    """Run the command of the guide."""
    return model_signing("verify", "key", mirror, "--signature", signature, "--public_key", public)


def test_upstreams_command_verifies_the_copy_of_a_build(mirror: Path, keys: KeyPair) -> None:
    assert verify(mirror, signature_of(mirror, keys), keys.public) == (0, "Verification succeeded\n")


@pytest.mark.parametrize("path", ["manifest.json", "model_repository/ensemble/config.pbtxt", "provenance.intoto.jsonl"])
def test_upstreams_command_notices_one_flipped_bit(mirror: Path, keys: KeyPair, path: str) -> None:
    signature = signature_of(mirror, keys)
    kept = (mirror / path).read_bytes()
    (mirror / path).write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
    code, output = verify(mirror, signature, keys.public)
    (mirror / path).write_bytes(kept)
    assert code == 1
    assert "Hash mismatch for" in output
    assert path in output


def test_upstreams_command_notices_a_file_that_was_added(mirror: Path, keys: KeyPair) -> None:
    added = mirror / "model_repository" / "extra.py"
    added.write_text("print('hello')\n")
    code, output = verify(mirror, signature_of(mirror, keys), keys.public)
    added.unlink()
    assert code == 1
    assert "Extra files found" in output


def test_upstreams_command_refuses_another_key(mirror: Path, keys: KeyPair, tmp_path: Path) -> None:
    code, output = verify(mirror, signature_of(mirror, keys), a_key_pair(tmp_path).public)
    assert code == 1
    assert "Key mismatch" in output


def test_what_upstreams_command_has_signed_counts_under_a_policy(mirror: Path, tmp_path: Path) -> None:
    """The upstream tool alone can sign a copy of a build."""
    pair = a_key_pair(tmp_path)
    made = tmp_path / "made.sig"
    ignoring = ("--ignore-paths", mirror / "signatures")
    result = model_signing("sign", "key", mirror, "--signature", made, "--private_key", pair.private, *ignoring)
    assert result == (0, "Signing succeeded\n")
    data = (mirror / "manifest.json").read_bytes()
    signature = SignatureFile(signature_path(data, pair.fingerprint), made.read_bytes())
    assert require_trusted(data, [signature], Policy.read(str(pair.public)), "it") == signature
