"""The commands of `enginery`; those for pulling, the registry and releases are in files of their own."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from enginery.cli import rooms
from enginery.cli.bench import bench_app
from enginery.cli.options import (
    AsJson,
    BuildReference,
    OnlyModel,
    RegistryAddress,
    StoreAddress,
    TrustedKeys,
    build_flow,
    named_registry,
    note,
    print_json,
    print_result,
    require_extra,
)
from enginery.cli.pull import pull_app
from enginery.cli.registry import registry_app
from enginery.cli.releases import releases_app
from enginery.core import __version__
from enginery.core.errors import EngineryError, UsageError
from enginery.core.late import late

if TYPE_CHECKING:
    import pydantic

    from enginery.pipeline import Plan
    from enginery.spec import Spec
else:
    pydantic = late("pydantic")

EXIT_CODES = """Exit codes: 0 done; 2 bad input, nothing started; 3 source; 4 store; 5 toolchain; 6 a command failed;
7 validation; 8 registry; 9 rollout; 130 interrupted; 1 anything else."""

INTERRUPTED = 130

app = typer.Typer(
    name="enginery",
    help="Build, check, publish and roll out language-model engines: one spec in, one build per GPU target out.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
toolchain_app = typer.Typer(help="The pinned environments in which a release's commands run.", no_args_is_help=True)
dev_app = typer.Typer(help="Local services to try things with: Prefect, S3, Triton.", no_args_is_help=True)
app.add_typer(toolchain_app, name="toolchain")
app.add_typer(dev_app, name="dev")
app.add_typer(releases_app, name="releases")
app.add_typer(bench_app)
app.add_typer(pull_app)
app.add_typer(registry_app)

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set a field of the spec; repeatable.")
]
Force = Annotated[
    list[str] | None,
    typer.Option("--force", metavar="CODE", help="Accept a warning of the plan, such as W201; repeatable."),
]
ToolchainKind = Annotated[
    Literal["venv", "host", "container"] | None,
    typer.Option("--kind", help="Where its commands run; in a spec, the field `toolchain` of a target."),
]
ToolchainName = Annotated[str, typer.Argument(metavar="NAME", help="A name that `enginery toolchain list` shows.")]


@app.command(short_help="Run the pipeline for a spec.")
def build(  # noqa: PLR0913, PLR0917  each is an option of the command
    spec_file: SpecFile,
    overrides: Overrides = None,
    force: Force = None,
    store: StoreAddress = None,
    pools: Annotated[
        Path | None,
        typer.Option(
            "--pools",
            envvar="ENGINERY_POOLS",
            metavar="FILE",
            help="Build each target in a work pool; the file says which.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the pipeline for a spec; steps that are already done are not done again."""
    spec = _read_spec(spec_file, overrides, force)
    summary = build_flow()(spec, store=store, pools=str(pools) if pools else None)
    print_result(summary, rooms.output.print_summary, as_json=as_json)


@app.command(short_help="Show what a build would do; nothing is run.")
def plan(  # noqa: PLR0913, PLR0917  each is an option of the command
    spec_file: SpecFile,
    overrides: Overrides = None,
    force: Force = None,
    store: StoreAddress = None,
    commands: Annotated[bool, typer.Option("--commands", help="Print the steps as a shell script.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say why each step must run.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Also look whether its buckets and keys can be used.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a build would do: its steps, their keys, and which are already done. Nothing is run."""
    made = rooms.pipeline.make_plan(_read_spec(spec_file, overrides, force), log=note)
    if check:
        rooms.pipeline.require_prepared(made.steps, store)
        note("checked: what the steps need outside this machine can be used")
    if as_json:
        print_json(made)
    elif commands:
        print(rooms.pipeline.shell_script(made, str(spec_file), tuple(overrides or ()), store), end="")
    else:
        _show_plan(made, store, why=explain)


@app.command("run-step")
def run_step(  # noqa: PLR0913, PLR0917  each is an option of the command
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="What `enginery plan --json` printed.")],
    step: Annotated[str, typer.Argument(metavar="STEP", help="A step's id such as build/cpu-int4, or its key.")],
    store: StoreAddress = None,
    with_inputs: Annotated[bool, typer.Option("--with-inputs", help="First run the steps it needs.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIRECTORY", help="Also put the step's files into this directory."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run one step of a plan on this machine. Prefect is not needed."""
    made = _read_plan(plan_file)
    planned = made.find(step)
    opened = rooms.store.open_store(store)
    with rooms.output.shown_progress(note) as progress:
        if with_inputs:
            outcome = rooms.pipeline.run_with_inputs(planned, made, opened, note, progress)
        else:
            outcome = rooms.pipeline.run_step(planned, opened, note, progress)
    if output:
        record = opened.find(planned.key)
        assert record is not None  # noqa: S101  it has just run
        opened.fetch(record, output)
    state = "done" if outcome.ran else "was already done"
    print_result(outcome, lambda _: print(f"{planned.label}: {state}"), as_json=as_json)


@app.command("list")
def list_builds(model: OnlyModel = None, registry: RegistryAddress = None, as_json: AsJson = False) -> None:
    """List the published builds."""
    builds, unreadable = named_registry(registry).listing(model)
    print_result(builds, rooms.output.print_builds, as_json=as_json)
    for error in unreadable:
        note(f"error: {error}")
    if unreadable:
        raise typer.Exit(unreadable[0].exit_code)


@app.command(short_help="Show a build: target, prompts, answers, files.")
def show(reference: BuildReference, registry: RegistryAddress = None, as_json: AsJson = False) -> None:
    """Show one published build: its target, files, prompts and answers."""
    print_result(named_registry(registry).find(reference), rooms.output.print_manifest, as_json=as_json)


@app.command()
def lineage(reference: BuildReference, registry: RegistryAddress = None, as_json: AsJson = False) -> None:
    """Show where a build came from: its source and its steps."""
    manifest = named_registry(registry).find(reference)
    if as_json:
        print_json(rooms.builds.lineage_json(manifest))
    else:
        rooms.output.console().print(rooms.builds.lineage_tree(manifest))


@app.command(short_help="Load a published build into Triton servers.")
def rollout(
    reference: BuildReference,
    endpoint: Annotated[
        list[str], typer.Option("--endpoint", metavar="URL", help="A Triton server's address; repeatable.")
    ],
    model_repository: Annotated[
        str, typer.Option("--model-repository", metavar="PLACE", help="Where they read models: a directory or s3://…")
    ],
    registry: RegistryAddress = None,
    trusted_keys: TrustedKeys = None,
) -> None:
    """Load a published build into Triton servers. If anything fails, the previous build serves again."""
    policy = rooms.builds.Policy.chosen(trusted_keys)
    opened = named_registry(registry)
    rooms.triton.roll_out_build(opened.find(reference), opened, tuple(endpoint), model_repository, note, policy)
    print(f"{reference} serves at {', '.join(endpoint)}")


@toolchain_app.command("list", short_help="List the toolchains, and which are installed.")
def toolchain_list(as_json: AsJson = False) -> None:
    """List the toolchains that Enginery has pins for, and whether each is installed."""
    rows = [rooms.toolchains.status(name) for name in rooms.toolchains.names()]
    print_result(rows, rooms.output.print_toolchains, as_json=as_json)


@toolchain_app.command("create")
def toolchain_create(name: ToolchainName, kind: ToolchainKind = None) -> None:
    """Create a toolchain. An existing toolchain is not changed."""
    print(rooms.toolchains.ensure(rooms.toolchains.identify(name, kind or "venv"), note).directory)


@toolchain_app.command("check")
def toolchain_check(name: ToolchainName, kind: ToolchainKind = None, as_json: AsJson = False) -> None:
    """Compare a toolchain with its pins."""
    report = rooms.toolchains.check(name, kind)
    print_result(report, rooms.output.print_toolchain_report, as_json=as_json)
    if not report.good:
        raise typer.Exit(5)


@dev_app.command("up")
def dev_up() -> None:
    """Start the local services, and print their addresses."""
    require_extra("local", "prefect", "moto")
    rooms.output.print_services(rooms.dev.services.up(note))


@dev_app.command("down", short_help="Stop the local services; their data is kept.")
def dev_down() -> None:
    """Stop the local services. Their data is kept for the next start."""
    rooms.dev.services.down(note)


@dev_app.command("status")
def dev_status(as_json: AsJson = False) -> None:
    """Show the addresses of the local services, if they run."""
    running = rooms.dev.services.status()
    if as_json:
        print_json(running.addresses() if running else None)
    elif running:
        rooms.output.print_services(running)
    else:
        print("the local services are not running; start them with: enginery dev up")


@dev_app.command("env", short_help="Print shell settings for the local services.")
def dev_env() -> None:
    """Print shell settings that make commands use the local services: eval "$(enginery dev env)"."""
    running = rooms.dev.services.status()
    if running is None:
        raise UsageError("the local services are not running", remedy="start them with: enginery dev up")
    for name, value in rooms.dev.services.environment(running).items():
        print(f"export {name}={shlex.quote(value)}")


@app.command(short_help="Run the example from its spec to an answer.")
def demo() -> None:
    """Build, publish and roll out the example model, and ask it. Local services are started, and stopped again."""
    require_extra("local", "prefect", "moto")
    raise typer.Exit(rooms.demo.run_demo(rooms.output.console(), build_flow))


@app.command(short_help="Check whether this machine can build.")
def doctor(registry: RegistryAddress = None, as_json: AsJson = False) -> None:
    """Check this machine: Python, disk, GPU, Prefect, S3, the Hub, toolchains. Each problem comes with a remedy."""
    findings = rooms.doctor.examine(registry)
    print_result(findings, rooms.output.print_findings, as_json=as_json)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"enginery {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Build, check, publish and roll out language-model engines: one spec in, one build per GPU target out."""


def _read_spec(spec_file: Path, overrides: list[str] | None, force: list[str] | None) -> "Spec":
    return rooms.spec.accepting(rooms.spec.read_spec(spec_file, tuple(overrides or ())), tuple(force or ()))


def _read_plan(path: Path) -> "Plan":
    remedy = "make it with: enginery plan SPEC --json"
    try:
        return rooms.pipeline.Plan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", subject=str(path), remedy=remedy) from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        problem = f"is not a plan: {f'{where}: ' if where else ''}{first['msg']}"
        raise UsageError(problem, subject=str(path), remedy=remedy) from error


def _show_plan(made: "Plan", store: str | None, *, why: bool) -> None:
    opened = rooms.store.open_store(store)
    done = opened.find_many([planned.key for planned in made.steps])
    rooms.output.print_plan(
        rooms.pipeline.with_last_builds(made, opened),
        done,
        rooms.pipeline.explain_steps(made, done, opened.records()) if why else {},
    )
    for finding in rooms.pipeline.disk_findings(made, done, rooms.pipeline.local_place(store)):
        note(f"warning: {finding}")


def main() -> None:
    """Run the command line. An EngineryError is printed as one message, without a traceback, and sets the exit code."""
    try:
        app()
    except EngineryError as error:
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
        print(f"error: {error}{notes}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # Typer turns a KeyboardInterrupt into this exit code
            print("interrupted; finished steps are kept", file=sys.stderr)
        raise
