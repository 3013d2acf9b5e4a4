from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.bridge_process import start_mosquitto, stop_mosquitto


@pytest.fixture(scope="module")
def broker_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a mosquitto that the module's tests share, each below a base topic of its own."""
    broker = start_mosquitto(tmp_path_factory.mktemp("mosquitto"))
    try:
        yield broker.port
    finally:
        stop_mosquitto(broker)
