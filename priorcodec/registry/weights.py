"""Finds weights: in a local folder, the Hugging Face cache, or on the Hub at a pinned commit. Safetensors only.

Of a repository in diffusers layout only what the spec names is requested: denoiser, autoencoder, scheduler's config.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from priorcodec.adapters.hub import COMMIT, HUB_ID, file_name, quiet_retries
from priorcodec.backbones.spec import AdapterSource, BackboneSpec
from priorcodec.core import shipped
from priorcodec.core.errors import WeightsError
from priorcodec.registry.adapter_sources import PICKLES, sha256
from priorcodec.registry.hookspecs import hookimpl

STEM = "diffusion_pytorch_model"
FULL = (f"{STEM}.safetensors", f"{STEM}.safetensors.index.json")  # in one file or in shards with an index
HALF = (f"{STEM}.fp16.safetensors", f"{STEM}.safetensors.index.fp16.json")
PACKAGE = shipped.FOLDER.parent  # what `source` of a shipped backbone is relative to


@hookimpl(trylast=True)
def priorcodec_weights(spec: BackboneSpec, download: bool) -> Path | None:
    """Asked last: `$PRIORCODEC_WEIGHTS/NAME`, the shipped file, the Hugging Face cache, then the Hub."""
    root = os.environ.get("PRIORCODEC_WEIGHTS")
    if root and (Path(root) / spec.name).exists():
        return check_folder(spec, Path(root) / spec.name)
    if spec.sha256:
        return _shipped(spec)
    if not on_the_hub(spec):
        return None
    found = _cached(spec, spec.source, spec.hub_revision)
    return _download(spec, spec.source, spec.hub_revision) if found is None and download else found


@hookimpl(trylast=True)
def priorcodec_adapters(spec: BackboneSpec) -> list[AdapterSource]:
    """The adapter that this package ships for `spec`, if any."""
    name = file_name(spec.name)
    pin = shipped.manifest().get(name)
    return [AdapterSource(name="default", location=str(shipped.FOLDER / name), sha256=pin)] if pin else []


def on_the_hub(spec: BackboneSpec) -> bool:
    """Whether the weights of `spec` can be downloaded from its `source`."""
    return bool(spec.hub_revision and spec.denoiser_subfolder and re.fullmatch(HUB_ID, spec.source))


def resolve_given(spec: BackboneSpec, given: str) -> Path:
    """Resolve what `--weights` gives: an existing folder or file, or a mirror on the Hub, "OWNER/REPO@COMMIT".

    Raises:
        WeightsError: Neither; a mirror without its commit; a pickle; an incomplete folder.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        return check_folder(spec, path)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise WeightsError(f"{spec.name}: got {path}, wanted a .safetensors file{_why_no_pickle(path)}")
        return path
    repo, _, commit = given.partition("@")
    if not spec.denoiser_subfolder:
        raise WeightsError(f"{spec.name}: {given} is no local file, wanted the .safetensors file of its weights")
    if not re.fullmatch(HUB_ID, repo):
        raise WeightsError(
            f"{spec.name}: {given} is neither a local folder or file nor a Hub id like OWNER/REPO@COMMIT"
        )
    if not COMMIT.fullmatch(commit):
        raise WeightsError(
            f"{spec.name}: {given} is not a local folder or file, and a Hub id needs a commit (a branch or tag can move): "
            f"write {repo}@COMMIT with its 40 hex digits"
        )
    return _cached(spec, repo, commit) or _download(spec, repo, commit)


def check_folder(spec: BackboneSpec, folder: Path) -> Path:
    """Return the folder if it holds what `spec` needs; a backbone with a layout of its own checks that itself.

    Raises:
        WeightsError: Files are missing, or there are only pickles.
    """
    missing = _missing(spec, folder) if spec.denoiser_subfolder else []
    if missing:
        parts = [folder / part for part in _parts(spec)]
        pickle = next((f for part in parts if part.is_dir() for f in part.iterdir() if f.suffix in PICKLES), None)
        why = _why_no_pickle(pickle) if pickle else ""
        how = f"; get them with `{download_command(spec)}`" if on_the_hub(spec) else ""
        raise WeightsError(f"{spec.name}: {folder} lacks {', '.join(missing)}{why}{how}")
    return folder


def download_command(spec: BackboneSpec) -> str:
    """The command that puts the weights into the Hugging Face cache."""
    return f"hf download {spec.source} {' '.join(_required_files(spec))} --revision {spec.hub_revision}"


def missing_line(spec: BackboneSpec, reason: str = "") -> str:
    """One line: what is missing, how to get it, under which license."""
    where = f"{spec.name}: its weights are not on this machine{f' and {reason}' if reason else ''}"
    if spec.sha256:
        remedy = f"{spec.source} should have come with the package; reinstall priorcodec"
    elif on_the_hub(spec):
        remedy = f"run `{download_command(spec)}`, or give --weights FOLDER (backbone.weights=FOLDER to train)"
    else:
        remedy = (
            f"give --weights PATH, or backbone.weights=PATH to train, or put them into $PRIORCODEC_WEIGHTS/{spec.name} "
            f"({spec.source})"
        )
    return f"{where}: {remedy} (license: {spec.license})"


def _parts(spec: BackboneSpec) -> list[str]:
    """Folders that hold weights."""
    return [part for part in (spec.denoiser_subfolder, spec.autoencoder_subfolder) if part]


def _required_files(spec: BackboneSpec) -> list[str]:
    files = [f"{part}/{name}" for part in _parts(spec) for name in ("config.json", FULL[0])]
    files += [f"{spec.scheduler_subfolder}/scheduler_config.json"] if spec.scheduler_subfolder else []
    return [name.removeprefix("./") for name in files]


def _missing(spec: BackboneSpec, folder: Path) -> list[str]:
    """Required files that are not in `folder`; weights may be sharded, of half precision, or both."""
    missing = [name for name in _required_files(spec) if not (folder / name).exists()]
    return [
        n for n in missing if not (n.endswith(FULL[0]) and any((folder / n).with_name(f).exists() for f in FULL + HALF))
    ]


def _cached(spec: BackboneSpec, repo: str, commit: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    name = _required_files(spec)[0]
    config = try_to_load_from_cache(repo, name, revision=commit)
    if not isinstance(config, str):
        return None
    folder = Path(config).parents[name.count("/")]
    return None if _missing(spec, folder) else folder


def _download(spec: BackboneSpec, repo: str, commit: str) -> Path:
    from huggingface_hub import snapshot_download

    def download(names: list[str], variants: tuple[str, str]) -> Path:
        weights = [name.removesuffix(FULL[0]) for name in names if name.endswith(FULL[0])]
        shards = variants[0].replace(".safetensors", "-*.safetensors")
        patterns = [name for name in names if not name.endswith(FULL[0])]
        patterns += [part + name for part in weights for name in (*variants, shards)]
        return Path(snapshot_download(repo, revision=commit, allow_patterns=patterns))

    try:
        with quiet_retries():
            folder = download(_required_files(spec), FULL)
            missing = [name for name in _missing(spec, folder) if name.endswith(FULL[0])]
            if missing:  # a mirror may hold half precision only; requested last, or both would be downloaded
                folder = download(missing, HALF)
    except Exception as exc:  # offline, gated, gone, disk full: huggingface_hub has a dozen classes for it
        raise WeightsError(
            missing_line(spec, f"they could not be downloaded from the Hub ({type(exc).__name__})")
        ) from exc
    return check_folder(spec, folder)


def _shipped(spec: BackboneSpec) -> Path | None:
    path = PACKAGE / spec.source
    if not path.is_file():
        return None
    stat = path.stat()
    digest = _cached_sha256(path, stat.st_size, stat.st_mtime_ns)
    if digest != spec.sha256:
        raise WeightsError(
            f"{spec.name}: {spec.source} has SHA-256 {digest[:12]}, wanted {spec.sha256[:12]}; reinstall priorcodec"
        )
    return path


@functools.lru_cache(maxsize=32)
def _cached_sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Size and time are part of the key, so that a changed file is read again."""
    return sha256(path)


def _why_no_pickle(path: Path) -> str:
    if path.suffix not in PICKLES:
        return ""
    return f"; {path.name} is a pickle, which can run any code when it is read; convert it to safetensors"
