"""The modules of the stand-in: `tensorrt_llm`, and the parts of `torch`, `tensorrt` and `transformers` around it."""
