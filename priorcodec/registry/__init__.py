"""Who exists: backbones, their weights and adapters, all through pluggy. Nothing here imports torch, and nothing is global."""

from priorcodec.registry.manager import PluginRecord, Problem, Registry, open_registry

__all__ = ["PluginRecord", "Problem", "Registry", "open_registry"]
