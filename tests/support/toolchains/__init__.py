"""What toolchains need, for tests without it: Docker, wheels and `nvidia-smi`."""
