"""Encoders: configuration alone, a local folder, chosen layers, label order; imported only when asked for."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kdbench.errors import UserError
from kdbench.method.contract import Inapplicable
from kdbench.nets import build_net
from kdbench.suite.identity import model_identity
from kdbench.suite.plugins import load_methods
from kdbench.suite.spec import ModelSpec
from kdbench.text import extra
from kdbench.text.corpus import Labelled, Tokens, splits_of, unread
from kdbench.text.nets import ENCODERS
from kdbench.text.tokens import MADE, tokenizer

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
    tokenizer(MADE, ["some words to learn a few merges from, and other words"], 300).save(str(place / "tokenizer.json"))
    return place


def of(folder: Path, *classes: str, length: int = 16) -> Any:
    """A task whose texts are read as the net of the folder does."""
    return unread(classes or TASK.classes, Tokens(tokenizer=str(folder), length=length))


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
    first, again = net(**SMALL), net(of(folder), weights=str(folder), seed=7)
    assert all(a.equal(b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    other = net(of(folder, *"abcde"), weights=str(folder))
    assert other.head[0].weight.shape == (5, 16)
    body = {name: x for name, x in other.model.state_dict().items() if not name.startswith("classifier")}
    assert all(x.equal(first.model.state_dict()[name]) for name, x in body.items())


def test_a_head_for_other_classes_is_made_anew(folder: Path) -> None:
    task = of(folder, "red", "green", "blue")
    with pytest.raises(
        UserError, match=r"trained for the classes no, maybe, yes; the data set's are red, green, blue: s"
    ):
        net(task, weights=str(folder))
    other = net(task, weights=str(folder), labels="new")
    assert not other.head[0].weight.equal(net(**SMALL).head[0].weight)
    assert not other.head[0].bias.any()


def test_another_order_of_the_classes_is_told_and_not_trained_on(folder: Path) -> None:
    turned = of(folder, "Yes", "maybe", "NO")
    with pytest.raises(UserError, match=r"was trained for the classes no, maybe, yes in this order.*yes, maybe, no"):
        net(turned, weights=str(folder))
    assert net(of(folder, "No", "Maybe", "YES"), weights=str(folder)) is not None
    put = net(turned, weights=str(folder), labels=["no", "maybe", "yes"])
    inputs = TASK.inputs.random(4, generator=torch.Generator().manual_seed(0))
    assert put(inputs).logits.equal(net(**SMALL)(inputs).logits[:, [2, 1, 0]])
    with pytest.raises(UserError, match=r"`labels` must name each of these once.*says no, maybe, maybe"):
        net(turned, weights=str(folder), labels=["no", "maybe", "maybe"])


@pytest.mark.parametrize("own", [("LABEL_0", "LABEL_1", "LABEL_2"), ("LABEL_2", "LABEL_0", "LABEL_1"), ("2", "0", "1")])
def test_a_head_that_does_not_say_which_class_is_which_is_told(
    own: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    place = changed(folder, tmp_path, id2label=dict(enumerate(own)), label2id={n: k for k, n in enumerate(own)})
    for task in (of(folder), of(folder, "0", "1", "2")) if own[0] != "LABEL_0" else (of(folder),):
        with pytest.raises(UserError, match=r"say the data set's in the order of the net's head, `labels: \[...\]`"):
            net(task, weights=str(place))
    assert net(of(folder), weights=str(place), labels=["no", "maybe", "yes"]) is not None
    if own[0] == "LABEL_0":
        assert net(of(folder, "0", "1", "2"), weights=str(place)).head[0].weight.equal(net(**SMALL).head[0].weight)


def test_a_net_that_was_no_classifier_gets_a_new_head(folder: Path, tmp_path: Path) -> None:
    place = changed(folder, tmp_path, architectures=["BertModel"])
    assert not net(of(folder), weights=str(place)).head[0].bias.any()


def changed(folder: Path, place: Path, **entries: Any) -> Path:
    """A copy of the folder whose configuration says something else."""
    for path in folder.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    config = json.loads((place / "config.json").read_text(encoding="utf-8")) | entries
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return place


@pytest.mark.parametrize("what", ["another prefix", "a layer is missing", "another width"])
def test_weights_that_do_not_fit_are_told_not_replaced_by_noise(what: str, folder: Path, tmp_path: Path) -> None:
    place = changed(folder, tmp_path, **({"intermediate_size": 32} if what == "another width" else {}))
    state = load_file(folder / "model.safetensors")
    if what == "another prefix":
        state = {f"module.{name}": x for name, x in state.items()}
    if what == "a layer is missing":
        state = {name: x for name, x in state.items() if "layer.0" not in name}
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"its files lack \d+ tensors|has another shape in its files"):
        net(of(folder), weights=str(place))


def test_a_body_alone_fits(folder: Path, tmp_path: Path) -> None:
    place = changed(folder, tmp_path, architectures=["BertModel"])
    state = load_file(folder / "model.safetensors")
    body = {name.removeprefix("bert."): x for name, x in state.items() if not name.startswith("classifier")}
    save_file(body, place / "model.safetensors", metadata={"format": "pt"})
    made = net(of(folder), weights=str(place)).model.bert
    assert all(x.equal(body[name]) for name, x in made.state_dict().items())


def test_weights_read_the_numbers_of_their_own_tokenizer(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"the data set's is made of its texts \(bpe\); give the data set `tokenizer: /"
    ):
        net(weights=str(folder))
    bare = changed(folder, tmp_path)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="give the data set `tokenizer: the one that it was trained with`"):
        net(weights=str(bare))
    assert net(of(folder), weights=str(bare)) is not None
    tokenizer(MADE, ["quite another text of other letters"] * 3, 280).save(str(bare / "tokenizer.json"))
    with pytest.raises(UserError, match="has another tokenizer than the data set; give the data set `tokenizer: /"):
        net(of(bare), weights=str(folder))
    both = unread(TASK.classes, Tokens(tokenizer=str(bare), second=str(folder), length=16))
    assert net(both, weights=str(folder), reads="second") is not None
    with pytest.raises(UserError, match="`second: /"):
        net(both, weights=str(bare), reads="second")


def test_a_data_set_and_its_task_say_the_same_of_the_tokenizer(folder: Path) -> None:
    texts, tokens = Labelled(["some words", "others", "more"], [0, 1, 2]), Tokens(tokenizer=str(folder), length=16)
    made = splits_of(texts, texts, TASK.classes, tokens).task
    assert made.inputs == of(folder).inputs
    assert made.inputs.made_by == of(folder).inputs.made_by
    assert len(made.inputs.made_by[0]) == 32


@pytest.mark.parametrize("kind", ENCODERS)
def test_drop_out_is_everywhere_or_nowhere(kind: str) -> None:
    for share in (0.0, 0.4):
        parts = [part.p for part in net(model=kind, dropout=share, **SMALL).modules() if isinstance(part, nn.Dropout)]
        assert set(parts) == {share}


def test_drop_out_of_weights_is_the_suite_s(folder: Path) -> None:
    made = net(of(folder), weights=str(folder), dropout=0.3)
    assert {part.p for part in made.modules() if isinstance(part, nn.Dropout)} == {0.3}
    assert {part.p for part in net(of(folder), weights=str(folder)).modules() if isinstance(part, nn.Dropout)} == {0.1}


@pytest.mark.parametrize("kind", ENCODERS)
def test_places_are_the_longest_text(kind: str) -> None:
    made = net(model=kind, places=16, **SMALL)
    assert torch.isfinite(made(TASK.inputs.blank(2)).logits).all()
    with pytest.raises(UserError, match=r"has room for texts of 12 places; the data set's have 16 \(`length`\)"):
        net(model=kind, places=12, **SMALL)


def test_layers_are_those_of_transformers_itself() -> None:
    """Each under its own name and in its place, at every place that the mask shows; segments are read."""
    task = unread(TASK.classes, Tokens(vocabulary=300, length=16), pairs=True)
    made = net(task, **SMALL)
    inputs = task.inputs.random(4, generator=torch.Generator().manual_seed(3))
    inputs["mask"] = (torch.arange(16) < torch.tensor([16, 9, 3, 12])[:, None]).long()
    own = made.model(input_ids=inputs["ids"], attention_mask=inputs["mask"], token_type_ids=inputs["segments"],
                     output_hidden_states=True)  # fmt: skip
    out = made(inputs, {"logits", "features", "stem", "queries", "keys", "values"})
    torch.testing.assert_close(out.logits, own.logits, rtol=1e-5, atol=1e-6)
    assert len(own.hidden_states) == 4
    for found, state in zip((out.stem, *out.features), own.hidden_states, strict=True):
        torch.testing.assert_close(found, state * inputs["mask"][..., None], rtol=1e-4, atol=1e-5)
    for place, layer in enumerate(made.model.bert.encoder.layer):
        for name, part in (("queries", "query"), ("keys", "key"), ("values", "value")):
            wanted = getattr(layer.attention.self, part)(own.hidden_states[place]).unflatten(2, (2, 8)).transpose(1, 2)
            shown = inputs["mask"][:, None, :, None].bool()
            found = getattr(out, name)[place]
            torch.testing.assert_close(found * shown, wanted * shown, rtol=1e-4, atol=1e-5)
    other = made({**inputs, "segments": torch.zeros_like(inputs["segments"])}).logits
    assert not torch.allclose(other, out.logits)


def test_student_from_chosen_layers(folder: Path) -> None:
    whole, student = (
        net(**SMALL).model.bert.encoder.layer,
        net(of(folder), weights=str(folder), keep=[0, 2]).model.bert.encoder.layer,
    )
    assert len(student) == 2
    for mine, theirs in zip(student, (whole[0], whole[2]), strict=True):
        assert all(a.equal(b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    out = net(of(folder), weights=str(folder), keep=[0, 2])(TASK.inputs.blank(2), {"features", "attention"})
    assert len(out.features) == len(out.attention) == 2


def test_mistakes_are_told(folder: Path) -> None:
    for options, text in (
        ({"weights": str(folder), "keep": [0, 3]}, r"keep: \[0, 3\] are not layers of this net; it has 3"),
        ({"weights": str(folder), "width": 8}, "their configuration says hidden_size; leave it out"),
        ({"weights": str(folder), "model": "roberta"}, "holds a bert; give `model: bert`"),
        ({"weights": str(folder), "keep": [0, 0, 2]}, r"keep: \[0, 0, 2\] names a layer twice"),
        ({"keep": [0]}, "keep tells of `weights`, and there are none"),
        ({"labels": ["a"]}, "labels tells of `weights`, and there are none"),
        ({"width": 15, "heads": 2}, "2 heads do not divide a width of 15"),
    ):
        with pytest.raises(UserError, match=text):
            net(of(folder), **options)
    large = replace(of(folder), inputs=unread(TASK.classes, Tokens(vocabulary=400, length=16)).inputs)
    large = replace(large, inputs=replace(large.inputs, made_by=of(folder).inputs.made_by))
    with pytest.raises(UserError, match=r"300 entries, the data set's tokenizer 400; give the data set `tokenizer:"):
        net(large, weights=str(folder))


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
