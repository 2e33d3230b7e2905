"""What a training step will take, before it is taken: peak memory and time of a network on a device.

Memory comes from the network itself: its training step runs on fake tensors, and every storage is counted
from birth to death. Of the device only a few numbers are needed, measured once (`Profile`).
"""
