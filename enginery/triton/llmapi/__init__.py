"""Triton's model repository for TensorRT-LLM's LLM API, as NVIDIA's `llmapi` repository: no engine, a checkpoint."""

from enginery.context import Facts, StepContext

__all__ = ["package_llmapi"]


def package_llmapi(context: StepContext) -> Facts:
    """Make the model repository of a checkpoint; the step function of that name.

    Raises:
        SourceError: when the checkpoint is quantized to something else than the target says, or has no tokenizer.
        StoreError: when something cannot be written.
    """
    from enginery.triton.llmapi.packaging import package  # noqa: PLC0415  a plan asks only for the served sources

    return package(context)
