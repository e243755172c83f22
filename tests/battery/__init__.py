"""The reliability battery: `python -m tests.battery`. Each module here is one row of its table."""
