"""Can the weights that timm offers for a model be had here? Asked first: without a network trying takes a minute."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache

from kdbench.errors import UserError
from kdbench.hubs import answers

FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TORCH_HUB = "checkpoints"  # where torch.hub keeps what it fetched


def must_be_had(model: str) -> None:
    """Raises UserError when the model's weights are neither kept from an earlier time nor within reach."""
    if reason := why_not(model):
        raise UserError(f"{reason}; give a file of them as `checkpoint:`, with `head: new` for other classes")


def why_not(model: str) -> str:
    """In words; empty when they can be had."""
    cfg = timm.models.get_pretrained_cfg(model)
    if cfg is None or not cfg.has_weights:
        return f"there are no pretrained weights of {model}"
    if _is_kept(cfg.hf_hub_id, cfg.url):
        return ""
    host = urlsplit(constants.ENDPOINT if cfg.hf_hub_id else cfg.url).hostname or ""
    if constants.HF_HUB_OFFLINE or not answers(host):
        return f"the pretrained weights of {model} are not kept here, and {host} does not answer"
    return ""


def _is_kept(hub_id: str | None, url: str | None) -> bool:
    kept = bool(hub_id) and any(isinstance(try_to_load_from_cache(str(hub_id), name), str) for name in FILES)
    return kept or (bool(url) and (Path(torch.hub.get_dir()) / TORCH_HUB / os.path.basename(str(url))).is_file())
