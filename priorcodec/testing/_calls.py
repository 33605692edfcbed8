"""Tier 1, each method called in different surroundings: again, in a batch, at odd sizes, in another dtype, on another device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from priorcodec.adapters.decode import LARGEST, MARGIN
from priorcodec.backbones.conditions import map_condition, tensors
from priorcodec.backbones.spec import Condition
from priorcodec.testing._run import CheckError, SkipCheck, Subject, describe, require, require_shape

CLOSE = 1e-4  # between batch sizes: another order of sums
RANDOM = {
    "predict": "dropout in training mode, or noise drawn inside",
    "to_latents": "a sample of the latent distribution; take its mode, .latent_dist.mode()",
    "to_pixels": "noise or dropout in the decoder",
    "alpha_bar": "a random schedule",
}
MULTIPLES = (2, 4, 8)  # that denoisers pad odd sizes to
WORDS = ("device", "meta tensor")  # of torch's complaints about tensors in different places


def calls(backbone: Any, subject: Subject, inputs: dict[str, Any] | None = None) -> dict[str, Callable[[], Tensor]]:
    """Name of each method -> a call of it with inputs that fit the spec."""
    x, stride = inputs or subject.inputs(), subject.spec.latent.stride
    z = x["x_t"]
    image = F.interpolate(z[:, :1], scale_factor=stride, mode="nearest").tanh().repeat(1, 3, 1, 1)
    return {
        "alpha_bar": lambda: backbone.alpha_bar(x["t"]),
        "predict": lambda: backbone.predict(**x),
        "to_latents": lambda: backbone.to_latents(image),
        "to_pixels": lambda: backbone.to_pixels(z),
    }


def replace_tensor(condition: Condition, name: str, value: Tensor) -> Condition:
    """The condition with one tensor, as `conditions.tensors` names it, replaced."""
    field, bracket, rest = name.partition("[")
    if not bracket:
        return replace(condition, **{field: value})
    more = list(condition.more_tokens)
    more[int(rest[:-1])] = value
    return replace(condition, more_tokens=tuple(more))


@torch.no_grad()
def check_deterministic(subject: Subject) -> None:
    """Each method answers the same twice, whatever was asked between, and leaves its arguments as they were."""
    backbone, x, other = subject.tiny(), subject.inputs(), subject.inputs(batch=2)
    other = {"x_t": other["x_t"] + 1, "t": other["t"] + 50, "condition": map_condition(x["condition"], lambda v: v + 1)}
    arguments = {"x_t": x["x_t"], "t": x["t"]} | tensors(x["condition"])
    kept = {name: value.clone() for name, value in arguments.items()}
    between, unused = calls(backbone, subject, other), calls(subject.tiny(), subject, other)
    for name, call in calls(backbone, subject, x).items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first = call().clone()
            for argument, value in kept.items():
                changed = f"{name}() writes into its argument {argument}: write x = x * 2, not x *= 2"
                require(torch.equal(arguments[argument], value), changed)
            torch.manual_seed(1)
            require(torch.equal(call(), first), f"two calls of {name}() differ: {RANDOM[name]}")
            fresh = torch.equal(between[name](), unused[name]()) and torch.equal(call(), first)
        require(fresh, f"{name}() answers otherwise after calls with other inputs: it keeps something of earlier calls")


@torch.no_grad()
def check_batch_invariance(subject: Subject) -> None:
    """An image's result does not depend on the others in the batch, for any method."""
    backbone, x = subject.tiny(), subject.inputs(batch=3)
    whole = {name: call() for name, call in calls(backbone, subject, x).items()}
    for i in range(3):
        for name, call in calls(backbone, subject, _one(x, i)).items():
            worst = (call()[0] - whole[name][i]).abs().max().item()
            if worst > CLOSE:
                why = _shared(backbone, x) if name == "predict" else "a mean over the batch? name the dimensions"
                raise CheckError(
                    f"{name}() gives image {i} another result alone than in a batch (by {worst:.3g}): {why}"
                )


def _one(x: dict[str, Any], i: int) -> dict[str, Any]:
    part = slice(i, i + 1)
    return {"x_t": x["x_t"][part], "t": x["t"][part], "condition": map_condition(x["condition"], lambda v: v[part])}


def _shared(backbone: Any, x: dict[str, Any]) -> str:
    """The argument that is read from one image for all, or another reason."""
    names = {"t": x["t"]} | {f"condition.{name}": value for name, value in tensors(x["condition"]).items()}
    for name, value in names.items():
        equal = value[:1].expand_as(value).clone()
        same = {**x, "t": equal} if name == "t" else x
        if name != "t":
            same = {**x, "condition": replace_tensor(x["condition"], name.removeprefix("condition."), equal)}
        whole = backbone.predict(**same)
        if all((backbone.predict(**_one(same, i))[0] - whole[i]).abs().max() <= CLOSE for i in range(3)):
            return f"one image's {name} is used for all, where each has its own"
    return "batch norm in training mode, or a mean over the batch? name the dimensions"


@torch.no_grad()
def check_odd_sizes(subject: Subject) -> None:
    """Latents of odd height and width work: the same size comes back, not shifted, and not padded with zeros."""
    backbone = subject.tiny()
    for height, width in ((16, 5), (12, 20), (7, 9)):
        x = subject.inputs(batch=1, height=height, width=width)
        out = backbone.predict(**x)
        require_shape(f"predict() at {height}x{width}", out, x["x_t"].shape)
    for multiple in MULTIPLES:  # x and out of the last size
        if any(
            (out - answer).abs().max() <= CLOSE for answer in _padded(backbone, subject, x, multiple, "replicate")[:1]
        ):
            return
    for multiple in MULTIPLES:
        right, shifted, before = _padded(backbone, subject, x, multiple, "replicate")
        zeros = _padded(backbone, subject, x, multiple, "constant")
        for answer, words in (
            (
                shifted,
                "is cropped at the other side than it was padded: the answer is shifted; crop with [..., :h, :w]",
            ),
            (before, "is padded above and left but cropped below and right: shifted; pad with (0, w % 2, 0, h % 2)"),
            (zeros[0], "is padded with zeros, a dark edge: use mode='replicate'"),
            (zeros[1], "is padded with zeros and shifted: pad with mode='replicate', crop with [..., :h, :w]"),
        ):
            require((out - answer).abs().max().item() > CLOSE, f"predict(): a latent of odd size {words}")
        moved = _moved(out, right)
        require(not moved, f"predict(): the answer for a latent of odd size is shifted by {moved} (rows, columns)")


@torch.no_grad()
def check_tile_sizes(subject: Subject) -> None:
    """Latents as wide or high as the largest tile work: without `max_size`, tiles have up to 1152 pixels."""
    spec, backbone = subject.spec, subject.tiny()
    side = (spec.max_size or LARGEST + 2 * MARGIN) // spec.latent.stride
    remedy = (
        f"state the largest side that the denoiser takes as max_size in the spec (multiples of 64; size is {spec.size})"
    )
    for height, width in ((8, side), (side, 8)):
        x = subject.inputs(batch=1, height=height, width=width)
        try:
            out = backbone.predict(**x)
        except Exception as exc:  # third-party code
            raise CheckError(f"predict() at {height}x{width} raised {describe(exc)}; {remedy}") from exc
        require_shape(f"predict() at {height}x{width}", out, x["x_t"].shape)


def _padded(backbone: Any, subject: Subject, x: dict[str, Any], multiple: int, mode: str) -> list[Tensor]:
    """Answers of predict() to a padded input: padded behind and cropped behind, then before; padded before, cropped behind."""
    height, width = x["x_t"].shape[-2:]
    rows, columns = -height % multiple, -width % multiple
    grid = {"thumbnail": 1, "latent": 1, "features": 1, "preview": subject.spec.latent.stride}

    def padded(sides: tuple[int, int, int, int]) -> Tensor:
        condition = x["condition"]
        for name, value in tensors(condition).items():
            if name in grid:
                here: Any = [side * grid[name] for side in sides]
                condition = replace_tensor(condition, name, F.pad(value, here, mode=mode))
        return backbone.predict(F.pad(x["x_t"], sides, mode=mode), x["t"], condition)

    behind, before = padded((0, columns, 0, rows)), padded((columns, 0, rows, 0))
    return [behind[..., :height, :width], behind[..., rows:, columns:], before[..., :height, :width]]


def _moved(out: Tensor, reference: Tensor) -> tuple[int, int] | None:
    """The shift at which `out` fits `reference` far better than in place."""

    def error(dy: int, dx: int) -> float:
        inner = out[..., 2 + dy : out.shape[-2] - 2 + dy, 2 + dx : out.shape[-1] - 2 + dx]
        return (inner - reference[..., 2:-2, 2:-2]).square().mean().item()

    here = error(0, 0)
    for dy, dx in ((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)):
        if error(dy, dx) < 0.05 * here:
            return dy, dx
    return None


@torch.no_grad()
def check_dtypes(subject: Subject) -> None:
    """With the denoiser in bfloat16, each method still answers in the dtype of its argument."""
    backbone, x = subject.tiny(), subject.inputs()
    torch.nn.Module.to(backbone.module, torch.bfloat16)  # the one of diffusers warns each time
    for name, call in calls(backbone, subject, x).items():
        got = call().dtype
        require(
            got == torch.float32,
            f"{name}() gave {got} for float32 with the denoiser in bfloat16; end with .to(x.dtype)",
        )


@torch.no_grad()
def check_moves(subject: Subject) -> None:
    """It moves with .to(device) as a whole, and each method answers on its argument's device; tried on torch's meta device."""
    backbone, x = subject.tiny(), subject.inputs()
    require(hasattr(backbone, "to"), "the backbone has no .to(device); make it a torch.nn.Module")
    backbone = backbone.to("meta")
    for path, value in _loose(backbone):
        require(
            value.is_meta,
            f"{path} stays on {value.device} when the model is moved: make it a buffer, register_buffer()",
        )
    moved = {
        "x_t": x["x_t"].to("meta"),
        "t": x["t"].to("meta"),
        "condition": map_condition(x["condition"], lambda v: v.to("meta")),
    }
    for name, call in calls(backbone, subject, moved).items():
        try:
            answer = call()
        except Exception as exc:  # some models cannot run without values
            text = " ".join(str(exc).split())
            if not any(word in text for word in WORDS) or "item()" in text:
                raise SkipCheck(f"{name}() does not run on the meta device ({type(exc).__name__})") from exc
            raise CheckError(f"{name}() mixes devices: {text[:120]}; make tensors with device=x.device") from exc
        require(answer.is_meta, f"{name}() answers on {answer.device}, wanted its argument's device")


def _loose(backbone: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors that are attributes, not parameters or buffers, of the backbone or its modules."""
    parts = backbone.named_modules() if isinstance(backbone, torch.nn.Module) else [("", backbone)]
    for path, part in parts:
        for name, value in vars(part).items():
            if isinstance(value, Tensor):
                yield f"{path}.{name}".lstrip("."), value
