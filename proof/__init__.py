"""What no order of events and no crash may break, and how that is shown."""
