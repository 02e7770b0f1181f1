"""Push: takes FreeScout's deliveries into the cache. Never calls FreeScout."""
