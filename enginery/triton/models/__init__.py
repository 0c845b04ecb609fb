"""The Python models that Triton serves.

This directory goes into every model repository as an archive, `enginery_models.zip`, beside each `model.py`. So it
imports nothing of Enginery, refers to its own modules relatively, and needs only numpy, `tokenizers` and
`onnxruntime_genai` in the serving environment. Triton's own module exists only inside Triton and is imported by the
model classes when they are initialized: everything else can be tested without it.
"""
