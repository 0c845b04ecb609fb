"""Triton: the model repository, the models served in it, and rolling builds out."""
