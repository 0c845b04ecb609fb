"""The commands for one build on this machine: `resolve` finds it, `pull` fetches it, `verify` and `bench` check it."""

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from enginery.cli import rooms
from enginery.cli.options import (
    AsJson,
    RegistryAddress,
    StoreAddress,
    TrustedKeys,
    named_registry,
    note,
    print_json,
    print_result,
)
from enginery.core.errors import RegistryError, UsageError

if TYPE_CHECKING:
    from enginery.registry import Resolved

pull_app = typer.Typer()

What = Annotated[
    str,
    typer.Argument(
        metavar="BUILD|DIRECTORY|URL",
        help="A published build, a directory with one or with an engine, or the address of a Triton server.",
    ),
]
Concurrency = Annotated[
    list[int] | None,
    typer.Option("--concurrency", min=1, metavar="N", help="How many sequences at once; repeatable.  [default: 1]"),
]
PromptTokens = Annotated[int, typer.Option("--prompt-tokens", min=1, metavar="N", help="Tokens of each prompt.")]
OutputTokens = Annotated[int, typer.Option("--output-tokens", min=2, metavar="N", help="Tokens of each answer.")]
ToolchainKind = Annotated[
    Literal["venv", "host", "container"], typer.Option("--kind", help="Where the release's commands run.")
]
ServedModel = Annotated[str, typer.Option("--model", metavar="NAME", help="At a server: the model to ask.")]
Requests = Annotated[
    int, typer.Option("--requests", min=1, metavar="N", help="At a server: requests, for each of those at once.")
]
TokenizerPlace = Annotated[
    Path | None,
    typer.Option("--tokenizer", metavar="DIRECTORY", help="At a server: the model's tokenizer, to count tokens."),
]

QUERY: dict[str, tuple[Any, Any, str | None, str]] = {
    "channel": (str | None, None, "NAME", "The channel that points at the build."),
    "build": (str | None, None, "ID", "The build's id, or its first characters."),
    "target": (str | None, None, "NAME", "The name of the build's target."),
    "gpu": (str, "auto", "GPU", "A product name, cpu, any, or auto for what this machine has."),
    "gpus": (int | None, None, "N", "The number of GPUs of the machine."),
    "world_size": (int | None, None, "N", "The exact number of GPUs that the build needs."),
    "backend": (str | None, None, "NAME", "tensorrt, pytorch or onnxruntime."),
    "release": (str | None, None, "RANGE", "The backend's version, or a range: '>=1.0,<1.3'."),
    "runtime": (str | None, None, "VERSION", "The version of TensorRT-LLM in the serving container."),
    "precision": (str | None, None, "NAME", "The number format of the weights."),
    "other_product": (bool, False, None, "Accept an engine for another product with the same compute capability."),
}
"""The options of a query (`BuildQuery`): type, default, metavar and help of each."""


def takes_query(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a query to a command, before its own. The command gets their values as `**query`."""
    *own, _ = signature(command, eval_str=True).parameters.values()
    arguments = sum(parameter.default is Parameter.empty for parameter in own)
    options = [
        Parameter(
            name,
            Parameter.POSITIONAL_OR_KEYWORD,
            default=default,
            annotation=Annotated[kind, typer.Option(f"--{name.replace('_', '-')}", metavar=metavar, help=text)],
        )
        for name, (kind, default, metavar, text) in QUERY.items()
    ]
    vars(command)["__signature__"] = Signature([*own[:arguments], *options, *own[arguments:]])
    return command


@pull_app.command(short_help="Pull the build that fits into a directory.")
@takes_query
def pull(  # noqa: PLR0913, PLR0917  each is an option of the command
    model: Annotated[
        str, typer.Argument(metavar="MODEL|BUILD", help="A model, MODEL/BUILD, MODEL@CHANNEL/TARGET, or a build id.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A directory: new, empty, or pulled into before.")],
    link: Annotated[
        Path | None,
        typer.Option("--link", metavar="CACHE", help="A cache directory, which several pulls on one machine share."),
    ] = None,
    mount: Annotated[
        str | None,
        typer.Option("--mount", metavar="PATH", help="Where a server sees DIR/model_repository [default: there]"),
    ] = None,
    trusted_keys: TrustedKeys = None,
    registry: RegistryAddress = None,
    as_json: AsJson = False,
    **query: Any,
) -> None:
    """Pull the build of a model that fits this machine, or a named build, into a directory.

    Every byte is checked. The build before stays the current one until the new one is complete.
    """
    policy = rooms.builds.Policy.chosen(trusted_keys)
    opened = named_registry(registry)
    manifest, found_by = rooms.registry.choose_build(opened, rooms.registry.BuildQuery(model=model, **query), note)
    note(f"pulling {manifest.reference} from {opened.address}")
    with rooms.output.shown_progress(note) as progress:
        pulled = rooms.registry.pull(
            opened,
            manifest,
            to,
            link=link,
            mount=mount,
            channel=found_by,
            policy=policy,
            progress=progress,
            log=note,
        )
    if as_json:
        print_json(pulled)
        return
    size = f"{pulled.size:,} bytes, {pulled.fetched:,} of them fetched"
    print(f"{pulled.model}/{pulled.build_id} is at {pulled.directory}: {size}")
    print(f"serve it with: tritonserver --model-repository={pulled.mount}")
    if pulled.rewritten:
        note(f"{len(pulled.rewritten)} configurations name {pulled.mount}; give --mount if a server sees another path")


@pull_app.command(short_help="Check every byte of a build, here or in the registry.")
def verify(
    place: Annotated[
        str | None,
        typer.Argument(metavar="DIR|BUILD", help="A pulled directory, or a published build; with --all, a model."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Check all builds of the registry or of a model, channels and leftovers.")
    ] = False,
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Compare every byte of a build in a directory, or in the registry, with its manifest."""
    if every:
        _audit(place, registry, as_json=as_json)
        return
    if place is None:
        raise UsageError("no build is named", remedy="name a directory or a build, or give --all")
    directory = Path(place).expanduser()
    if directory.is_dir() or place.startswith((".", "/", "~")):
        manifest, found = rooms.registry.local_build(directory).manifest, rooms.registry.verify_directory(directory)
    else:
        opened = named_registry(registry)
        manifest = opened.find(place)
        found = rooms.registry.verify_build(opened, manifest)
    if as_json:
        build = {"model": manifest.model, "build_id": manifest.build_id, "files": len(manifest.files)}
        print_json({**build, "size": manifest.size, "findings": found})
    else:
        for damage in found:
            print(damage)
        checked = f"{manifest.model}/{manifest.build_id}: {len(manifest.files)} files, {manifest.size:,} bytes"
        print(f"{checked}, {len(found)} not as published" if found else f"{checked}, all as published")
        for gate in manifest.gates.warnings if manifest.gates else ():
            print(f"warning: {gate.told}")
    if found:
        raise typer.Exit(RegistryError.exit_code)


@pull_app.command(short_help="Find the one build that fits a GPU and a runtime.")
@takes_query
def resolve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    registry: RegistryAddress = None,
    as_json: AsJson = False,
    **query: Any,
) -> None:
    """Find the one build of a model that fits, and print it as MODEL/BUILD; if none fits, say why.

    Without --channel, all builds that passed their gates are candidates, and the highest release is preferred.
    """
    found: Resolved = named_registry(registry).resolve(model, **query)
    for warning in found.warnings:
        note(f"warning: {warning}")
    if as_json:
        print_json(rooms.output.resolved_json(found))
        return
    note(rooms.output.resolved_line(found))
    print(found.manifest.reference)


@pull_app.command(short_help="Measure how fast an engine or a served model is.")
def bench(  # noqa: PLR0913, PLR0917  each is an option of the command
    what: What,
    concurrency: Concurrency = None,
    prompt_tokens: PromptTokens = 128,
    output_tokens: OutputTokens = 64,
    kind: ToolchainKind = "venv",
    model: ServedModel = "ensemble",
    requests: Requests = 20,
    tokenizer: TokenizerPlace = None,
    registry: RegistryAddress = None,
    store: StoreAddress = None,
    trusted_keys: TrustedKeys = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast an engine or a served model is: time to first token, time between tokens, tokens per second.

    An engine is measured alone on this machine: steps of a build that use the same store wait. A served model is
    measured under load, with AIPerf.
    """
    counts = tuple(dict.fromkeys(concurrency or (1,)))
    if what.startswith(("http://", "https://")):
        served = rooms.triton.measure_served(
            what,
            model,
            concurrency=counts,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            requests=requests,
            tokenizer=_directory(tokenizer),
            log=note,
        )
        print_result(served, rooms.output.print_served_speed, as_json=as_json)
        return
    options = rooms.spec.SpeedGate(concurrency=counts, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
    opened = rooms.store.open_store(store)
    if Path(what).is_dir() or what.startswith((".", "/", "~")):
        report = rooms.backends.bench_directory(_current(Path(what).expanduser()), options, opened, note, kind=kind)
    else:
        found = named_registry(registry)
        manifest = found.find(what)
        policy = rooms.builds.Policy.chosen(trusted_keys)
        with TemporaryDirectory(prefix="enginery-bench-") as scratch:
            pulled = rooms.registry.pull(found, manifest, Path(scratch), policy=policy, log=note)
            report = rooms.backends.bench_directory(_current(Path(pulled.directory)), options, opened, note, kind=kind)
    print_result(report, rooms.output.print_speed, as_json=as_json)


def _directory(tokenizer: Path | None) -> Path | None:
    if tokenizer is not None and not tokenizer.is_dir():
        remedy = "name a directory with tokenizer.json"
        raise UsageError("is not a directory", subject=str(tokenizer), remedy=remedy)
    return tokenizer.absolute() if tokenizer else None


def _current(directory: Path) -> Path:
    """The current build of a directory that builds are pulled into; else the directory itself."""
    current = directory / rooms.builds.CURRENT
    return (current if current.is_dir() else directory).resolve()


def _audit(model: str | None, registry: str | None, *, as_json: bool) -> None:
    """Audit a registry or a model's builds; exit with an error code when something is damaged."""
    found = rooms.registry.audit(named_registry(registry), model, rooms.progress.LogProgress(note))
    print_result(found, rooms.output.print_audit, as_json=as_json)
    if found.damaged:
        raise typer.Exit(RegistryError.exit_code)
