# ruff: noqa: INP001  a script, not a module
"""Makes `enginery/releases/data/pytorch.json`: the architectures that the PyTorch backend of a release can run.

`python pytorch_models.py RELEASE SOURCE DIRECTORY ...`, with three arguments for each release: its name, where its
source is from, and a directory that has its `tensorrt_llm/_torch/models`. Nothing of it is run.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from compact import DATA, _text
from spans import Topic

MODELS = Path("tensorrt_llm") / "_torch" / "models"
INDEX = "_arch_index.py"
"""Later versions list all architectures in this file. A test of theirs compares it with the decorators."""
TABLE = "MODEL_ARCH_TO_MODULE"
DECORATOR = "register_auto_model"
METHOD = f"ast: the names given to the decorator {DECORATOR}, or the keys of {TABLE}"


def main(*arguments: str) -> None:
    """Write the data file, and print how many architectures each release has."""
    topic = Topic("architecture -> the module in tensorrt_llm/_torch/models that runs it")
    for release, source, directory in zip(arguments[::3], arguments[1::3], arguments[2::3], strict=True):
        found = architectures(Path(directory) / MODELS)
        topic.put("architectures", release, topic.source("parsed", source, METHOD), found)
        sys.stdout.write(f"{release}: {len(found)} architectures\n")
    (DATA / "pytorch.json").write_text(_text(topic.compact()), encoding="utf-8")


def architectures(directory: Path) -> dict[str, str]:
    """Architecture -> module, sorted."""
    index = directory / INDEX
    if index.is_file():
        return dict(sorted(_listed(ast.parse(index.read_bytes()))))
    paths = sorted(directory.glob("modeling_*.py"))
    return dict(sorted((name, path.stem) for path in paths for name in _decorated(ast.parse(path.read_bytes()))))


def _listed(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == TABLE:
            yield from ast.literal_eval(node.value).items()


def _decorated(tree: ast.Module) -> Iterator[str]:
    constants = {
        name: value for node in tree.body if isinstance(node, ast.ClassDef) for name, value in _constants(node)
    }
    for node in ast.walk(tree):
        for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).split(".")[-1] == DECORATOR:
                named = decorator.args[0]
                yield str(named.value) if isinstance(named, ast.Constant) else constants[ast.unparse(named)]


def _constants(of: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """The constants of a class, such as `VilaConfig.model_architecture`."""
    for node in of.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            yield f"{of.name}.{ast.unparse(node.targets[0])}", str(node.value.value)


if __name__ == "__main__":
    main(*sys.argv[1:])
