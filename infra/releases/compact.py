# ruff: noqa: INP001  a script, not a module
"""Makes the package data `enginery/releases/data/*.json` from a directory of facts: `python compact.py FACTS [TO]`.

The facts were read from TensorRT-LLM's sources and pages: one JSON file for each release and topic. This script makes
one small file for each topic. It has each fact once, with the span of releases in which the fact holds. Only facts are
kept: names, types, choices, defaults, versions; no code and no help texts.
"""

import json
import sys
from pathlib import Path
from typing import Any

from packaging.version import Version
from spans import Topic

DATA = Path(__file__).parents[2] / "enginery" / "releases" / "data"

AFTER_REMOVAL = "1.3.0rc20+main"
"""NVIDIA's main branch after the engine builder was removed; 1.3.0rc20 is the last release with the builder."""
BETWEEN_0_19_AND_0_20 = "0.20.0.dev0"
"""The branch r25.05, which has Triton templates, lies between these two releases."""
ENUM_CHOICES = {"KVCacheType": ["continuous", "paged", "disabled"]}
"""Enumeration -> its members, which the parser does not list as choices."""
QUANTIZERS = ("nvidia-ammo", "nvidia-modelopt")
TRITON_MODELS = ("preprocessing", "postprocessing", "tensorrt_llm", "tensorrt_llm_bls", "ensemble")
SETTINGS = ("platform", "backend", "model_transaction_policy", "dynamic_batching", "instance_group")
UNQUOTED = "placeholders_unquoted (file is not valid text proto unless filled)"

Json = dict[str, Any]


def main(facts: Path, to: Path = DATA) -> None:
    """Write every data file, and print its size."""
    for name, text in data_files(facts).items():
        path = to / name
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path.stat().st_size:8} {name}\n")


def data_files(facts: Path) -> dict[str, str]:
    """File name -> text of each data file that is made from the facts."""
    topics = {
        "build.json": build_topic(facts),
        "examples.json": examples_topic(facts),
        "families.json": families_topic(facts),
        "precisions.json": precisions_topic(facts),
        "pins.json": pins_topic(facts),
        "templates.json": templates_topic(facts),
        "arguments.json": arguments_topic(facts),
    }
    return {name: _text(topic.compact()) for name, topic in topics.items()}


def build_topic(facts: Path) -> Topic:
    """`trtllm-build`: every flag."""
    topic = Topic("flags of trtllm-build; a choice listed twice is kept once, a default is of the flag's type")
    for one in _read_all(facts, "build/trtllm-build-*.json"):
        source = topic.source(_certainty(one["method"]), one["source"], one["method"])
        topic.put("trtllm-build", one["release"], source, _flags(one["options"]))
    return topic


def examples_topic(facts: Path) -> Topic:
    """`convert_checkpoint.py` of each family, `quantize.py`, `run.py`: every flag, and the script's path."""
    topic = Topic("flags of the example scripts")
    found = _read_all(facts, "examples/examples-*.json")
    scripts = sorted({name for one in found for path in one["scripts"] if (name := _script(path))})
    for one in found:
        source = topic.source(_certainty(one["method"]), one["source"], one["method"])
        present = {_script(path): (path, script["options"]) for path, script in one["scripts"].items()}
        whole = "examples/run.py" in one["scripts"]  # without it, only one script of the release was read
        for name in scripts:
            path, options = present.get(name, ("", {}))
            if path or whole:
                topic.put(name, one["release"], source, _flags(options) if path else None)
        topic.put("scripts", one["release"], source, {name: path for name, (path, _) in present.items() if name})
        if not whole:
            del topic.subjects["scripts"].read[one["release"]]
            del topic.subjects["scripts"].facts[one["release"]]
    return topic


def families_topic(facts: Path) -> Topic:
    """The architectures that a release knows, and the family whose converter serves each."""
    topic = Topic("architecture -> class; family -> architectures, derived from what its converter names")
    for one in _read_all(facts, "models/models-*.json"):
        source = topic.source("parsed", one["source"], one["method"])
        topic.put("architectures", one["release"], source, one["model_map"])
        families = {path.rsplit("/", 1)[-1]: _architectures(tie) for path, tie in one["families"].items()}
        topic.put("families", one["release"], source, families)
    return topic


def precisions_topic(facts: Path) -> Topic:
    """Number formats for each compute capability and for each model."""
    topic = Topic("compute capability -> number formats; model -> number formats")
    known: dict[str, Json] = {}
    for one in _read_all(facts, "precision/precision-*.json"):
        release = one["release"]
        source = topic.source("parsed", one["source"], one["method"])
        models = {
            model: [name for name, mark in row.items() if mark == "Y"] for model, row in one["model_precision"].items()
        }
        topic.put("models", release, source, models)
        known[release] = _capabilities(one)
        topic.put("capabilities", release, source, known[release])
    _add_blackwell(topic, known)
    return topic


def _add_blackwell(topic: Topic, known: dict[str, Json]) -> None:
    """Add Blackwell to 0.17.0, the first release with it, because the matrix of 0.17.0 was not read."""
    formats = next(formats for name, formats in known["1.3.0rc3"].items() if name == "10.0")
    before = known["0.17.0.dev2024121700"]
    method = "inferred: the matrix of 0.17.0.dev2024121700 with Blackwell, which 0.17 brought, as in 1.3.0rc3"
    source = topic.source("inferred", "TensorRT-LLM's release notes", method)
    topic.put("capabilities", "0.17.0", source, {"10.0": formats, **before})


def pins_topic(facts: Path) -> Topic:
    """Versions that belong to a release: from its requirements, else its notes, else a Triton container with it."""
    topic = Topic("versions that go with a release; images without the host of NVIDIA's registry")
    versions = _read(facts / "versions.json")
    for release, one in versions["source_pins"].items():
        eye = "read by eye" in one["source"]
        method = "read by eye" if eye else "requirements.txt, setup.py and the docker files of the release"
        source = topic.source("rendered" if eye else "parsed", one["source"], method)
        _put_pins(topic, release, source, _requirements(one))
    notes = versions["release_notes_infrastructure"]
    source = topic.source("rendered", notes["source"], "the versions in the release notes, read by eye")
    for release, one in notes["releases"].items():
        _put_pins(topic, release if release.count(".") > 1 else f"{release}.0", source, _noted(one))
    _put_containers(topic, versions["triton_containers"])
    _infer_python(topic, [one["release"] for one in _read_all(facts, "build/trtllm-build-*.json")])
    return topic


def _infer_python(topic: Topic, releases: list[str]) -> None:
    """Take the Pythons of two releases for all releases between them, if both name the same."""
    first, last = "0.16.0", "1.3.0rc3"
    known = topic.subjects["python"].facts
    if known[first] != known[last]:
        raise SystemExit(f"{first} and {last} name different Pythons: nothing can be inferred between them")
    method = f"inferred: {first} and {last} name the same Pythons"
    source = topic.source("inferred", "setup.py of both", method)
    between = [one for one in releases if Version(first) < Version(one) < Version(last) and one not in known]
    for release in between:
        topic.put("python", release, source, known[first])


def _put_containers(topic: Topic, containers: Json) -> None:
    source = topic.source("rendered", containers["source"], "Triton's compatibility table: what is in the container")
    by_release: dict[str, Json] = {}
    for row in containers["rows"]:
        image = _without_host(row["tag"])
        inside = {name: row[name] for name in ("tensorrt", "torch", "cuda")}
        kept = {"python": row["python"].split()[-1], **inside, "driver": row["driver"]}
        by_release.setdefault(row["tensorrt_llm"], {})[image] = kept
        _put_pins(topic, row["tensorrt_llm"], source, inside)
    for release, rows in by_release.items():
        topic.put("containers", release, source, rows)
    said = topic.source("inferred", "triton-inference-server/server discussion #7081, quoting rel-24-02", "one answer")
    topic.put("containers", "0.8.0", said, {"nvidia/tritonserver:24.02-trtllm-python-py3": {}})


def _put_pins(topic: Topic, release: str, source: int, pins: Json) -> None:
    """Make each pin a subject of its own. A pin that a source does not name was not looked for in it."""
    for name, value in pins.items():
        known = topic.subjects.get(name)
        if known is None or release not in known.read:
            topic.put(name, release, source, {"value": value})


def templates_topic(facts: Path) -> Topic:
    """Triton's `inflight_batcher_llm`: the content of each model's template, and how the ensemble connects them."""
    about = "model/placeholders (quoted or not), /parameters (template value), /inputs, /outputs, /settings (the rest)"
    topic = Topic(f"{about}; /takes and /gives: the ensemble's name for each of its tensors")
    for one in _read_all(facts, "triton_templates/triton-*.json"):
        release = BETWEEN_0_19_AND_0_20 if one["release"].startswith("branch") else one["release"]
        method = f"{one['method']}; {one['release']}" if release != one["release"] else one["method"]
        source = topic.source("parsed", one["source"], method)
        for path, template in one["templates"].items():
            model = path.split("/")[-2]
            if "/inflight_batcher_llm/" in path and model in TRITON_MODELS:
                _put_template(topic, release, source, model, template)
    return topic


def _put_template(topic: Topic, release: str, source: int, model: str, template: Json) -> None:
    unquoted = template[UNQUOTED]
    placeholders = {name: {"quoted": name not in unquoted} for name in template["placeholders"]}
    topic.put(f"{model}/placeholders", release, source, placeholders)
    for part in ("parameters", "inputs", "outputs"):
        topic.put(f"{model}/{part}", release, source, template[part])
    topic.put(f"{model}/settings", release, source, {name: template[name] for name in SETTINGS if name in template})
    for step in template.get("ensemble_steps", ()):
        topic.put(f"{step['model_name']}/takes", release, source, step["input_map"])
        topic.put(f"{step['model_name']}/gives", release, source, step["output_map"])


def arguments_topic(facts: Path) -> Topic:
    """The LLM API: the fields of each class of arguments."""
    topic = Topic("class -> field: annotation, default, status; a field of a base class is listed there only")
    found = _read_all(facts, "llmapi/llm_args-[0-9]*.json")
    names = sorted({name for one in found for name in one["classes"] if not name.startswith("_")})
    for one in found:
        source = topic.source("parsed", one["source"], one["method"])
        for name in names:
            topic.put(name, one["release"], source, _fields(name, one["classes"]))
    later = _read(facts / "llmapi/llm_args-main-after-removal.json")
    source = topic.source("rendered", later["source"].split(" (")[0], "read by eye; BaseLlmArgs only")
    fields = {field: _argument(fact) for field, fact in later["classes"]["BaseLlmArgs"].items()}
    topic.put("BaseLlmArgs", AFTER_REMOVAL, source, fields)
    return topic


def _fields(name: str, classes: Json) -> Json | None:
    """A class's public fields, and under `(bases)` its base classes, whose fields it has, too."""
    if name not in classes:
        return None
    fields = classes[name]["fields"].items()
    made = {field: _argument(fact) for field, fact in fields if not fact.get("private")}
    bases = [base for base in classes[name]["bases"] if base in classes]
    return {"(bases)": bases, **made} if bases else made


def _argument(fact: Json) -> Json:
    kept = ("annotation", "type", "default", "default_factory", "choices", "required", "status")
    return {name: fact[name] for name in kept if name in fact}


def _read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _read_all(facts: Path, pattern: str) -> list[Json]:
    found = [_read(path) for path in sorted(facts.glob(pattern))]
    if not found:
        raise SystemExit(f"{facts}: no {pattern}")
    return found


def _certainty(method: str) -> str:
    if method.startswith("INFERRED"):
        return "inferred"
    return "rendered" if method.startswith(("NOT parsed", "read in full by eye")) else "parsed"


def _script(path: str) -> str:
    """The command's name for a script's path: `convert_checkpoint.py llama`, `quantize.py`; empty for others."""
    parts = path.split("/")
    if parts[-1] == "convert_checkpoint.py":
        return f"convert_checkpoint.py {parts[-2]}"
    return parts[-1] if parts[-1] in {"quantize.py", "run.py"} else ""


def _flags(options: Json) -> Json:
    return {name: _flag(option) for name, option in options.items()}


def _flag(option: Json) -> Json:
    made: Json = {}
    kind = option.get("type", "str")
    if option["action"] != "store":
        made["action"] = option["action"]
    elif kind != "str":
        made["type"] = kind
    default = option.get("default")
    if default == "argparse.SUPPRESS":
        made["suppressed"] = True
    elif default is not None:
        made["default"] = {"int": int, "float": float}[kind](default) if _is_text_of_number(kind, default) else default
    if choices := option.get("choices") or ENUM_CHOICES.get(kind):
        made["choices"] = list(dict.fromkeys(choices))
    made |= {name: option[name] for name in ("aliases", "nargs", "const", "required") if option.get(name)}
    if option.get("help_says_deprecated"):
        made["deprecated"] = True
    return made


def _is_text_of_number(kind: str, default: Any) -> bool:
    """Whether argparse makes a number of this text; the name of an enumeration's member stays a text."""
    return kind in {"int", "float"} and isinstance(default, str) and default.replace(".", "", 1).isdigit()


def _architectures(tie: Json) -> Json:
    """A converter's architectures: from the class it imports or the names in it, else (less sure) its module's name."""
    named = dict.fromkeys((*tie["model_map_keys_of_those_classes"], *tie["architecture_strings_in_script"]))
    if named:
        return {"architectures": list(named), "tie": "script"}
    return {"architectures": tie["model_map_keys_by_module_name"], "tie": "module name"}


def _capabilities(one: Json) -> Json:
    """Compute capability, such as 8.9 -> number formats."""
    rows: Json = {}
    if "sm_precision_readme" in one:
        for label, row in one["sm_precision_readme"].items():
            formats = [name for name, mark in row.items() if mark.startswith("Y")]
            rows |= dict.fromkeys(_numbers(label), formats)
        return rows
    for line in one["sm_precision_support_matrix"]:
        label, _, formats = line.partition(" - ")
        names = [name.split("[")[0].split("(")[0].strip() for name in formats.split(",")]
        rows |= dict.fromkeys(_numbers(label), names)
    return rows


def _numbers(label: str) -> list[str]:
    """`Ampere (SM80, SM86)` -> 8.0, 8.6."""
    digits = [part.strip(" ,/()") for part in label.split("SM")[1:]]
    return [f"{number[:-1]}.{number[-1]}" for number in digits]


def _requirements(one: Json) -> Json:
    wanted = one["requirements"]
    made: Json = {"python": one.get("python_classifiers"), "python_requires": one.get("python_requires")}
    made["cuda"] = one.get("install_tensorrt_sh", {}).get("CUDA_VER")
    made["tensorrt"] = (wanted.get("tensorrt-cu12") or wanted["tensorrt"])[0].split(";")[0].strip()
    made["torch"] = wanted["torch"][0]
    for name in QUANTIZERS:
        if name in wanted:
            made["quantizer"] = f"{name}{wanted[name][0].split(';')[0]}"
    made["transformers"] = wanted["transformers"][0]
    if "docker_base" in one:
        made["pytorch_image"] = f"{_without_host(one['docker_base'])}:{one['docker_base_tag']}"
    return {name: value for name, value in made.items() if value}


def _noted(one: Json) -> Json:
    made = {"cuda": one.get("cuda"), "tensorrt": one.get("tensorrt"), "torch": one.get("pytorch")}
    made["quantizer"] = f"nvidia-modelopt {one['modelopt']}" if "modelopt" in one else None
    made["transformers"] = one.get("transformers")
    for name, origin in (("pytorch_image", "docker_base"), ("triton_image", "triton_backend_base")):
        made[name] = _without_host(one[origin]) if origin in one else None
    return {name: value for name, value in made.items() if value}


def _without_host(image: str) -> str:
    """An image's name without its registry's host, because each installation may use a mirror."""
    host, _, rest = image.partition("/")
    return rest if "." in host else image


def _text(topic: Json) -> str:
    """JSON with one fact on each line, so that a diff shows only the facts that changed."""
    lines = ["{", f' "about": {_line(topic["about"])},', ' "sources": [']
    lines += _listed([f"  {_line(source)}" for source in topic["sources"]])
    lines += [" ],", ' "subjects": {']
    subjects = []
    for name, subject in topic["subjects"].items():
        head = "".join(f'\n   "{part}": {_line(subject[part])},' for part in ("releases", "present") if part in subject)
        facts = ",\n".join(f"    {_line(fact)}: {_line(spans)}" for fact, spans in subject["facts"].items())
        subjects.append(f'  {_line(name)}: {{{head}\n   "facts": {{\n{facts}\n   }}\n  }}')
    lines += [",\n".join(subjects), " }", "}", ""]
    return "\n".join(lines)


def _listed(lines: list[str]) -> list[str]:
    return [f"{line}," for line in lines[:-1]] + lines[-1:]


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
