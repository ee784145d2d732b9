"""The optimizers of the family for Keras, with the arguments, defaults and meaning of their namesakes in Keras."""

from __future__ import annotations

from typing import Any

import keras

from .. import family
from .optimizer import Decay, Optimizer, Weights

_registered = keras.saving.register_keras_serializable("adamas")


@_registered
class Adam(Optimizer):
    """Adam."""

    _member = family.ADAM

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str = "adam",
        *,
        eps_mode: str = "hat",
        bias_correction: bool = True,
        decay: Decay = "decoupled",
        l1: float = 0.0,
    ) -> None:
        super().__init__(locals())

    def _hyper(self) -> dict[str, Any]:
        return {
            "betas": (self.beta_1, self.beta_2),
            "eps": self.epsilon,
            "eps_mode": self.eps_mode,
            "bias_correction": self.bias_correction,
            "amsgrad": self.amsgrad,
        }
