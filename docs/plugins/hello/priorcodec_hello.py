"""hello: the smallest backbone that passes `priorcodec check`. It only states facts; the model is in the other file."""

from pathlib import Path

from priorcodec import BackboneSpec, FusionSite, LatentSpace, LoraRule, Prediction, hookimpl


def build(weights, *, dtype):
    from priorcodec_hello_model import Hello  # loads torch, so not before it is needed

    return Hello(width=32).to(dtype)


def build_tiny():
    from priorcodec_hello_model import Hello

    return Hello(width=8)


SPEC = BackboneSpec(
    name="hello",
    summary="Two convolutions on 8x8 block means",
    license="Apache-2.0",
    source="computed when built",
    parameters=1923,
    latent=LatentSpace(channels=3, stride=8, scale=1.0, mean=(0.0,) * 3, std=(0.5,) * 3),
    prediction=Prediction.SAMPLE,
    token_dim=4,
    size=64,
    lora=(LoraRule(pattern=r"conv[12]|text", modules=3, rank=4),),
    fusion=(FusionSite(module="conv1", channels=32, stride=1),),
    build=build,
    build_tiny=build_tiny,
)


@hookimpl
def priorcodec_backbones():
    return [SPEC]


@hookimpl
def priorcodec_weights(spec):
    return Path(__file__) if spec.name == "hello" else None  # nothing to load: any path that exists will do
