"""The operator's commands, and the launcher behind ``make run``."""
