"""The served model for TensorRT-LLM's LLM API.

Its archive also contains those modules of the folder above that it imports. In the serving environment it needs numpy,
PyYAML and `tensorrt_llm`, all of which NVIDIA's containers have.
"""
