"""The Python model that drives TensorRT-LLM's LLM API.

It travels in the same archive as the other served models, whose helpers it uses. It needs numpy, PyYAML and
`tensorrt_llm` in the serving environment, all of which NVIDIA's containers have.
"""
