"""The base class of all parts of a spec, and types of text fields that must match a pattern."""

import ast
import inspect
import textwrap
from enum import StrEnum
from itertools import pairwise
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from enginery.core.s3 import address_mistake, is_address

NAME_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"
S3_PATTERN = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$"
"""For editors. `enginery.core.s3` decides which addresses are accepted."""
HTTP_PATTERN = r"^https?://[^\s/@]+$"
HUB_PATTERN = r"^[\w.-]+(/[\w.-]+)?$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"
WARNING_PATTERN = r"^W\d{3}$"
IMAGE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/-]*(@sha256:[0-9a-f]{64})?$"


def _s3_address(text: str) -> str:
    return _without_mistake(text, address_mistake(text))


def _s3_source(text: str) -> str:
    return _without_mistake(text, address_mistake(text, empty_parts=True))


def _place(text: str) -> str:
    return _without_mistake(text, address_mistake(text) if is_address(text) else None)


def _without_mistake(text: str, mistake: tuple[str, str] | None) -> str:
    if mistake:
        problem, remedy = mistake
        raise ValueError(f"{text!r} {problem}; {remedy}")
    return text


AtLeastOne = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
S3Address = Annotated[str, AfterValidator(_s3_address), Field(json_schema_extra={"pattern": S3_PATTERN})]
S3Source = Annotated[str, AfterValidator(_s3_source), Field(json_schema_extra={"pattern": S3_PATTERN})]
"""An address that is only read. Others may have put objects under a prefix with empty parts, such as `a//b`."""
Place = Annotated[str, AfterValidator(_place)]
"""A directory, or an address in S3."""
HttpAddress = Annotated[str, StringConstraints(pattern=HTTP_PATTERN)]
"""Without user name and password, because others can read specs, records and artifacts."""
HubRepository = Annotated[str, StringConstraints(pattern=HUB_PATTERN), WithJsonSchema({"type": "string"})]
"""The pattern is not in the schema, because a user may also write an address (`hub_names`)."""
Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]
WarningCode = Annotated[str, StringConstraints(pattern=WARNING_PATTERN)]
ImageName = Annotated[str, StringConstraints(pattern=IMAGE_PATTERN)]

IN_WORDS = {
    NAME_PATTERN: "is not a name; use lower-case letters, digits, '.', '_' and '-', at most 63",
    HTTP_PATTERN: "is not a server's address; write it as http://host:port, without path or credentials",
    IMAGE_PATTERN: "is not the name of an image; write it as repository/name:tag, with @sha256:… to fix its content",
    HUB_PATTERN: "is not a repository on the Hugging Face Hub; write it as owner/name",
    WARNING_PATTERN: "is not the code of a warning, such as W201; errors cannot be accepted",
    SHA256_PATTERN: "is not a SHA-256; write its 64 hex digits, in lower case",
}
"""Pattern -> the error for a text that does not match it. The error says how to write the text."""


class BackendName(StrEnum):
    """What runs an engine."""

    AUTO = "auto"
    TENSORRT = "tensorrt"
    PYTORCH = "pytorch"
    ONNXRUNTIME = "onnxruntime"


class Precision(StrEnum):
    """The number format of an engine's weights."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"
    INT8_SMOOTHQUANT = "int8_sq"
    INT8_WEIGHT_ONLY = "int8_wo"
    INT4_WEIGHT_ONLY = "int4_wo"
    INT4_AWQ = "int4_awq"
    W4A8_AWQ = "w4a8_awq"
    NVFP4 = "nvfp4"


FLOATS = (Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16)
"""Precisions of weights that are not quantized."""


class SpecModel(BaseModel):
    """A part of a spec. It cannot be changed once it is read; unknown fields are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe each field by the text under it, and title it by its name.

        Pydantic's `use_attribute_docstrings` would read the sources at every start, which takes 30 ms and is needed for
        the schema only. It also gives no title to a field that holds another model, so that forms show no name for it.
        """
        schema = handler(core)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in _texts_under_fields(cls).items():
            properties[name]["description"] = text
            properties[name].setdefault("title", name.replace("_", " ").title())
        return schema


def _texts_under_fields(model: type[BaseModel]) -> dict[str, str]:
    """Field name -> the string literal that follows it in the source of the class, or of one that it inherits from."""
    bases = [one for one in reversed(model.__mro__) if issubclass(one, SpecModel) and one is not SpecModel]
    return {name: text for one in bases for name, text in _texts_in(one).items()}


def _texts_in(model: type[BaseModel]) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101  the source of a class
    texts = {}
    for field, text in pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(content))):
                texts[name] = inspect.cleandoc(content)
    return texts
