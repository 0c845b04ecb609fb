"""A target's build options as its release's `trtllm-build` wants them."""

from enginery.backends.request import Request
from enginery.backends.tensorrt.build_options import RenderedBuild, render_build
from enginery.backends.tensorrt.precision_terms import activation_dtype


def rendered(request: Request, release: str) -> RenderedBuild:
    """Render them, with all that is known of the model and the precision."""
    dtype = activation_dtype(request.target.precision, request.model, request.gpu)
    return render_build(request.build, release, dtype=dtype, model=request.model, ranks=request.world_size)
