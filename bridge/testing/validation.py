"""Which prompts are taken and which are not, with the error bodies of the real server.

Errors that the real server answers with 500 come out of here as ordinary exceptions (KeyError, TypeError, ...).
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.testing.catalogue import CLASSES
from bridge.testing.folders import Escape, Folders
from bridge.testing.node_class import NodeClass

_LONG_LIST = 20


@dataclass(slots=True)
class Verdict:
    """What validation found: `error` (None if at least one output is valid), the valid outputs, errors by node."""

    error: dict[str, Any] | None
    outputs: list[str] = field(default_factory=list)
    node_errors: dict[str, Any] = field(default_factory=dict)


class _Cycle(Exception):
    """The graph leads back to a node that is being looked at."""


def error(kind: str, message: str, details: str = "", **extra: Any) -> dict[str, Any]:
    """One error in the shape that the server uses everywhere."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def validate(graph: Any, folders: Folders, targets: Any = None, classes: Mapping[str, NodeClass] = CLASSES) -> Verdict:
    """Check a graph; `targets` limits it to some of its output nodes, `classes` are those that the server has."""
    outputs = []
    for node_id in graph:
        node = graph[node_id]
        if "class_type" not in node:
            missing = "Cannot execute because a node is missing the class_type property."
            return Verdict(error("invalid_prompt", missing, f"Node ID '#{node_id}'"))
        node_class = classes.get(node["class_type"])
        if node_class is None:
            unknown = f"Cannot execute because node {node['class_type']} does not exist."
            return Verdict(error("invalid_prompt", unknown, f"Node ID '#{node_id}'"))
        if node_class.is_output and (targets is None or node_id in targets):
            outputs.append(node_id)
    if not outputs:
        return Verdict(error("prompt_no_outputs", "Prompt has no outputs"))
    return _Validation(graph, folders).run(outputs)


class _Validation:
    def __init__(self, graph: dict[str, Any], folders: Folders) -> None:
        self.graph = graph
        self.folders = folders
        self.found: dict[str, tuple[bool, list[dict[str, Any]]]] = {}
        self.open: set[str] = set()

    def run(self, outputs: Sequence[str]) -> Verdict:
        good: list[str] = []
        details: list[str] = []
        node_errors: dict[str, Any] = {}
        for output in outputs:
            valid, reasons = self._output(output)
            if valid:
                good.append(output)
                continue
            details += [f"{reason['message']}: {reason['details']}" for reason in reasons]
            for node_id, (fine, found) in self.found.items():
                if fine or not found:
                    continue
                entry = node_errors.setdefault(
                    node_id,
                    {"errors": found, "dependent_outputs": [], "class_type": self.graph[node_id]["class_type"]},
                )
                entry["dependent_outputs"].append(output)
        if good:
            return Verdict(None, good, node_errors)
        failed = error("prompt_outputs_failed_validation", "Prompt outputs failed validation", "\n".join(details))
        return Verdict(failed, [], node_errors)

    def _output(self, output: str) -> tuple[bool, list[dict[str, Any]]]:
        try:
            return self._node(output)
        except (_Cycle, RecursionError):
            # Measured: a cycle is refused without any reason given.
            return False, []
        except Exception as problem:  # noqa: BLE001 - as the real server: any failure is an answer
            reason = error(
                "exception_during_validation",
                "Exception when validating node",
                str(problem),
                exception_type=type(problem).__name__,
                traceback=traceback.format_tb(problem.__traceback__),
            )
            self.found[output] = (False, [reason])
            return False, [reason]

    def _node(self, node_id: str) -> tuple[bool, list[dict[str, Any]]]:
        if node_id in self.found:
            return self.found[node_id]
        if node_id in self.open:
            raise _Cycle(node_id)
        self.open.add(node_id)
        try:
            node = self.graph[node_id]
            inputs = node["inputs"]
            node_class = CLASSES[node["class_type"]]
            errors: list[dict[str, Any]] = []
            branches_valid = True
            for group in (node_class.required, node_class.optional or {}):
                for name, config in group.items():
                    if name not in inputs:
                        if group is node_class.required:
                            errors.append(
                                error("required_input_missing", "Required input is missing", name, input_name=name)
                            )
                    elif isinstance(inputs[name], list):
                        branches_valid &= self._link(name, config, inputs[name], errors)
                    else:
                        _value(name, config, inputs, errors, listed=name != node_class.loads)
            self._file(node_class, inputs, errors)
        finally:
            self.open.discard(node_id)
        self.found[node_id] = (branches_valid and not errors, errors)
        return self.found[node_id]

    def _link(self, name: str, config: list[Any], link: list[Any], errors: list[dict[str, Any]]) -> bool:
        described = {"input_name": name, "input_config": config}
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            errors.append(error("bad_linked_input", message, name, **described, received_value=link))
            return True
        source = link[0]
        received = CLASSES[self.graph[source]["class_type"]].outputs[link[1]]
        if not _fits(received, config[0]):
            details = f"{name}, received_type({received}) mismatch input_type({config[0]})"
            message = "Return type mismatch between linked nodes"
            errors.append(
                error("return_type_mismatch", message, details, **described, received_type=received, linked_node=link)
            )
            return True
        try:
            return self._node(source)[0]
        except (_Cycle, RecursionError):
            raise
        except Exception as problem:  # noqa: BLE001 - as the real server: any failure is an answer
            reason = error(
                "exception_during_inner_validation",
                "Exception when validating inner node",
                str(problem),
                **described,
                exception_message=str(problem),
                exception_type=type(problem).__name__,
                traceback=traceback.format_tb(problem.__traceback__),
                linked_node=link,
            )
            self.found[source] = (False, [reason])
            return False

    def _file(self, node_class: NodeClass, inputs: dict[str, Any], errors: list[dict[str, Any]]) -> None:
        name = node_class.loads
        if name is None or name not in inputs or isinstance(inputs[name], list):
            return
        try:
            exists = self.folders.load_path(inputs[name]).exists()
        except Escape:
            exists = False
        if not exists:
            details = f"{name} - Invalid image file: {inputs[name]}"
            message = "Custom validation failed for node"
            errors.append(error("custom_validation_failed", message, details, input_name=name))


def _fits(received: str, wanted: Any) -> bool:
    return wanted == "*" or received in {wanted, "*"}


_CONVERT: dict[str, type] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


def _value(name: str, config: list[Any], inputs: dict[str, Any], errors: list[dict[str, Any]], *, listed: bool) -> None:
    kind = config[0]
    options: dict[str, Any] = config[1] if len(config) > 1 else {}
    value = inputs[name]
    described: dict[str, Any] = {"input_name": name, "input_config": config}
    try:
        if isinstance(value, dict) and "__value__" in value:
            value = inputs[name] = value["__value__"]
        if isinstance(kind, str) and kind in _CONVERT:
            value = inputs[name] = _CONVERT[kind](value)
    except Exception as problem:  # noqa: BLE001 - as the real server: any failure is an answer
        message = f"Failed to convert an input value to a {kind} value"
        details = f"{name}, {value}, {problem}"
        errors.append(
            error(
                "invalid_input_type",
                message,
                details,
                **described,
                received_value=value,
                exception_message=str(problem),
            )
        )
        return
    if "min" in options and value < options["min"]:
        message = f"Value {value} smaller than min of {options['min']}"
        errors.append(error("value_smaller_than_min", message, name, **described, received_value=value))
    elif "max" in options and value > options["max"]:
        message = f"Value {value} bigger than max of {options['max']}"
        errors.append(error("value_bigger_than_max", message, name, **described, received_value=value))
    elif isinstance(kind, list) and listed and value not in kind:
        long = len(kind) > _LONG_LIST
        details = f"{name}: '{value}' not in {f'(list of length {len(kind)})' if long else kind}"
        described["input_config"] = None if long else config
        errors.append(error("value_not_in_list", "Value not in list", details, **described, received_value=value))
