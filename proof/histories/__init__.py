"""Disorderly histories, thousands of them, each decided by one seed, and what must be true in every one."""
