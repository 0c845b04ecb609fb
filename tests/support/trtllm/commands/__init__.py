"""The commands of the stand-in: `trtllm-build`, the scripts under examples/, `mpirun` and `nvidia-smi`."""
