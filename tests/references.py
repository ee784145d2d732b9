"""The members that ``torch.optim`` has not, as their papers state them, over PyTorch's operations."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

Group = State = dict[str, Any]


class Reference(torch.optim.Optimizer, ABC):
    """An optimizer that computes one update for each parameter.

    Attributes:
        hyper: its hyperparameters and their defaults.
        decay_outside: whether the weight decay is decoupled, and not a part of the update.
    """

    hyper: ClassVar[dict[str, Any]] = {}
    decay_outside: ClassVar = True

    def __init__(self, params: Any, lr: float, **options: Any) -> None:
        super().__init__(params, {"lr": lr, **self.hyper, "weight_decay": 0.0, "maximize": False, **options})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["step"] = state.get("step", 0) + 1
                g = -p.grad if group["maximize"] else p.grad
                update = self.update(group, state, p, g)
                if self.decay_outside:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * update)

    @abstractmethod
    def update(self, group: Group, state: State, p: Tensor, g: Tensor) -> Tensor:
        """The update, before it is multiplied by the learning rate."""


def averaged(state: State, name: str, beta: float, x: Tensor) -> Tensor:
    """The exponential average of this name, after x."""
    return state.setdefault(name, torch.zeros_like(x)).mul_(beta).add_(x, alpha=1 - beta)


def normalized(group: Group, state: State, g: Tensor) -> Tensor:
    """Adam's m̂/(√v̂ + ε)."""
    (beta1, beta2), t = group["betas"], state["step"]
    m, v = averaged(state, "m", beta1, g), averaged(state, "v", beta2, g * g)
    return m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + group["eps"])


class Lion(Reference):
    """Algorithm 2 of Chen et al., 2023."""

    hyper: ClassVar = {"betas": (0.9, 0.99)}

    def update(self, group: Group, state: State, p: Tensor, g: Tensor) -> Tensor:
        beta1, beta2 = group["betas"]
        before = state.get("m", torch.zeros_like(g)).clone()
        averaged(state, "m", beta2, g)
        return torch.sign(beta1 * before + (1 - beta1) * g)


class Signum(Reference):
    """Algorithm 2 of Bernstein et al., 2018."""

    hyper: ClassVar = {"momentum": 0.9}

    def update(self, group: Group, state: State, p: Tensor, g: Tensor) -> Tensor:
        return torch.sign(averaged(state, "m", group["momentum"], g))


class LaProp(Reference):
    """Algorithm 1 of Ziyin, Wang and Ueda, 2020."""

    hyper: ClassVar = {"betas": (0.9, 0.999), "eps": 1e-15}

    def update(self, group: Group, state: State, p: Tensor, g: Tensor) -> Tensor:
        (beta1, beta2), t = group["betas"], state["step"]
        v = averaged(state, "v", beta2, g * g)
        return averaged(state, "m", beta1, g / ((v / (1 - beta2**t)).sqrt() + group["eps"])) / (1 - beta1**t)


class ADOPT(Reference):
    """Algorithm 2 of Taniguchi et al., 2024, whose first step begins v, with the clip of the authors' code."""

    hyper: ClassVar = {"betas": (0.9, 0.9999), "eps": 1e-6}

    def update(self, group: Group, state: State, p: Tensor, g: Tensor) -> Tensor:
        beta1, beta2 = group["betas"]
        if state["step"] == 1:
            state["v"] = g * g
            return torch.zeros_like(g)
        limit = (state["step"] - 1) ** 0.25
        m = averaged(state, "m", beta1, (g / state["v"].sqrt().clamp(min=group["eps"])).clamp(-limit, limit))
        averaged(state, "v", beta2, g * g)
        return m


def trust_ratio(p: Tensor, update: Tensor) -> Tensor:
    """‖p‖/‖update‖, or 1 where one of them is 0."""
    ratio = p.norm() / update.norm()
    return torch.where((p.norm() > 0) & (update.norm() > 0), ratio, 1.0)


class LAMB(Reference):
    """Algorithm 2 of You et al., 2020, with φ the identity. The decay is a part of the update."""

    hyper: ClassVar = {"betas": (0.9, 0.999), "eps": 1e-6}
    decay_outside = False

    def update(self, group: Group, state: State, p: Tensor, g: Tensor) -> Tensor:
        update = normalized(group, state, g) + group["weight_decay"] * p
        return trust_ratio(p, update) * update


class LARS(Reference):
    """Algorithm 1 of You, Gitman and Ginsburg, 2017. The decay is a part of the gradient."""

    hyper: ClassVar = {"momentum": 0.9, "trust_coefficient": 1e-3, "eps": 0.0}
    decay_outside = False

    def update(self, group: Group, state: State, p: Tensor, g: Tensor) -> Tensor:
        size = g.norm() + group["weight_decay"] * p.norm() + group["eps"]
        is_known = (p.norm() > 0) & (g.norm() > 0)
        ratio = torch.where(is_known, group["trust_coefficient"] * p.norm() / size, 1.0)
        m = state.setdefault("m", torch.zeros_like(g))
        return m.mul_(group["momentum"]).add_(ratio * (g + group["weight_decay"] * p))


class StableAdamW(Reference):
    """Algorithm 2 of Wortsman et al., 2023."""

    hyper: ClassVar = {"betas": (0.9, 0.99), "eps": 1e-6}
    decay_outside = False

    def update(self, group: Group, state: State, p: Tensor, g: Tensor) -> Tensor:
        update = normalized(group, state, g) + group["weight_decay"] * p
        v = state["v"] / (1 - group["betas"][1] ** state["step"])
        return update / (g * g / v.clamp(min=group["eps"] ** 2)).mean().sqrt().clamp(min=1.0)


class AdamH(Reference):
    """Adam's update, scaled to the norm of the weight, after which the weight has its former norm (Wen et al., 2025)."""

    hyper: ClassVar = {"betas": (0.9, 0.95), "eps": 1e-8}

    def update(self, group: Group, state: State, p: Tensor, g: Tensor) -> Tensor:
        update = normalized(group, state, g)
        if not (p.any() and update.any() and group["lr"]):
            return update
        moved = p - group["lr"] * p.norm() / update.norm() * update
        return (p - moved * p.norm() / moved.norm()) / group["lr"]


class MARS(Reference):
    """Algorithm 2 of Yuan et al., 2024, for AdamW. The gradient before the first step is 0, as in the authors' code."""

    hyper: ClassVar = {"betas": (0.95, 0.99), "eps": 1e-8, "gamma": 0.025}

    def update(self, group: Group, state: State, p: Tensor, g: Tensor) -> Tensor:
        beta1, _ = group["betas"]
        before = state.setdefault("previous", torch.zeros_like(g)).clone()
        state["previous"].copy_(g)
        corrected = g + group["gamma"] * beta1 / (1 - beta1) * (g - before)
        return normalized(group, state, corrected / corrected.norm().clamp(min=1.0))


class Adan(Reference):
    """Algorithm 1 of Xie et al., 2022, with 1 - β for each β, and the bias correction of the authors' code."""

    hyper: ClassVar = {"betas": (0.98, 0.92, 0.99), "eps": 1e-8}

    def update(self, group: Group, state: State, p: Tensor, g: Tensor) -> Tensor:
        (beta1, beta2, beta3), t = group["betas"], state["step"]
        change = g - state.setdefault("previous", g.clone())
        state["previous"].copy_(g)
        m, d = averaged(state, "m", beta1, g), averaged(state, "d", beta2, change)
        v = averaged(state, "v", beta3, (g + beta2 * change) ** 2)
        update = m / (1 - beta1**t) + beta2 * d / (1 - beta2**t)
        return update / ((v / (1 - beta3**t)).sqrt() + group["eps"])


class SGDScheduleFree(Reference):
    """Equations 3 to 5 of Defazio et al., 2024, with the warmup and the weights of their algorithm 1."""

    hyper: ClassVar = {"momentum": 0.9, "warmup_steps": 0, "r": 0.0, "weight_lr_power": 2.0}
    decay_outside: ClassVar = False

    def update(self, group: Group, state: State, p: Tensor, g: Tensor) -> Tensor:
        rate = group["lr"] * min(1.0, state["step"] / max(group["warmup_steps"], 1))
        if rate == 0:
            return torch.zeros_like(p)
        z, x = state.setdefault("z", p.clone()), state.setdefault("x", p.clone())
        state["lr_max"] = max(rate, state.get("lr_max", 0.0))
        weight = state["step"] ** group["r"] * state["lr_max"] ** group["weight_lr_power"]
        state["weight_sum"] = state.get("weight_sum", 0.0) + weight
        z.sub_(rate * (self.direction(group, state, g) + group["weight_decay"] * p))
        x.lerp_(z, weight / state["weight_sum"])
        return (p - torch.lerp(z, x, self.beta(group))) / group["lr"]

    def beta(self, group: Group) -> float:
        return group["momentum"]

    def direction(self, group: Group, state: State, g: Tensor) -> Tensor:
        return g


class AdamWScheduleFree(SGDScheduleFree):
    """Algorithm 1 of Defazio et al., 2024."""

    hyper: ClassVar = {**SGDScheduleFree.hyper, "betas": (0.9, 0.999), "eps": 1e-8}

    def beta(self, group: Group) -> float:
        return group["betas"][0]

    def direction(self, group: Group, state: State, g: Tensor) -> Tensor:
        beta = group["betas"][1]
        v = averaged(state, "v", beta, g * g)
        return g / ((v / (1 - beta ** state["step"])).sqrt() + group["eps"])


class Prodigy(Reference):
    """Algorithm 4 of Mishchenko and Defazio, 2023, with the η of the authors' code in it, and s over all steps' rates."""

    hyper: ClassVar = {
        **{"betas": (0.9, 0.999), "eps": 1e-8, "d0": 1e-6, "d_coef": 1.0},
        **{"use_bias_correction": False, "safeguard_warmup": False, "growth_rate": math.inf},
    }
    decay_outside: ClassVar = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        first = self.param_groups[0]
        for name, value in (("d", first["d0"]), ("d_max", first["d0"]), ("numerator", 0.0)):
            vars(self).setdefault(name, value)
        self.before, self.along, self.size = self.d, 0.0, 0.0
        for group in self.param_groups:
            for p in group["params"]:
                self.add(group, self.state[p], -p.grad if group["maximize"] else p.grad)
        self.numerator = first["betas"][1] ** 0.5 * self.numerator + self.along
        if self.size > 0:
            estimate = first["d_coef"] * self.numerator / self.size
            self.d_max = max(self.d_max, estimate)
            self.d = max(self.d, estimate) if self.d == first["d0"] else self.d
        self.d = min(self.d_max, self.d * first["growth_rate"])
        super().step()

    def add(self, group: Group, state: State, g: Tensor) -> None:
        """Adds to the sums over all parameters."""
        s, way = (state.setdefault(name, torch.zeros_like(g)) for name in ("s", "way"))
        part = self.d / group["d0"] * self.rate(group, state.get("step", 0) + 1)
        self.along += part * float((g.double() * way.double()).sum())
        gain = self.d * self.d / group["d0"] if group["safeguard_warmup"] else part
        s.mul_(group["betas"][1] ** 0.5).add_(g, alpha=gain)
        self.size += float(s.double().abs().sum())

    def rate(self, group: Group, step: int) -> float:
        """The learning rate times d."""
        if not group["use_bias_correction"]:
            return self.before * group["lr"]
        beta1, beta2 = group["betas"]
        return self.before * group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)

    def update(self, group: Group, state: State, p: Tensor, g: Tensor) -> Tensor:
        beta1, beta2 = group["betas"]
        m, v = averaged(state, "m", beta1, self.before * g), averaged(state, "v", beta2, (self.before * g) ** 2)
        update = m / (v.sqrt() + self.d * group["eps"]) + group["weight_decay"] * p  # all of it times d
        rate = self.rate(group, state["step"])
        state["way"].add_(update, alpha=rate)
        return update * (rate / group["lr"]) if group["lr"] else torch.zeros_like(p)


class AdEMAMix(Reference):
    """Algorithm 1 of Pagliardini et al., 2024, with the warmups of its equations."""

    hyper: ClassVar = {
        **{"betas": (0.9, 0.999, 0.9999), "eps": 1e-8},
        **{"alpha": 2.0, "alpha_warmup": 0, "beta3_warmup": 0},
    }

    def update(self, group: Group, state: State, p: Tensor, g: Tensor) -> Tensor:
        (beta1, beta2, beta3), t, alpha = group["betas"], state["step"], group["alpha"]
        if t < group["alpha_warmup"]:
            alpha *= t / group["alpha_warmup"]
        if t < group["beta3_warmup"]:
            part = t / group["beta3_warmup"]
            start, end = math.log(beta1), math.log(beta3)
            beta3 = math.exp(start * end / ((1 - part) * end + part * start))
        slow = averaged(state, "slow", beta3, g)
        m, v = averaged(state, "m", beta1, g), averaged(state, "v", beta2, g * g)
        return (m / (1 - beta1**t) + alpha * slow) / ((v / (1 - beta2**t)).sqrt() + group["eps"])
