"""Real logs with one trouble each, which the saved searches have to find, and the page of those searches."""
