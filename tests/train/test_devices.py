"""Two processes that train together end where one ends that has the whole batch, to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from jpegs import folder_of_jpegs
from torch import nn
from two_devices import ends, few

from kdbench.batching import shares
from kdbench.method.contract import Batch
from kdbench.method.register import METHODS
from kdbench.train.devices import part_of
from kdbench.train.whole_batch import PartNorms, WholeBatchNorms, parts_of
from kdbench.vision import holding

SCRIPT = Path(__file__).with_name("two_devices.py")
ROWS = {  # a loss of single examples, one with adapters on maps, two that compare examples, and a memory of all
    "kd": {"ce": 1, "kd": 1},
    "fitnet": {"ce": 1, "fitnet": 10},
    "sp": {"ce": 1, "sp": 10},
    "rkd": {"ce": 1, "rkd": 1},
    "crd": {"ce": 1, "crd": {"weight": 0.8, "negatives": 64, "dim": 8}},
    "parts": {"ce": 1, "kd": 2},  # batch norms see four parts of each batch
}
CLOSE = 1e-5  # of the length of all weights, after ten steps


def trained(folder, pair, rows, size=2):
    """What each process ends with."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(SCRIPT)]
    words = [str(size), str(folder), pair, json.dumps(rows)]
    running = [subprocess.Popen([*command, str(rank), *words], env=environment) for rank in range(size)]
    assert [process.wait() for process in running] == [0] * size
    return [torch.load(folder / f"{rank}-of-{size}.pt", weights_only=True) for rank in range(size)]


def apart(one, other):
    """Length of the difference, relative to that of the other."""
    if not other:
        return 0.0
    a, b = (torch.cat([value.double().flatten() for value in table.values()]) for table in (one, other))
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Row -> what each of two processes ends with, and what one does that has the whole batch."""
    folder, rows = tmp_path_factory.mktemp("together"), list(ROWS.values())
    pairs = trained(folder, "cnn", rows)
    torch.set_num_threads(1)
    return dict(zip(ROWS, zip(*pairs, ends(few(folder), "cnn", rows), strict=True), strict=True))


@pytest.mark.parametrize("row", ROWS)
def test_two_processes_end_where_one_does(both, row):
    first, second, alone = both[row]
    assert [end["status"] for end in both[row]] == ["done"] * 3
    assert first["done"] == second["done"] == 10
    for part in ("net", "objective"):
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])
        assert apart(first[part], alone[part]) < CLOSE
    assert apart(alone["net"], alone["start"]) > 100 * CLOSE  # it is not that nothing moves
    assert first["curves"].keys() == alone["curves"].keys()
    for name, curve in alone["curves"].items():
        assert first["curves"][name] == pytest.approx(curve, rel=1e-4, abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["cnn", "vit"])
def test_so_it_is_for_every_method(tmp_path, pair, one_thread):
    rows = [{"ce": 1, name: 1} for name in METHODS if name != "ce"]
    firsts, seconds = trained(tmp_path, pair, rows)
    far = {}
    for row, first, second, alone in zip(rows, firsts, seconds, ends(few(tmp_path), pair, rows), strict=True):
        assert first["status"] == second["status"] == alone["status"], (row, first["reason"], alone["reason"])
        if alone["status"] == "done":
            assert all(torch.equal(first["net"][name], second["net"][name]) for name in first["net"]), row
            far[str(row)] = max(apart(first[part], alone[part]) for part in ("net", "objective"))
    assert len(far) > 20
    beyond = [row for row in rows if far.get(str(row), 0) > CLOSE]
    assert len(beyond) <= 3
    exact, noisy = (ends(few(tmp_path), pair, beyond, noise=noise) for noise in (0.0, 6e-8))  # half a last digit
    for row, one, other in zip(beyond, exact, noisy, strict=True):  # where rounding grows, so does that of one process
        assert far[str(row)] < 10 * max(apart(other[part], one[part]) for part in ("net", "objective")), row


@pytest.mark.slow
def test_three_processes_of_unequal_parts(tmp_path, one_thread):
    """25 examples in a batch: 9, 8 and 8."""
    rows = [ROWS["sp"]]
    *_, last = trained(tmp_path, "cnn", rows, size=3)
    assert apart(last[0]["net"], ends(few(tmp_path), "cnn", rows)[0]["net"]) < CLOSE


@pytest.mark.long
@pytest.mark.parametrize("row", ["kd", "parts"])
def test_each_decodes_its_part_of_streamed_pictures(tmp_path, row, monkeypatch):
    """100 of them, 25 in a batch; all where batch norms see other parts of it."""
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    for setting in ("MOST_IN_MEMORY", "OF_FREE_DISK"):
        monkeypatch.setattr(holding, setting, getattr(holding, setting))  # `few` changes them
    folder_of_jpegs(tmp_path / "photos", 100, 20, 10, (12, 20))
    torch.set_num_threads(1)
    [alone] = ends(few(tmp_path), "cnn", [ROWS[row]])
    [first], [second] = trained(tmp_path, "cnn", [ROWS[row]])
    assert apart(first["net"], alone["net"]) < CLOSE
    assert first["curves"]["test_top1"] == pytest.approx(alone["curves"]["test_top1"])
    assert alone["decoded"] == 100
    assert [first["decoded"], second["decoded"]] == ([52, 48] if row == "kd" else [100, 100])


def test_parts_cover_a_batch():
    assert shares(25, 2) == [13, 12]
    assert shares(2, 4) == [1, 1, 0, 0]
    batch = Batch(
        {"a": torch.arange(5), "b": torch.ones(5, 2)},
        torch.arange(5),
        torch.arange(5),
        views={"plain": torch.arange(5)},
    )
    part = part_of(batch, slice(3, 5))
    assert part.inputs["a"].tolist() == part.target.tolist() == part.views["plain"].tolist() == [3, 4]
    assert part.inputs["b"].shape == (2, 2)


@pytest.mark.parametrize("make", [lambda: nn.BatchNorm2d(3), lambda: nn.BatchNorm2d(3, affine=False)])
def test_a_whole_batch_norm_is_a_batch_norm(make):
    """With one process it gives what torch gives: output, statistics, gradients."""
    torch.manual_seed(0)
    x = torch.randn(6, 3, 4, 4, dtype=torch.float64) * 3 + 5
    found = []
    for mode in (None, WholeBatchNorms(lambda mine: mine[None])):
        norm, inputs = make().double(), x.clone().requires_grad_()
        if mode is None:
            out = norm(inputs)
        else:
            with mode:
                out = norm(inputs)
        (out.sin() * torch.arange(4)).sum().backward()
        weights = [p.grad for p in norm.parameters()]
        found.append([out, inputs.grad, norm.running_mean, norm.running_var, norm.num_batches_tracked, *weights])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    with WholeBatchNorms(lambda mine: mine[None]):  # in eval mode it is left alone
        torch.testing.assert_close(
            norm.eval()(x), F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )


def test_parts_are_normed_each_by_itself():
    """As two nets would that have a half each, but that the running statistics are the mean of theirs."""
    x = torch.randn(5, 3, 4, 4) * 2 + 1
    whole, halves = nn.BatchNorm2d(3), [nn.BatchNorm2d(3), nn.BatchNorm2d(3)]
    with PartNorms(parts_of(5, 2)):
        out = whole(x)
    torch.testing.assert_close(out, torch.cat([norm(part) for norm, part in zip(halves, x.split([3, 2]), strict=True)]))
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(whole, name), sum(getattr(norm, name) for norm in halves) / 2)
    with pytest.raises(ValueError, match="not two for each of 2 parts"):
        parts_of(3, 2)
