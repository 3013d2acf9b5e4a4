"""All node classes by name."""

from __future__ import annotations

from collections.abc import Mapping

from bridge.testing.catalogue_media import MEDIA_NODES
from bridge.testing.catalogue_models import MODEL_NODES
from bridge.testing.node_class import NodeClass

CLASSES: Mapping[str, NodeClass] = {node.name: node for node in (*MODEL_NODES, *MEDIA_NODES)}
