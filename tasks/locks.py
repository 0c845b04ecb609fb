"""A lock manager for Prefect that uses the locks of the store: machines that share a store do each step once.

Prefect's own `FileSystemLockManager` leaves its file behind when a process is killed. Then the next run of that key
waits for ever. A lock of the store ends with the process that holds it, or some seconds after the machine has died.
"""

import asyncio
from contextlib import ExitStack

from prefect.exceptions import MissingContextError
from prefect.locking.protocol import LockManager
from prefect.transactions import get_transaction

from enginery.core.progress import Log, no_log
from enginery.pipeline.tasks.interrupt import at_work
from enginery.pipeline.tasks.progress import run_log
from enginery.store import StillLockedError, Store


class StoreLocks(LockManager):
    """The locks of a store, with the methods that Prefect's transactions call."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._held: dict[str, tuple[str, ExitStack]] = {}

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,  # noqa: ARG002  a lock lasts as long as its process
    ) -> bool:
        """Wait for the lock and take it; False when it is not free within `acquire_timeout` seconds."""
        if self.is_lock_holder(key, holder):
            return True
        stack = ExitStack()
        try:
            with at_work():
                stack.enter_context(self.store.lock(key, patience=acquire_timeout, log=_log()))
        except StillLockedError:
            return False
        self._held[key] = (holder, stack)
        return True

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """Like `acquire_lock`, without blocking the event loop."""
        return await asyncio.to_thread(self.acquire_lock, key, holder, acquire_timeout, hold_timeout)

    def release_lock(self, key: str, holder: str) -> None:
        """Release the lock.

        Raises:
            ValueError: when `holder` does not hold it.
        """
        if not self.is_lock_holder(key, holder):
            raise ValueError(f"the lock of {key} is not held by {holder}")
        self._held.pop(key)[1].close()

    def is_locked(self, key: str) -> bool:
        """Whether any process holds the lock."""
        return not self.wait_for_lock(key, timeout=0)

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether `holder`, in this process, holds the lock."""
        return key in self._held and self._held[key][0] == holder

    def holds(self, key: str) -> bool:
        """Whether any holder in this process has the lock."""
        return key in self._held

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until the lock is free; False when it is still held after `timeout` seconds."""
        try:
            with at_work(), self.store.lock(key, patience=timeout):
                return True
        except StillLockedError:
            return False

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:  # noqa: ASYNC109  the protocol's
        """Like `wait_for_lock`, without blocking the event loop."""
        return await asyncio.to_thread(self.wait_for_lock, key, timeout)


def is_locked_already(key: str) -> bool:
    """Whether the transaction that the current task runs in holds the lock of `key`."""
    transaction = get_transaction()
    locks = getattr(getattr(transaction, "store", None), "lock_manager", None)
    return isinstance(locks, StoreLocks) and locks.holds(key)


def _log() -> Log:
    try:
        return run_log()
    except MissingContextError:
        return no_log
