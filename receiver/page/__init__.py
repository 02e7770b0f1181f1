"""The page: how the service is, in one sentence, for somebody who was woken."""
