"""Engines, which run networks: one file for each, a class with the interface of `protocol`."""
