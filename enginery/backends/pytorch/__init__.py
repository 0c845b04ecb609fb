"""The backend `pytorch`: TensorRT-LLM's LLM API on a Hugging Face checkpoint, as it is or quantized by ModelOpt.

There is no engine to build. The settings that are build options of an engine are arguments of the LLM API; they are
checked before anything runs.
"""
