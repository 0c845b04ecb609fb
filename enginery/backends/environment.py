"""Variables that every backend's commands are given."""

QUIET = {
    # Lines come when they are printed, so the error is the last of them; progress bars are no lines.
    "PYTHONUNBUFFERED": "1",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

OFFLINE = {
    # What a step works on comes from its inputs and from nowhere else.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
