"""Causes of failures and their fixes, from a command's exit code and the last lines that it printed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_mamba.nnunet.subprocesses import find_error_line

KILLED = "killed by SIGKILL"
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Diagnosis:
    """Cause of a failure and its fix, a sentence each."""

    cause: str
    fix: str


@dataclass(frozen=True)
class KnownFailure:
    """A kind of failure; the first group of the pattern, if it has one, follows the cause."""

    pattern: str
    cause: str
    fix: str


AGAIN = "Run it again: it resumes from its last checkpoint."

FAILURES = (  # a reason comes before what may only follow from it
    KnownFailure(
        r"No space left on device|\[Errno 28\]|Disk quota exceeded|\[Errno 122\]|File too large|\[Errno 27\]"
        r"|PytorchStreamWriter failed writing|inline_container.cc:\d+\] . unexpected pos",
        "the disk is full, or a quota is used up",
        f"Make room where nnUNet_results and the study lie. {AGAIN}",
    ),
    KnownFailure(
        r"CUDA out of memory|torch\.OutOfMemoryError|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED",
        "the GPU has too little memory",
        "See with nvidia-smi whether another program uses it. Else make plans for this card "
        "(nnunet-mamba plans make), or let our network recompute: NNUNET_MAMBA_CHECKPOINT_STAGES=all.",
    ),
    KnownFailure(
        r"The loss is not finite (in [^\n]*)|NonFiniteLossError: (?!The loss is not)([^\n]*)",
        "the loss is not finite",
        f"{AGAIN} If it comes back, look at the layer or the input that the log names.",
    ),
    KnownFailure(
        r"NonFinite(?:Weights)?Error: ([^\n]*)",
        "weights or outputs are not finite",
        "Look at what the log names: a checkpoint, a layer, or an image.",
    ),
    KnownFailure(
        r"Could not find requested nnunet trainer (\S+)",
        "nnU-Net does not find the trainer",
        "Check its spelling; `nnunet-mamba doctor` tells whether nnU-Net finds this package's trainers.",
    ),
    KnownFailure(
        r"You requested fold (\d+ for training but splits contain only \d+)"
        r"|ValueError: Fold (\S+) was asked for, and ",
        "the splits do not have this fold, and nnU-Net would draw a random one",
        "Ask for a fold that splits_final.json in nnUNet_preprocessed has, or write the splits anew.",
    ),
    KnownFailure(
        r"No such file or directory: '([^']*(?:Plans\w*|dataset|dataset_fingerprint)\.json)'",
        "the dataset was not planned with these plans",
        "Run its planning first, and check the plans' name (-p) and nnUNet_preprocessed.",
    ),
    KnownFailure(
        r"([^\s']*\.(?:b2nd|npz|npy|pkl))'? ?(?:does not exist|: No such file)"
        r"|No such file or directory: '([^']*\.(?:b2nd|npz|npy|pkl))'",
        "a case of the splits was not preprocessed",
        "Preprocess the dataset again, or write splits of the cases that it has.",
    ),
    KnownFailure(
        r"Requested configuration (\S+) not found in plans"
        r"|The configuration (\S+) does not exist in the plans",
        "the plans have no such configuration",
        "Choose one that they have: nnU-Net plans 3d_lowres and the cascade for large images only.",
    ),
    KnownFailure(
        r"Could not find a dataset with the ID (\d+)",
        "nnU-Net does not find the dataset",
        "Check nnUNet_raw and nnUNet_preprocessed, and convert the dataset first.",
    ),
    KnownFailure(
        r"^incomplete: ([^\n]*)",
        "predictions are missing",
        "See in the log of the training or prediction why; trainers named ..._smoke validate one case only.",
    ),
    KnownFailure(
        r"Error\(s\) in loading state_dict for (\w+)",
        "the checkpoint belongs to another network",
        "The code or the plans have changed since it was written: train it in another study.",
    ),
    KnownFailure(
        r"Found no NVIDIA driver|Torch not compiled with CUDA enabled|No CUDA GPUs are available"
        r"|CUDA driver version is insufficient|no CUDA-capable device is detected",
        "CUDA is not available",
        "See `nnunet-mamba doctor` and nvidia-smi, or write device: cpu into the study.",
    ),
    KnownFailure(
        r"CUDA error: ([^\n]*)",
        "the GPU reports an error",
        f"{AGAIN} If it comes back on the same card, look for Xid errors in the kernel's log.",
    ),
    KnownFailure(
        r"workers? (?:are|is) no longer alive|6 feet under|DataLoader worker \(pid",
        "a worker that prepares data has died",
        "Its own error, if any, is further up in the log; without one the memory (RAM) was used up. Give the "
        "job more, or set nnUNet_n_proc_DA or nnUNet_def_n_proc lower.",
    ),
    KnownFailure(
        r"^([\w.]*MemoryError\b[^\n]*|[^\n]*Cannot allocate memory[^\n]*|[^\n]*DefaultCPUAllocator: [^\n]*)",
        "the memory (RAM) was used up",
        "Give the job more memory, or fewer processes: nnUNet_n_proc_DA, nnUNet_def_n_proc.",
    ),
)  # fmt: skip

SIGNALS = {
    9: KnownFailure(
        "", KILLED, "Most often the system ran out of memory (RAM; see dmesg), or the scheduler's limit was "
        f"reached. Ask for more memory or fewer processes. {AGAIN}",
    ),
    15: KnownFailure("", "stopped by SIGTERM", AGAIN),
    2: KnownFailure("", INTERRUPTED, AGAIN),
    11: KnownFailure(
        "", "the program crashed (SIGSEGV)", f"{AGAIN} If it crashes again, a compiled library is at fault.",
    ),
    7: KnownFailure(
        "", "the program crashed (SIGBUS)", "Shared memory may be full: in a container, give /dev/shm more.",
    ),
}  # fmt: skip


def diagnose(code: int, lines: Sequence[str]) -> Diagnosis:
    """Return the diagnosis. Negative codes are signals; a shell reports signal N as 128 + N."""
    number = -code if code < 0 else code - 128
    if number in SIGNALS:
        return Diagnosis(SIGNALS[number].cause, SIGNALS[number].fix)
    text = "\n".join(lines)
    for failure in FAILURES:
        if match := re.search(failure.pattern, text, re.MULTILINE):
            named = next((group for group in match.groups() if group), None)
            return Diagnosis(failure.cause + (f": {named.strip()[:400]}" if named else ""), failure.fix)
    return Diagnosis(find_error_line(lines), "See the log.")
