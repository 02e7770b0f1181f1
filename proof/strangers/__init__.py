"""What senders without a key can do to those who have one, all at once."""
