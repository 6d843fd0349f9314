"""Texts to numbers: a tokenizer from a folder or a hub, or one that is made from the training texts.

What is made is made the same on every machine: a byte-level BPE (Sennrich et al. 2016,
https://arxiv.org/abs/1508.07909; on bytes as in GPT-2) of lower-cased text, whose merges depend on counts alone.
Numbers are kept on disk under a hash of all that they depend on.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from kdbench.errors import UserError, first_line
from kdbench.files import cache_folder, read_checked, write_checked
from kdbench.text.batches import Reading
from kdbench.text.extra import optional, quiet_transformers

MADE = "bpe"
SIGNS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
Text = str | tuple[str, str]  # one text, or a pair


def tokenizer(name: str, texts: Sequence[Text], vocabulary: int) -> Any:
    """A `tokenizers.Tokenizer`: `bpe`, made of `texts`; else of a folder, or of a hub. Raises UserError."""
    if name == MADE:
        return made_once(texts, vocabulary)
    place = folder_of(name)
    file = Path(place) / "tokenizer.json"
    try:
        if file.is_file():
            return optional("tokenizers").Tokenizer.from_file(str(file))
        return quiet_transformers().AutoTokenizer.from_pretrained(place, use_fast=True).backend_tokenizer
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"tokenizer {name!r}: neither a folder with tokenizer.json, nor could it be had from the hub "
            f"({first_line(error)}); `{MADE}` makes one of the training texts"
        ) from error


def folder_of(name: str) -> str:
    """The path of a local folder; what is none is a name on the hub."""
    folder = Path(name).expanduser()
    return str(folder) if folder.is_dir() else name


def words_of(name: str) -> str:
    """What tells a tokenizer's words and their numbers from others', 32 hex digits; of one that is made, its name."""
    return MADE if name == MADE else digest_of_words(tokenizer(name, (), 0))


def digest_of_words(own: Any) -> str:
    words = sorted(own.get_vocab().items(), key=lambda entry: entry[1])
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]


def made_once(texts: Sequence[Text], vocabulary: int) -> Any:
    """As `made`; what was made of the same texts before is read from the disk."""
    package = optional("tokenizers")
    place = cache_folder("text") / f"{digest_of(f'{MADE} {vocabulary}', texts, 0)}.json"
    try:
        return package.Tokenizer.from_str(read_checked(place).decode())
    except Exception:  # none, or damaged: it is made again
        found = made(texts, vocabulary)
        write_checked(place, found.to_str().encode())
        return found


def made(texts: Sequence[Text], vocabulary: int) -> Any:
    """A byte-level BPE of `vocabulary` entries; [CLS] before a text, [SEP] after each."""
    package = optional("tokenizers")
    found = package.Tokenizer(package.models.BPE(unk_token=SIGNS[1]))
    found.normalizer = package.normalizers.Sequence([package.normalizers.NFKC(), package.normalizers.Lowercase()])
    found.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = sorted(package.pre_tokenizers.ByteLevel.alphabet())
    trainer = package.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SIGNS), initial_alphabet=alphabet, show_progress=False
    )
    parts = [part for text in texts for part in (text if isinstance(text, tuple) else (text,))]
    found.train_from_iterator(parts, trainer)
    cls, sep = ((sign, found.token_to_id(sign)) for sign in SIGNS[2:4])
    found.post_processor = package.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[cls, sep]
    )
    return found


def read_as(name: str, parts: Sequence[Sequence[Text]], vocabulary: int, length: int) -> list[Reading]:
    """Every part of a data set (the training texts first) as numbers, texts cut to `length` places.

    Texts are numbered once: the second time they come from the disk.
    """
    own = tokenizer(name, parts[0], vocabulary)
    text, size = own.to_str(), size_of(name, own, vocabulary)
    words = MADE if name == MADE else digest_of_words(own)
    return [replace(reading(own, text, part, length), vocabulary=size, words=words) for part in parts]


def file_of(name: str, texts: Sequence[Text], vocabulary: int, length: int) -> bytes:
    """tokenizer.json: texts become the same numbers by it as in training, cut to `length` places."""
    own = tokenizer(name, texts, vocabulary)
    own.no_padding()
    own.enable_truncation(length)
    return own.to_str(pretty=True).encode()


def size_of(name: str, own: Any, vocabulary: int) -> int:
    """All ids are below it. Of few texts fewer entries can be made than were asked for; nets have room for all."""
    return vocabulary if name == MADE else int(own.get_vocab_size())


def reading(own: Any, text: str, part: Sequence[Text], length: int) -> Reading:
    signs = json.loads(text)
    place = cache_folder("text") / f"{digest_of(text, part, length)}.safetensors"
    found = kept(place)
    if not found:
        found = numbers(own, part, length)
        write_checked(place, save(found))
    pairs = any(isinstance(one, tuple) for one in part)
    special = {entry["content"]: entry["id"] for entry in signs["added_tokens"] if entry["special"]}
    hidden = next((special[sign] for sign in ("[MASK]", "<mask>") if sign in special), None)
    ends = tuple(number for number in special.values() if number != hidden)
    segments = found["segments"] if pairs else None
    size = own.get_vocab_size()
    return Reading(found["ids"], found["lengths"], segments, size, pad_of(special), hidden=hidden, ends=ends)


def digest_of(tokenizer: str, part: Sequence[Text], length: int) -> str:
    whole = hashlib.sha256(json.dumps([3, length, optional("tokenizers").__version__]).encode())
    whole.update(hashlib.sha256(tokenizer.encode()).digest())
    for one in part:
        whole.update(json.dumps(one).encode() + b"\n")
    return whole.hexdigest()[:32]


def kept(place: Path) -> dict[str, Tensor]:
    try:
        found = load(read_checked(place))
        return found if found.keys() == {"ids", "lengths", "segments"} else {}
    except (OSError, ValueError, SafetensorError):
        return {}  # none, or damaged: it is made again


def pad_of(special: dict[str, int]) -> int:
    return next((special[sign] for sign in ("[PAD]", "<pad>") if sign in special), 0)


def numbers(own: Any, part: Sequence[Text], length: int) -> dict[str, Tensor]:
    """`ids` [N, L], `lengths` [N], `segments` [N, L]; L is `length` however short the texts are."""
    own.no_padding()
    own.enable_truncation(length)
    special = {entry["content"]: entry["id"] for entry in json.loads(own.to_str())["added_tokens"]}
    ids = np.full((len(part), length), pad_of(special), dtype=np.int32)
    segments, lengths = np.zeros((len(part), length), dtype=np.uint8), np.zeros(len(part), dtype=np.int64)
    unknown = next((special[sign] for sign in ("[UNK]", "<unk>") if sign in special), pad_of(special))
    for place, one in enumerate(own.encode_batch(list(part))):
        count = len(one.ids)
        if not count:  # an empty text, by a tokenizer that frames nothing: no net reads none
            ids[place, 0], lengths[place] = unknown, 1
            continue
        ids[place, :count], segments[place, :count], lengths[place] = one.ids, one.type_ids, count
    return {"ids": torch.from_numpy(ids), "lengths": torch.from_numpy(lengths), "segments": torch.from_numpy(segments)}
