"""Measurements against other libraries, each of them in a process of its own, all taking turns. See README.md."""
