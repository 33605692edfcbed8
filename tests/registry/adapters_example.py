"""The example of docs/plugins/hooks.md: a plugin that brings an adapter for somebody else's backbone."""

from pathlib import Path

from priorcodec import AdapterSource, hookimpl


@hookimpl
def priorcodec_adapters(spec):
    if spec.name != "sd15":
        return []
    return [AdapterSource(name="sharp", location=str(Path(__file__).with_name("sd15-sharp.safetensors")))]
