"""What is known of TensorRT-LLM's releases: flags, versions, precisions, families, templates, and how sure it is.

Nothing is imported here: `enginery plan` must start fast. `data/` is made by `infra/releases/compact.py`.
"""
