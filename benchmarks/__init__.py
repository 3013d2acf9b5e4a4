"""How fast the bridge is, beside a client that speaks to ComfyUI directly: `python -m benchmarks`, see README.md."""
