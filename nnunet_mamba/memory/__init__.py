"""Estimates of the peak memory of a network's training step on a device, before it runs.

The training step runs on fake tensors (`simulate`), and every storage is counted from its allocation to its
release (`live_memory`), with the memory that operators take beside their tensors (`workspace`). Of the device
only a few numbers are needed (`profile`), measured once (`measure`).
"""
