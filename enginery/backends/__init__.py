"""The backends: each plans the steps that build and check an engine for one runtime. All have the same methods.

    backend = backend_for(request)
    for finding in backend.findings(request): ...
    chain = backend.chain(request, weights_key)     # the steps that convert, build, validate and package

`tensorrt` builds with `trtllm-build`. `pytorch` prepares a checkpoint for the LLM API. `onnxruntime` works without an
NVIDIA GPU, too.
"""

from typing import TYPE_CHECKING

from enginery.core.late import door

if TYPE_CHECKING:
    from enginery.backends.bench.by_hand import bench_directory
    from enginery.backends.bench.step import bench_call, bench_step
    from enginery.backends.evaluate.findings import evaluation_findings, evaluation_notes
    from enginery.backends.evaluate.step import evaluate_call, evaluate_step, evaluation_places
    from enginery.backends.gates.evaluation import judge_evaluation
    from enginery.backends.gates.planning import Checks, check_findings, evaluation_steps, gates_step_of, plan_checks
    from enginery.backends.gates.step import gates_step
    from enginery.backends.onnxruntime import ONNXRUNTIME_PACKAGES
    from enginery.backends.package import package_inflight, package_llmapi
    from enginery.backends.pytorch.quantize import export_checkpoint
    from enginery.backends.reference.cost import reference_cost
    from enginery.backends.reference.published import require_reference_build
    from enginery.backends.reference.recipe import planned_reference, reference_call, reference_findings
    from enginery.backends.reference.runnable import reference_problem
    from enginery.backends.reference.step import reference_step
    from enginery.backends.request import Backend, BackendStep, Chain, Request, image_findings
    from enginery.backends.select import backend_for
    from enginery.backends.tensorrt.build import build_engine
    from enginery.backends.tensorrt.build_defaults import EngineOptions, default_length, unset_changes
    from enginery.backends.tensorrt.build_options import OPTIONS, RenderedOption, render_option
    from enginery.backends.tensorrt.convert import convert_checkpoint
    from enginery.backends.tensorrt.release import chosen_release
    from enginery.backends.validate import OFFLINE
    from enginery.backends.validate import validate as validate_step
else:
    __getattr__ = door(__name__, __file__)
