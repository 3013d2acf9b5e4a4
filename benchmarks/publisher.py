"""A bare paho-mqtt publisher: what the bridge's previews are compared with. `python -m benchmarks.publisher`."""

from __future__ import annotations

import argparse
import struct
import sys
import time
from collections import deque

from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion

_AHEAD = 32
"""Messages that wait in paho at most: enough that its thread always has something to do."""


def main() -> int:
    """Publish so many messages with QoS 0; the last eight bytes of each are the time of its sending."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="messages a second; 0: as fast as it can")
    options = parser.parse_args()
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", options.port)
    client.loop_start()
    while not client.is_connected():
        time.sleep(0.01)
    body = bytes(options.bytes - 8)
    waiting: deque[MQTTMessageInfo] = deque()
    due = time.monotonic()
    for _ in range(options.count):
        if options.rate:
            due += 1 / options.rate
            time.sleep(max(0.0, due - time.monotonic()))
        waiting.append(client.publish(options.topic, body + struct.pack(">d", time.time())))
        if len(waiting) > _AHEAD:
            waiting.popleft().wait_for_publish(10)
    for info in waiting:
        info.wait_for_publish(10)
    client.disconnect()
    client.loop_stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
