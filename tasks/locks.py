"""Locks for Prefect's cache that end with the process that holds them, however it ends.

Prefect's own `FileSystemLockManager` leaves its file behind when a process is killed, and the next run of that key
would wait for ever. These are locks of the kernel's on files that may stay.
"""

import asyncio
import time
from pathlib import Path

from filelock import FileLock, Timeout
from prefect.locking.protocol import LockManager

from enginery.home import home
from tasks.interrupt import at_work

POLL_SECONDS = 0.05
FOREVER = -1.0


def locks_dir() -> Path:
    """Where the lock files are."""
    return home() / "prefect" / "locks"


class KernelLocks(LockManager):
    """One lock for each key, between all threads and processes of this machine that share Enginery's home."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[str, FileLock]] = {}

    def _lock(self, key: str) -> FileLock:
        directory = locks_dir()
        directory.mkdir(parents=True, exist_ok=True)
        return FileLock(directory / f"{key}.lock", thread_local=False)

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
        lock = self._lock(key)
        limit = FOREVER if acquire_timeout is None else acquire_timeout
        try:
            with at_work():
                lock.acquire(timeout=limit, poll_interval=POLL_SECONDS)
        except Timeout:
            return False
        self._held[key] = (holder, lock)
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
        self._held.pop(key)[1].release()

    def is_locked(self, key: str) -> bool:
        """Whether anybody holds the key."""
        lock = self._lock(key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether `holder`, in this process, holds the key."""
        return key in self._held and self._held[key][0] == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody holds the key; False when somebody still does after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.is_locked(key):
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:  # noqa: ASYNC109  the protocol's
        """Like `wait_for_lock`, without blocking the event loop."""
        return await asyncio.to_thread(self.wait_for_lock, key, timeout)
