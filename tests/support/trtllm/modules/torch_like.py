"""The parts of the module `torch` that drivers for TensorRT-LLM use, made with numpy. It is not PyTorch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.trtllm.home import Home


class Tensor:
    """An array with the methods of a tensor."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> Any:
        return self.array.dtype.type

    def size(self, dimension: int | None = None) -> Any:
        return self.array.shape if dimension is None else self.array.shape[dimension]

    def dim(self) -> int:
        return self.array.ndim

    def tolist(self) -> Any:
        return self.array.tolist()

    def item(self) -> Any:
        return self.array.item()

    def numpy(self) -> NDArray[Any]:
        return self.array

    def max(self) -> "Tensor":
        return Tensor(np.asarray(self.array.max()))

    def reshape(self, *shape: Any) -> "Tensor":
        return Tensor(self.array.reshape(*shape))

    def cpu(self, *_place: Any, **_options: Any) -> "Tensor":
        return self

    cuda = to = contiguous = cpu

    def __getitem__(self, place: Any) -> "Tensor":
        return Tensor(np.asarray(self.array[place]))

    def __iter__(self) -> Iterator["Tensor"]:
        return (self[one] for one in range(len(self)))

    def __len__(self) -> int:
        return len(self.array)

    def __index__(self) -> int:
        return int(self.array)

    __int__ = __index__

    def __repr__(self) -> str:
        return f"tensor({self.tolist()})"


def tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor from numbers or from another tensor."""
    return Tensor(np.array(data.array if isinstance(data, Tensor) else data, dtype=dtype))


@contextmanager
def no_grad() -> Iterator[None]:
    """Do nothing: these tensors have no gradients."""
    yield


def install(module: ModuleType, directory: str) -> None:
    """Fill the module `torch` of the stand-in in a directory."""
    own = Home(Path(directory))
    types = {name: getattr(np, name) for name in ("int32", "int64", "float16", "float32")}
    names = {"Tensor": Tensor, "tensor": tensor, "no_grad": no_grad, "inference_mode": no_grad, "cuda": _cuda(own)}
    vars(module).update(types | names | {"long": np.int64, "int": np.int32, "__version__": "0"})


def _cuda(own: Home) -> SimpleNamespace:
    def capability(device: int = 0) -> Sequence[int]:
        return tuple(int(part) for part in own.visible_gpus()[device]["compute_cap"].split("."))

    return SimpleNamespace(
        is_available=lambda: bool(own.visible_gpus()),
        device_count=lambda: len(own.visible_gpus()),
        get_device_name=lambda device=0: own.visible_gpus()[device]["name"],
        get_device_capability=capability,
        synchronize=lambda *_device: None,
        set_device=lambda _device: None,
        empty_cache=lambda: None,
    )
