"""Quickstart: data, plan, train, predict, score and one page, by nnU-Net's own commands."""

from nnunet_mamba.nnunet.subprocesses import ChildFailedError
from nnunet_mamba.study.quickstart.chain import run_quickstart
from nnunet_mamba.study.quickstart.workspace import DEMO_TRAINER, Settings

__all__ = ["DEMO_TRAINER", "ChildFailedError", "Settings", "run_quickstart"]
