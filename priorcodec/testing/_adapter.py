"""Tier 1, the adapter."""
