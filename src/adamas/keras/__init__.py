"""Adamas for Keras 3: the optimizers of the family as ``keras.optimizers.Optimizer``, on TensorFlow, JAX and PyTorch.

>>> import keras, adamas.keras
>>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
>>> model.compile(adamas.keras.AdamW(1e-3, weight_decay=0.01), loss="mse")
"""

from .members import SGD, Adagrad, Adam, Adamax, AdamW, Nadam, RAdam, RMSprop

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Adamax", "Nadam", "RAdam", "RMSprop"]
