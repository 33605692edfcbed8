"""Stable Diffusion x4 upscaler (Rombach et al. 2022) for PriorCodec: its U-Net sees a small preview beside x_t."""

from priorcodec import BackboneSpec, FusionSite, ImageInput, LatentSpace, LoraRule, Prediction, hookimpl

SITES = (("down_blocks.0", 256, 2), ("mid_block", 1024, 8), ("up_blocks.2", 512, 1))


def build(weights, *, dtype, tiny=False):
    from priorcodec_x4.model import Upscaler  # loads torch and diffusers, so not before it is needed

    return Upscaler(weights, dtype, tiny)


SPEC = BackboneSpec(
    name="x4",
    summary="Stable Diffusion x4 upscaler, image-conditioned, at 512 pixels",
    license="CreativeML OpenRAIL++-M",
    source="stabilityai/stable-diffusion-x4-upscaler",
    hub_revision="572c99286543a273bfd17fac263db5a77be12c4c",
    denoiser_subfolder="unet",
    parameters=473_398_020,
    latent=LatentSpace(channels=4, stride=4, scale=0.08333, mean=(0.0,) * 4, std=(1.0,) * 4),
    prediction=Prediction.VELOCITY,
    token_dim=1024,
    image_inputs=(ImageInput.THUMBNAIL,),
    low_memory=True,
    lora=(LoraRule(pattern=r".*\.attn[12]\.(to_[qkv]|to_out\.0)", modules=128),),
    fusion=tuple(FusionSite(module=m, channels=c, stride=s) for m, c, s in SITES),
    build=build,
    build_tiny=lambda: build(None, dtype=None, tiny=True),
)


@hookimpl
def priorcodec_backbones():
    return [SPEC]
