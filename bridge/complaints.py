"""What is wrong with a field, in words for people instead of the checking library's. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

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


def complaint(error: ErrorDetails, *, shown: Callable[[object], str] | None = None) -> str:
    """Return what stands behind the name of a field that pydantic refused: `must be a whole number`.

    shown: how a value looks in a sentence, for `must be a whole number, not 'x'`.
    """
    kind, limits = error["type"], error.get("ctx", {})
    match kind:
        case "greater_than":
            words = f"must be above {limits['gt']}"
        case "greater_than_equal":
            words = f"must be at least {limits['ge']}"
        case "less_than_equal":
            words = f"must be at most {limits['le']}"
        case "string_too_long":
            return f"must have at most {limits['max_length']} characters"
        case "too_long":
            return f"must have at most {limits['max_length']} entries, not {limits['actual_length']}"
        case _ if kind in _WANTED:
            words = f"must be {_WANTED[kind]}"
        case _:
            return error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return words if shown is None else f"{words}, not {shown(error['input'])}"
