"""The keys in use, from an Infisical vault where one is configured."""
