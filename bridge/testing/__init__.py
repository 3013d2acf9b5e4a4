"""A stand-in ComfyUI for tests, demonstrations and benchmarks: the measured protocol, no models, no GPU.

An independent implementation: it shares no code with the rest of the bridge, so that a mistake in one of the two shows.
"""

from __future__ import annotations

from bridge.testing.faults import Faults, Orders, Stats
from bridge.testing.standin import StandIn

__all__ = ["Faults", "Orders", "StandIn", "Stats"]
