"""Texts of one's own: every kind of file gives the same data set; mistakes name file, row and right name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kdbench.data import DATASETS, digest_of, load_splits, task_of
from kdbench.errors import UserError
from kdbench.suite.plugins import load_methods
from kdbench.text.tokens import MADE, tokenizer

load_methods()
ROWS = [('good, "very" good', "yes"), ("bad\nand long", "no"), ("fine", "yes"), ("poor ünïcode", "no")] * 3
Write = Callable[[Path, list[tuple[str, str]]], None]


def delimited(suffix: str, sep: str) -> Write:
    def write(place: Path, rows: list[tuple[str, str]]) -> None:
        pd.DataFrame(rows, columns=["text", "label"]).to_csv(place.with_suffix(suffix), sep=sep, index=False)

    return write


def lines(place: Path, rows: list[tuple[str, str]]) -> None:
    text = "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows)
    place.with_suffix(".jsonl").write_text(text + "\n", encoding="utf-8")


def parquet(place: Path, rows: list[tuple[str, str]]) -> None:
    pd.DataFrame(rows, columns=["text", "label"]).to_parquet(place.with_suffix(".parquet"))


KINDS: dict[str, Write] = {"csv": delimited(".csv", ","), "tsv": delimited(".tsv", "\t"), "jsonl": lines,
                           "parquet": parquet}  # fmt: skip


def settings(**changes: Any) -> dict[str, Any]:
    given = {"path": "texts", "vocabulary": 300, "length": 16, **changes}
    found, wrong = DATASETS.settings("text_folder", given)
    assert not wrong
    return found


def folder(root: Path, kind: str = "csv", rows: Any = ROWS, test: Any = ROWS[:4]) -> Path:
    (root / "texts").mkdir(exist_ok=True)
    KINDS[kind](root / "texts" / "train", rows)
    KINDS[kind](root / "texts" / "val", test)
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    splits = load_splits("text_folder", settings(), folder(tmp_path, kind))
    assert splits.classes == ("no", "yes")
    assert splits.train.targets.tolist() == [1, 0, 1, 0] * 3
    assert splits.test.targets.tolist() == [1, 0, 1, 0]
    assert task_of("text_folder", settings(), tmp_path) == splits.task


def test_all_kinds_give_the_same_numbers(tmp_path: Path) -> None:
    found = []
    for kind in KINDS:
        place = tmp_path / kind
        place.mkdir()
        found.append(load_splits("text_folder", settings(), folder(place, kind)).train.readings[0].ids)
    assert all(ids.equal(found[0]) for ids in found)


def test_numbers_that_were_kept_and_are_damaged_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    root = folder(tmp_path)
    before = load_splits("text_folder", settings(), root).train.readings[0].ids
    kept = sorted(path for path in (tmp_path / "cache" / "text").iterdir())
    assert {path.suffix for path in kept} == {".json", ".safetensors"}
    for path in kept:
        whole = path.read_bytes()
        for place in (-1, -len(whole) // 2):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + (whole[place + 1 :] if place < -1 else b""))
            assert load_splits("text_folder", settings(), root).train.readings[0].ids.equal(before)
            assert path.read_bytes() == whole


def test_folders_of_classes(tmp_path: Path) -> None:
    for part in ("train", "dev"):
        for number, (text, label) in enumerate(ROWS):
            place = tmp_path / "texts" / part / label
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "texts" / "train" / ".hidden").mkdir()
    (tmp_path / "texts" / "train" / ".hidden" / "no.txt").write_text("x", encoding="utf-8")
    splits = load_splits("text_folder", settings(), tmp_path)
    assert splits.classes == ("no", "yes")
    assert splits.train.targets.tolist() == [0] * 6 + [1] * 6
    before = digest_of("text_folder", settings(), tmp_path)
    (tmp_path / "texts" / "train" / "yes" / "0.txt").rename(tmp_path / "texts" / "train" / "no" / "0.txt")
    assert digest_of("text_folder", settings(), tmp_path) != before, "a class is part of the data"


def test_the_key_knows_the_data(tmp_path: Path) -> None:
    before = digest_of("text_folder", settings(), folder(tmp_path))
    assert digest_of("text_folder", settings(), folder(tmp_path)) == before
    folder(tmp_path, rows=[*ROWS[:-1], ("poor", "yes")])
    assert digest_of("text_folder", settings(), tmp_path) != before
    assert digest_of("text_folder", settings(path="elsewhere"), tmp_path) == "not there"


def test_the_key_knows_every_kind_of_tokenizer(tmp_path: Path) -> None:
    """Older ones have no tokenizer.json but a vocabulary."""
    words = tmp_path / "words"
    words.mkdir()
    (words / "vocab.txt").write_text("[PAD]\n[UNK]\ngood\n")
    root, given = folder(tmp_path), settings(tokenizer=str(words))
    before = digest_of("text_folder", given, root)
    (words / "vocab.txt").write_text("[PAD]\ngood\n[UNK]\n")
    after = digest_of("text_folder", given, root)
    assert after != before
    (words / "tokenizer.json").write_text("{}")  # then the vocabulary is not read
    alone = digest_of("text_folder", given, root)
    (words / "vocab.txt").write_text("")
    assert digest_of("text_folder", given, root) == alone != after


def test_a_folder_called_as_the_made_tokenizer_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest_of("text_folder", settings(), folder(tmp_path))
    (tmp_path / "bpe").mkdir()
    (tmp_path / "bpe" / "tokenizer.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert digest_of("text_folder", settings(), tmp_path) == before


def test_half_a_character_is_refused_with_its_line(tmp_path: Path) -> None:
    root = folder(tmp_path, "jsonl")
    with (root / "texts" / "train.jsonl").open("a") as file:
        file.write('{"text": "fine", "label": "\\ud83d"}\n')
    with pytest.raises(UserError, match=r"train\.jsonl:13: holds half of a pair"):
        task_of("text_folder", settings(), root)


def test_classes_in_an_order_of_ones_own_numbers_and_pairs(tmp_path: Path) -> None:
    named = load_splits("text_folder", settings(classes=("yes", "no")), folder(tmp_path))
    assert named.train.targets.tolist() == [0, 1, 0, 1] * 3
    numbers = [(f"text {k}", str(k)) for k in (10, 9, 2)] * 2
    ordered = load_splits("text_folder", settings(), folder(tmp_path, rows=numbers, test=numbers))
    assert ordered.classes == ("2", "9", "10")
    frame = pd.DataFrame({"a": ["x", "y"] * 4, "b": ["z", "w"] * 4, "label": ["e", "c"] * 4})
    for part in ("train", "val"):
        frame.to_csv(tmp_path / "texts" / f"{part}.csv", index=False)
    pairs = load_splits("text_folder", settings(text="a", pair="b", metric="f1"), tmp_path)
    assert [field.name for field in pairs.train.inputs.fields] == ["ids", "mask", "segments"]
    assert pairs.metric == "f1"
    assert task_of("text_folder", settings(text="a", pair="b", metric="f1"), tmp_path) == pairs.task


@pytest.mark.parametrize(
    ("rows", "test", "changes", "text"),
    [
        (ROWS, ROWS, {"text": "txt"}, r"train.csv: unknown column 'txt'; did you mean 'text'\?"),
        (ROWS, [("x", "yess")], {}, r"val.csv: row 1: unknown class 'yess'; did you mean 'yes'\?"),
        ([("x", "yes")], ROWS, {}, "needs two classes or more; column 'label' has 1"),
        (ROWS, ROWS, {"classes": ("no", "yes", "maybe")}, "no text of class maybe"),
        (ROWS, ROWS, {"classes": ("no", "no")}, "`classes` names one twice"),
        (ROWS, ROWS, {"path": "nowhere"}, "nowhere: needs train or training"),
        (ROWS, ROWS, {"metric": "f2"}, "unknown metric 'f2'; there are: f1, macro_f1"),
    ],
)
def test_mistakes(rows: Any, test: Any, changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=text):
        load_splits("text_folder", settings(**changes), folder(tmp_path, rows=rows, test=test))


def test_broken_files_are_told_with_their_line(tmp_path: Path) -> None:
    place = folder(tmp_path) / "texts" / "train.csv"
    for content, text in (
        (b"text,label\ngood,yes\nbad, and more,no\n", r"train.csv:3: 2 columns in its head, another number here"),
        (b"text,label\ncaf\xe9,yes\n", r"train.csv: can't be read as a .csv file in UTF-8"),
        (b"text,label\n", r"train.csv: holds no rows"),
    ):
        place.write_bytes(content)
        with pytest.raises(UserError, match=text):
            load_splits("text_folder", settings(), tmp_path)
    place.unlink()
    (tmp_path / "texts" / "train.jsonl").write_text('{"text": "a", "label": "b"}\n{"text": \n', encoding="utf-8")
    with pytest.raises(UserError, match=r"train.jsonl:2: no JSON"):
        load_splits("text_folder", settings(), tmp_path)
    (tmp_path / "texts" / "train.jsonl").write_text('{"text": "a", "label": null}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"row 1 has no 'label'"):
        load_splits("text_folder", settings(), tmp_path)
    folder(tmp_path)
    with pytest.raises(UserError, match=r"both train.csv and train.jsonl; which is it\?"):
        load_splits("text_folder", settings(), tmp_path)


def test_of_val_and_test_a_suite_says_which_nets_are_judged_by(tmp_path: Path) -> None:
    root = folder(tmp_path)
    KINDS["csv"](root / "texts" / "test", [("mine", "no"), ("yours", "yes"), ("theirs", "yes")])
    with pytest.raises(UserError, match=r"both val.csv and test.csv; which .* by\? `judged_on: NAME` says"):
        load_splits("text_folder", settings(), root)
    for part, count in (("test", 3), ("val", 4)):
        given = settings(judged_on=part)
        assert len(load_splits("text_folder", given, root).test) == count
        assert task_of("text_folder", given, root).num_test == count
    digests = {digest_of("text_folder", settings(judged_on=part), root) for part in ("test", "val")}
    assert len(digests) == 2
    with pytest.raises(UserError, match="needs dev, a folder"):
        load_splits("text_folder", settings(judged_on="dev"), root)


def test_labels_and_texts_may_be_numbers(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for part in ("train", "test"):
        pd.DataFrame({"text": [1, 2, 3, 4], "label": [0, 1, 0, 1]}).to_parquet(tmp_path / "texts" / f"{part}.parquet")
    splits = load_splits("text_folder", settings(), tmp_path)
    assert splits.classes == ("0", "1")


def test_ratings_stand_in_the_order_of_numbers(tmp_path: Path) -> None:
    names = ["10.0", "9.5", "-1.5", "2.25"]
    rows = [(f"text {k}", name) for k, name in enumerate(names)] * 2
    given = settings(metric="spearman")
    splits = load_splits("text_folder", given, folder(tmp_path, rows=rows, test=rows))
    assert splits.classes == ("-1.5", "2.25", "9.5", "10.0")
    assert splits.judged_by.of is not None
    assert splits.judged_by.of(splits.test.targets, splits.test.targets) == pytest.approx(100)
    with pytest.raises(UserError, match=r"row 1: unknown class '3.3'.*`targets: numbers` has them learn"):
        load_splits("text_folder", given, folder(tmp_path, rows=rows, test=[("x", "3.3")]))
    with pytest.raises(UserError, match=r"classes that are numbers \(ratings\); 'no' is none"):
        task_of("text_folder", given, folder(tmp_path))
    dashes = [("text", "--1"), ("other", "b")] * 2
    assert load_splits("text_folder", settings(), folder(tmp_path, rows=dashes, test=dashes)).classes == ("--1", "b")


def test_data_and_tokenizer_may_lie_beside_one_another_or_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One path absolute, the other not: as with a tokenizer in ~ and the data in ./data."""
    monkeypatch.chdir(folder(tmp_path))
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer.json").write_text("{}")
    wanted = digest_of("text_folder", settings(tokenizer="words"), Path())
    assert wanted == digest_of("text_folder", settings(tokenizer=str(tmp_path / "words")), Path())
    assert wanted == digest_of("text_folder", settings(tokenizer="words"), tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert wanted == digest_of("text_folder", settings(tokenizer="~/words"), Path())


def test_an_empty_text_is_one_unknown_word(tmp_path: Path) -> None:
    words = tokenizer(MADE, ["good fine", "bad poor"], 300)
    from tokenizers import processors

    words.post_processor = processors.ByteLevel()  # frames nothing
    words.save(str(tmp_path / "tokenizer.json"))
    rows = [("", "no"), ("good", "yes")] * 2
    splits = load_splits("text_folder", settings(tokenizer=str(tmp_path)), folder(tmp_path, "jsonl", rows, rows))
    [reading] = splits.train.readings
    assert int(reading.lengths.min()) == 1
    assert int(reading.ids[0, 0]) == words.token_to_id("[UNK]")
