"""What is kept of weights that have a name on a hub: a name may mean other weights tomorrow, a digest does not."""

import os
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache

from kdbench.digest import digest_of_files

FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
IN_PARTS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
TORCH_HUB = "checkpoints"  # where torch.hub keeps what it fetched


def of_hub(name: str) -> dict[str, str]:
    """{name: digest} of the weights that the Hugging Face hub calls so, as its cache has them; nothing without any."""
    found = (try_to_load_from_cache(name, file) for file in (*FILES, *IN_PARTS))
    first = next((Path(path) for path in found if isinstance(path, str)), None)
    if first is None:
        return {}
    whole = first.name in FILES
    files = [first] if whole else sorted(first.parent.glob(f"*{Path(first.name.split('.index')[0]).suffix}"))
    return {name: digest_of_files({file.name: str(file) for file in files})}


def of_url(name: str, url: str) -> dict[str, str]:
    """The same of what torch.hub fetched from an address."""
    file = fetched(url)
    return {name: digest_of_files({file.name: str(file)})} if file.is_file() else {}


def fetched(url: str) -> Path:
    """Where torch.hub keeps it."""
    return Path(torch.hub.get_dir()) / TORCH_HUB / os.path.basename(url)
