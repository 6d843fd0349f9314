"""Texts as batches: an order of (seed, epoch) alone, buckets of length, two readings; what is made is made once."""

import hashlib
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import batches_of

from kdbench.errors import UserError
from kdbench.method.contract import InputSpec
from kdbench.nets import build_net
from kdbench.suite.spec import ModelSpec
from kdbench.text.batches import Texts, bucket, buckets
from kdbench.text.corpus import Labelled, Tokens, splits_of, unread
from kdbench.text.docstrings import PACKAGES, cleaned, texts_of_package
from kdbench.text.tokens import made

WORDS = "some plain words stand here in many other orders and more of them".split()  # noqa: SIM905


def text(number: int) -> str:
    return " ".join(WORDS[(number * k) % len(WORDS)] for k in range(1, 2 + number % 11))


LABELLED = Labelled([text(number) for number in range(103)], [number % 3 for number in range(103)])


@pytest.fixture(scope="module")
def texts() -> Texts:
    return splits_of(LABELLED, LABELLED, ("a", "b", "c"), Tokens(vocabulary=300, length=32)).train


def test_every_text_comes_once_an_epoch_padded_to_its_bucket(texts: Texts) -> None:
    batches = batches_of(texts, 10)
    assert len(batches) == texts.steps(type("How", (), {"batch_size": 10, "augment": "none"})) == 11
    assert Counter(i for batch in batches for i in batch.index.tolist()) == Counter(range(103))
    for batch in batches:
        assert batch.inputs["mask"].sum(1).equal(texts.readings[0].lengths[batch.index])
        assert batch.inputs["ids"].shape[1] == bucket(int(batch.inputs["mask"].sum(1).max()), 32)
        assert not batch.inputs["ids"][batch.inputs["mask"] == 0].any()
        assert batch.target.equal(batch.index % 3)
    assert len({batch.inputs["ids"].shape[1] for batch in batches}) > 1


def test_order_depends_on_seed_and_epoch_alone(texts: Texts) -> None:
    first = batches_of(texts, 10, seed=3, number=2)
    for other in (batches_of(texts, 10, seed=3, number=2), [*texts.epoch(HOW, 3, 2)]):
        assert all(a.index.equal(b.index) for a, b in zip(first, other, strict=True))
    for changed in ({"seed": 4, "number": 2}, {"seed": 3, "number": 1}):
        assert not all(a.index.equal(b.index) for a, b in zip(first, batches_of(texts, 10, **changed), strict=True))
    resumed = [*texts.epoch(HOW, 3, 2, start=4)]
    assert all(a.index.equal(b.index) for a, b in zip(first[4:], resumed, strict=True))
    assert all(a.inputs["ids"].equal(b.inputs["ids"]) for a, b in zip(first[4:], resumed, strict=True))


HOW = type("How", (), {"batch_size": 10, "augment": "none"})


def test_a_last_batch_of_one_is_left_out(texts: Texts) -> None:
    batches = batches_of(texts[torch.arange(41)], 10)
    assert [len(batch.target) for batch in batches] == [10] * 4
    assert len(batches_of(texts[torch.arange(42)], 10)) == 5


def test_in_order_is_whole_and_unchanged(texts: Texts) -> None:
    parts = list(texts.in_order(50))
    assert torch.cat([part.index for part in parts]).equal(torch.arange(103))
    assert [len(part.target) for part in parts] == [50, 50, 3]


def test_second_view_hides_words_and_nothing_else(texts: Texts) -> None:
    [batch] = batches_of(texts, 103, views=("second", "plain"))
    plain, second = batch.views["plain"], batch.views["second"]
    assert plain["ids"].equal(batch.inputs["ids"])
    changed = second["ids"] != plain["ids"]
    assert set(second["ids"][changed].tolist()) == {texts.readings[0].hidden}
    words = plain["mask"].sum() - 2 * 103  # without both ends of each
    assert 0.1 < changed.sum() / words < 0.2
    assert not changed[:, 0].any()
    with pytest.raises(UserError, match="can't be mixed"):
        batches_of(texts, 103, views=("mixed",))


@pytest.mark.parametrize(
    ("longest", "expected"),
    [(64, [16, 32, 48, 64]), (128, [32, 64, 96, 128]), (40, [16, 24, 32, 40]), (6, [2, 3, 5, 6])],
)
def test_buckets(longest: int, expected: list[int]) -> None:
    assert buckets(longest) == expected
    assert bucket(longest, longest) == longest
    assert bucket(1, longest) == expected[0]


def test_the_shapes_that_come_are_those_that_are_told(texts: Texts) -> None:
    told = {spec.fields[0].shape for spec in (texts.inputs, *texts.inputs.others)}
    assert {batch.inputs["ids"].shape[1:] for batch in batches_of(texts, 5)} <= told
    assert InputSpec.of_dict(texts.inputs.to_dict()) == texts.inputs


def test_the_task_is_known_before_the_texts_are_read(texts: Texts) -> None:
    splits = splits_of(LABELLED, LABELLED, ("a", "b", "c"), Tokens(vocabulary=300, length=32))
    assert unread(("a", "b", "c"), Tokens(vocabulary=300, length=32), (103, 103)) == splits.task
    assert [spec.shape for spec in splits.task.inputs.timed] == [(32,), (128,)]


def test_two_readings_have_different_places() -> None:
    tokens = Tokens(vocabulary=300, length=32, second="bpe")
    both = splits_of(LABELLED, LABELLED, ("a", "b", "c"), tokens)
    [batch] = batches_of(both.train, 103)
    assert batch.inputs.keys() == {"ids", "mask", "ids_2", "mask_2"}
    small = {"model": "bert", "layers": 1, "width": 8, "heads": 2}
    nets = [build_net(ModelSpec(**small, reads=reads), both.task) for reads in ("first", "second")]
    masks = [net(both.task.inputs.blank(2)).mask for net in nets]
    assert masks[0].shape != masks[1].shape
    assert all(net(batch.inputs).logits.shape == (103, 3) for net in nets)
    with pytest.raises(UserError, match="second tokenizer"):
        build_net(ModelSpec(**small, reads="second"), unread(("a", "b"), Tokens()))


def test_pairs_have_segments() -> None:
    pairs = replace(LABELLED, texts=[(one, "and another one") for one in LABELLED.texts])
    splits = splits_of(pairs, pairs, ("a", "b", "c"), Tokens(vocabulary=300, length=32))
    [batch] = batches_of(splits.train, 103)
    ids, segments, mask = (batch.inputs[name] for name in ("ids", "segments", "mask"))
    assert (segments.diff(dim=1)[mask[:, 1:] == 1] >= 0).all(), "the second text comes last"
    assert (segments.sum(1) > 0).all()
    assert not segments[mask == 0].any()
    assert (ids == 3).sum(1).equal(torch.full((103,), 2)), "each text ends in [SEP]"
    assert unread(("a", "b", "c"), Tokens(vocabulary=300, length=32), (103, 103), pairs=True) == splits.task


def test_the_tokenizer_is_the_same_in_every_process() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/text'); sys.path.insert(0, 'tests')\n"
        "import hashlib; from test_batches import LABELLED; from kdbench.text.tokens import made\n"
        "print(hashlib.sha256(made(LABELLED.texts, 320).to_str().encode()).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=None,
                         cwd=Path(__file__).parents[2])  # fmt: skip
    assert run.stdout.strip() == hashlib.sha256(made(LABELLED.texts, 320).to_str().encode()).hexdigest()


def test_docstrings_are_told_apart_by_files_and_without_their_names() -> None:
    train, test = texts_of_package("scikit-learn", 12, set())
    assert (len(train), len(test)) == (12, 3)
    assert not set(train) & set(test)
    assert all(len(one.split()) >= 8 for one in train + test)
    assert "sklearn" not in cleaned("import SKLEARN as sk\n>>> sklearn.x\nof numpy, np.array")
    assert (train, test) == texts_of_package("scikit-learn", 12, set())
    others, _ = texts_of_package("scikit-learn", 12, {train[0]})
    assert train[0] not in others, "a text that another package has too is one package's"
    for left in ("MLFLOW_TRACKING_URI", "MlflowException", "scikit-learn's", "to_numpy", "pd.DataFrame", "CPython"):
        assert not re.search("mlflow|learn|numpy|python|pd", cleaned(left), re.I), left
    with pytest.raises(UserError, match="training texts only; lower per_class"):
        texts_of_package("scikit-learn", 10**6, set())
    assert len(PACKAGES) == 7
