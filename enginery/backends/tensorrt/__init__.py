"""The backend `tensorrt`: engines made by a release's own converters and `trtllm-build`."""
