"""Jobs that SLURM ended together with their runner, which could not write down why."""

from __future__ import annotations

from dataclasses import replace

from nnunet_mamba.study.sweep import slurm
from nnunet_mamba.study.sweep.diagnosis import AGAIN, Diagnosis
from nnunet_mamba.study.sweep.frozen import Frozen
from nnunet_mamba.study.sweep.records import FAILED, RUNNING

LIVE = ("", "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUED", "RESIZING")
ENDS = {
    "TIMEOUT": Diagnosis("SLURM's time limit was reached", f"Write more `hours` into the study. {AGAIN}"),
    "OUT_OF_MEMORY": Diagnosis(
        "it took more memory (RAM) than it had asked SLURM for",
        f"Write more `memory_gb` into the study, or set nnUNet_n_proc_DA lower. {AGAIN}",
    ),
    "NODE_FAIL": Diagnosis("its node failed", AGAIN),
    "CANCELLED": Diagnosis("its SLURM job was cancelled", AGAIN),
    "PREEMPTED": Diagnosis("its SLURM job had to make room for another", AGAIN),
}


def record_slurm_ends(frozen: Frozen) -> None:
    """A record that says "running" of a job that SLURM has ended becomes that of a failure."""
    for name in frozen.jobs:
        record = frozen.layout.read_record(name)
        if record is None or record.state != RUNNING or not record.slurm_job:
            continue
        state = slurm.end_state(record.slurm_job)
        if state not in LIVE:
            end = ENDS.get(state, Diagnosis(f"killed with its runner (SLURM: {state})", AGAIN))
            frozen.layout.write_record(replace(record, state=FAILED, cause=end.cause, remedy=end.remedy))
