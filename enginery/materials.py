"""What a build was made from, as in-toto's resource descriptors: the weights and the toolchains' packages.

Addresses are package URLs (`pkg:huggingface/…`, `pkg:pypi/…`), which others' tools look up.
"""

from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote

from pydantic import JsonValue

from enginery.records import StepRecord
from enginery.steps import Call, Stage

NOT_PACKAGES = frozenset({"verdict", "disagreements", "gpu", "driver", "image", "image-id"})
"""What the probe of a toolchain says besides its packages."""

Descriptor = dict[str, JsonValue]


def step_uri(key: str) -> str:
    """The name of a step in a statement."""
    return f"urn:enginery:step:{key}"


def weight_materials(steps: Iterable[StepRecord]) -> Iterator[Descriptor]:
    """The source at its commit, then each of its files that was downloaded."""
    for record in steps:
        if record.step.stage is Stage.DOWNLOAD and isinstance(record.step.recipe, Call):
            yield _source(record.step.recipe)
            for file in record.files:
                yield {"name": f"weights/{file.path}", "digest": {"sha256": file.sha256}}


def _source(recipe: Call) -> Descriptor:
    kind, location, commit = (str(recipe.parameters.get(name, "")) for name in ("kind", "location", "commit"))
    if kind == "huggingface":
        uri = f"pkg:huggingface/{quote(location)}@{quote(commit, safe='')}"
        return {"name": "weights", "uri": uri, "digest": {"gitCommit": commit}}
    # Elsewhere a commit is a digest over the names and digests of the files: Enginery's own, so no digest to compare.
    where: Descriptor = {"downloadLocation": location} if location else {}
    return {"name": "weights", "uri": f"urn:enginery:weights:{quote(commit, safe='')}", **where}


def toolchain_materials(steps: Iterable[StepRecord]) -> list[Descriptor]:
    """The packages and images of the steps' toolchains, each once, in the order of their addresses."""
    found = {str(material["uri"]): material for record in steps for material in _of_toolchain(record.toolchain)}
    return [found[uri] for uri in sorted(found)]


def _of_toolchain(toolchain: Mapping[str, str]) -> Iterator[Descriptor]:
    for name, version in toolchain.items():
        if name not in NOT_PACKAGES:
            kind = "generic" if name == "python" else "pypi"
            yield {"name": name, "uri": f"pkg:{kind}/{quote(name.lower(), safe='')}@{quote(version, safe='')}"}
    if image := toolchain.get("image"):
        algorithm, _, digest = toolchain.get("image-id", "").partition(":")
        named: Descriptor = {"name": image, "uri": f"pkg:docker/{quote(image, safe='/:')}"}
        yield named | ({"digest": {algorithm: digest}} if digest else {})
