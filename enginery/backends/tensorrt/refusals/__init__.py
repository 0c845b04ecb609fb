"""What a release's `trtllm-build` refuses or changes in its code, as findings and notes of the plan."""
