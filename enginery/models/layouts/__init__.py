"""Which tensors the weight files of each architecture have."""
