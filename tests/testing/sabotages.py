"""Ways to get a backbone subtly wrong, the check that catches each, and the words in which it names the cause.

`python -m tests.testing.sabotages` writes the table of docs/plugins/testing.md; test_sabotages.py runs every row.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from priorcodec import BackboneSpec, FusionSite, LatentSpace, Prediction
from tests.testing.good import LATENT, LORA, SCALE, Good, after_init, bad, make, of

PAGE = Path(__file__).parents[2] / "docs" / "plugins" / "testing.md"
MARKS = "<!-- sabotages -->\n", "<!-- end of sabotages -->\n"


@dataclass(frozen=True, kw_only=True)
class Sabotage:
    """kind: what is wrong, for people; check: who catches it; words: part of the message; spec: makes the backbone."""

    kind: str
    check: str
    words: str
    spec: Callable[[], BackboneSpec]


ROWS: list[Sabotage] = []


def row(kind, check, words, spec):
    ROWS.append(Sabotage(kind=kind, check=check, words=words, spec=spec))


def method(name, kind, check, words, function, base=Good, **changes):
    """A row for a backbone whose method `name` is `function(good, self, *arguments)`."""
    row(kind, check, words, lambda: make(bad(name, function, base), **changes))


def doing(action):
    """A method that does something besides."""

    def function(good, self, *args):
        action(self)
        return good(self, *args)

    return function


# Spec
row(
    "`source` is no Hub id, but a commit is stated",
    "source",
    "is no Hub id OWNER/REPO",
    lambda: make(source="computed", hub_revision="0" * 40),
)
row("a wrong parameter count", "counts", "parameters=", lambda: make(parameters=7))
row(
    "a LoRA rule that matches nothing",
    "lora_rules",
    "matches no module; it must match a whole path",
    lambda: make(lora=(replace(LORA, pattern="conv"),)),
)
row(
    "two LoRA rules for one module", "lora_rules", "both hit", lambda: make(lora=(LORA, replace(LORA, pattern="conv1")))
)
row(
    "a LoRA rule on a grouped convolution",
    "lora_rules",
    "a grouped convolution",
    lambda: make(after_init(lambda self: setattr(self.module, "conv1", torch.nn.Conv2d(4, 8, 3, padding=1, groups=4)))),
)
row(
    "a LoRA rule on a layer that has two names",
    "lora_rules",
    "one layer under several names",
    lambda: make(after_init(lambda self: setattr(self.module, "again", self.module.conv1))),
)
row(
    "a fusion site of another stride",
    "fusion_sites",
    "at stride 2",
    lambda: make(fusion=(FusionSite(module="conv1", channels=16, stride=2),)),
)
row("a LoRA rule on a module that is never used", "adapter_learns", "is not used", lambda: make(Unused))
row(
    "a spec of a token width that the model does not take",
    "predict_shape",
    "mat1 and mat2 shapes cannot be multiplied",
    lambda: make(token_dim=7),
)

# Latent space
row("`latent.scale` of another autoencoder", "latent_space", "in its config: state that", lambda: make(Configured))
row("`latent.std` wrong", "latent_space", "or latent.std?", lambda: make(latent=replace(LATENT, std=(9.0,) * 4)))
row(
    "`latent.mean` wrong",
    "latent_space",
    "is latent.shift applied",
    lambda: make(latent=replace(LATENT, mean=(5.0,) * 4)),
)
row(
    "`latent.std` in another order",
    "latent_space",
    "order of the channels",
    lambda: make(latent=replace(LATENT, std=(0.8, 0.8, 0.8, 20.0))),
)
method(
    "to_latents",
    "`to_latents` does not apply the scale",
    "autoencoder",
    "latent.scale is undone by to_pixels() and not applied by to_latents()",
    lambda good, self, x: good(self, x) / 9,
    latent=replace(LATENT, scale=9.0),
)
method(
    "to_pixels",
    "`to_pixels` does not undo the scale",
    "autoencoder",
    "latent.scale is applied by to_latents() and not undone by to_pixels()",
    lambda good, self, z: good(self, z * 9),
    latent=replace(LATENT, scale=9.0),
)
method(
    "to_latents",
    "scale applied twice by both methods",
    "latent_space",
    "latent.scale is applied twice",
    lambda good, self, x: good(self, x) * 7,
    latent=replace(LATENT, scale=7.0),
)
method(
    "to_pixels",
    "shift of the wrong sign",
    "autoencoder",
    "latent.shift is",
    lambda good, self, z: good(self, z - 2 * 3 * SCALE),
    latent=replace(LATENT, shift=3.0),
)
method(
    "to_pixels",
    "images in [0, 1]",
    "autoencoder",
    "to_pixels() gives [0, 1], wanted [-1, 1]",
    lambda good, self, z: good(self, z) / 2 + 0.5,
)
method(
    "to_pixels",
    "images in [0, 255]",
    "autoencoder",
    "to_pixels() gives [0, 255], wanted [-1, 1]",
    lambda good, self, z: good(self, z) * 127.5 + 127.5,
)
method(
    "to_pixels",
    "images twice rescaled to [-1, 1]",
    "autoencoder",
    "takes the autoencoder's [-1, 1] for [0, 1]",
    lambda good, self, z: good(self, z) * 2 - 1,
)
method(
    "to_pixels",
    "red and blue swapped",
    "autoencoder",
    "channels are swapped",
    lambda good, self, z: good(self, z).flip(1),
)
method("to_pixels", "rows upside down", "autoencoder", "upside down", lambda good, self, z: good(self, z).flip(-2))
method("to_pixels", "a gain of 3", "autoencoder", "fitted by a gain of", lambda good, self, z: 3 * good(self, z))
method(
    "to_pixels",
    "images clamped",
    "pixels",
    "to_pixels() clamps the image",
    lambda good, self, z: good(self, z).clamp(-1, 1),
)
method(
    "to_pixels",
    "images as bytes",
    "pixels",
    "wanted floating point values",
    lambda good, self, z: (good(self, z) * 127.5 + 127.5).to(torch.uint8),
)
method(
    "to_pixels",
    "noise in the decoder",
    "deterministic",
    "noise or dropout in the decoder",
    lambda good, self, z: good(self, z) + 0.01 * torch.randn(()),
)
method(
    "to_latents",
    "a sample of the latent distribution",
    "deterministic",
    "take its mode",
    lambda good, self, x: good(self, x) + 0.01 * torch.randn(()),
)
method(
    "to_pixels",
    "height and width swapped",
    "pixels",
    "to_pixels() has shape",
    lambda good, self, z: good(self, z).transpose(2, 3),
)
row(
    "`latent.pixels` of another scale",
    "pixel_space",
    "to_latents() against the (un)shuffled image",
    lambda: make(type("Bad", (Unshuffled,), {"to_latents": lambda self, x: F.pixel_unshuffle(x, 2)}), latent=PIXELS),
)

# Time and schedule
method("alpha_bar", "`alpha_bar` reversed", "alpha_bar", "time is reversed", lambda good, self, t: good(self, 999 - t))
method(
    "alpha_bar",
    "`alpha_bar` in whole steps",
    "alpha_bar",
    "knows whole steps only",
    lambda good, self, t: good(self, t.floor()),
)
method(
    "alpha_bar",
    "`alpha_bar` is sigma",
    "alpha_bar",
    "is it sigma or a signal-to-noise ratio?",
    lambda good, self, t: good(self, t) / (1 - good(self, t)).clamp_min(1e-3),
)
method(
    "alpha_bar",
    "`alpha_bar` takes t in [0, 1]",
    "alpha_bar",
    "is t in [0, 999]",
    lambda good, self, t: good(self, t / 1000),
)
method(
    "alpha_bar",
    "`alpha_bar` does not divide t by 1000",
    "alpha_bar",
    "takes t in [0, 1]: t comes in [0, 999], divide it by 1000",
    lambda good, self, t: good(self, t * 1000),
)
method(
    "alpha_bar",
    "`alpha_bar` is its root",
    "noise_level",
    "it gives the square root: square it",
    lambda good, self, t: good(self, t).sqrt(),
)
method(
    "alpha_bar",
    "`alpha_bar` is its square",
    "noise_level",
    "it gives the square: take the root",
    lambda good, self, t: good(self, t) ** 2,
)
method(
    "alpha_bar",
    "a flow's (1 - s)^2, not variance preserving",
    "alpha_bar",
    "does not preserve variance",
    lambda good, self, t: (1 - t / 1000) ** 2,
    of(Prediction.FLOW),
)
method(
    "predict",
    "time in thousandths",
    "prediction_type",
    "time reaches the denoiser in thousandths",
    lambda good, self, x, t, c: good(self, x, t / 1000, c),
)
method(
    "predict",
    "time reversed",
    "prediction_type",
    "time is reversed before it reaches the denoiser",
    lambda good, self, x, t, c: good(self, x, 999 - t, c),
    of(Prediction.NOISE),
)
method(
    "predict",
    "time halved",
    "prediction_type",
    "at half its value",
    lambda good, self, x, t, c: good(self, x, t / 2, c),
    of(Prediction.VELOCITY),
)
method(
    "predict",
    "time in whole steps",
    "conditions_matter",
    "rounds t to whole steps",
    lambda good, self, x, t, c: good(self, x, t.round(), c),
)
method(
    "predict",
    "one time for the whole batch",
    "batch_invariance",
    "one image's t is used for all",
    lambda good, self, x, t, c: good(self, x, t[:1].expand_as(t), c),
)
method(
    "predict",
    "time ignored",
    "conditions_matter",
    "ignores t",
    lambda good, self, x, t, c: good(self, x, 0 * t + 300, c),
)

# Prediction
for stated, real in (("noise", "velocity"), ("velocity", "noise"), ("sample", "noise"), ("flow", "velocity")):
    row(
        f"answers with {real}, states {stated}",
        "prediction_type",
        f"answers with {real}",
        lambda stated=stated, real=real: make(of(Prediction(real)), prediction=Prediction(stated)),
    )
method(
    "predict",
    "the flow's sign",
    "prediction_type",
    "with the wrong sign: flow is n - z",
    lambda good, self, *args: -good(self, *args),
    of(Prediction.FLOW),
)
method(
    "predict",
    "x_t rescaled to the flow's path once more",
    "noise_level",
    "x_t is rescaled before it reaches",
    lambda good, self, x, t, c: good(self, x / path(t), t, c),
    of(Prediction.FLOW),
)
method(
    "predict",
    "x_t divided by sqrt(alpha_bar)",
    "noise_level",
    "x_t is divided by sqrt(alpha_bar)",
    lambda good, self, x, t, c: good(self, x / self.alpha_bar(t).sqrt()[:, None, None, None], t, c),
    of(Prediction.NOISE),
)
method(
    "predict",
    "x_t negated",
    "prediction_type",
    "with the wrong sign",
    lambda good, self, x, t, c: good(self, -x, t, c),
    of(Prediction.VELOCITY),
)
method(
    "predict",
    "the noise scaled by 0.3",
    "noise_level",
    "of its strength: is its answer scaled?",
    lambda good, self, *args: 0.3 * good(self, *args),
    of(Prediction.NOISE),
)
method(
    "predict",
    "the learned variance kept",
    "predict_shape",
    "drop the learned variance",
    lambda good, self, *args: good(self, *args).repeat(1, 2, 1, 1),
)
row(
    "weights never loaded",
    "weights_loaded",
    "they are never loaded",
    lambda: make(build=lambda weights, *, dtype: random(dtype)),
)
row(
    "half of the weights not loaded",
    "weights_loaded",
    "they are never loaded",
    lambda: make(build=lambda weights, *, dtype: partly(weights, dtype)),
)

# Methods and widths
row("`to_pixels` under another name", "builds", "no method to_pixels(); is it to_pixel()?", lambda: make(Renamed))
method(
    "predict",
    "a largest size that the spec does not state",
    "tile_sizes",
    "state the largest side that the denoiser takes as max_size",
    lambda good, self, x, t, c: good(self, x + 0 * torch.zeros(64)[: x.shape[-1]], t, c),
)
row("`token_dim` is not the layer's", "predict_shape", "a layer takes 6: correct token_dim", lambda: make(token_dim=7))
row("`pooled_dim` is not the layer's", "predict_shape", "takes 5: correct pooled_dim", lambda: make(pooled_dim=9))

# Condition, gradients, batches
method(
    "predict",
    "tokens ignored",
    "conditions_matter",
    "ignores condition.tokens",
    lambda good, self, x, t, c: good(self, x, t, replace(c, tokens=0 * c.tokens)),
)
method(
    "predict",
    "all tokens but the first ignored",
    "conditions_matter",
    "ignores all but the first of condition.tokens",
    lambda good, self, x, t, c: good(self, x, t, replace(c, tokens=c.tokens[:, :1])),
)
method(
    "predict",
    "pooled vector ignored",
    "conditions_matter",
    "ignores condition.pooled",
    lambda good, self, x, t, c: good(self, x, t, replace(c, pooled=0 * c.pooled)),
)
method(
    "predict",
    "tokens detached",
    "gradients",
    "no gradient of predict() arrives at condition.tokens",
    lambda good, self, x, t, c: good(self, x, t, replace(c, tokens=c.tokens.detach())),
)
method(
    "predict",
    "`no_grad` in `predict`",
    "gradients",
    "predict() cuts the gradient",
    lambda good, self, *args: torch.no_grad()(good)(self, *args),
)
method(
    "to_pixels",
    "`no_grad` in `to_pixels`",
    "gradients",
    "to_pixels() cuts the gradient",
    lambda good, self, z: torch.no_grad()(good)(self, z),
)
method(
    "predict",
    "a mean over the batch",
    "batch_invariance",
    "or a mean over the batch?",
    lambda good, self, x, *rest: good(self, x, *rest) - x.mean(),
)
method(
    "to_pixels",
    "images of a batch normalized together",
    "batch_invariance",
    "to_pixels() gives image",
    lambda good, self, z: good(self, z) - z.mean(),
)
method(
    "predict",
    "arguments changed in place",
    "deterministic",
    "writes into its argument x_t",
    lambda good, self, x, *rest: good(self, x.mul_(1.5), *rest),
)
method(
    "predict",
    "dropout left on",
    "deterministic",
    "dropout in training mode",
    lambda good, self, *args: F.dropout(good(self, *args), 0.1),
)
method(
    "predict",
    "a cache of the first tokens",
    "deterministic",
    "keeps something of earlier calls",
    lambda good, self, x, t, c: good(self, x, t, replace(c, tokens=cached(self, c.tokens))),
)

# Sizes, types, devices
method(
    "predict",
    "odd sizes padded with zeros",
    "odd_sizes",
    "is padded with zeros",
    lambda good, self, x, t, c: good(self, even(x, "constant"), t, c)[..., : x.shape[-2], : x.shape[-1]],
)
method(
    "predict",
    "odd sizes cropped at the wrong side",
    "odd_sizes",
    "the answer is shifted",
    lambda good, self, x, t, c: good(self, even(x, "replicate"), t, c)[..., x.shape[-2] % 2 :, x.shape[-1] % 2 :],
)
method(
    "predict",
    "odd sizes shifted",
    "odd_sizes",
    "shifted by",
    lambda good, self, x, *rest: good(self, x, *rest) if x.shape[-1] % 2 == 0 else good(self, x.roll(1, -1), *rest),
)
method(
    "predict",
    "odd sizes one column short",
    "odd_sizes",
    "has shape",
    lambda good, self, x, *rest: good(self, x, *rest)[..., : x.shape[-1] // 2 * 2],
)
method(
    "predict",
    "answers in the denoiser's dtype",
    "dtypes",
    "end with .to(x.dtype)",
    lambda good, self, x, *rest: good(self, x, *rest).to(self.module.spare.weight.dtype),
)
row(
    "a schedule that stays on the CPU",
    "moves",
    "register_buffer()",
    lambda: make(after_init(lambda self: setattr(self, "alphas", torch.zeros(1000)))),
)
method(
    "predict",
    "a tensor made on the CPU",
    "moves",
    "mixes devices",
    lambda good, self, x, *rest: good(self, x + torch.zeros(8, device="cpu"), *rest),
)


# Side effects
def unseeded():
    with torch.random.fork_rng(devices=[]):
        return Good()


row("no seed in `build_tiny`", "builds", "must seed its random weights", lambda: make(build_tiny=unseeded))
row(
    "a global seed in `build_tiny`",
    "side_effects",
    "build_tiny() changes torch's random state",
    lambda: make(type("Bad", (Good,), {"after": lambda self: torch.manual_seed(0)})),
)
for name in ("alpha_bar", "predict", "to_latents", "to_pixels"):
    method(
        name,
        f"a global seed in `{name}`",
        "side_effects",
        f"{name}() changes torch's random state",
        doing(lambda self: torch.manual_seed(0)),
    )
method(
    "to_pixels", "training mode left on", "side_effects", "call .eval() once", doing(lambda self: self.module.train())
)
method(
    "to_pixels",
    "gradients turned on",
    "side_effects",
    "to_pixels() changes the gradient flags",
    doing(lambda self: self.module.requires_grad_(True)),
)
method(
    "predict",
    "a hook left behind",
    "side_effects",
    "remove the hooks that you add",
    doing(lambda self: self.module.register_forward_hook(lambda *_: None)),
)
method(
    "to_latents",
    "a global switch",
    "side_effects",
    "to_latents() changes torch's deterministic flag",
    doing(lambda self: torch.use_deterministic_algorithms(True)),
)
method(
    "alpha_bar",
    "the gradient mode changed",
    "side_effects",
    "use `with torch.no_grad():`",
    doing(lambda self: torch.set_grad_enabled(not torch.is_grad_enabled())),
)
method(
    "predict",
    "weights changed by a call",
    "side_effects",
    "predict() changes the weight or buffer",
    doing(lambda self: self.module.spare.bias.data.add_(1)),
)
row(
    "weights that want gradients",
    "frozen",
    "call .requires_grad_(False)",
    lambda: make(after_init(lambda self: self.module.conv1.requires_grad_(True))),
)
row(
    "training mode from the start", "builds", "call .eval()", lambda: make(after_init(lambda self: self.module.train()))
)
row(
    "good when tiny, clamped when real",
    "real_pixels",
    "to_pixels() clamps the image",
    lambda: make(bad("to_pixels", lambda good, self, z: good(self, z).clamp(-1, 1)), tiny=Good),
)

UNSEEN = {
    "a scaled answer or a rescaled `x_t`, of a denoiser that is weak without tokens": "its own error is as large",
    "tokens of the right width that mean something else (another text encoder)": "nothing but a trained adapter could tell",
    "`latent.scale`, `mean` or `std` within a factor of two": "an image of ours is no statistic of natural ones",
    "`alpha_bar` of a related schedule (scaled linear for linear)": "the denoiser's answer is nearly as good",
    "a schedule of a flow model that is shifted": "every noise level still occurs, at another time",
    "weights of a fine-tuned relative with the same names and sizes": "pin `hub_revision` or `sha256`",
    "`size`, `pixel_bytes`, `gpu_dtype`, `license`": "recommendations and statements; nothing to compare with",
    "fusion sites that exist but help little": "only training shows it",
    "images mirrored, or in the order BGR, in `to_latents` and `to_pixels` alike": "each undoes the other",
    "something of a call kept on `self`, read by another thread": "the checks call one after the other",
}


class Renamed(Good):
    """One method has another name than the contract gives it."""

    to_pixel, to_pixels = Good.to_pixels, None


class Unused(Good):
    """A module with a LoRA rule that the denoiser does not call."""

    def __init__(self, width=8):
        super().__init__(width)
        self.module.vector.forward = lambda x: 0 * x.mean() + torch.zeros(len(x), width, device=x.device)


class Configured(Good):
    """Its autoencoder states its own scale, as those of diffusers do."""

    def __init__(self, width=8):
        super().__init__(width)
        self.vae = nn.Identity()
        self.vae.config = type("Config", (), {"scaling_factor": 0.18215})


class Unshuffled(Good):
    def to_latents(self, x):
        return 3 * F.pixel_unshuffle(x, 2)

    def to_pixels(self, z):
        return F.pixel_shuffle(z / 3, 2)

    def predict(self, x_t, t, condition):
        return x_t


PIXELS = LatentSpace(channels=12, stride=2, scale=3.0, mean=(0.0,) * 12, std=(1.0,) * 12, pixels=True)


def path(t):
    a = torch.cos(t / 1000 * torch.pi / 2) ** 2
    return (a.sqrt() + (1 - a).sqrt())[:, None, None, None]


def random(dtype):
    return Good(16).to(dtype)


def partly(weights, dtype):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = Good(16)
        if weights:
            from safetensors.torch import load_file

            kept = {key: value for key, value in load_file(weights).items() if "conv" in key}
            model.load_state_dict(kept, strict=False)
    return model.to(dtype)


def even(x, mode):
    return F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode=mode)


def cached(self, tokens):
    if not hasattr(self, "first"):
        object.__setattr__(self, "first", [])
    if not self.first:
        self.first.append(tokens.mean(dtype=tokens.dtype))
    return tokens + self.first[0]


def table() -> str:
    """The rows as Markdown, with those that cannot be caught."""
    lines = ["| what is wrong | caught by | the message says |", "|---|---|---|"]
    lines += [f"| {r.kind} | `{r.check}` | {r.words.replace('|', '/')} |" for r in ROWS]
    lines += ["", "Not caught:", "", "| what is wrong | why |", "|---|---|"]
    lines += [f"| {kind} | {why} |" for kind, why in UNSEEN.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = PAGE.read_text()
    before, after = text.partition(MARKS[0])[0], text.partition(MARKS[1])[2]
    PAGE.write_text(before + MARKS[0] + "\n" + table() + "\n" + MARKS[1] + after)
    sys.stdout.write(f"{len(ROWS)} rows\n")
