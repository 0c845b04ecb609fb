"""What every room needs and what knows nothing of engines.

Each file is imported by itself: `from enginery.core.files import write_atomic`.

- `errors`: the errors that a user sees, each with problem, subject and remedy.
- `files`, `digests`, `home`: atomic writes, SHA-256 digests, and the directory that holds everything.
- `threads`, `retry`, `locks`, `progress`: work side by side, tried again, kept apart, and reported.
- `text`, `versions`, `model`, `late`: masked lines, release numbers, frozen models, lazy imports.
- `process` and `s3` are rooms of their own: they start commands and talk to S3.
"""

__version__ = "0.1.0"
"""Enginery's own version."""
