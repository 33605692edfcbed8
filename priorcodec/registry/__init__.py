"""Plugins and what they provide: backbones, weights and adapters, found through pluggy. Imports no torch; has no globals."""

from priorcodec.registry.plugins import Problem
from priorcodec.registry.registry import PluginRecord, Registry, open_registry

__all__ = ["PluginRecord", "Problem", "Registry", "open_registry"]
