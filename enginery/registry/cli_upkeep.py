"""The commands that keep a registry in order."""

from typing import Annotated, Literal

import typer

from enginery.cli_options import AsJson, RegistryAddress, named_registry, note

upkeep_app = typer.Typer()

OnlyModel = Annotated[str | None, typer.Argument(metavar="MODEL", help="Only this model's builds.")]


@upkeep_app.command(short_help="Remove old builds and what died publishers have left.")
def prune(  # noqa: PLR0913, PLR0917  each is an option of the command
    model: OnlyModel = None,
    keep: Annotated[int, typer.Option("--keep", min=0, help="Builds that stay of each target, the newest.")] = 3,
    days: Annotated[float, typer.Option("--days", min=0, help="Builds younger than this stay.")] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it nothing is removed.")] = False,
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Remove builds that no channel needs and that are old and not among the newest; without --yes only say which."""
    from enginery.registry.pruning import Policy
    from enginery.registry.pruning import prune as remove
    from enginery.render_upkeep import print_pruning

    policy = Policy(keep=keep, days=days)
    done = remove(named_registry(registry), policy, model=model, dry_run=not yes, log=note)
    if as_json:
        print(done.model_dump_json(indent=2))
    else:
        print_pruning(done)


@upkeep_app.command(short_help="Print the IAM policy of a role for a registry.")
def iam(
    role: Annotated[
        Literal["consumer", "publisher", "pruner", "auditor"],
        typer.Argument(metavar="ROLE", help="consumer, publisher, pruner or auditor."),
    ],
    address: Annotated[str, typer.Argument(metavar="S3", help="The registry: s3://bucket/prefix.")],
) -> None:
    """Print the least that a role must be allowed, as an IAM policy for one registry."""
    from enginery.registry.iam import policy
    from enginery.render import print_json

    print_json(policy(role, address))
