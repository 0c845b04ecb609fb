"""Who may work hard on this machine: many steps side by side, or one step alone, whose speed is measured.

There is a lock for the CPU and one for the GPUs. A step that works hard shares the locks of what it uses. A
measurement holds them alone. While it waits for those that work already, nobody else begins: a queue stands before each
lock. So it cannot wait for ever.

    with store.working("bench cpu-int4", alone=True, gpu=False, log=print) as neighbours:
        ...

No deadlock is possible. All take the GPU's lock first, then the CPU's, and whoever holds both waits for no other step.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from pydantic import ValidationError

from enginery.core.files import write_atomic, writing
from enginery.core.locks import Worker, shared_lock
from enginery.core.model import Frozen
from enginery.core.progress import Log

CPU_PATIENCE_SECONDS = 900.0
"""How long a measurement on a GPU waits for steps on the CPU. They disturb it less, and may take hours."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Names the running kernel: the same in all containers of a machine, and another one on each machine."""


class Holder(Frozen):
    """A step that holds the lock of a device, or waits to hold it alone.

    Attributes:
        label: the step's name for people.
        alone: whether nobody else may hold the lock.
        works: whether it holds the lock; else it waits for it.
    """

    worker: Worker
    label: str
    alone: bool
    works: bool = False

    @property
    def lives(self) -> bool:
        """Whether its process still runs, as far as this process can know."""
        return self.worker == Worker.this() or self.worker.is_at_work() or not self.worker.is_local()


class Device:
    """The lock of one device of this machine.

    Attributes:
        name: `GPU` or `CPU`.
        place: the directory of its lock, of the queue before it, and of the notes that say who holds it.
    """

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.place = name, place

    @contextmanager
    def held(self, label: str, log: Log, *, alone: bool, patience: float | None = None) -> Iterator[None]:
        """Hold the lock, alone or together with others who do not want to be alone.

        Raises:
            TimeoutError: when `patience` seconds were not enough.
        """
        told: set[str] = set()

        def waiting() -> None:
            others = self.holders(note.name)
            who = ", ".join(dict.fromkeys(one.label for one in others if alone or one.alone)) or "another process"
            if who not in told:
                told.add(who)
                log(f"waits to be alone on this {self.name}: {who}" if alone else f"waits until it is measured: {who}")

        with ExitStack() as stack:
            with writing(self.place):
                self.place.mkdir(parents=True, exist_ok=True)
                note = self.place / f"{uuid4().hex}.json"
            stack.callback(note.unlink, missing_ok=True)
            holder = Holder(worker=Worker.this(), label=label, alone=alone)
            write_atomic(note, holder.model_dump_json())
            with shared_lock(self.place / "queue.lock", alone=True, patience=patience, waiting=waiting):
                lock = shared_lock(self.place / "device.lock", alone=alone, patience=patience, waiting=waiting)
                stack.enter_context(lock)
            write_atomic(note, holder.model_copy(update={"works": True}).model_dump_json())
            yield

    def holders(self, mine: str = "") -> list[Holder]:
        """Everybody who holds the lock or waits for it, but for the note `mine`. Notes of the dead are removed."""
        found = []
        for path in sorted(self.place.glob("*.json")):
            with suppress(FileNotFoundError, ValidationError):
                holder = Holder.model_validate_json(path.read_bytes())
                if not holder.lives:
                    path.unlink(missing_ok=True)
                elif path.name != mine:
                    found.append(holder)
        return found


@contextmanager
def working(locks: Path, label: str, log: Log, *, alone: bool, gpu: bool) -> Iterator[tuple[str, ...]]:
    """Work hard on this machine: on its CPU, and on its GPUs too if `gpu` is set.

    A measurement on a GPU has the GPUs for itself, and wants the CPU too, because a busy CPU slows down the host's part
    of decoding. But after 15 minutes it goes on without: builds on the CPU may take hours, and do not use the GPU.

    Args:
        locks: the directory of the store's locks on this machine.
        label: the step's name for people.
        log: is called with a line when this step waits, and for whom.
        alone: whether no other step may work at the same time.
        gpu: whether the step uses the GPUs.

    Yields:
        the steps that work on the CPU, although this step wants to be alone; nearly always nothing.
    """
    machine = locks / f"machine-{machine_id()}"
    with ExitStack() as stack:
        if gpu:
            stack.enter_context(Device("GPU", machine / "gpu").held(label, log, alone=alone))
        cpu = Device("CPU", machine / "cpu")
        patience = CPU_PATIENCE_SECONDS if alone and gpu else None
        try:
            stack.enter_context(cpu.held(label, log, alone=alone, patience=patience))
            neighbours: tuple[str, ...] = ()
        except TimeoutError:
            neighbours = tuple(one.label for one in cpu.holders() if one.works) or ("another process",)
            log(f"is measured beside {', '.join(neighbours)}: the CPU was busy for {CPU_PATIENCE_SECONDS:.0f} s")
        yield neighbours


def machine_id() -> str:
    """Names this machine, among all that may use a store in a shared directory."""
    if BOOT_ID.is_file():
        return BOOT_ID.read_text(encoding="ascii").strip()
    return Worker.this().host
