# ruff: noqa: F811  fixtures are imported
"""Tests of rollouts under a policy: only signed builds are placed, and each byte is compared."""

import json
from pathlib import Path

import pytest
from pydantic import JsonValue

from enginery.builds.keys import SIGNING_KEY, TRUSTED_KEYS, Policy, SigningKey
from enginery.builds.manifest import Manifest
from enginery.cli.app import app
from enginery.core.errors import EngineryError, RegistryError, RolloutError, UsageError
from enginery.core.s3.objects import Prefix
from enginery.pipeline import functions
from enginery.registry.signatures import sign_build
from enginery.store import Call
from enginery.triton.placement import arrange, open_repository, place, read_configs
from enginery.triton.rollout import roll_out_build, rollout, serving_build
from tests.support.registry.builds import ANSWERS, QUESTION, Build
from tests.support.registry.keys import KeyPair, a_key_pair
from tests.support.s3.fixtures import bucket, server  # noqa: F401
from tests.support.triton.rollouts import FIRST, SECOND, Site, address, site, triton  # noqa: F401

ANSWER_FILE = "model_repository/tensorrt_llm/1/answers.json"
CONFIG_FILE = "model_repository/ensemble/config.pbtxt"


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyPair:
    for name in (SIGNING_KEY, TRUSTED_KEYS):
        monkeypatch.delenv(name, raising=False)
    return a_key_pair(tmp_path / "keys")


def source_of(site: Site, manifest: Manifest) -> Prefix:
    return site.registry.build_prefix(manifest.model, manifest.build_id)


def signed(site: Site, build_id: str, pair: KeyPair, answer: str = "") -> Manifest:
    manifest = site.publish(build_id, answer)
    sign_build(source_of(site, manifest), manifest.to_json(), SigningKey.read(pair.private))
    return manifest


def roll_out(site: Site, manifest: Manifest, pair: KeyPair) -> None:
    policy, place_ = Policy.read(str(pair.public)), str(site.triton.repository)
    roll_out_build(manifest, site.registry, [site.triton.url], place_, site.lines.append, policy)


def test_a_build_that_a_trusted_key_has_signed_is_served(site: Site, pair: KeyPair) -> None:
    roll_out(site, signed(site, FIRST, pair), pair)
    assert site.ask() == ANSWERS[QUESTION]
    assert f"{FIRST} is signed by a trusted key" in site.lines


def test_a_build_that_is_not_signed_is_refused_before_anything_is_placed(site: Site, pair: KeyPair) -> None:
    roll_out(site, signed(site, FIRST, pair), pair)
    calls = list(site.triton.calls)
    with pytest.raises(RegistryError, match="no trusted key has signed this"):
        roll_out(site, site.publish(SECOND, "the second"), pair)
    assert site.triton.calls == calls
    assert site.versions() == {"1"}
    assert serving_build(site.triton.url) == FIRST


def test_the_manifest_that_is_served_is_the_one_that_was_signed_not_the_one_that_was_handed_over(
    site: Site, pair: KeyPair
) -> None:
    manifest = signed(site, FIRST, pair)
    handed = manifest.model_copy(update={"files": tuple(file for file in manifest.files if "bls" not in file.path)})
    roll_out(site, handed, pair)
    assert "tensorrt_llm_bls" in site.triton.loaded


def test_a_manifest_that_was_edited_in_the_bucket_is_refused(site: Site, pair: KeyPair) -> None:
    manifest = signed(site, FIRST, pair)
    edited = json.dumps(json.loads(manifest.to_json()) | {"channel": "stable"}).encode()
    source_of(site, manifest).put_bytes("manifest.json", edited)
    with pytest.raises(RegistryError, match=r"does not match manifest\.json here"):
        roll_out(site, manifest, pair)
    assert not list(site.triton.repository.iterdir())


@pytest.mark.parametrize("path", [ANSWER_FILE, CONFIG_FILE])
def test_a_file_that_was_changed_in_the_bucket_after_signing_is_not_served(
    site: Site, pair: KeyPair, path: str
) -> None:
    roll_out(site, signed(site, FIRST, pair), pair)
    manifest = signed(site, SECOND, pair, "the second")
    flip(source_of(site, manifest), path)
    with pytest.raises(RolloutError, match=f"other bytes than.*{FIRST} serves again"):
        roll_out(site, manifest, pair)
    assert site.ask() == ANSWERS[QUESTION]


def test_a_configuration_that_was_changed_in_the_bucket_is_refused_without_a_policy_too(site: Site) -> None:
    manifest = site.publish(FIRST)
    source = source_of(site, manifest)
    flip(source, CONFIG_FILE)
    with pytest.raises(RolloutError, match="holds other bytes than its manifest says") as caught:
        read_configs(source, arrange(manifest, 1))
    assert caught.value.subject == source.where(CONFIG_FILE)


def test_in_s3_what_is_copied_under_a_policy_is_compared_too(site: Site) -> None:
    manifest = site.publish(FIRST)
    flip(source_of(site, manifest), ANSWER_FILE)
    repository = open_repository(f"{site.address}/serving", check_copies=True)
    with pytest.raises(EngineryError, match="holds other bytes than were recorded"):
        place(repository, source_of(site, manifest), arrange(manifest, 1), 1)


def test_in_s3_what_is_copied_under_a_policy_arrives(site: Site) -> None:
    manifest = site.publish(FIRST)
    repository = open_repository(f"{site.address}/serving", check_copies=True)
    placement = arrange(manifest, 3)
    place(repository, source_of(site, manifest), placement, 3)
    for record, path in placement.files:
        assert repository.read(path) == source_of(site, manifest).get_bytes(record.path)


def flip(source: Prefix, path: str) -> None:
    """Change one bit of an object, and keep the writer's metadata."""
    data = source.get_bytes(path)
    assert data
    source.put_bytes(path, bytes([data[0] ^ 1]) + data[1:])


def published_step(site: Site, build_id: str, directory: Path) -> Path:
    """The output of a publish step."""
    from enginery.registry import publish

    context = Build(build_id=build_id).context(directory, site.address)
    publish(context)
    return context.output


def test_the_rollout_step_of_a_pipeline_keeps_to_the_policy_in_the_environment(
    site: Site, pair: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = published_step(site, FIRST, tmp_path / "published")
    context = Build().context(tmp_path / "step", site.address)
    context.inputs = {"published": published}
    where: dict[str, JsonValue] = {"endpoints": [site.triton.url], "model_repository": str(site.triton.repository)}
    context.parameters = {"model": "tiny-llama", "build_id": FIRST, **where}
    monkeypatch.setenv(TRUSTED_KEYS, str(pair.public))
    with pytest.raises(RegistryError, match="it is not signed"):
        rollout(context)
    assert not list(site.triton.repository.iterdir())
    monkeypatch.delenv(TRUSTED_KEYS)
    rollout(context)
    assert serving_build(site.triton.url) == FIRST


def test_keys_that_cannot_be_read_are_found_before_a_pipeline_begins(
    pair: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUSTED_KEYS, str(tmp_path / "nowhere"))
    check = functions.find_preparation_check(Call(function="rollout", version=1, parameters={}))
    assert check is not None
    with pytest.raises(UsageError, match="cannot be read"):
        check({"model_repository": str(tmp_path)})
    monkeypatch.setenv(TRUSTED_KEYS, str(pair.public))
    check({"model_repository": str(tmp_path)})


def test_the_command_takes_the_trusted_keys_as_an_option(site: Site, pair: KeyPair) -> None:
    site.publish(FIRST)
    place_ = ("--endpoint", site.triton.url, "--model-repository", str(site.triton.repository))
    command = ["rollout", FIRST, "--registry", site.address, *place_, "--trusted-keys", str(pair.public)]
    with pytest.raises(RegistryError, match="it is not signed"):
        app(command, standalone_mode=False)
    assert not list(site.triton.repository.iterdir())
