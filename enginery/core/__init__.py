"""General code that every room uses. Only `process/failures.py` knows engines: the messages of their builders.

Other rooms import each file directly: `from enginery.core.files import write_atomic`.

- `errors`: the errors that a user sees, each with problem, subject and remedy.
- `files`, `digests`, `home`: atomic writes, SHA-256 digests, and the directory in which Enginery keeps its data.
- `threads`, `retry`, `locks`, `progress`: threads, retries, locks between processes, and progress reports.
- `text`, `versions`, `model`, `late`: masked lines, release numbers, frozen models, lazy imports.
- `process` and `s3` are rooms of their own. They start commands, and they talk to S3.
"""

__version__ = "0.1.0"
"""Enginery's own version."""
