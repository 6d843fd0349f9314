"""What weight decay reaches: everything as in the CRD benchmark, or not norms and biases, as timm has it."""

import torch
from torch import nn

from kdbench.methods.dot import DOT
from kdbench.nets import build_net
from kdbench.suite.load import ModelSpec
from kdbench.suite.spec import Train
from kdbench.train.optim import make_optimizer
from kdbench.vision.batches import picture_task

VIT = {"model": "vit_tiny_patch16_224", "img_size": 16, "patch_size": 4, "depth": 1, "embed_dim": 12, "num_heads": 2}


def after_a_step(train: Train, kind: dict[str, object]) -> dict[str, bool]:
    """Parameter -> did weight decay move it? The gradients are 0, and every parameter is 1."""
    net = build_net(ModelSpec(**kind), picture_task(10, 16)).model
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1).grad = torch.zeros_like(parameter)
    make_optimizer(list(net.parameters()), train, net).step()
    return {name: not torch.equal(p, torch.ones_like(p)) for name, p in net.named_parameters()}


def test_it_reaches_everything_unless_a_suite_says_otherwise():
    for optimizer in ("sgd", "adamw"):
        assert all(after_a_step(Train(optimizer=optimizer), {"model": "cifar_resnet8"}).values())


def test_norms_biases_and_what_the_net_names_are_spared():
    for optimizer in ("sgd", "adamw"):
        moved = after_a_step(Train(optimizer=optimizer, no_decay="norms_and_biases"), VIT)
        assert moved["blocks.0.attn.qkv.weight"]
        assert moved["head.weight"]
        spared = ("cls_token", "pos_embed", "norm.weight", "blocks.0.norm1.bias", "blocks.0.mlp.fc1.bias")
        assert not any(moved[name] for name in spared)


def test_dot_s_task_momentum_carries_the_decay_of_each_parameter():
    weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([weight, bias], Train(no_decay="norms_and_biases", weight_decay=0.1), nn.Module())
    rule, nothing = DOT(), [torch.zeros(2, 2), torch.zeros(2)]
    rule.combine([weight, bias], nothing, nothing, optimizer)
    assert torch.equal(optimizer.state[weight]["dot_task"], torch.full((2, 2), 0.1))
    assert torch.equal(optimizer.state[bias]["dot_task"], torch.zeros(2))
