"""Photographs at 224 pixels on a machine of usual size: a run's memory is its nets', not its data's."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from jpegs import folder_of_jpegs

SUITES = Path(__file__).parents[2] / "suites"


def peak(suite: Path, folder: Path, *only: str) -> float:
    """Runs a suite in a process of its own; the most memory that it had, in MiB."""
    words = [sys.executable, "-m", "kdbench", "run", str(suite), *only, "--jobs", "1", "--device", "cpu"]
    cache = {"KDBENCH_CACHE": str(folder / "cache")}
    with subprocess.Popen([*words, "--results", str(folder / "results")], env=os.environ | cache) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss / 2**10


def written(path: Path, suite: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(suite), encoding="utf-8")
    return path


@pytest.mark.slow
def test_12000_jpegs_in_2_8_gb(tmp_path):
    photos = folder_of_jpegs(tmp_path / "photos", 11_000, 1_000, longer=(224, 300))
    suite = {
        "name": "photos",
        "datasets": [{"name": "folder", "path": str(photos), "size": 224}],
        "pairs": [{"teacher": "mobilenetv3_small_050", "student": "mobilenetv3_small_050"}],
        "methods": {"kd": {"ce": 0.1, "kd": 0.9}},
        "seeds": [0],
        "validation": 0.1,
        "train": {"epochs": 1, "batch_size": 64, "lr": 0.05, "augment": "crop_flip"},
    }
    most = peak(written(tmp_path / "suite.yaml", suite), tmp_path)
    print(f"12,000 JPEGs at 224 pixels, mobilenetv3_small_050, batch 64: {most:.0f} MiB at most")
    assert most * 2**20 <= 2.8e9


@pytest.mark.slow
def test_imagenet_yaml_takes_no_more_for_its_data_than_2_gib(tmp_path):
    """Against the same run on a sixth of the pictures. In batches of 32: of 256 the nets alone take 14 GB."""
    weights = tmp_path / "resnet34.pt"
    torch.save(timm.create_model("resnet34", num_classes=10).state_dict(), weights)
    peaks = []
    for count in (320, 1_900):
        photos = folder_of_jpegs(tmp_path / f"photos{count}", count, 100)
        suite = {
            "extends": str(SUITES / "imagenet.yaml"),
            "name": f"imagenet-{count}",
            "datasets": [{"name": "folder", "path": str(photos), "size": 224}],
            "pairs": [{"teacher": {"model": "resnet34", "checkpoint": str(weights)}, "student": "resnet18"}],
            "train": {"epochs": 1, "batch_size": 32, "schedule": {"kind": "cosine"}},
        }
        peaks.append(peak(written(tmp_path / f"{count}.yaml", suite), tmp_path, "--only", "dist"))
    print(f"imagenet.yaml, batch 32: {peaks[0]:.0f} MiB on 420 pictures, {peaks[1]:.0f} MiB on 2,000")
    assert peaks[1] - peaks[0] <= 2048
