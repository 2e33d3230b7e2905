"""Causes of failures, from texts as the programs print them."""

import pytest

from nnunet_mamba.study.sweep.diagnosis import diagnose

TRACEBACK = """Traceback (most recent call last):
  File "/env/bin/nnUNetv2_train", line 8, in <module>
    sys.exit(run_training_entry())
"""
WORKERS = """RuntimeError: One or more background workers are no longer alive. Exiting. Please check the \
print statements above for the actual error message"""
SAID = {
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity of "
    "10.75 GiB of which 1.01 GiB is free.": "the GPU has too little memory",
    "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED": "the GPU has too little memory",
    "nnunet_mamba.trainers.nan_guard.NonFiniteLossError: The loss is not finite in epoch 3, training "
    "iteration 2 (counted from 0). The first layer whose output is not finite is encoder.stages.0 "
    "(MetaBlock), from finite input.": "the loss is not finite: in epoch 3, training iteration 2",
    WORKERS: "a worker that prepares data has died",
    "RuntimeError: Some background workers are no longer alive": "a worker that prepares data has died",
    "RuntimeError: Some background worker is 6 feet under. Yuck. ": "a worker that prepares data has died",
    "RuntimeError: Could not find requested nnunet trainer nnUNetTrainerMMUnet in "
    "nnunetv2.training.nnUNetTrainer (/env/nnunetv2). If the trainer is located elsewhere, please move "
    "it there or specify the external path via the `nnUNet_extTrainer` environment variable. "
    "nnUNet_extTrainer=": "nnU-Net does not find the trainer: nnUNetTrainerMMUnet",
    "OSError: [Errno 28] No space left on device": "the disk is full",
    "OSError: [Errno 122] Disk quota exceeded": "the disk is full",
    "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 320 vs 212": "the disk is full",
    "RuntimeError: PytorchStreamWriter failed writing file data/17: file write failed": "the disk is full",
    "INFO: You requested fold 7 for training but splits contain only 5 folds. I am now creating a "
    "random (but seeded) 80:20 split!": "the splits do not have this fold, and nnU-Net would draw",
    "ValueError: Fold 7 was asked for, and /pre/D/splits_final.json has folds 0 to 4. Train one of these": (
        "the splits do not have this fold, and nnU-Net would draw a random one: 7"
    ),
    "nnunet_mamba.networks.finite.NonFiniteWeightsError: case_3, fold 0 of nnUNetTrainerMMUNet: tile [0:8]": (
        "weights or outputs are not finite: case_3, fold 0 of nnUNetTrainerMMUNet: tile [0:8]"
    ),
    "FileNotFoundError: [Errno 2] No such file or directory: '/pre/D/nnUNetResEncUNetMPlans.json'": (
        "the dataset was not planned with these plans: /pre/D/nnUNetResEncUNetMPlans.json"
    ),
    "FileNotFoundError: [Errno 2] No such file or directory: '/pre/D/nnUNetPlans_2d/case_1.pkl'": (
        "a case of the splits was not preprocessed: /pre/D/nnUNetPlans_2d/case_1.pkl"
    ),
    "RuntimeError: Requested configuration 3d_lowres not found in plans. Available configurations: ['2d']": (
        "the plans have no such configuration: 3d_lowres"
    ),
    "ValueError: The configuration 3d_x does not exist in the plans I have. Valid configuration": (
        "the plans have no such configuration: 3d_x"
    ),
    "RuntimeError: Could not find a dataset with the ID 17.": ("nnU-Net does not find the dataset: 17"),
    "RuntimeError: Error(s) in loading state_dict for MetaUNet:": "the checkpoint belongs to another network",
    "RuntimeError: Found no NVIDIA driver on your system.": "CUDA is not available",
    "AssertionError: Torch not compiled with CUDA enabled": "CUDA is not available",
    "RuntimeError: CUDA error: an illegal memory access was encountered": (
        "the GPU reports an error: an illegal"
    ),
    "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 3.5 GiB": "the memory (RAM) was used up",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't "
    "allocate memory: you tried to allocate 40000000000 bytes.": "the memory (RAM) was used up",
    "incomplete: /results/fold_0/validation lacks predictions of case_5; predict them before\n9 rows -> a": (
        "predictions are missing: /results/fold_0/validation lacks predictions of case_5"
    ),
    "KeyError: 'strides'": "KeyError: 'strides'",
}


@pytest.mark.parametrize("text", SAID, ids=range(len(SAID)))
def test_a_cause_is_found_in_the_last_lines(text):
    found = diagnose(1, [*TRACEBACK.splitlines(), *text.splitlines()])
    assert found.cause.startswith(SAID[text])
    assert found.fix.endswith(".")


@pytest.mark.parametrize(
    ("code", "cause"),
    [(-9, "killed by SIGKILL"), (137, "killed by SIGKILL"), (-15, "stopped by SIGTERM"), (-2, "interrupted")],
)
def test_a_signal_is_the_cause_whatever_was_printed_before(code, cause):
    assert diagnose(code, ["Epoch 3", "train_loss -0.1"]).cause == cause
    assert "memory" in diagnose(-9, []).fix


def test_a_full_disk_is_named_before_the_workers_that_died_of_it():
    lines = ["OSError: [Errno 28] No space left on device", *WORKERS.splitlines()]
    assert diagnose(1, lines).cause.startswith("the disk is full")


def test_a_command_without_output_is_diagnosed_as_such():
    assert diagnose(1, []).cause == "no output"
