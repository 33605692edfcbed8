"""Common parts of the Stable Diffusion U-Nets: block layout, noise schedule, LoRA rules, fusion sites, and the call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from priorcodec import FusionSite, LoraRule

if TYPE_CHECKING:
    from torch import Tensor

SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
IDENTITY = ("cross_attention_dim", "addition_embed_type", "in_channels", "out_channels")

# Stable Diffusion 1 and 2: four resolutions, attention at the upper three.
SD_BLOCKS: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "addition_embed_type": None,
}
TINY = {"block_out_channels": (16, 32, 32, 32), "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 4}

ATTENTION = r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"
FEED_FORWARD = r".*\.ff\.net\.(0\.proj|2)"
CONVOLUTION = r".*\.resnets\.\d+\.conv[12]"
PROJECTION = r".*\.attentions\.\d+\.proj_(in|out)"


def lora_rules(blocks: tuple[int, int, int]) -> tuple[LoraRule, ...]:
    """blocks: number of transformer blocks, residual blocks and attention stacks."""
    parts = ((ATTENTION, 8, 0), (FEED_FORWARD, 2, 0), (CONVOLUTION, 2, 1), (PROJECTION, 2, 2))
    return tuple(LoraRule(pattern=p, modules=per * blocks[i]) for p, per, i in parts)


SD_LORA = lora_rules((16, 22, 16))

SD_FUSION = (  # one per resolution on the way down and up; a down block's own output lies after its halving
    FusionSite(module="down_blocks.0", channels=320, stride=2),
    FusionSite(module="down_blocks.1", channels=640, stride=4),
    FusionSite(module="mid_block", channels=1280, stride=8),
    FusionSite(module="up_blocks.1", channels=1280, stride=2),
    FusionSite(module="up_blocks.2", channels=640, stride=1),
)


def predict(unet: Any, x_t: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None) -> Tensor:
    """Call of a U-Net without extra conditions."""
    return unet(x_t, t, encoder_hidden_states=tokens, return_dict=False)[0]
