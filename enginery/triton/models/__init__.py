"""The Python models that Triton serves.

This folder goes into every model repository as an archive, `enginery_models.zip`, beside each `model.py`. Therefore:

- It imports nothing of Enginery, and its own modules relatively.
- It needs only numpy, `tokenizers` and `onnxruntime_genai` in the serving environment, and runs on Python 3.10.
- `triton_python_backend_utils` exists only inside Triton, so the models import it when they are initialized.

The modules `preprocessing`, `tensorrt_llm`, `postprocessing` and `tensorrt_llm_bls` are one served model each; the
others help them. `llm` serves the LLM API.
"""
