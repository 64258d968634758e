"""The main job on real input: see `python -m demo` (make demo)."""
