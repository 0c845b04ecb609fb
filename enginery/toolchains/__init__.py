"""The pinned environments in which a release's commands run.

A toolchain never shares a Python environment with Enginery. There are three kinds: a `Venv` is made on demand from a
pin file, once for everybody on the machine; a `Container` is the release's image; a `Host` is what is on PATH. A
toolchain's identity is part of the key of every step that runs in the toolchain. A release of TensorRT-LLM needs no
pin file: its toolchain is called `tensorrt-llm-<release>`.

    toolchain = ensure(identify("onnxruntime-0.18"), log=print)
    toolchain.run(["python", "-V"], Access(name="show"), log=print, timeout=60)
"""

from typing import TYPE_CHECKING

from enginery.core.late import door

if TYPE_CHECKING:
    from enginery.toolchains.catalog import (
        Identify,
        ToolchainReport,
        ToolchainStatus,
        check,
        ensure,
        identify,
        known_facts,
        names,
        newest,
        status,
    )
    from enginery.toolchains.container import (
        PYTHON,
        REGISTRY,
        ContainerAccess,
        container_home,
        docker_command,
        image_reference,
    )
    from enginery.toolchains.drivers import (
        ANSWER_PROMPTS,
        ANSWER_REFERENCE,
        ANSWER_TENSORRT_LLM,
        BENCH_COMMON,
        BENCH_ONNX,
        BENCH_TENSORRT_LLM,
        COMPARE_ONNX_WEIGHTS,
        DRIVERS,
        driver_sha256,
    )
    from enginery.toolchains.drivers.weight_values import MOST_VALUES, likeness, neighbours, relative, worst_block
    from enginery.toolchains.examples import SETTING, checkout_examples, examples_dir, image_examples
    from enginery.toolchains.identity import Access, Toolchain, ToolchainIdentity, location
    from enginery.toolchains.pins import PACKAGE, TENSORRT_PACKAGES, describe, toolchain_name
else:
    __getattr__ = door(__name__, __file__)
