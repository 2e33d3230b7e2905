"""The main job end to end: data, plan, train, predict, score, one page, by nnU-Net's own commands."""

from nnunet_mamba.quickstart.chain import run_quickstart
from nnunet_mamba.quickstart.workspace import DEMO_TRAINER, Settings
from nnunet_mamba.running.child import ChildFailedError

__all__ = ["DEMO_TRAINER", "ChildFailedError", "Settings", "run_quickstart"]
