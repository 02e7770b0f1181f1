"""What tests share: builders, worlds, processes, stand-ins."""
