"""Random networks that find masks, in the layouts of transformers, small enough for tests."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers.models.clipseg import CLIPSegConfig, CLIPSegForImageSegmentation
from transformers.models.sam import SamConfig, SamModel

LOOK = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def write_clipseg(folder: Path, make_tokenizer: Any) -> Path:
    """Save a CLIPSeg that finds things by words."""
    words, bos, eos, _ = make_tokenizer(folder)
    text = {"vocab_size": words, "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": eos}
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config={**text, **tower, "num_hidden_layers": 2, "max_position_embeddings": 32},
        vision_config={**tower, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0, 1, 2],
        conditional_layer=0,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPSegForImageSegmentation(config).save_pretrained(folder)
    look = {**LOOK, "size": {"height": 32, "width": 32}, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(look))
    return folder


def write_sam(folder: Path) -> Path:
    """Save a SAM that finds things by points and boxes."""
    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [1],
            "num_pos_feats": 8,
            "mlp_dim": 32,
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": 64,
            "patch_size": 8,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        SamModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(LOOK))
    return folder
