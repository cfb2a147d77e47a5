"""Weights that others have published: taken out of what is wrapped around them, and compared with a network's own."""

import re
from collections.abc import Mapping

import torch
from torch import nn


def published_tensors(checkpoint: Mapping) -> dict[str, torch.Tensor]:
    """Take the tensors out of a checkpoint, by the names that our networks have.

    Args:
        checkpoint: tensors by name, in any floating type; a ``state_dict`` entry around them, the ``module.`` prefix of
            data-parallel training, and WingsNet's heads in a Sequential (``dc0_0.0.weight``, Zheng's own files) are
            taken away.
    """
    found = checkpoint.get("state_dict", checkpoint)
    return {
        re.sub(r"^(dc0_\d+)\.0\.", r"\1.", name.removeprefix("module.")): torch.as_tensor(value)
        for name, value in found.items()
    }


def differences(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """List the names that a network misses or does not have, and the shapes that differ."""
    own, name_of = network.state_dict(), type(network).__name__
    return [
        *(f"{name} is missing" for name in own if name not in tensors),
        *(f"{name} is not part of {name_of}" for name in tensors if name not in own),
        *(
            f"{name} has shape {tuple(tensors[name].shape)}, needed {tuple(own[name].shape)}"
            for name in own
            if name in tensors and tensors[name].shape != own[name].shape
        ),
    ]
