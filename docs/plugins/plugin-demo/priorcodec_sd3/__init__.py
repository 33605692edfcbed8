"""Stable Diffusion 3 medium (Esser et al. 2024) for PriorCodec: a flow-matching transformer with 16 latent channels."""

from priorcodec import BackboneSpec, FusionSite, LatentSpace, LoraRule, Prediction, hookimpl

BLOCKS = "transformer_blocks"
LORA = rf"{BLOCKS}\.\d+\.(attn\.(to_[qkv]|to_out\.0)|ff\.net\.(0\.proj|2))"


def build(weights, *, dtype, tiny=False):
    from priorcodec_sd3.model import SD3  # loads torch and diffusers, so not before it is needed

    return SD3(weights, dtype, tiny)


SPEC = BackboneSpec(
    name="sd3",
    summary="Stable Diffusion 3 medium, a flow-matching transformer at 1024 pixels",
    denoiser_subfolder="transformer",
    license="Stability AI Community License",
    source="stabilityai/stable-diffusion-3-medium-diffusers",
    hub_revision="b1148b4028b9ec56ebd36444c193d56aeff7ab56",
    parameters=2_028_328_000,
    latent=LatentSpace(channels=16, stride=8, scale=1.5305, shift=0.0609, mean=(0.0,) * 16, std=(1.0,) * 16),
    prediction=Prediction.FLOW,
    token_dim=4096,
    pooled_dim=2048,
    size=1024,
    lora=(LoraRule(pattern=LORA, modules=6 * 24),),
    fusion=tuple(FusionSite(module=f"{BLOCKS}.{i}.ff", channels=1536, stride=2) for i in (0, 8, 16)),
    build=build,
    build_tiny=lambda: build(None, dtype=None, tiny=True),
)


@hookimpl
def priorcodec_backbones():
    return [SPEC]
