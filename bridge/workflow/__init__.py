"""What a ComfyUI graph is and what can be set in it; pure."""
