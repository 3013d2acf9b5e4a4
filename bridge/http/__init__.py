"""The HTTP face: REST, server-sent events, the websocket relay, metrics."""
