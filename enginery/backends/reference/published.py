"""Takes the reference of a published build: fetches its two files, and leaves out what a spec does not ask."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from enginery.builds import (
    LOGPROBS_FILE,
    REFERENCE_DIRECTORY,
    REFERENCE_FILE,
    Manifest,
    Policy,
    Reference,
    ReferenceSequence,
    read_reference,
)
from enginery.core.errors import RegistryError
from enginery.core.late import late
from enginery.core.progress import NO_PROGRESS
from enginery.core.s3 import Download, download_all
from enginery.registry import Registry, trusted_manifest
from enginery.store import FileRecord

if TYPE_CHECKING:
    import numpy as np
else:
    np = late("numpy")

FILES = (REFERENCE_FILE, LOGPROBS_FILE)


def require_reference_build(values: Mapping[str, JsonValue]) -> None:
    """Check, before any work begins, that the build that a step takes its reference from is there and has one.

    Raises:
        RegistryError: when it is not.
    """
    if values.get("build"):
        _reference_files(_manifest(str(values["registry"]), str(values["build"])))


def fetch_reference(address: str, build: str, directory: Path) -> Reference:
    """Fetch the reference of a published build into a directory. Every byte is compared with the build's manifest.

    Args:
        address: the registry's address.
        build: the build, `MODEL/BUILD` with the whole build id.
        directory: where its files are written.

    Raises:
        RegistryError: when there is no such build, it has no reference, no trusted key has signed it, or a file is
            damaged.
    """
    manifest = _manifest(address, build)
    files = _reference_files(manifest)
    prefix = Registry(address).build_prefix(manifest.model, manifest.build_id)
    wanted = [Download(file.path, directory / name, file.size, file.sha256) for name, file in files.items()]
    directory.mkdir(parents=True, exist_ok=True)
    download_all(prefix, wanted, NO_PROGRESS)
    return read_reference(directory)


def _manifest(address: str, build: str) -> Manifest:
    model, _, build_id = build.partition("/")
    return trusted_manifest(Registry(address), model, build_id, Policy.chosen())


def _reference_files(manifest: Manifest) -> dict[str, FileRecord]:
    found = {file.path: file for file in manifest.files}
    paths = {name: f"{REFERENCE_DIRECTORY}/{name}" for name in FILES}
    if not set(paths.values()) <= found.keys():
        problem = "has no reference: it was published without one"
        remedy = "name a build that has one, or set validation.reference.use: weights"
        raise RegistryError(problem, subject=manifest.reference, remedy=remedy)
    return {name: found[path] for name, path in paths.items()}


def fitted(reference: Reference, prompts: Sequence[tuple[str, int]], window: int, directory: Path) -> Reference:
    """Write a reference with its texts, and its answers to these prompts, and nothing else.

    Args:
        reference: the reference of another build.
        prompts: the text of each prompt as it is sent, and the longest answer in tokens.
        window: the longest piece of a text, in tokens; longer pieces are cut.
        directory: where it is written.
    """
    kept = list(_kept(reference, prompts, window))
    sequences = tuple(sequence for sequence, _ in kept)
    places = np.array([place for sequence, start in kept for place in range(start, start + sequence.rows)], dtype=int)
    found = reference.logprobs
    np.savez_compressed(
        directory / LOGPROBS_FILE,
        top_ids=found.top_ids[places],
        top_logprobs=found.top_logprobs[places],
        next_logprobs=found.next_logprobs[places],
    )
    facts = reference.facts.model_copy(update={"sequences": sequences, "window": min(window, reference.facts.window)})
    (directory / REFERENCE_FILE).write_text(facts.model_dump_json(), encoding="utf-8")
    return read_reference(directory)


def _kept(
    reference: Reference, prompts: Sequence[tuple[str, int]], window: int
) -> Iterator[tuple[ReferenceSequence, int]]:
    """The sequences that are kept, each with its first row."""
    answers = {}
    for sequence, rows in reference.rows():
        if sequence.kind == "answer":
            answers[sequence.prompt] = sequence, rows.start
        elif sequence.first < window:
            yield sequence.model_copy(update={"ids": sequence.ids[:window]}), rows.start
    for number, (prompt, most) in enumerate(prompts, start=1):
        if prompt in answers:
            sequence, start = answers[prompt]
            yield shortened(sequence.model_copy(update={"name": f"prompt {number}"}), most), start


def shortened(answer: ReferenceSequence, most: int) -> ReferenceSequence:
    """An answer of at most `most` tokens. If it is cut, its text is left out."""
    if answer.rows <= most:
        return answer
    return answer.model_copy(update={"ids": answer.ids[: answer.first + most], "finish": "length", "text": ""})
