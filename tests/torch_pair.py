"""PyTorch modules with shaken random weights, and ours with the same, by way of the real loader."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from twins import shake

from ti_jax.weights.loader import abstract_network, export_parameters, load_parameters
from ti_jax.weights.model_files import RULES
from ti_jax.weights.rules import Rules
from ti_jax.weights.tensors import TorchTensor


def pair(reference: torch.nn.Module, build, rules: Rules, **types):
    """The reference, shaken, and our network of the same weights."""
    torch.manual_seed(0)
    shake(reference)
    reference.requires_grad_(False).eval()
    tensors = {name: TorchTensor(tensor.detach()) for name, tensor in reference.state_dict().items()}
    abstract = abstract_network(functools.partial(build, **types))
    return reference, load_parameters(abstract, tensors, rules, param_dtype=types.get("param_dtype", jnp.float32))


def draws(*shape, seed=0):
    """Standard normal numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def nchw(x):
    """A feature map as PyTorch has it."""
    return torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)


def nhwc(x):
    """A feature map as we have it."""
    return x.detach().permute(0, 2, 3, 1).numpy()


def check(ours, theirs, tolerance):
    """Equal within a share of the output's largest value."""
    ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def same_weights(pipeline, pipe):
    """Every tensor of PyTorch's networks is exactly ours."""
    for name, network in pipeline.networks.items():
        ours, theirs = export_parameters(network, RULES[type(network.config)]), getattr(pipe, name).state_dict()
        theirs = {key.removeprefix("text_model."): tensor.numpy() for key, tensor in theirs.items()}
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            np.testing.assert_array_equal(ours[key], tensor)


def run(module, *arguments, method="__call__"):
    """The result of a compiled call, the module an argument."""
    return jax.jit(lambda m, *a: getattr(m, method)(*a))(module, *arguments)
