"""Encoders: configuration alone, a local folder, chosen layers, label order; imported only when asked for."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.errors import UserError
from kdbench.method.contract import Inapplicable
from kdbench.nets import build_net
from kdbench.suite.identity import model_identity
from kdbench.suite.plugins import load_methods
from kdbench.suite.spec import ModelSpec
from kdbench.text import extra
from kdbench.text.corpus import Tokens, unread
from kdbench.text.nets import ENCODERS

load_methods()
TASK = unread(("no", "maybe", "yes"), Tokens(vocabulary=300, length=16))
SMALL: dict[str, Any] = {"layers": 3, "width": 16, "heads": 2}


def net(task: Any = TASK, seed: int = 0, **options: Any) -> Any:
    return build_net(ModelSpec(**{"model": "bert", **options}), task, seed).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained net of the same task, as `transformers` saves one."""
    place = tmp_path_factory.mktemp("weights")
    model = net(**SMALL).model
    model.config.id2label = {0: "no", 1: "maybe", 2: "yes"}
    model.config.label2id = {"no": 0, "maybe": 1, "yes": 2}
    model.save_pretrained(place)
    return place


@pytest.mark.parametrize("kind", ENCODERS)
def test_shapes_of_all_that_can_be_asked_for(kind: str) -> None:
    made = net(model=kind, **SMALL)
    needs = {"logits", "embedding", "features", "stem", "attention", "queries", "keys", "values", "classifier"}
    out = made(TASK.inputs.blank(2), needs)
    assert out.logits.shape == (2, 3)
    assert [x.shape for x in (*out.features, out.stem)] == [(2, 16, 16)] * 4
    assert [x.shape for x in out.attention] == [(2, 2, 16, 16)] * 3
    assert [x.shape for name in ("queries", "keys", "values") for x in getattr(out, name)] == [(2, 2, 16, 8)] * 9
    weight, bias = out.classifier
    torch.testing.assert_close(out.embedding @ weight.T + bias, out.logits)
    scores = out.queries[0] @ out.keys[0].transpose(2, 3) / 8**0.5
    torch.testing.assert_close(scores.softmax(-1), out.attention[0])
    with pytest.raises(Inapplicable, match="needs preacts"):
        made(TASK.inputs.blank(2), {"preacts"})


def test_what_is_asked_for_changes_no_bit() -> None:
    made, inputs = net(**SMALL), TASK.inputs.random(4, generator=torch.Generator().manual_seed(0))
    bare = made(inputs).logits
    assert bare.equal(made(inputs, {"features", "stem", "attention", "values"}).logits)
    own = made.model(input_ids=inputs["ids"], attention_mask=inputs["mask"]).logits
    torch.testing.assert_close(bare, own, rtol=1e-5, atol=1e-6)


def test_same_seed_same_weights() -> None:
    one, other, third = net(**SMALL), net(**SMALL), net(seed=1, **SMALL)
    assert all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not all(a.equal(b) for a, b in zip(one.parameters(), third.parameters(), strict=True))


def test_weights_of_a_folder(folder: Path) -> None:
    first, again = net(**SMALL), net(weights=str(folder), seed=7)
    assert all(a.equal(b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    other = net(replace(TASK, num_classes=5, classes=tuple("abcde")), weights=str(folder))
    assert other.head[0].weight.shape == (5, 16)
    body = {name: x for name, x in other.model.state_dict().items() if not name.startswith("classifier")}
    assert all(x.equal(first.model.state_dict()[name]) for name, x in body.items())


def test_a_head_for_other_classes_is_made_anew(folder: Path) -> None:
    other = net(replace(TASK, classes=("red", "green", "blue")), weights=str(folder))
    assert not other.head[0].weight.equal(net(**SMALL).head[0].weight)
    assert not other.head[0].bias.any()


def test_another_order_of_the_classes_is_told_and_not_trained_on(folder: Path) -> None:
    with pytest.raises(UserError, match=r"was trained for the classes no, maybe, yes in this order.*yes, maybe, no"):
        net(replace(TASK, classes=("Yes", "maybe", "NO")), weights=str(folder))
    assert net(replace(TASK, classes=("No", "Maybe", "YES")), weights=str(folder)) is not None


def test_student_from_chosen_layers(folder: Path) -> None:
    whole, student = (
        net(**SMALL).model.bert.encoder.layer,
        net(weights=str(folder), keep=[0, 2]).model.bert.encoder.layer,
    )
    assert len(student) == 2
    for mine, theirs in zip(student, (whole[0], whole[2]), strict=True):
        assert all(a.equal(b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    out = net(weights=str(folder), keep=[0, 2])(TASK.inputs.blank(2), {"features", "attention"})
    assert len(out.features) == len(out.attention) == 2


def test_mistakes_are_told(folder: Path) -> None:
    for options, text in (
        ({"weights": str(folder), "keep": [0, 3]}, r"keep: \[0, 3\] are not layers of this net; it has 3"),
        ({"weights": str(folder), "width": 8}, "their configuration says hidden_size; leave it out"),
        ({"weights": str(folder), "model": "roberta"}, "holds a bert; give `model: bert`"),
        ({"keep": [0]}, "keep chooses among the layers of `weights`, and there are none"),
        ({"width": 15, "heads": 2}, "2 heads do not divide a width of 15"),
    ):
        with pytest.raises(UserError, match=text):
            net(**options)
    with pytest.raises(UserError, match=r"300 entries, the data set's tokenizer 400; give the data set `tokenizer:"):
        net(unread(TASK.classes, Tokens(vocabulary=400, length=16)), weights=str(folder))


def test_what_is_in_the_files_is_in_the_key(folder: Path, tmp_path: Path) -> None:
    plain = model_identity(ModelSpec(model="bert", **SMALL))
    assert "files" not in plain
    before = model_identity(ModelSpec(model="bert", weights=str(folder)))["files"]
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert model_identity(ModelSpec(model="bert", weights=str(tmp_path)))["files"] == before
    config = tmp_path / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert model_identity(ModelSpec(model="bert", weights=str(tmp_path)))["files"] != before


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(extra, "import_module", missing)
    with pytest.raises(UserError, match=r"texts need transformers: pip install 'kdbench\[text\]'"):
        net(**SMALL)


def test_nothing_of_it_is_imported_unless_a_suite_asks() -> None:
    code = (
        "import sys; from pathlib import Path; from kdbench.suite.load import load_suite\n"
        "from kdbench.suite.cells import cells_of; from kdbench.nets import known_models\n"
        "cells_of(load_suite(Path('suites/quickstart.yaml'))); known_models()\n"
        "print(sorted({'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         cwd=Path(__file__).parents[2])  # fmt: skip
    assert run.stdout.strip() == "[]"
