"""Where weights come from: a local folder, the Hugging Face cache, the Hub at the pinned revision; safetensors only.

Only denoiser, autoencoder and scheduler config of a diffusers folder are ever asked for; a text encoder never is.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from pathlib import Path

import priorcodec.core
from priorcodec.backbones.spec import AdapterSource, BackboneSpec
from priorcodec.core.errors import WeightsError
from priorcodec.registry.hookspecs import hookimpl

WEIGHT_FILE = "diffusion_pytorch_model"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
PACKAGE = Path(priorcodec.core.__file__).parent.parent


@hookimpl(trylast=True)
def priorcodec_weights(spec: BackboneSpec) -> Path | None:
    """Ours, asked last: shipped file, `$PRIORCODEC_WEIGHTS/NAME`, Hugging Face cache, then the Hub."""
    found = find_local(spec)
    if found is not None or not _on_the_hub(spec):
        return found
    return _download(spec, spec.source, spec.hub_revision)


@hookimpl(trylast=True)
def priorcodec_adapters(spec: BackboneSpec) -> list[AdapterSource]:
    """Ours: the adapter this package ships for `spec`, if it does."""
    path = PACKAGE / "weights" / f"{spec.name}.adapter.safetensors"
    return [AdapterSource(name="default", location=str(path))] if path.is_file() else []


def find_local(spec: BackboneSpec) -> Path | None:
    """The weights if they are on this machine, without touching the network."""
    root = os.environ.get("PRIORCODEC_WEIGHTS")
    if root and (Path(root) / spec.name).exists():
        return check_folder(spec, Path(root) / spec.name)
    if spec.sha256:
        return _shipped(spec)
    return _cached(spec, spec.source, spec.hub_revision) if _on_the_hub(spec) else None


def resolve_given(spec: BackboneSpec, given: str) -> Path:
    """What the user said instead of the default: an existing folder or file, or a mirror "owner/repo[@revision]".

    Raises:
        WeightsError: neither; or a pickle; or an incomplete folder.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        return check_folder(spec, path)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise WeightsError(f"{spec.name}: got {path}, wanted a .safetensors file{_why_no_pickle(path)}")
        return path
    if not _on_the_hub(spec) or not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", given):
        raise WeightsError(f"{spec.name}: {given} is no folder or file here and no Hub id like {spec.source}")
    repo, _, revision = given.partition("@")
    revision = revision or "main"
    return _cached(spec, repo, revision) or _download(spec, repo, revision)


def check_folder(spec: BackboneSpec, folder: Path) -> Path:
    """The folder again, if it holds what `spec` needs; backbones with a layout of their own check it themselves.

    Raises:
        WeightsError: pickles, or files missing.
    """
    if not _on_the_hub(spec):
        return folder
    missing = _missing(spec, folder)
    if missing:
        parts = [folder / spec.denoiser_subfolder, folder / "vae"]
        pickle = next((f for part in parts if part.is_dir() for f in part.iterdir() if f.suffix in PICKLES), None)
        why = _why_no_pickle(pickle) if pickle else ""
        raise WeightsError(
            f"{spec.name}: {folder} lacks {', '.join(missing)}{why}; get them with `{download_command(spec)}`"
        )
    return folder


def download_command(spec: BackboneSpec) -> str:
    """What to type on a machine with a network; the files then lie in the Hugging Face cache."""
    files = " ".join(_wanted(spec))
    return f"hf download {spec.source} {files} --revision {spec.hub_revision}"


def missing_line(spec: BackboneSpec, reason: str = "") -> str:
    """One line: what is missing, how to get it, under which license."""
    where = f"{spec.name}: its weights are not on this machine{f' and {reason}' if reason else ''}"
    if spec.sha256:
        return (
            f"{where}: {spec.source} should have come with the package; reinstall priorcodec (license: {spec.license})"
        )
    if not _on_the_hub(spec):
        return f"{where}: give backbone.weights=PATH with {spec.source} (license: {spec.license})"
    return f"{where}: run `{download_command(spec)}`, or give backbone.weights=FOLDER (license: {spec.license})"


def _on_the_hub(spec: BackboneSpec) -> bool:
    return bool(spec.hub_revision and spec.denoiser_subfolder)


def _wanted(spec: BackboneSpec) -> list[str]:
    parts = [spec.denoiser_subfolder, "vae"]
    files = [f"{part}/{name}" for part in parts for name in ("config.json", f"{WEIGHT_FILE}.safetensors")]
    return [*files, "scheduler/scheduler_config.json"]


def _missing(spec: BackboneSpec, folder: Path) -> list[str]:
    return [name for name in _wanted(spec) if not any((folder / form).exists() for form in _forms(name))]


def _forms(name: str) -> tuple[str, ...]:
    """Names a file may have instead: weights may be sharded (then the index counts), half precision, or both."""
    if not name.endswith(".safetensors"):
        return (name,)
    half = name.replace(".safetensors", ".fp16.safetensors")
    return name, f"{name}.index.json", half, f"{name}.index.fp16.json"


def _cached(spec: BackboneSpec, repo: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, "scheduler/scheduler_config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent.parent
    return None if _missing(spec, folder) else folder


def _download(spec: BackboneSpec, repo: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    def patterns(names: list[str], *forms: int) -> list[str]:
        found = [_forms(name)[i] for name in names for i in forms if i < len(_forms(name))]
        return found + [f.replace(".safetensors", "-*.safetensors") for f in found if f.endswith(".safetensors")]

    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns(_wanted(spec), 0, 1)))
        missing = [name for name in _missing(spec, folder) if name.endswith(".safetensors")]
        if missing:  # a mirror may hold half precision only; asked for last, or both would come
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns(missing, 2, 3)))
    except Exception as exc:  # offline, gated, gone, disk full: huggingface_hub has a dozen classes for it
        raise WeightsError(missing_line(spec, f"the Hub did not give them ({type(exc).__name__})")) from exc
    return check_folder(spec, folder)


def _shipped(spec: BackboneSpec) -> Path | None:
    path = PACKAGE / spec.source
    if not path.is_file():
        return None
    stat = path.stat()
    digest = _sha256(path, stat.st_size, stat.st_mtime_ns)
    if digest != spec.sha256:
        raise WeightsError(
            f"{spec.name}: {spec.source} has SHA-256 {digest[:12]}, wanted {spec.sha256[:12]}; reinstall priorcodec"
        )
    return path


@functools.lru_cache(maxsize=32)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Keyed by size and time too, so that a changed file is read again."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _why_no_pickle(path: Path) -> str:
    if path.suffix not in PICKLES:
        return ""
    return f"; {path.name} is a pickle, which can run any code when it is read; convert it to safetensors"
