"""Parameter groups of a model: with and without weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..rule.corrections import EPS

# Embeddings are looked up, not multiplied; norms only scale and shift. Decaying them toward 0 regularises nothing.
_NO_DECAY_MODULES: tuple[type[nn.Module], ...] = (
    nn.Embedding,
    nn.EmbeddingBag,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.modules.batchnorm._NormBase,
)


_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")


def canonical_name(name: str) -> str:
    """A parameter's name without what torch.compile, checkpointing, FSDP and DistributedDataParallel add to it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


# What the last layer is called in models that do not register it last.
_HEADS = ("head", "lm_head", "classifier", "fc_out", "output", "embed_out", "unembed", "score")


class ParamGroups(list[dict[str, Any]]):
    """A list of parameter groups whose ``str`` shows what is in them."""

    def __str__(self) -> str:
        """A line for each group, then one for each parameter in it."""
        lines = []
        for group in self:
            lines.append(_outline(group))
            lines += [f"    {name}  {tuple(p.shape)}" for name, p in group["params"]]
        return "\n".join(lines)

    @property
    def outline(self) -> str:
        """A line for each group, indented."""
        return "\n".join(f"    {_outline(group)}" for group in self)


def _outline(group: dict[str, Any]) -> str:
    rule = {True: "Muon, ", False: "AdamW, ", None: ""}[group.get("use_muon")]
    rule += "stacks, " if group.get("stacks") else ""
    count = sum(p.numel() for _, p in group["params"])
    return f"{rule}weight_decay={group['weight_decay']}: {len(group['params'])} tensors, {count:,} parameters"


def param_groups(
    model: nn.Module, weight_decay: float = 1e-2, no_decay: Sequence[str] = (), **options: Any
) -> ParamGroups:
    """The model's trainable parameters in two groups: with weight decay, and without (biases, norms and embeddings).

    Parameters with fewer than two dimensions (biases, and the scales of custom norms) are not decayed, nor are the parameters
    of embedding and normalisation modules. A weight that an embedding shares with another module is not decayed.

    Args:
        model: the model; its ``named_parameters()`` with ``requires_grad`` are grouped, each once.
        weight_decay: the weight decay of the first group; the second has 0.
        no_decay: names of further parameters without decay: those whose names end with an entry, or that are in a module
            with that name.
        **options: options of both groups (``lr=…``).

    Returns:
        A list for any optimizer's ``params``, with names; ``print`` shows what is in it. Groups without parameters are
        left out.

    Raises:
        ValueError: an entry of ``no_decay`` matches no parameter.
    """
    exempt = _exempt(model)
    unused = set(no_decay)
    decayed: list[tuple[str, nn.Parameter]] = []
    kept: list[tuple[str, nn.Parameter]] = []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        fits = _fitting(no_decay, name)
        unused -= fits
        (kept if fits or p.ndim < 2 or id(p) in exempt else decayed).append((name, p))
    if unused:
        raise ValueError(f"no_decay: no parameter's name ends with, or is in a module called, {sorted(unused)}")
    groups = [(decayed, weight_decay), (kept, 0.0)]
    return ParamGroups({"params": params, "weight_decay": decay, **options} for params, decay in groups if params)


def matrix_groups(
    model: nn.Module, weight_decay: float = 0.1, adamw: Sequence[str] = (), stacks: bool = False, **options: Any
) -> ParamGroups:
    """The model's trainable parameters in groups for ``adamas.torch.Muon``.

    Muon steps hidden matrices: parameters of two dimensions and kernels of convolutions, except those of embeddings, norms
    and the head. The head is the last linear layer, and every linear layer with a usual name of a head (``lm_head``,
    ``classifier``, …). AdamW steps the head with weight decay, and also stacks of matrices (of experts, for example), which
    Muon would treat as one matrix; with ``stacks=True``, Muon steps these. AdamW steps all other parameters without weight
    decay. The groups of AdamW have its usual ``eps``, 1e-8.

    Args:
        model: the model; its ``named_parameters()`` with ``requires_grad`` are grouped, each once.
        weight_decay: the weight decay of hidden matrices, the head and stacks of matrices.
        adamw: names of further parameters for AdamW: those whose names end with an entry, or that are in a module with
            that name.
        stacks: whether Muon also steps stacks of matrices, in a group with ``stacks=True``: each matrix is orthogonalized by
            itself. Stacks are parameters of three or more dimensions that are not kernels of convolutions; their last two
            dimensions are rows and columns.
        **options: options of all groups (``lr=…``).

    Returns:
        A list for ``adamas.torch.Muon``, with names; ``print`` shows what is in it. Groups without parameters are left out.

    Raises:
        ValueError: an entry of ``adamw`` matches no parameter.
    """
    exempt, heads, kernels, unused = _exempt(model), _heads(model), _kernels(model), set(adamw)
    matrices: list[tuple[str, nn.Parameter]] = []
    stacked: list[tuple[str, nn.Parameter]] = []
    decayed: list[tuple[str, nn.Parameter]] = []
    kept: list[tuple[str, nn.Parameter]] = []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        fits = _fitting(adamw, name)
        unused -= fits
        if p.ndim < 2 or id(p) in exempt:
            kept.append((name, p))
        else:
            is_stack = p.ndim > 2 and id(p) not in kernels
            is_others = fits or id(p) in heads or (is_stack and not stacks)
            (decayed if is_others else stacked if is_stack else matrices).append((name, p))
    if unused:
        raise ValueError(f"adamw: no parameter's name ends with, or is in a module called, {sorted(unused)}")
    muon = {"use_muon": True, "weight_decay": weight_decay}
    adam = {"use_muon": False, "weight_decay": weight_decay, "eps": EPS.default}
    groups = [
        (matrices, muon),
        (stacked, {**muon, "stacks": True}),
        (decayed, adam),
        (kept, {**adam, "weight_decay": 0.0}),
    ]
    return ParamGroups({"params": params, "stacks": False, **own, **options} for params, own in groups if params)


def _exempt(model: nn.Module) -> set[int]:
    """The parameters of embeddings and norms."""
    return {
        id(p)
        for module in model.modules()
        if isinstance(module, _NO_DECAY_MODULES)
        for p in module.parameters(recurse=False)
    }


def _heads(model: nn.Module) -> set[int]:
    """The parameters of layers that compute the model's output."""
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    heads = [module for name, module in linear if canonical_name(name).rpartition(".")[2] in _HEADS]
    return {id(p) for module in (*heads, *(module for _, module in linear[-1:])) for p in module.parameters()}


def _kernels(model: nn.Module) -> set[int]:
    """The parameters of convolutions."""
    convolutions = (module for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd))
    return {id(p) for module in convolutions for p in module.parameters(recurse=False)}


def _fitting(entries: Sequence[str], name: str) -> set[str]:
    """Those of the entries that the name of a parameter ends with, or that are the name of a module that it is in."""
    return {entry for entry in entries if f".{name}".endswith(entry) or f".{entry}." in f".{name}"}
