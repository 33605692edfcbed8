"""What `priorcodec backbones` and `priorcodec plugins` print. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from priorcodec.core.errors import WeightsError
from priorcodec.registry import Registry


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


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as a table as wide as they need, so that nothing is cut when piped."""
    texts = [[str(row[column]) for column in columns] for row in rows]
    widths = [max(len(column), *(len(text[i]) for text in texts)) for i, column in enumerate(columns)]
    for line in [list(columns), *texts]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _summary(registry: Registry, spec: Any) -> dict[str, Any]:
    try:
        weights = "here" if registry.weights_here(spec) else "missing"
    except WeightsError as error:
        weights = f"refused: {error}"
    return {
        "name": spec.name,
        "family": spec.family,
        "parameters": f"{spec.parameters / 1e6:.2f}M",
        "latent": f"{spec.latent.channels} channels, stride {spec.latent.stride}",
        "prediction": str(spec.prediction),
        "licence": spec.license,
        "weights": weights,
        "adapters": ", ".join(source.name for source in registry.adapters(spec)) or "none",
    }
