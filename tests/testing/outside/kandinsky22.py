"""Kandinsky 2.2's decoder (Razzhigaev et al. 2023): conditioned on one image embedding, autoencoder in the folder movq."""

from priorcodec import BackboneSpec, LatentSpace, LoraRule, Prediction

EMBEDDING = 24  # 1280 in the published model


def build(weights, *, dtype, width=16):
    import torch
    from diffusers import DDPMScheduler, UNet2DConditionModel, VQModel

    class Kandinsky(torch.nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                self.module = UNet2DConditionModel(
                    in_channels=4, out_channels=8, addition_embed_type="image", encoder_hid_dim_type="image_proj",
                    encoder_hid_dim=EMBEDDING, cross_attention_dim=16, attention_head_dim=4, layers_per_block=1,
                    block_out_channels=(width, 2 * width), norm_num_groups=4, class_embed_type=None,
                    down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
                    up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
                    mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift",
                )  # fmt: skip
                self.movq = VQModel(
                    block_out_channels=(32, 32, 32, 32), latent_channels=4, vq_embed_dim=4, norm_type="spatial",
                    num_vq_embeddings=64, layers_per_block=1, down_block_types=["DownEncoderBlock2D"] * 4,
                    up_block_types=["UpDecoderBlock2D"] * 4,
                )  # fmt: skip
            torch.nn.Module.to(self.module, dtype)  # the one of diffusers warns
            self.register_buffer("alphas", DDPMScheduler(beta_start=0.00085, beta_end=0.012).alphas_cumprod)
            self.requires_grad_(False).eval()

        def alpha_bar(self, t):
            low = t.floor().long().clamp(0, 998)
            return torch.lerp(self.alphas[low], self.alphas[low + 1], t - low)

        def predict(self, x_t, t, condition):
            (h, w), dtype = x_t.shape[-2:], self.module.dtype
            x = torch.nn.functional.pad(x_t, (0, w % 2, 0, h % 2), mode="replicate")
            given = {"image_embeds": condition.pooled.to(dtype)}
            out = self.module(x.to(dtype), t, encoder_hidden_states=None, added_cond_kwargs=given).sample
            return out[:, :4, :h, :w].to(x_t.dtype)  # without the learned variance

        def to_latents(self, x):
            return self.movq.encode(x).latents

        def to_pixels(self, z):
            return self.movq.decode(z, force_not_quantize=True).sample

    return Kandinsky()


SPEC = BackboneSpec(
    name="kandinsky22", summary="Kandinsky 2.2", license="Apache-2.0", source="kandinsky-community/kandinsky-2-2-decoder",
    hub_revision="0" * 40, denoiser_subfolder="unet", autoencoder_subfolder="movq", parameters=228_728, pooled_dim=EMBEDDING,
    latent=LatentSpace(channels=4, stride=8, scale=1.0, mean=(0.0,) * 4, std=(1.0,) * 4), prediction=Prediction.NOISE,
    lora=(LoraRule(pattern=r".*\.(to_[qkv]|add_[kv]_proj|to_out\.0)", modules=24),),
    build=build, build_tiny=lambda: build(None, dtype=None, width=8),
)  # fmt: skip
