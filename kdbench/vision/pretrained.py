"""Can the weights that timm offers for a model be had here? Asked first: without a network trying takes a minute."""

from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import constants, try_to_load_from_cache

from kdbench.errors import UserError
from kdbench.hub_cache import FILES, fetched, of_hub, of_url
from kdbench.hubs import answers


def offered(model: str) -> Any:
    """What timm says of a model's weights, or None; a mistake in a name need not wait for timm."""
    import timm

    return timm.models.get_pretrained_cfg(model)


def must_be_had(model: str) -> None:
    """Raises UserError when the model's weights are neither kept from an earlier time nor within reach."""
    if reason := why_not(model):
        raise UserError(f"{reason}; give a file of them as `checkpoint:`, with `head: new` for other classes")


def why_not(model: str) -> str:
    """In words; empty when they can be had."""
    cfg = offered(model)
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
    return kept or (bool(url) and fetched(str(url)).is_file())


def kept_weights(model: str) -> dict[str, str]:
    """{name: digest} of the weights that timm offers for a model, where they are kept from an earlier time."""
    cfg = offered(model)
    if cfg is None:
        return {}
    found = of_hub(cfg.hf_hub_id) if cfg.hf_hub_id else {}
    return found or (of_url(model, cfg.url) if cfg.url else {})
