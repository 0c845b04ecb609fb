"""What all parts of a spec have in common."""

import ast
import inspect
import textwrap
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class SpecModel(BaseModel):
    """A part of a spec: unchangeable once read; unknown fields are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe each field by the text under it, and title it by its name.

        Pydantic's `use_attribute_docstrings` would read the sources at every start, 30 ms for a command that asks for
        no schema. And it titles no field that holds another model: in a form such a field would have no name.
        """
        schema = handler(core)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in _texts_under_fields(cls).items():
            properties[name]["description"] = text
            properties[name].setdefault("title", name.replace("_", " ").title())
        return schema


def _texts_under_fields(model: type[BaseModel]) -> dict[str, str]:
    """Field name -> the string literal that follows it in the class's source."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101  it is the source of a class
    texts = {}
    for field, text in pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(content))):
                texts[name] = inspect.cleandoc(content)
    return texts
