"""The step of parameter groups, for the tensors of any framework.

An adapter makes a record of each parameter. ``stepping`` measures gradients, clips, reads schedules and decides the numbers of
the step, once for all parameters; ``plan`` has the records of a group and hands them to the executors of their devices, which
look up tensors, reduce gradients to sums, and apply the step. Only sums come back from the executors.

Groups are dictionaries of hyperparameters, as in PyTorch; some numbers in them may be given by schedules. This package
imports no framework, except that each module of ``namespaces`` imports its own. ``engine`` is the only module that needs the
compiled engine.
"""
