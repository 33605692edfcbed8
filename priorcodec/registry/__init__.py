"""Who exists: backbones, their weights and adapters, through pluggy. Nothing here imports torch, nothing is global."""

from priorcodec.registry.registry import PluginRecord, Registry, open_registry
from priorcodec.registry.validation import Problem

__all__ = ["PluginRecord", "Problem", "Registry", "open_registry"]
