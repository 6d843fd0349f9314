"""How one cohort trains: `loop.py` reads top to bottom."""
