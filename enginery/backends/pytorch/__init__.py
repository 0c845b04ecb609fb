"""The backend `pytorch`: TensorRT-LLM's LLM API runs a Hugging Face checkpoint, which ModelOpt may quantize first.

There is no engine to build. Settings that are build options for an engine are arguments of the LLM API here. They are
checked before anything runs.
"""
