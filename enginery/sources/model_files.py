"""The files of a source when the plan is made: chooses the files that a build needs, and reports a model's problems.

Only files at the top level are used, and further chat templates. Other subdirectories hold the same weights in another
format, or no weights.
"""

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, JsonValue

from enginery.core.errors import SourceError
from enginery.core.model import Frozen
from enginery.models import (
    BESIDE,
    CONFIG,
    INDEX,
    MODELOPT_FILE,
    SINGLE,
    WeightsFault,
    chosen_template,
    config_problems,
    find_templates,
    is_template,
    with_quantization,
)
from enginery.sources.documents import LFS_POINTER, read_object, text_problem
from enginery.sources.repository_kinds import ADAPTER, embeds, recognize
from enginery.spec import Source

PICKLE_INDEX = "pytorch_model.bin.index.json"
CONFIGS = (CONFIG, "generation_config.json", MODELOPT_FILE, "quantize_config.json", "quantization_config.json")
TEMPLATE = "chat_template.jinja"
"""A text that becomes a part of each prompt."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json")
TOKENIZER_PARTS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.json",
    TEMPLATE,
)
LICENSES = ("license*", "licence*", "use_policy*", "notice*", "copying*", "acceptable_use_policy*")
WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
CODE = ("modeling_*.py", "configuration_*.py", "tokenization_*.py", "processing_*.py", "modular_*.py")
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
MODULES = "modules.json"
"""The parts of a model of sentence-transformers."""
LARGE = frozenset({"tokenizer.json", "tekken.json", "vocab.json", INDEX, PICKLE_INDEX})
"""JSON files that may be large. A plan reads them only if they are on this machine; an index only if it is needed."""
NOT_WEIGHTS = (
    "training_args.bin",
    "optimizer.*",
    "scheduler.*",
    "rng_state*",
    "scaler.*",
    "adapter_model.*",
    "openvino_*",
)
"""Files that end as pickled weights do, and are something else."""
STANDARD_PICKLES = ("pytorch_model*.bin",)

Reader = Callable[[str], bytes]
"""Gives the content of a small file by its name."""
SourceKind = Literal["huggingface", "path", "s3"]


class SourceFile(Frozen):
    """A file that the build needs.

    Attributes:
        name: its name in the source.
        size: bytes; None if the source does not state it, as some mirrors of the Hub do not.
        sha256: 64 hex digits; None if neither the source nor the spec states it.
        git_blob: the Git blob id of the content, 40 hex digits, if the Hub gives it instead of a SHA-256.
        etag: the ETag of an object in S3.
    """

    name: str
    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None
    etag: str | None = None


class ResolvedSource(Frozen):
    """A source when the plan is made: exactly the files that the download step will download.

    Attributes:
        kind: the field of the spec's `source` that names it.
        location: repository, absolute directory, or S3 address; empty in the parameters of a step for local files.
        commit: identifies the content: the Hub's commit; elsewhere a digest over the files' names and digests or etags.
        revision: the revision to download, if a mirror of the Hub does not say its commit; `commit` is a digest then.
        files: the files that the build needs, sorted by name.
        gated: whether users must accept a licence on the Hub.
        config: the model's `config.json`.
        chat_template: where the model's chat template is; empty if it has none.
        notes: sentences for the reader of the plan, such as that a repository has another name now.
    """

    kind: SourceKind
    location: str = ""
    commit: str
    revision: str | None = None
    files: tuple[SourceFile, ...]
    gated: bool = False
    config: Mapping[str, JsonValue] = Field(default_factory=dict)
    chat_template: str = ""
    notes: tuple[str, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """The size of the weight files in bytes; 0 if the size of one of them is not known."""
        sizes = [file.size for file in self.files if file.name.endswith(WEIGHT_ENDINGS)]
        return 0 if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def size(self) -> int:
        """The size of all files in bytes, as far as the sizes are known (`unsized`)."""
        return sum(file.size for file in self.files if file.size is not None)

    @property
    def unsized(self) -> list[str]:
        """The names of the files whose size is not known."""
        return [file.name for file in self.files if file.size is None]

    @property
    def license_files(self) -> list[str]:
        """Names of the licence texts among the files."""
        return [file.name for file in self.files if is_license(file.name)]


@dataclass
class Selection:
    """The files that were chosen from a source, and the problems that were found.

    Attributes:
        source: the spec's source: which pickles it allows, and which digests it expects.
        present: the names of all files at the top level.
        names: the names of the files that a build needs.
        unreadable: the names of JSON files that cannot be read. They are among the findings.
        documents: name -> content of the small files that decide which other files are needed.
        config: the model's configuration.
        chat_template: where the model's chat template is; empty if it has none.
        notes: sentences for the reader of the plan.
    """

    source: Source
    present: set[str]
    names: set[str]
    unreadable: set[str] = field(default_factory=set)
    documents: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    findings: list[WeightsFault] = field(default_factory=list)
    config: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str = ""
    notes: list[str] = field(default_factory=list)

    def report(self, problem: str, remedy: str = "") -> None:
        """Add a problem to the findings."""
        self.findings.append(WeightsFault(problem, remedy))

    def check_document(self, name: str, content: bytes) -> Mapping[str, Any]:
        """The object in a JSON file. If the file cannot be read, that is added to the findings."""
        document = read_object(name, content)
        if not isinstance(document, WeightsFault):
            return document
        self.findings.append(document)
        self.unreadable.add(name)
        return {}


def is_license(name: str) -> bool:
    """Whether a file of this name is a licence text."""
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in LICENSES)


def select(names: Iterable[str], source: Source, read: Reader) -> Selection:
    """Choose the files that a build needs, and find every problem that would stop the build.

    Args:
        names: the names of all files in the source.
        source: the spec's source: which pickles it allows, and which digests it expects.
        read: gives the content of a small file that decides which other files are needed.
    """
    read = cache(read)
    every = [name.replace("\\", "/") for name in names]
    present = {name for name in every if "/" not in name and name not in {"", ".", ".."}}
    known = {*CONFIGS, *TOKENIZERS, *TOKENIZER_PARTS}
    selection = Selection(source, present, {name for name in present if name in known or is_license(name)})
    deciding = _deciding_files(present)
    others = {name for name in selection.names if name.endswith(".json")} - LARGE
    for name in sorted({*deciding, *others}):
        content = selection.check_document(name, read(name))
        if name in deciding:
            selection.documents[name] = content
    selection.names |= {name for name in every if "/" in name and is_template(name)}
    for name in sorted(selection.names):
        if name.endswith(".jinja") and (problem := text_problem(name, read(name))):
            selection.findings.append(problem)
    if instead := _other_kind(every, selection, read):
        selection.findings = [instead]
        return selection
    selection.config = with_quantization(selection.documents.get(CONFIG, {}), selection.documents)
    selection.chat_template = _chat_template(selection.names - selection.unreadable, read)
    _check_parts(selection)
    _check_types(selection)
    _check_remote_code(selection)
    _choose_weights(selection)
    _check_named_in_spec(selection)
    return selection


def raise_findings(
    findings: Iterable[WeightsFault], subject: str, config: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Raise all findings as one error. Without findings, do nothing.

    Args:
        findings: the problems of a model.
        subject: the model.
        config: the model's configuration, by which a plan finds other mistakes.

    Raises:
        SourceError: when there is a finding.
    """
    found = list(findings)
    if not found:
        return
    listed = "".join(f"\n  - {finding}" for finding in found)
    problem = found[0].problem if len(found) == 1 else f"{len(found)} things are wrong with this model:{listed}"
    error = SourceError(problem, subject=subject, remedy=found[0].remedy if len(found) == 1 else "")
    error.config = dict(config)
    raise error


def check_expected_digests(known: Mapping[str, str], source: Source, selection: Selection) -> None:
    """Report each file whose known SHA-256 differs from the one in the spec."""
    for name, expected in sorted(source.sha256.items()):
        if name in known and known[name] != expected:
            selection.report(
                f"{name} has another SHA-256 than source.sha256 expects: expected {expected}, got {known[name]}",
                "find out which of the two is right before you build from it",
            )


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file is the small text that Git LFS puts in place of a large file."""
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def _deciding_files(present: set[str]) -> list[str]:
    """The small files whose content decides which other files are needed."""
    names = [CONFIG, MODELOPT_FILE, *BESIDE, "tokenizer_config.json", ADAPTER]
    if SINGLE not in present:
        names.append(INDEX if INDEX in present else PICKLE_INDEX)
    return [name for name in names if name in present]


def _other_kind(names: list[str], selection: Selection, read: Reader) -> WeightsFault | None:
    """What the source is if it is no model that generates text, such as a LoRA adapter; None if it may be one."""
    if MODULES in selection.present and (embeds_only := embeds(read(MODULES))):
        return embeds_only
    standard = {SINGLE, INDEX, PICKLE_INDEX, *selection.source.allow_pickle}
    has_shards = any(SHARD.fullmatch(name) for name in selection.present)
    if selection.present & standard or has_shards or _matching(selection.present, STANDARD_PICKLES):
        return None
    return recognize(names, selection.documents, lambda name: name in {*TOKENIZERS, *TOKENIZER_PARTS})


def _chat_template(names: Iterable[str], read: Reader) -> str:
    """Where the model's chat template is; empty if there is none, or none that can be read."""
    try:
        found = chosen_template(find_templates(set(names), read))
    except SourceError:
        return ""  # only a chat needs it; the step that renders one says what is wrong
    return found.where if found else ""


def _check_parts(selection: Selection) -> None:
    if CONFIG not in selection.present:
        selection.report(f"there is no {CONFIG}", "check that this is a model in Hugging Face's format")
    if not selection.present.intersection(TOKENIZERS) and not {"vocab.json", "merges.txt"} <= selection.present:
        selection.report(
            "there is no tokenizer (no tokenizer.json, no tokenizer.model)",
            "add the tokenizer's files to the weights, or use a repository that has them",
        )


def _check_types(selection: Selection) -> None:
    """Report what is wrong with the configuration itself."""
    for problem in config_problems(selection.config):
        selection.report(problem, f"correct {CONFIG}, or use a revision of the model in which it is right")
    config = selection.documents.get(CONFIG, {})
    says = any(config.get(name) for name in ("architectures", "model_type", "auto_map"))
    if CONFIG in selection.documents.keys() - selection.unreadable and not says:
        problem = f"{CONFIG} does not say what model it is: it has neither architectures nor model_type"
        selection.report(problem, "check that this is a model in Hugging Face's format")


def _check_remote_code(selection: Selection) -> None:
    remedy = "use a version of the model that works without code of its own"
    for name in (CONFIG, "tokenizer_config.json"):
        if selection.documents.get(name, {}).get("auto_map"):
            problem = f"{name} has an auto_map: it asks to run code from the repository, which is refused"
            selection.report(problem, remedy)
    if code := _matching(selection.present, CODE):
        selection.report(f"the model brings code of its own, which is refused: {', '.join(code)}", remedy)


def _choose_weights(selection: Selection) -> None:
    shards = {name for name in selection.present if SHARD.fullmatch(name)}
    pickles = set(_matching(selection.present, PICKLES)) - set(_matching(selection.present, NOT_WEIGHTS))
    if SINGLE in selection.present:
        selection.names.add(SINGLE)
    elif INDEX in selection.present:
        _choose_shards(INDEX, selection.present, shards, selection)
    elif shards:
        problem = f"there are {len(shards)} parts of the weights but no {INDEX}"
        selection.report(problem, "check that the model is complete")
    elif pickles:
        _choose_pickles(pickles, selection)
    else:
        others = _matching(selection.present, ("*.safetensors", "*.gguf", "*.onnx", "*.h5", "*.msgpack"))
        found = f"; found only {', '.join(others)}" if others else ""
        problem = f"there are no weights (no {SINGLE}, no {INDEX}){found}"
        selection.report(problem, "use a repository with safetensors weights")


def _choose_shards(index: str, present: set[str], shards: set[str], selection: Selection) -> None:
    if index in selection.unreadable:
        return
    weight_map = selection.documents[index].get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        selection.report(f"{index} does not say which file holds which weights (no weight_map)")
        return
    named = {str(name) for name in weight_map.values()}
    if missing := sorted(named - present):
        problem = f"{index} names files that are not there: {', '.join(missing)}"
        selection.report(problem, "check that the model is complete")
    if unnamed := sorted(shards - named):
        problem = f"{index} does not name these parts: {', '.join(unnamed)}"
        selection.report(problem, "remove the files that do not belong to the model")
    selection.names |= {index} | (named & present)


def _choose_pickles(pickles: set[str], selection: Selection) -> None:
    allowed = pickles.intersection(selection.source.allow_pickle)
    if not allowed:
        names = ", ".join(sorted(pickles))
        selection.report(
            f"there are no safetensors weights, only pickles ({names}); reading a pickle can run any code",
            f"use a revision with safetensors, or trust them by name: source.allow_pickle: [{names}]",
        )
    elif PICKLE_INDEX in selection.documents:
        _choose_shards(PICKLE_INDEX, allowed, set(), selection)
    selection.names |= allowed


def _check_named_in_spec(selection: Selection) -> None:
    present, remove = sorted(selection.present), "remove it from the spec"
    if unknown := sorted(set(selection.source.allow_pickle).difference(present)):
        selection.report(f"source.allow_pickle names files that are not there: {', '.join(unknown)}")
    for name in sorted(selection.source.sha256):
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1)
            remedy = f"did you mean {near[0]}?" if near else remove
            selection.report(f"source.sha256 names {name}, which is not there", remedy)
        elif name not in selection.names:
            selection.report(f"source.sha256 names {name}, which the build does not use", remove)


def _matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    return sorted({name for pattern in patterns for name in fnmatch.filter(names, pattern)})
