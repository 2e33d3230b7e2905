"""Estimates of a training step before it runs: peak memory and time of a network on a device.

Memory comes from the network itself: its training step runs on fake tensors, and every storage is counted
from its allocation to its release. Of the device only a few numbers are needed, measured once (`Profile`).
"""
