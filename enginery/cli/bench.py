"""The command `bench`, which measures how fast an engine or a served model is."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from enginery.cli import rooms
from enginery.cli.options import AsJson, RegistryAddress, StoreAddress, TrustedKeys, named_registry, note, print_result
from enginery.core.errors import UsageError

bench_app = typer.Typer()

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
Kind = Annotated[Literal["venv", "host", "container"], typer.Option("--kind", help="Where the release's commands run.")]
Model = Annotated[str, typer.Option("--model", metavar="NAME", help="At a server: the model to ask.")]
Requests = Annotated[
    int, typer.Option("--requests", min=1, metavar="N", help="At a server: requests, for each of those at once.")
]
TokenizerPlace = Annotated[
    Path | None,
    typer.Option("--tokenizer", metavar="DIRECTORY", help="At a server: the model's tokenizer, to count tokens."),
]


@bench_app.command(short_help="Measure how fast an engine or a served model is.")
def bench(  # noqa: PLR0913, PLR0917  each is an option of the command
    what: What,
    concurrency: Concurrency = None,
    prompt_tokens: PromptTokens = 128,
    output_tokens: OutputTokens = 64,
    kind: Kind = "venv",
    model: Model = "ensemble",
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
    if Path(what).is_dir():
        report = rooms.backends.bench_directory(_current(Path(what)), options, opened, note, kind=kind)
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
