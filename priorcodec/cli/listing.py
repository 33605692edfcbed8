"""What `priorcodec backbones`, `adapters` and `plugins` print. Loads no torch, except to explain one adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from priorcodec.core.errors import AdapterError, BackboneError, WeightsError
from priorcodec.core.io import safetensors
from priorcodec.registry import Registry
from priorcodec.registry import adapter_sources as places

if TYPE_CHECKING:
    from priorcodec.backbones.spec import AdapterSource


def backbones(registry: Registry, name: str | None = None) -> list[dict[str, Any]]:
    """One row per backbone, or the full description of `name`. Raises BackboneError: no such backbone."""
    if name is None:
        return [_summary(registry, spec) for spec in registry.specs().values()]
    spec = registry.spec(name)
    more = {
        "summary": spec.summary,
        "source": spec.source,
        "revision": spec.revision,
        "size": f"trained at {spec.size} pixels",
        "tokens": f"width {spec.token_dim}" + (f", pooled {spec.pooled_dim}" if spec.pooled_dim else ""),
        "lora": [f"{rule.modules} modules of {rule.pattern} at rank {rule.rank}" for rule in spec.lora],
        "fusion": [f"{site.module}: {site.channels} channels, stride {site.stride}" for site in spec.fusion],
    }
    return [_summary(registry, spec) | more]


def plugins(registry: Registry) -> list[dict[str, Any]]:
    """One row per plugin found, failed ones with their reason."""
    return [
        {
            "name": record.name,
            "origin": record.origin,
            "version": record.version,
            "backbones": ", ".join(record.backbones),
            "error": record.error or "",
        }
        for record in registry.plugins()
    ]


def adapters(registry: Registry) -> list[dict[str, Any]]:
    """One row per adapter that plugins know of, for every backbone. Nothing is downloaded."""
    return [_adapter(spec.name, source) for spec in registry.specs().values() for source in registry.adapters(spec)]


def explain(registry: Registry, given: str) -> dict[str, Any]:
    """All about one adapter file: a path, or OWNER/REPO/FILE.safetensors@COMMIT on the Hub, which is fetched.

    Raises:
        AdapterError: not to be had, or not an adapter of this version.
    """
    path = places.fetch(places.source(given))  # before torch is loaded: a wrong name is told at once

    from priorcodec.adapters import card
    from priorcodec.adapters import file as adapter_file
    from priorcodec.core.codec import WEIGHTS
    from priorcodec.core.weights import encoder_id

    file = adapter_file.read(path)
    parts = card.parts(file)
    total = sum(parts.values())
    share, fits = "unknown", "yes"
    try:
        spec = registry.spec(file.metadata.get("backbone", ""))
        share = f"{total / spec.parameters:.2%}"
        adapter_file.check(file, spec, encoder_id=encoder_id((WEIGHTS / "encoder.safetensors").read_bytes()))
        if file.metadata.get("tiny"):
            fits = "no: trained for the backbone's tiny test model"
    except (AdapterError, BackboneError) as error:
        fits = f"no: {error}"
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": places.sha256(path),
        "dtype": ", ".join(sorted({str(value.dtype).removeprefix("torch.") for value in file.tensors.values()})),
        "metadata": {key: value for key, value in sorted(file.metadata.items()) if key != "config"},
        "settings": vars(file.config),
        "parameters": parts | {"all": total},
        "share": share,
        "fits": fits,
    }


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as a table as wide as they need, so that nothing is cut when piped."""
    texts = [[str(row[column]) for column in columns] for row in rows]
    widths = [max([len(column), *(len(text[i]) for text in texts)]) for i, column in enumerate(columns)]
    for line in [list(columns), *texts]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def lines(row: dict[str, Any], indent: str = "") -> str:
    """One line per entry; the entries of a mapping below it, indented."""
    width = max(map(len, row))
    text = []
    for key, value in row.items():
        if isinstance(value, dict):
            text += [f"{indent}{key}", lines(value, indent + "  ")]
        else:
            text.append(f"{indent}{key:<{width}}  {f'{value:,}' if type(value) is int else value}")
    return "\n".join(text)


def _summary(registry: Registry, spec: Any) -> dict[str, Any]:
    try:
        weights = "here" if registry.weights_here(spec) else "missing"
    except WeightsError as error:
        weights = f"refused: {error}"
    return {
        "name": spec.name,
        "parameters": f"{spec.parameters / 1e6:.2f}M",
        "latent": f"{spec.latent.channels} channels, stride {spec.latent.stride}",
        "prediction": str(spec.prediction),
        "license": spec.license,
        "weights": weights,
        "adapters": ", ".join(source.name for source in registry.adapters(spec)) or "none",
    }


def _adapter(backbone: str, source: AdapterSource) -> dict[str, Any]:
    encoder, size = "", ""
    try:
        path = places.local_path(source)
        here = "here" if path else "missing"
        if path:
            encoder = safetensors.describe(path, AdapterError)[0].get("encoder", "")
            size = f"{path.stat().st_size / 2**20:.2f} MiB"
    except AdapterError as error:
        here = f"refused: {error}"
    return {
        "backbone": backbone,
        "name": source.name,
        "size": size,
        "encoder": encoder,
        "file": here,
        "sha256": source.sha256[:12] or "not pinned",
        "revision": source.revision[:12],
        "location": source.location,
    }
