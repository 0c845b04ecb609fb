"""The store of step outputs: records and content-addressed files, in a directory, in S3, or in both.

A record is written after all its files. So a step with a record is complete, and a process that dies before leaves no
record.

    store = open_store()                      # or open_store("s3://bucket/prefix")
    record = store.find(step.key)
    if record:
        store.fetch(record, Path("engine"))
"""

from typing import TYPE_CHECKING

from enginery.core.late import door

if TYPE_CHECKING:
    from enginery.store.blobs import READ_ONLY, Blobs, digest_output
    from enginery.store.context import StepContext
    from enginery.store.layout import StillLockedError
    from enginery.store.leases import HeldObject
    from enginery.store.shelf import Shelf
    from enginery.store.steps import ANY_GPU, Call, Command, FileRecord, Stage, Step, StepRecord
    from enginery.store.store import Store, open_store, require_usable_store
else:
    __getattr__ = door(__name__, __file__)
