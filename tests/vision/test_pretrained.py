"""Whether timm's weights can be had is found out before a minute is spent on trying."""

from pathlib import Path

import pytest

from kdbench.errors import UserError
from kdbench.nets import build_net
from kdbench.suite.spec import ModelSpec
from kdbench.vision import pretrained
from kdbench.vision.batches import picture_task


def test_weights_that_cant_be_had_are_no_minute_of_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda *a: None)
    monkeypatch.setattr(pretrained, "answers", lambda host: False)
    with pytest.raises(UserError, match=r"does not answer; give a file of them as `checkpoint:`"):
        build_net(ModelSpec(model="resnet18", pretrained=True), picture_task(2, 32), "s", 0)
    with pytest.raises(UserError, match="there are no pretrained weights of cifar_resnet8"):
        build_net(ModelSpec(model="cifar_resnet8", pretrained=True), picture_task(2, 32), "s", 0)
    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda hub, name: "x" if "safe" in name else None)
    assert pretrained.why_not("resnet18") == ""


def test_a_host_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.getproxies", dict)
    pretrained.answers.cache_clear()
    assert not pretrained.answers("nowhere.invalid")
    pretrained.answers.cache_clear()
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy"})
    assert pretrained.answers("nowhere.invalid")  # it may know the way
    pretrained.answers.cache_clear()
