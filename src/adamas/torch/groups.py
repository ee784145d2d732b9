"""Parameter groups of a model: with and without weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

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


class ParamGroups(list[dict[str, Any]]):
    """A list of parameter groups whose ``str`` shows what is in them."""

    def __str__(self) -> str:
        """A line for each group, then one for each parameter in it."""
        lines = []
        for group in self:
            count = sum(p.numel() for _, p in group["params"])
            lines.append(
                f"weight_decay={group['weight_decay']:g}: {len(group['params'])} tensors, {count:,} parameters"
            )
            lines += [f"    {name}  {tuple(p.shape)}" for name, p in group["params"]]
        return "\n".join(lines)


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
    exempt = {
        id(p)
        for module in model.modules()
        if isinstance(module, _NO_DECAY_MODULES)
        for p in module.parameters(recurse=False)
    }
    unused = set(no_decay)
    decayed: list[tuple[str, nn.Parameter]] = []
    kept: list[tuple[str, nn.Parameter]] = []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        fits = {entry for entry in no_decay if f".{name}".endswith(entry) or f".{entry}." in f".{name}"}
        unused -= fits
        (kept if fits or p.ndim < 2 or id(p) in exempt else decayed).append((name, p))
    if unused:
        raise ValueError(f"no_decay: no parameter's name ends with, or is in a module called, {sorted(unused)}")
    groups = [(decayed, weight_decay), (kept, 0.0)]
    return ParamGroups({"params": params, "weight_decay": decay, **options} for params, decay in groups if params)
