"""The trained part of each backbone: networks, LoRA, file format, model card, tiled decoding."""
