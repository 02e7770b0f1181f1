"""Ordinary failures of a night, each made on live processes, and what every surface says of it and how soon."""
