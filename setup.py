"""Packaging. Metadata lives in pyproject.toml; here is only what it cannot say.

`nnUNet_trainers/` and `plans_templates/` stand beside the library in the repository and travel inside it in
the wheel, so that an installation owns no top-level name but `nnunet_mamba`.
"""

from setuptools import find_packages, setup

BESIDE = ("nnUNet_trainers", "plans_templates")

setup(
    packages=find_packages(include=["nnunet_mamba", "nnunet_mamba.*"])
    + [f"nnunet_mamba.{name}" for name in BESIDE],
    package_dir={f"nnunet_mamba.{name}": name for name in BESIDE},
    include_package_data=False,  # only what is named here
    package_data={
        "nnunet_mamba": ["py.typed"],
        "nnunet_mamba.study.datasets": ["published_splits.json"],
        "nnunet_mamba.memory": ["profiles/*.json"],
        "nnunet_mamba.study.report": ["published.json", "templates/*"],
        "nnunet_mamba.study.sweep": ["Snakefile", "study.schema.json", "profiles/*/config.yaml"],
        "nnunet_mamba.plans_templates": ["*.json"],
    },
)
