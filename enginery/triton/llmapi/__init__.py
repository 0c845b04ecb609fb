"""Triton's model repository for TensorRT-LLM's LLM API, as NVIDIA's `llmapi` repository: no engine, a checkpoint."""
