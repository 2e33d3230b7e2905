"""nnunet-mamba register, unregister, trainers-path: two ways in which nnU-Net finds our trainers."""

import argparse
from typing import Any


def add(commands: Any) -> None:
    p = commands.add_parser(
        "register",
        description="Writes one small file, nnunet_mamba_trainers.py, into the folder of the installed "
        "nnunetv2 in which nnU-Net looks for trainers. It imports the trainers of this package, holds no "
        "code of its own, and is silent if this package is removed. Nothing else of nnU-Net is touched; "
        "`unregister` removes the file.",
    )
    p.set_defaults(run=register)
    p = commands.add_parser("unregister")
    p.set_defaults(run=unregister)
    p = commands.add_parser("trainers-path")
    p.set_defaults(run=trainers_path)


def register(args: argparse.Namespace) -> int:
    from nnunet_mamba.nnunet.register import register_trainers

    print(f"nnU-Net finds the trainers of nnunet_mamba through {register_trainers()}")
    return 0


def unregister(args: argparse.Namespace) -> int:
    from nnunet_mamba.nnunet.register import unregister_trainers

    path = unregister_trainers()
    print(f"Removed {path}" if path else "Nothing to remove: nnunet_mamba is not registered.")
    return 0


def trainers_path(args: argparse.Namespace) -> int:
    from nnunet_mamba.io.resources import resource_dir

    print(resource_dir("nnUNet_trainers").resolve())
    return 0
