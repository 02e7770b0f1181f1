"""Pull: reads FreeScout's API, heals what was missed, asks what is disputed. Takes no requests."""
