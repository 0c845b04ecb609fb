"""Enginery: build, check, publish and roll out TensorRT-LLM engines."""

__version__ = "0.1.0"
