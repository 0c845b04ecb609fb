"""The lineage of a published build, read from its manifest alone: the source, the steps, and their commands."""

from typing import TYPE_CHECKING

from pydantic import JsonValue

from enginery.builds.manifest import Manifest, build_path
from enginery.core.late import late
from enginery.store import Call, Command, StepRecord

if TYPE_CHECKING:
    from rich import markup
    from rich import tree as trees
    from rich.tree import Tree
else:
    markup = late("rich.markup")
    trees = late("rich.tree")

KEY_DIGITS = 12
JSON_FIELDS = {"key", "label", "started", "seconds", "host", "toolchain", "commands", "facts", "files", "enginery"}
"""The fields of a step's record that the JSON shows."""
MAIN_PACKAGES = ("python", "onnxruntime", "tensorrt", "torch", "transformers", "nvidia-modelopt")
"""The beginnings of the names of packages that have the most influence on the engine."""
ORIGIN = {"kind", "location", "commit"}
"""Parameters of a download step that say where the weights came from."""


def lineage_json(manifest: Manifest) -> dict[str, JsonValue]:
    """The lineage for scripts: each step with its inputs, commands, toolchain, host, seconds and files."""
    return {
        "model": manifest.model,
        "build_id": manifest.build_id,
        "published": {
            "uri": _address(manifest),
            "channel": manifest.channel,
            "created": manifest.created.isoformat(),
            "enginery": manifest.enginery,
        },
        "target": manifest.target.model_dump(mode="json"),
        "gates": manifest.gates.model_dump(mode="json") if manifest.gates else None,
        "steps": [_step_json(record) for record in manifest.steps],
    }


def lineage_tree(manifest: Manifest) -> "Tree":
    """The lineage for people: a tree of steps from the build back to the source."""
    tree = trees.Tree(f"[bold]{markup.escape(manifest.model)}/{markup.escape(manifest.build_id)}[/]")
    for line in _build_lines(manifest):
        tree.add(markup.escape(line))
    by_key = {record.key: record for record in manifest.steps}
    used = {key for record in manifest.steps for key in record.step.inputs.values()}
    shown: set[str] = set()
    for record in manifest.steps:
        if record.key not in used:
            _add_step(tree, record, by_key, shown)
    return tree


def _build_lines(manifest: Manifest) -> list[str]:
    target = manifest.target
    ranks = f"tensor parallel {target.tensor_parallel}, pipeline parallel {target.pipeline_parallel}"
    passed = sum(result.passed for result in manifest.validation.results)
    return [
        f"published {_address(manifest)}",
        f"channel {manifest.channel}, {manifest.created:%Y-%m-%d %H:%M} UTC, by Enginery {manifest.enginery}",
        f"target {target.name}: {target.gpu}, {target.backend} {target.release}, {target.precision}, {ranks}",
        f"{len(manifest.files)} files, {manifest.size:,} bytes",
        f"{passed} of {len(manifest.validation.results)} prompts answered as expected",
        *(f"gate {result.told}" for result in (manifest.gates.results if manifest.gates else ())),
    ]


def _add_step(tree: "Tree", record: StepRecord, by_key: dict[str, StepRecord], shown: set[str]) -> None:
    """Add a step to the tree, and below it the steps that made its inputs; a step is described only once."""
    branch = tree.add(f"[bold]{markup.escape(record.label)}[/] {record.key[:KEY_DIGITS]}")
    if record.key in shown:
        branch.add("(as above)")
        return
    shown.add(record.key)
    for line in _step_lines(record):
        branch.add(markup.escape(line))
    for name, key in record.step.inputs.items():
        if key in by_key:
            _add_step(branch, by_key[key], by_key, shown)
        else:
            branch.add(markup.escape(f"{name} {key[:KEY_DIGITS]}: not recorded"))


def _step_lines(record: StepRecord) -> list[str]:
    lines = [f"{record.started:%Y-%m-%d %H:%M} UTC on {record.host}, {record.seconds:.1f} s, {record.size:,} bytes"]
    lines += [f"{name}: {value}" for name, value in record.facts.items() if isinstance(value, str | int | float)]
    if isinstance(record.step.recipe, Call):
        lines += [f"{name}: {value}" for name, value in record.step.recipe.parameters.items() if name in ORIGIN]
    if isinstance(record.step.recipe, Command):
        lines.append(f"ran {' '.join(record.step.recipe.argv)}")
    if record.toolchain:
        lines.append(_toolchain_line(record))
    return list(dict.fromkeys(lines))


def _toolchain_line(record: StepRecord) -> str:
    """One line with the main packages; the JSON has all of them."""
    main = [f"{name} {value}" for name, value in record.toolchain.items() if name.startswith(MAIN_PACKAGES)]
    others = len(record.toolchain) - len(main)
    return f"with {', '.join(main)} and {others} other packages"


def _address(manifest: Manifest) -> str:
    return f"{manifest.registry}/{build_path(manifest.model, manifest.build_id)}"


def _step_json(record: StepRecord) -> dict[str, JsonValue]:
    shown = record.model_dump(mode="json", include=JSON_FIELDS)
    recipe = record.step.recipe.model_dump(mode="json")
    return {"stage": record.step.stage.value, **shown, "inputs": dict(record.step.inputs), "recipe": recipe}
