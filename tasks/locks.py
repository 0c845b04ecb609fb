"""Prefect's locks are the store's: one lock for each step, between the machines that share the store.

Prefect's own `FileSystemLockManager` leaves its file behind when a process is killed, and the next run of that key
would wait for ever. The store's locks end with the process, or some seconds after the machine, that holds them.
"""

import asyncio
from contextlib import ExitStack

from prefect.exceptions import MissingContextError
from prefect.locking.protocol import LockManager
from prefect.transactions import get_transaction

from enginery.core.progress import Log, no_log
from enginery.pipeline.tasks.interrupt import at_work
from enginery.pipeline.tasks.logs import run_log
from enginery.store import StillLockedError, Store


class StoreLocks(LockManager):
    """The locks of a store, as Prefect's transactions want them."""

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
        """Wait until the key is free and take it; False when it was not free within `acquire_timeout` seconds."""
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
        """Give the key free.

        Raises:
            ValueError: when `holder` does not hold it.
        """
        if not self.is_lock_holder(key, holder):
            raise ValueError(f"the lock of {key} is not held by {holder}")
        self._held.pop(key)[1].close()

    def is_locked(self, key: str) -> bool:
        """Whether anybody holds the key."""
        return not self.wait_for_lock(key, timeout=0)

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether `holder`, in this process, holds the key."""
        return key in self._held and self._held[key][0] == holder

    def holds(self, key: str) -> bool:
        """Whether anybody in this process holds the key through these locks."""
        return key in self._held

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody holds the key; False when somebody still does after `timeout` seconds."""
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
