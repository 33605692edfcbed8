"""Who exists: backbones, their weights and adapters, through pluggy. Nothing here imports torch, nothing is global."""

from priorcodec.registry.manager import PluginRecord, Problem, Registry, open_registry

__all__ = ["PluginRecord", "Problem", "Registry", "open_registry"]
