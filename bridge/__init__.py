"""A bridge between ComfyUI and MQTT, HTTP and everything that speaks them."""

__version__ = "0.1.0"
