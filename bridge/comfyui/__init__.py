"""One ComfyUI server: its frames (pure), its HTTP interface and its websocket."""
