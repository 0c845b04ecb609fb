"""The parts of the module `torch` that drivers for TensorRT-LLM use, made with numpy. It is not PyTorch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.trtllm.home import Home


class Tensor(np.ndarray[Any, Any]):
    """An array with those methods of a tensor that numpy does not have."""

    def size(self, dimension: int | None = None) -> Any:  # type: ignore[override]
        return self.shape if dimension is None else self.shape[dimension]

    def numpy(self) -> NDArray[Any]:
        return self.view(np.ndarray)

    def cpu(self, *_place: Any, **_options: Any) -> "Tensor":
        return self

    cuda = to = cpu

    def float(self) -> "Tensor":
        return self.astype(np.float32).view(Tensor)

    def __getitem__(self, place: Any) -> Any:
        return np.asarray(super().__getitem__(place)).view(Tensor)


def tensor(data: Any, dtype: Any = None) -> Tensor:
    """A tensor from numbers or from another tensor."""
    return np.array(data, dtype=dtype).view(Tensor)


@contextmanager
def no_grad() -> Iterator[None]:
    """Do nothing: these tensors have no gradients."""
    yield


def install(module: ModuleType, directory: str) -> None:
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
