"""The model repository of the backend `pytorch`: a checkpoint for TensorRT-LLM's LLM API, as in NVIDIA's `llmapi`.

`config` makes each `config.pbtxt`; `repository` writes the directory.
"""
