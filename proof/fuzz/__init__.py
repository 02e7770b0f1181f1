"""The fuzzer: hostile requests to a live receiver, and what must be true afterwards."""
