"""Guests that live here. Nobody imports this package: the registry finds each module through pluggy."""
