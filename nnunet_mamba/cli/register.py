"""nnunet-mamba register, unregister, trainers-path: two ways to show our trainers to nnU-Net."""

import argparse
from typing import Any


def add(commands: Any) -> None:
    p = commands.add_parser("register", help="let the installed nnU-Net find our trainers, in every shell")
    p.set_defaults(run=register)
    p = commands.add_parser("unregister", help="undo `register` without a trace")
    p.set_defaults(run=unregister)
    p = commands.add_parser("trainers-path", help="print the folder for the variable nnUNet_extTrainer")
    p.set_defaults(run=trainers_path)


def register(args: argparse.Namespace) -> int:
    from nnunet_mamba import registration

    print(f"nnU-Net finds the trainers of nnunet_mamba through {registration.register()}")
    return 0


def unregister(args: argparse.Namespace) -> int:
    from nnunet_mamba import registration

    path = registration.unregister()
    print(f"Removed {path}" if path else "Nothing to remove: nnunet_mamba is not registered.")
    return 0


def trainers_path(args: argparse.Namespace) -> int:
    from nnunet_mamba.resources import resource_dir

    print(resource_dir("nnUNet_trainers").resolve())
    return 0
