"""Makes `tiny_clip.safetensors` and `tiny_clip.json` with PyTorch and transformers, which the tests do not need.

    pip install torch transformers && python tests/golden/make_tiny_clip.py

A CLIP image tower of the architecture of ViT-L/14 with small random weights, and its outputs for a fixed input, by
an implementation that is not this project's.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

HERE = Path(__file__).parent


def main() -> None:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=28,
        patch_size=14, projection_dim=24, hidden_act="quick_gelu", layer_norm_eps=1e-5,
    )  # fmt: skip
    model = CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    save_file({k: v for k, v in model.state_dict().items() if "position_ids" not in k}, HERE / "tiny_clip.safetensors")
    pixels = np.random.default_rng(0).standard_normal((2, 3, 28, 28), dtype=np.float32)
    with torch.no_grad():
        out = model(torch.from_numpy(pixels), output_hidden_states=True)
    hidden = [h.numpy() for h in out.hidden_states[1:]]
    golden = {
        "input": "numpy.random.default_rng(0).standard_normal((2, 3, 28, 28), dtype=float32)",
        "proj": out.image_embeds.numpy().tolist(),
        "cls": [h[:, 0].tolist() for h in hidden],
        "mean": [h[:, 1:].mean(axis=1).tolist() for h in hidden],
    }
    (HERE / "tiny_clip.json").write_text(json.dumps(golden))


main()
