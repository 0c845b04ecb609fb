"""Tests of references in a registry: a build carries its own, and another one takes it."""

from pathlib import Path
from typing import Any

import pytest

from enginery.backends.reference.published import require_reference_build
from enginery.backends.reference.recipe import reference_call
from enginery.backends.reference.step import reference_step
from enginery.backends.reference.tokenizers import tokenizer_digest
from enginery.builds import Manifest, Reference, read_reference
from enginery.core.errors import RegistryError, SourceError
from enginery.registry import Registry, publish, pull
from enginery.spec import ValidationOptions
from enginery.store import StepContext
from tests.support.paths import CHECKOUT
from tests.support.references import answer, text, write_reference
from tests.support.registry.builds import Build
from tests.support.registry.pulls import address, registry
from tests.support.s3.fixtures import bucket, proxy, server

__all__ = ["address", "bucket", "proxy", "registry", "server"]

MODEL = CHECKOUT / "examples" / "tiny-llama" / "model"


def published(directory: Path, to: str, **facts: Any) -> tuple[Manifest, Reference]:
    """A build that was published with a reference."""
    context = Build().context(directory, to)
    made = write_reference(directory / "inputs" / "reference", [text(), answer()])
    described = made.facts.model_copy(update={"tokenizer_sha256": tokenizer_digest(MODEL), **facts})
    (made.directory / "reference.json").write_text(described.model_dump_json())
    context.inputs = {**context.inputs, "reference": made.directory}
    publish(context)
    return Registry(to).manifest("tiny-llama", Build().build_id), read_reference(made.directory)


def a_context(directory: Path, to: str, build: str, *prompts: str) -> tuple[StepContext, list[str]]:
    asked = [{"prompt": prompt} for prompt in prompts]
    validation = ValidationOptions.model_validate({"prompts": asked, "reference": {"use": "build", "build": build}})
    output, lines = directory / "output", list[str]()
    output.mkdir(parents=True)
    parameters = reference_call(validation, registry=to).parameters
    return StepContext("0" * 64, parameters, {"weights": MODEL}, output, (), None, lines.append), lines


def test_a_published_build_carries_its_reference(registry: Registry, address: str, tmp_path: Path) -> None:
    manifest, reference = published(tmp_path, address)
    pull(registry, manifest, tmp_path / "pulled")
    pulled = read_reference(tmp_path / "pulled" / "current" / "reference")
    assert pulled.facts == reference.facts
    assert (pulled.logprobs.top_ids == reference.logprobs.top_ids).all()


def test_a_build_takes_the_reference_of_an_accepted_one(address: str, tmp_path: Path) -> None:
    manifest, reference = published(tmp_path / "first", address)
    context, lines = a_context(tmp_path / "second", address, manifest.reference, "How?", "Why not?")
    require_reference_build(context.parameters)
    facts = reference_step(context)
    assert read_reference(context.output).sequences == reference.sequences
    assert (facts["build"], facts["registry"], facts["answers"]) == (manifest.reference, address, 1)
    assert any("has no answer to prompt 2" in line for line in lines)
    assert sorted(path.name for path in context.output.iterdir()) == ["logprobs.npz", "reference.json"]


def test_a_reference_that_was_damaged_in_the_bucket_is_refused(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    manifest, _ = published(tmp_path / "first", address)
    prefix = registry.build_prefix(manifest.model, manifest.build_id)
    found = prefix.get_bytes("reference/logprobs.npz")
    assert found is not None
    prefix.put_bytes("reference/logprobs.npz", found[:-1] + b"!")
    context, _ = a_context(tmp_path / "second", address, manifest.reference, "How?")
    with pytest.raises(RegistryError, match="logprobs"):
        reference_step(context)


def test_a_build_without_a_reference_is_refused_before_work_begins(address: str, tmp_path: Path) -> None:
    manifest = Build().publish(address)
    context, _ = a_context(tmp_path, address, manifest.reference)
    with pytest.raises(RegistryError, match="has no reference") as error:
        require_reference_build(context.parameters)
    assert "use: weights" in str(error.value)


def test_a_build_that_is_not_published_is_refused_before_work_begins(address: str, tmp_path: Path) -> None:
    context, _ = a_context(tmp_path, address, "tiny-llama/cpu-int4-000000000000")
    with pytest.raises(RegistryError, match="no build tiny-llama/cpu-int4-000000000000"):
        require_reference_build(context.parameters)


def test_the_reference_of_another_model_is_refused(address: str, tmp_path: Path) -> None:
    manifest, _ = published(tmp_path / "first", address, tokenizer_sha256="0" * 64)
    context, _ = a_context(tmp_path / "second", address, manifest.reference, "How?")
    with pytest.raises(SourceError, match="another tokenizer"):
        reference_step(context)


def test_a_build_without_a_reference_is_published_as_before(address: str, tmp_path: Path) -> None:
    context = Build().context(tmp_path, address)
    publish(context)
    manifest = Registry(address).manifest("tiny-llama", Build().build_id)
    assert not any(file.path.startswith("reference/") for file in manifest.files)
