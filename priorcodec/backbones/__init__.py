"""Diffusion backbones: their interface, the arithmetic they share, and the built-in ones."""
