"""The MQTT face."""
