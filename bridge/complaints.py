"""What is wrong with a field, in words for people instead of the checking library's. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.workflow.words import shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_WANTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "an object",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "mapping_type": "an object",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "string_type": "a text",
}


def complaint(error: ErrorDetails) -> str:
    """Return what stands behind the name of a field that pydantic refused: `must be a whole number, not 'x'`."""
    kind, limits = error["type"], error.get("ctx", {})
    match kind:
        case "greater_than_equal":
            return f"must be at least {limits['ge']}, not {shown(error['input'])}"
        case "less_than_equal":
            return f"must be at most {limits['le']}, not {shown(error['input'])}"
        case "string_too_long":
            return f"must have at most {limits['max_length']} characters"
        case "too_long":
            return f"must have at most {limits['max_length']} entries, not {limits['actual_length']}"
        case _ if kind in _WANTED:
            return f"must be {_WANTED[kind]}, not {shown(error['input'])}"
    return error["msg"].removeprefix("Value error, ").removeprefix("Input ")
