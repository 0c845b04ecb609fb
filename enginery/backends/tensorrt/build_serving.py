"""Whether an engine is built for what `serving` asks of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from enginery.backends.tensorrt.build_defaults import unset_value
from enginery.backends.tensorrt.build_terms import Asked, written
from enginery.findings import Finding, warning
from enginery.releases.flags import flags
from enginery.spec import BuildOptions, ServingOptions


class Need(NamedTuple):
    """What a serving option asks of the engine.

    Attributes:
        serving: the serving option.
        build: the build option it depends on.
        met: whether the build option's value is enough for the serving option's.
        wanted: the build option's value for the serving option's.
    """

    serving: str
    build: str
    met: Callable[[Any, Any], bool]
    wanted: Callable[[Any], Any]


NEEDS = (
    Need("enable_kv_cache_reuse", "use_paged_context_fmha", lambda asked, has: has or not asked, lambda _: True),
    Need("enable_chunked_context", "use_paged_context_fmha", lambda asked, has: has or not asked, lambda _: True),
    Need("max_beam_width", "max_beam_width", lambda asked, has: has >= asked, lambda asked: asked),
    Need("gpu_weights_percent", "weight_streaming", lambda asked, has: has or asked == 1, lambda _: True),
)


def serving_findings(options: BuildOptions, serving: ServingOptions, release: str) -> tuple[Finding, ...]:
    """Every serving option that the engine is not built for (W165); none for releases that build no engines.

    Raises:
        UsageError: nothing is known of so old a release.
    """
    asked = Asked(options, release, flags(release).value)
    found = (_unmet(asked, need, getattr(serving, need.serving)) for need in NEEDS) if asked.flags else ()
    return tuple(finding for finding in found if finding)


def _unmet(asked: Asked, need: Need, value: Any) -> Finding | None:
    given = getattr(asked.options, need.build)
    has = unset_value(asked, need.build) if given is None else given
    if value is None or has is None or need.met(value, has):
        return None
    origin = f", the default of {asked.release}" if given is None else ""
    problem = f"is {written(value)}, and the engine is built with {need.build} {written(has)}{origin}"
    remedy = f"set build.{need.build} to {written(need.wanted(value))}"
    return warning("W165", f"serving.{need.serving}", problem, remedy)
