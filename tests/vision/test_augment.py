"""Augmentation by a table: torchvision's kernels, timm's ranges, mixing by hand; a function of (seed, epoch, step)."""

import json
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from timm.data.auto_augment import LEVEL_TO_ARG
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as transforms

from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.vision.augment import Augment, table_of
from kdbench.vision.batches import Images
from kdbench.vision.crops import boxes, erased, jittered, resized
from kdbench.vision.mixing import Mix, cut, draw_mix
from kdbench.vision.policies import (
    CHANGES,
    NAMES,
    RAND,
    SIGNED,
    WIDE,
    AutoAugmented,
    RandAugment,
    TrivialAugment,
    apply,
    timm_value,
    torchvision_value,
)  # fmt: skip

WHOLE = {
    "resized_crop": [0.25, 1], "interpolation": "bicubic", "flip": 0.5, "rand_augment": {"magnitude": 9}, "erase": 0.5,
    "mixup": 0.8, "cutmix": 1.0,
}  # fmt: skip
TABLES: dict[str, dict[str, Any]] = {
    "all of it": WHOLE,
    "shifted": {"shift": 0.125, "flip": 0.5, "color_jitter": 0.4, "cutmix": 1},
    "trivial": {"trivial_augment": True, "repeats": 3},
    "found": {"auto_augment": "cifar10", "mixup": 0.2, "mix_probability": 0.5},
    "nothing": {},
}


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(count: int, side: int = 16, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth pictures [N, side, side, C] uint8."""
    coarse = torch.rand(count, channels, 5, 5, generator=draw(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=True)
    return (255 * smooth).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.fixture(scope="module")
def images() -> Images:
    return Images(photographs(50), torch.arange(50) % 10)


def epoch(images: Images, table: dict[str, Any], start: int = 0, seed: int = 3, number: int = 5) -> list[Any]:
    how = SimpleNamespace(batch_size=8, augment=table)
    return list(images.epoch(how, seed, number, start, ["second", "mixed", "plain"]))


# --- one and the same pictures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_batch_depends_on_seed_epoch_and_step_alone(images: Images, table: dict[str, Any]) -> None:
    whole, again, rest = (epoch(images, table, start) for start in (0, 0, 4))
    assert len(whole) == 7
    assert len(rest) == 3
    for one, other in [*zip(whole, again, strict=True), *zip(whole[4:], rest, strict=True)]:
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.index, other.index)
        assert all(torch.equal(one.views[view], other.views[view]) for view in ("second", "mixed", "plain"))
        assert (one.blend is None) == (other.blend is None)
        assert one.blend is None or torch.equal(one.blend.share, other.blend.share)
    for batch in whole:
        assert batch.inputs.shape == (len(batch.index), 3, 16, 16)
        assert batch.inputs.isfinite().all()
        assert torch.equal(batch.target, images.targets[batch.index])
    if table:
        other = epoch(images, table, number=6)[0]
        assert not torch.equal(other.inputs, whole[0].inputs)


def test_no_augmentation_leaves_pictures_as_they_are(images: Images) -> None:
    for batch in epoch(images, {}):
        pixels = images.pixels[batch.index].permute(0, 3, 1, 2).float() / 255
        assert torch.equal(batch.inputs, pixels)
        assert torch.equal(batch.views["plain"], pixels)


def test_grey_pictures_go_through_all_of_it() -> None:
    grey = Images(photographs(20, channels=1), torch.arange(20) % 10)
    for table in TABLES.values():
        assert all(batch.inputs.shape[1] == 3 for batch in epoch(grey, table))


def test_repeats_see_fewer_pictures_each_augmented_anew(images: Images) -> None:
    batches = epoch(images, {"repeats": 3, "flip": 0.5, "shift": 0.25})
    index = torch.cat([batch.index for batch in batches])
    assert len(index) == 50
    counts = index.bincount(minlength=50)
    assert sorted(counts[counts > 0].tolist()) == [2, *[3] * 16]  # 50 = 16 x 3 + 2
    first = batches[0]
    assert first.index[0] == first.index[1] == first.index[2]
    assert not torch.equal(first.inputs[0], first.inputs[1])


# --- crops, jitter, erasing ------------------------------------------------------------------------------------------


def test_boxes_fit_and_have_the_shares_and_ratios_that_were_asked_for() -> None:
    drawn = boxes(4000, 64, 48, (0.08, 1.0), draw()).double()
    top, left, height, width = drawn.unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (top + height <= 64) & (left + width <= 48)).all())
    share, ratio = height * width / (64 * 48), width / height
    assert 0.07 < share.min() < 0.12
    assert share.max() > 0.9
    assert ratio.min() > 0.7
    assert ratio.max() < 1.4
    assert ratio.log().mean().abs() < 0.05
    assert (top == 0).any()
    assert (left + width == 48).any()
    whole = boxes(50, 64, 20, (1.0, 1.0), draw())  # nothing of such a shape has all of the area: the middle
    assert bool((whole[:, 2:] == torch.tensor([27, 20])).all())


def test_a_resized_crop_is_torchvision_s() -> None:
    pictures = photographs(6, 24).permute(0, 3, 1, 2).float() / 255
    drawn, flip = boxes(6, 24, 24, (0.2, 0.8), draw(1)), torch.arange(6) % 2 == 1
    for mode, kind in (("bilinear", InterpolationMode.BILINEAR), ("bicubic", InterpolationMode.BICUBIC)):
        ours = resized(pictures, drawn, flip, mode)
        for place, box in enumerate(drawn.tolist()):
            theirs = transforms.functional.resized_crop(pictures[place], *box, [24, 24], kind, antialias=False)
            theirs = theirs.flip(-1) if flip[place] else theirs
            inner = (slice(None), slice(5, -5), slice(5, -5))  # at the border ours sees beyond the box
            torch.testing.assert_close(ours[place][inner], theirs[inner].clamp(0, 1), atol=2e-3, rtol=0)


def test_jitter_is_torchvision_s_arithmetic() -> None:
    pictures = photographs(1, 12).permute(0, 3, 1, 2).float() / 255
    generator = draw(4)
    ours = jittered(pictures, 0.4, generator)
    generator = draw(4)
    factor = (torch.rand(3, 1, 1, 1, 1, generator=generator, dtype=torch.float64) * 0.8 + 0.6).flatten().tolist()
    f = transforms.functional
    change = [f.adjust_brightness, f.adjust_contrast, f.adjust_saturation]
    theirs = pictures
    for kind in torch.randperm(3, generator=generator).tolist():
        theirs = change[kind](theirs, factor[kind])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert not torch.allclose(ours, pictures, atol=0.01)


def test_erasing_fills_a_box_of_some_pictures() -> None:
    before = torch.zeros(400, 3, 20, 20)
    after = erased(before, 0.25, draw())
    changed = (after != 0).any(1)  # [B, H, W]
    hit = changed.flatten(1).any(1)
    assert 70 < int(hit.sum()) < 130
    for mask in changed[hit]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert int(mask.sum()) == len(rows) * len(columns)  # a whole box
        assert int(rows[-1] - rows[0]) == len(rows) - 1
    shares = changed[hit].float().mean((1, 2))
    assert shares.min() >= 0.01
    assert shares.max() <= 0.4
    noise = after[after != 0]
    assert noise.mean().item() == pytest.approx(0.45, abs=0.01)
    assert noise.std().item() == pytest.approx(0.225, abs=0.01)
    assert not before.any()


# --- policies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theirs", [n for n in NAMES if NAMES[n] in {*WIDE, "invert"} and NAMES[n] != "identity"])
def test_operations_are_torchvision_s(theirs: str) -> None:
    """At three strengths of the wide space, against the class that applies them one by one."""
    official: Any = transforms.TrivialAugmentWide(fill=128.0)
    spelt = next((n for n in official._AUGMENTATION_SPACE if n.lower() == theirs), "Invert")
    name = NAMES[theirs]
    picture = photographs(1, 24).permute(0, 3, 1, 2)[0]
    for level in (3, 15, 30):
        make, signed = official._AUGMENTATION_SPACE.get(spelt, (lambda *_: None, False))
        strengths = make(31, 24, 24)
        given = float(strengths[level]) if strengths is not None else 0.0
        value = given * (255 if name == "solarize" else 1)
        assert torchvision_value(name, level / 30, 24, wide=True) == pytest.approx(value) or strengths is None
        assert signed == (name in SIGNED)
        for sign in (1, -1) if signed else (1,):
            expected = official._apply_image_or_video_transform(
                picture, spelt, sign * given, InterpolationMode.BILINEAR, official._fill
            )
            assert torch.equal(CHANGES[name](picture[None], sign * value)[0], expected), (name, sign * value)


TIMM = {
    **{name: f"{name.title()}Increasing" for name in ("posterize", "solarize", "contrast", "color", "brightness")},
    **{"rotate": "Rotate", "solarize_add": "SolarizeAdd", "sharpness": "SharpnessIncreasing", "shear_x": "ShearX"},
    **{"shear_y": "ShearY", "translate_x": "TranslateXRel", "translate_y": "TranslateYRel"},
}


@pytest.mark.parametrize("name", TIMM)
def test_strengths_of_rand_augment_are_timm_s(name: str) -> None:
    for magnitude in (0.0, 2.5, 6.0, 7.3, 9.0, 10.0):
        [value] = LEVEL_TO_ARG[TIMM[name]](magnitude, {})
        ours = timm_value(name, magnitude / 10, 100)
        if "Increasing" in TIMM[name] and name in SIGNED:
            value = value - 1  # a factor 1 +- change
            assert min(abs(abs(value) - ours), abs(value + 0.9)) < 1e-9  # never below 0.1
        else:
            assert ours == pytest.approx(100 * abs(value) if name.startswith("translate") else abs(value))


def test_rand_augment_draws_as_timm_does() -> None:
    drawn = RandAugment(9, num_ops=2, std=0.5).draw(4000, 32, draw())
    counts = torch.tensor([len(operations) for operations in drawn]).bincount(minlength=3) / 4000
    assert counts.tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.03)  # each of two with probability 1/2
    assert {name for operations in drawn for name, _ in operations} == set(RAND)
    turned = torch.tensor([abs(v) for operations in drawn for name, v in operations if name == "rotate"])
    assert turned.mean().item() == pytest.approx(27, abs=0.6)
    assert turned.max() <= 30
    assert 0.8 < turned.std() < 2
    assert len({value for operations in drawn for name, value in operations if name == "invert"}) == 1


def test_trivial_augment_draws_one_of_each_at_any_strength() -> None:
    drawn = TrivialAugment().draw(4000, 32, draw())
    assert {len(operations) for operations in drawn} == {1}
    assert {operations[0][0] for operations in drawn} == set(WIDE)
    assert len({value for [(name, value)] in drawn if name == "rotate"}) == 61


def test_auto_augment_draws_its_pairs() -> None:
    drawn = AutoAugmented("imagenet").draw(5000, 331, draw())
    solarized = {round(value, 6) for operations in drawn for name, value in operations if name == "solarize"}
    assert solarized == {round(255 * (1 - level / 9), 6) for level in (3, 4, 5, 7, 8)}
    first = [operations for operations in drawn if operations and operations[0][0] == "posterize"]
    assert {value for operations in first for name, value in operations if name == "posterize"} <= {4, 5, 6, 7, 8}


def test_pictures_are_changed_together_as_alone() -> None:
    pictures = photographs(30, 16).permute(0, 3, 1, 2)
    drawn = RandAugment(9, num_ops=3, std=0.0, probability=1.0).draw(30, 16, draw())
    together = apply(pictures, drawn)
    for place in range(30):
        assert torch.equal(apply(pictures[place : place + 1], drawn[place : place + 1])[0], together[place])
    assert torch.equal(pictures, photographs(30, 16).permute(0, 3, 1, 2))


# --- mixing ----------------------------------------------------------------------------------------------------------


def test_mixup_by_hand() -> None:
    a, b, c = 0.2 * torch.ones(3, 2, 2), 0.5 * torch.ones(3, 2, 2), torch.ones(3, 2, 2)
    mixed = Mix(0.75).of(torch.stack([a, b, c]))
    assert mixed[:, 0, 0, 0].tolist() == pytest.approx([0.75 * 0.2 + 0.25, 0.5, 0.75 + 0.25 * 0.2])
    blend = Mix(0.75).blend(3, torch.device("cpu"))
    assert (blend.partner.tolist(), blend.share.tolist()) == ([2, 1, 0], [0.75] * 3)


def test_cutmix_by_hand() -> None:
    pictures = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    mixed = Mix(0.75, (0, 0, 2, 2)).of(pictures)
    assert mixed[0, 0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert torch.equal(mixed[1], 1 - mixed[0])


def test_the_share_is_that_of_what_is_left() -> None:
    """A box that goes beyond the border counts for what is in the picture; half the area is cut on average less."""
    for seed in range(200):
        share = torch.rand((), generator=draw(seed)).item()
        drawn = cut(share, (20, 30), draw(seed))
        pictures = torch.stack([torch.zeros(3, 20, 30), torch.ones(3, 20, 30)])
        left = 1 - drawn.of(pictures)[0].mean().item()
        assert drawn.share == pytest.approx(left)
        assert drawn.share >= share - 1e-9


def test_kinds_and_shares_of_mixing_follow_their_laws() -> None:
    both = [draw_mix(0.8, 1.0, 0.9, (32, 32), draw(seed)) for seed in range(2000)]
    none, boxed = sum(m is None for m in both), sum(m is not None and m.box is not None for m in both)
    assert none / 2000 == pytest.approx(0.1, abs=0.02)
    assert boxed / 2000 == pytest.approx(0.45, abs=0.03)
    shares = torch.tensor([m.share for m in both if m is not None and m.box is None])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.01)  # Beta(a, a)
    only = [draw_mix(None, 1.0, 1.0, (32, 32), draw(seed)) for seed in range(20)]
    assert all(m is not None and m.box is not None for m in only)


def test_the_second_view_is_mixed_alike_and_the_plain_one_is_not(images: Images) -> None:
    [batch, *_] = epoch(images, {"mixup": 0.8})
    plain = images.pixels[batch.index].permute(0, 3, 1, 2).float() / 255
    assert batch.blend is not None
    share = batch.blend.share[0]
    torch.testing.assert_close(batch.inputs, share * plain + (1 - share) * plain.flip(0))
    assert torch.equal(batch.views["second"], batch.inputs)  # nothing else is done to either
    assert torch.equal(batch.views["plain"], plain)


# --- what a suite may say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"resized_crop": [0.9, 0.1]}, "from the smaller share to the larger"),
        ({"resized_crop": [0.1, 1], "shift": 0.1}, "one of resized_crop and shift"),
        ({"color_jitter": 0.4, "trivial_augment": True}, "one of trivial_augment and color_jitter"),
        ({"interpolation": "bicubic"}, "interpolation is of resized_crop, which is off"),
        ({"mix_probability": 0.5}, "mix_probability is of mixup or cutmix"),
        ({"mixup": 0}, "greater than 0"),
        ({"repeats": 1}, "greater than or equal to 2"),
        ({"rand_augment": 9}, "rand_augment"),
    ],
)
def test_what_makes_no_sense_is_refused(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Augment.model_validate_json(json.dumps(table))


def test_a_key_does_not_depend_on_how_a_table_is_written(suite_file: Any) -> None:
    def key(table: Any) -> str:
        train = {"epochs": 2, "batch_size": 256, "lr": 0.05, "augment": table}
        return cells_of(load_suite(suite_file(train=train)))[0].key

    same = [{"flip": 0.5, "mixup": 1, "repeats": 3}, {"repeats": 3, "mixup": 1.0, "erase": None, "flip": 0.5}]
    assert key(same[0]) == key(same[1])
    others = [key(table) for table in (same[0], {**same[0], "flip": 1}, {"flip": 0.5}, {}, "none")]
    assert all(a != b for a, b in pairwise(others))


def test_a_table_is_read_once() -> None:
    assert table_of({"flip": 0.5}) is table_of({"flip": 0.5})
    assert table_of("crop") is None
