"""What benchmarks/layers.py, layer_options.py, texture_training.py and texture_adapter.py found -> tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from priorcodec.evaluation.table import Table

Result = Mapping[str, Any]
SCORES = {"lite1_lpips": "Lite1, LPIPS form", "lite1_dists": "Lite1, DISTS form", "gmsd": "GMSD", "psnr": "PSNR"}
NAMES = {"semantic": "semantic layers alone", "latent": "latent alone"}


def semantic(result: Result) -> Table:
    """Files without a latent against latent files of the same size."""
    rows = [
        [NAMES[row["file"]], row["decoder"], f"{row['bytes']:.0f}", f"{row['bpp']:.5f}", *_scores(row)]
        for row in result["decoded_means"]
    ]
    note = f"Mean of {result['decoded_means'][0]['images']} images."
    return Table(heads=["file", "decoder", "bytes", "bpp", *SCORES.values()], rows=rows, texts=2, note=note)


def sizes(result: Result) -> Table:
    """Bytes of files without a latent."""
    row = result["sizes_means"][0]
    heads = ["images", "bytes", "bpp", "structure", "texture", "regions", "smallest file with a latent"]
    parts = (f"{row[key]:.0f}" for key in ("structure", "texture"))
    cells = [f"{row['images']}", f"{row['bytes']:.0f}", f"{row['bpp']:.5f}", *parts, f"{row['regions']:.1f}"]
    return Table(heads=heads, rows=[[*cells, f"{row['latent_bytes']:.0f}"]])


def maps(result: Result) -> Table:
    """Written and derived regions."""
    rows = []
    for row in result["maps_means"]:
        shares = f"{row['color_explained']:.0%}", f"{row['lite1_explained']:.1%}", f"{row['edge_ratio']:.2f}"
        rows.append([row["map"], f"{row['regions']:.1f}", f"{row['bytes']:.0f}", *shares])
    heads = ["map", "regions", "bytes", "color explained", "Lite1 features explained", "gradient at borders"]
    return Table(heads=heads, rows=rows)


def beside(result: Result) -> Table:
    """Texture values beside a latent."""
    rows = [
        [f"{row['quality']:g}", row["layer"], f"{row['bytes']:.0f}", *_scores(row)] for row in result["beside_means"]
    ]
    return Table(heads=["quality", "beside the latent", "bytes", *SCORES.values()], rows=rows, texts=2)


def analysis(result: Result) -> Table:
    """What can be told from the stream."""
    rows = [
        [row["from"], f"{row['numbers']}", f"{row['accuracy']:.1%}", f"{row['nearest_is_itself']:.1%}"]
        for row in result["analysis"]
    ]
    first = result["analysis"][0]
    note = (
        f"Classifier: {first['crops'] - first['tested']} crops of 256x256 to learn from, {first['tested']} tested. "
        f"Nearest: {first['images']} images."
    )
    return Table(
        heads=["vectors from", "numbers", "AI-generated or photograph", "nearest image is itself"], rows=rows, note=note
    )


def structure(result: Result) -> Table:
    """Other maps than regions at stride 16."""
    rows = []
    for row in result["structure"]:
        size = f"{row['bytes']:.0f}"
        if "density" in row:
            rows.append(
                [f"{row['map']}: {row['density']:.1%} of the bits", size, *["" for _ in range(2 + len(SCORES))]]
            )
        else:
            rows.append([row["map"], size, f"{row['regions']:.1f}", f"{row['color_explained']:.0%}", *_scores(row)])
    note = f"Mean of {result['structure'][0]['images']} images."
    return Table(heads=["map", "bytes", "regions", "color explained", *SCORES.values()], rows=rows, note=note)


def adapter(result: Result) -> Table:
    """Texture values as an addition to an adapter's features."""
    rows = [
        [f"{row['quality']}", row["reader"], f"{row['bytes']:.0f}", f"{row['error']:.4f}", *_scores(row)]
        for row in result["adapter"]
    ]
    heads = ["quality", "beside the latent", "bytes", "error of y", *SCORES.values()]
    count = " or ".join(map(str, sorted({row["images"] for row in result["adapter"]})))
    return Table(heads=heads, rows=rows, texts=2, note=f"Mean of {count} images.")


def training(result: Result) -> Table:
    """Other ways to train the texture layer."""
    names = ("error", "lite0_lpips", "lite0_dists", "price", "incoherence")
    rows = [[row["training"], f"{row['steps']}", *(f"{row[name]:.4f}" for name in names)] for row in result["rows"]]
    heads = ["training", "steps", "absolute error", "Lite0, LPIPS form", "Lite0, DISTS form", "price", "incoherence"]
    return Table(heads=heads, rows=rows, note=f"Mean of {result['rows'][0]['crops']} crops.")


def texture_adapter(result: Result) -> Table:
    """Copies of an adapter, one trained to read texture values."""
    rows = [[f"{row['quality']}", row["reader"], f"{row['bytes']:.0f}", *_scores(row)] for row in result["rows"]]
    note = f"Mean of {result['rows'][0]['images']} images; both copies after {result['steps']} steps of 2 crops."
    return Table(heads=["quality", "beside the latent", "bytes", *SCORES.values()], rows=rows, texts=2, note=note)


def _scores(row: Mapping[str, Any]) -> list[str]:
    return [f"{row[name]:.2f}" if name == "psnr" else f"{row[name]:.4f}" for name in SCORES]


VIEWS: Mapping[str, Callable[[Result], Table]] = {
    "layers/semantic": semantic, "layers/sizes": sizes, "layers/maps": maps, "layers/beside": beside, "layers/analysis": analysis,
    "layer_options/structure": structure, "layer_options/adapter": adapter, "texture_training": training,
    "texture_adapter": texture_adapter,
}  # fmt: skip
