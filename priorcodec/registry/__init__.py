"""Who exists: backbones, their weights and adapters, through pluggy. Nothing here imports torch, nothing is global."""

from priorcodec.registry.manager import PluginRecord, Registry, open_registry
from priorcodec.registry.quarantine import Problem

__all__ = ["PluginRecord", "Problem", "Registry", "open_registry"]
