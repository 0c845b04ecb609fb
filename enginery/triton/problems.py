"""Checks the serving options of a spec against the Triton backend of a release, when the plan is made.

Problems are findings. Notes tell the reader of a plan which defaults are used, and what is not known about a release.
"""

from collections.abc import Collection, Iterator
from functools import cache

from packaging.version import Version

from enginery.core.s3 import is_address
from enginery.releases import MODELS, Certainty, builds_engines, releases_read, template, version
from enginery.sources import TOKENIZERS
from enginery.spec import Finding, Rollout, ServingOptions, warning
from enginery.triton.inflight import DEFAULTS, FIELDS, OF_RELEASE, text
from enginery.triton.repository import TOKENIZER_FILE

DECODING_MODES_SINCE = {
    "top_k": "0.9.0",
    "top_p": "0.9.0",
    "top_k_top_p": "0.9.0",
    "beam_search": "0.9.0",
    "medusa": "0.10.0",
    "redrafter": "0.16.0",
    "lookahead": "0.16.0",
    "eagle": "0.16.0",
}
"""The first release whose backend knows the mode. A backend ignores a mode that it does not know, and logs a line."""
WINDOW_LISTS_SINCE = "0.13.0"
LOOKAHEAD_SIZES = ("lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size")
GUIDED = ("guided_decoding_backend", "xgrammar_tokenizer_info_path")
SPECIAL_TOKENS = "add_special_tokens"


def serving_problems(serving: ServingOptions, release: str) -> list[Finding]:
    """Serving options that do not work with the release; each path begins with `serving.`.

    Raises:
        UsageError: when the release is not a version, or older than every known release.
    """
    if not builds_engines(release):
        return []
    return [
        *_unknown_fields(serving, release),
        *_windows(serving, release),
        *_decoding(serving, release),
        *_guided(serving),
    ]


def rollout_problems(rollout: Rollout | None, model_repository: str) -> list[Finding]:
    """Reasons why an engine of TensorRT-LLM cannot be rolled out into this model repository."""
    if rollout is None or not is_address(model_repository):
        return []
    problem = (
        f"Triton copies {model_repository} to a local path that is new each time, but TensorRT-LLM's backend needs "
        "the engine's path"
    )
    remedy = "give a directory that the server mounts at serving.mount"
    return [Finding("E175", "rollout.model_repository", problem, remedy)]


def tokenizer_problems(names: Collection[str]) -> list[Finding]:
    """Reasons why the tokenizer of a source with these files cannot be served beside the engine."""
    if TOKENIZER_FILE in names or not (found := sorted({*TOKENIZERS, "vocab.json"} & set(names))):
        return []
    problem = f"has its tokenizer as {', '.join(found)} only; the models that serve an engine read {TOKENIZER_FILE}"
    remedy = "save its fast tokenizer beside the weights: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    return [Finding("E176", "source", problem, remedy)]


def set_fields(serving: ServingOptions) -> list[str]:
    """The fields that are set and that only TensorRT-LLM's C++ backend reads. Their default is None."""
    return [
        field
        for field, info in ServingOptions.model_fields.items()
        if info.default is None and field != "max_batch_size" and getattr(serving, field) is not None
    ]


def serving_notes(serving: ServingOptions, release: str) -> list[str]:
    """Notes on defaults that Enginery chooses, and on what is not known about the release.

    Raises:
        UsageError: when the release is not a version, or older than every known release.
    """
    if not builds_engines(release):
        return []
    return [*_templates(release), *_defaults(serving, release), *_special_tokens(serving, release)]


def _unknown_fields(serving: ServingOptions, release: str) -> Iterator[Finding]:
    known = _fields(release)
    for field in set_fields(serving):
        if field in known:
            continue
        had = [other for other in releases_read("templates", f"{MODELS[2]}/parameters") if field in _fields(other)]
        remedy = f"remove it, or use a release from {had[0]} to {had[-1]}" if had else "remove it"
        provenance = template(release, MODELS[2]).provenance
        if provenance.certainty is Certainty.NEAREST:
            problem = (
                f"the templates of TensorRT-LLM {release} are not known, and those of {provenance.release} lack it"
            )
            yield warning("W170", f"serving.{field}", problem, remedy)
        else:
            problem = f"the Triton templates of TensorRT-LLM {release} have no such parameter"
            yield Finding("E170", f"serving.{field}", problem, remedy)


@cache
def _fields(release: str) -> frozenset[str]:
    """The serving options of the spec that have a parameter in the templates of a release."""
    known = [found for model in MODELS if (found := template(release, model).value)]
    return frozenset(FIELDS.get(name, name) for one in known for name in (*one.placeholders, *one.parameters))


def _windows(serving: ServingOptions, release: str) -> Iterator[Finding]:
    if isinstance(serving.max_attention_window_size, tuple) and version(release) < version(WINDOW_LISTS_SINCE):
        problem = f"TensorRT-LLM {release} takes one number for all layers; lists came with {WINDOW_LISTS_SINCE}"
        yield Finding("E171", "serving.max_attention_window_size", problem, "give one number")


def _decoding(serving: ServingOptions, release: str) -> Iterator[Finding]:
    mode = serving.decoding_mode
    if mode is None or "decoding_mode" not in _fields(release):
        return
    first = DECODING_MODES_SINCE[mode]
    if version(release) < version(first):
        problem = f"the backend of TensorRT-LLM {release} does not know {mode}, which came with {first}"
        yield Finding("E172", "serving.decoding_mode", problem, "leave it out, or use a later release")
    sizes = [field for field in LOOKAHEAD_SIZES if field in _fields(release)]
    missing = [field for field in sizes if getattr(serving, field) is None]
    if mode == "lookahead" and missing:
        problem = f"lookahead needs {', '.join(missing)} too, or the engine does not load"
        yield Finding("E173", "serving.decoding_mode", problem, "set them")


def _guided(serving: ServingOptions) -> Iterator[Finding]:
    given = [field for field in GUIDED if getattr(serving, field) is not None]
    if len(given) == 1:
        (missing,) = set(GUIDED) - set(given)
        problem = f"without {missing} the backend ignores guided decoding"
        yield Finding("E174", f"serving.{given[0]}", problem, f"set {missing} too, or remove it")


def _templates(release: str) -> Iterator[str]:
    provenance = template(release, "tensorrt_llm").provenance
    if provenance.certainty is Certainty.NEAREST:
        yield f"serving: Triton's templates of {provenance.release} are filled: {provenance.note}"


def _defaults(serving: ServingOptions, release: str) -> Iterator[str]:
    if serving.max_batch_size is None:
        yield f"serving.max_batch_size is {DEFAULTS['max_batch_size']}, as in NVIDIA's getting-started article"
    for known, fields in OF_RELEASE.items():
        if Version(known) == Version(release):
            own = [f"{name} {text(value)}" for name, value in fields.items() if getattr(serving, name) is None]
            if own:
                yield f"serving: {', '.join(own)}, as in NVIDIA's getting-started article for {known}"


def _special_tokens(serving: ServingOptions, release: str) -> Iterator[str]:
    """A note if the release's template adds no special tokens to a prompt, but validation does."""
    known = template(release, "preprocessing").value
    if serving.add_special_tokens is None and known and known.parameters.get(SPECIAL_TOKENS) == "False":
        yield (
            f"serving.{SPECIAL_TOKENS} is false, as in the template of {release}, but validation adds special tokens:"
            " served answers may differ from the recorded ones, unless it is set to true"
        )
