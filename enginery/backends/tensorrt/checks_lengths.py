"""Whether the lengths an engine is built for agree with each other and with the model."""

from collections.abc import Iterator

from enginery.backends.lengths import answer_findings, position_findings
from enginery.backends.request import Request
from enginery.backends.tensorrt.build_defaults import own_length
from enginery.findings import Finding
from enginery.spec import BuildOptions


def length_findings(request: Request, release: str) -> Iterator[Finding]:
    """What is wrong with them."""
    build = request.build
    longest = longest_sequence(build)
    if longest and build.max_input_len and build.max_input_len > longest:
        problem = f"prompts of {build.max_input_len} tokens do not fit in sequences of {longest}"
        yield Finding("E150", "build.max_input_len", problem, "use fewer, or a larger max_seq_len")
    if build.opt_num_tokens and build.max_num_tokens and build.opt_num_tokens > build.max_num_tokens:
        problem = f"it is tuned for {build.opt_num_tokens} tokens at once, but takes {build.max_num_tokens} at most"
        yield Finding("E152", "build.opt_num_tokens", problem, "use at most max_num_tokens")
    yield from answer_findings(request, longest or own_length(build, release), "build.max_seq_len")
    if request.model is not None:
        field = "max_seq_len" if build.max_seq_len else "max_output_len" if build.max_output_len else "max_input_len"
        yield from position_findings(request.model, longest or build.max_input_len or 0, f"build.{field}")


def longest_sequence(build: BuildOptions) -> int:
    """Prompt and answer together, in tokens; 0 where the spec leaves that to the release."""
    if build.max_seq_len:
        return build.max_seq_len
    return build.max_input_len + build.max_output_len if build.max_input_len and build.max_output_len else 0
