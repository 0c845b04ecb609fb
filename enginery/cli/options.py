"""Parts that several commands use: options, printing, and finding the registry and the build flow."""

import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from enginery.cli import rooms
from enginery.core.errors import UsageError
from enginery.core.late import late

if TYPE_CHECKING:
    import pydantic_core

    from enginery.pipeline import BuildSummary
    from enginery.registry import Registry
else:
    pydantic_core = late("pydantic_core")

T = TypeVar("T")

StoreAddress = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="ENGINERY_STORE",
        metavar="PLACE",
        help="Where finished steps are kept: a directory or s3://… [default: store/ in ENGINERY_HOME, ~/.enginery]",
    ),
]
RegistryAddress = Annotated[
    str | None,
    typer.Option("--registry", envvar="ENGINERY_REGISTRY", metavar="S3", help="Where builds are published: s3://…"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
BUILD_HELP = "A build id, MODEL/BUILD, or MODEL@CHANNEL/TARGET."
BuildReference = Annotated[str, typer.Argument(metavar="BUILD", help=BUILD_HELP)]
OnlyModel = Annotated[str | None, typer.Argument(metavar="MODEL", help="Only this model's builds.")]
TrustedKeys = Annotated[
    str | None,
    typer.Option(
        "--trusted-keys",
        metavar="KEYS",
        help="Accept only builds signed with one of these public keys: files or directories, separated by colons"
        " [default: ENGINERY_TRUSTED_KEYS; if that is not set, no signature is required]",
    ),
]


def note(line: str) -> None:
    """Print a line for people to standard error. Standard output is left to what scripts read."""
    print(line, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print models or plain data as JSON."""
    print(pydantic_core.to_json(value, indent=2).decode())


def print_result(value: T, for_people: Callable[[T], None], *, as_json: bool) -> None:
    """Print the result of a command: as JSON for scripts, or with `for_people`."""
    (print_json if as_json else for_people)(value)


def require_extra(extra: str, *modules: str) -> None:
    """Raise a UsageError when one of the modules, which belong to an optional extra, is not installed."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        remedy = f"in a clone of Enginery: pip install -c constraints.txt '.[{extra}]'"
        raise UsageError(f"this needs {' and '.join(missing)}, not installed here", remedy=remedy)


def build_flow() -> "Callable[..., BuildSummary]":
    """The build flow. It is found by its entry point, because the library does not import Prefect."""
    require_extra("prefect", "prefect")
    found = tuple(entry_points(group="enginery.flows", name="build"))
    if not found:
        raise UsageError("the flow 'build' is not installed", remedy="install Enginery again")
    flow: Callable[..., BuildSummary] = found[0].load()
    return flow


def named_registry(address: str | None) -> "Registry":
    """The registry at the address that the user gave; a UsageError when the user gave none."""
    if address is None:
        raise UsageError("no registry is named", remedy="give --registry s3://… or set ENGINERY_REGISTRY")
    return rooms.registry.Registry(address)
