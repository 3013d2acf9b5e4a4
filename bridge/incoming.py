"""Documents from outside, JSON or msgpack; what is wrong with one is told in a sentence. Pure."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from typing import Any

import msgpack

from bridge.errors import BadPayload
from bridge.workflow.words import shown

_MSGPACK_TYPES = frozenset({"application/msgpack", "application/x-msgpack", "application/vnd.msgpack"})


def is_msgpack(content_type: str | None) -> bool:
    """Tell whether a content type says msgpack."""
    return content_type is not None and content_type.partition(";")[0].strip().lower() in _MSGPACK_TYPES


def read_json(data: bytes | str, *, where: str) -> Any:
    """Return the value of a JSON document; `where` begins the sentences. Raises BadPayload."""

    def read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) != len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise BadPayload(f"{where} has {shown(twice)} more than once in one object")
        return document

    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode() if isinstance(data, bytes) else data
        value = json.loads(text, object_pairs_hook=read_object)
        if "\\ud" in text.lower():  # half of a surrogate pair is no text that could be stored or sent
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadPayload(f"{where} has a text that ends within a character (half a surrogate pair)") from None
    except UnicodeDecodeError:
        raise BadPayload(f"{where} is not text in UTF-8") from None
    except RecursionError:
        raise BadPayload(f"{where} is nested too deep") from None
    except json.JSONDecodeError as error:
        raise BadPayload(f"{where} is not JSON: {error}") from None
    except ValueError:
        raise BadPayload(f"{where} has a number with too many digits") from None
    return value


def read_msgpack(data: bytes, *, where: str) -> Any:
    """Return the value of a msgpack document; `where` begins the sentence. Raises BadPayload."""
    try:
        return msgpack.unpackb(data, strict_map_key=True)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise BadPayload(f"{where} is not msgpack: {str(error) or type(error).__name__}") from None
