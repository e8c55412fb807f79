"""Measurements against other libraries, in one process and one run each. See README.md."""
