"""One group of the console's commands a file."""
