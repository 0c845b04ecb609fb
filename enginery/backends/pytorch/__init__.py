"""The backend `pytorch`: TensorRT-LLM's LLM API on a Hugging Face checkpoint, as it is or quantized by ModelOpt.

There is no engine to build: what an engine's build options would say are arguments of the LLM API, checked here before
anything runs.
"""
