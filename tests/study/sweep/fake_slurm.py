"""A simulated SLURM, as far as Snakemake's plugin and this package call it. Jobs are processes of this host.

Called as: fake_slurm.py PROGRAM ARGUMENTS, by the programs that `install` writes. State lies in $FAKE_SLURM:

calls        every call, a line of JSON each
ID.json      a job: options of sbatch, state, how often it was started, the states that it ended in
ID.end       how it is to end: a state (CANCELLED, TIMEOUT, NODE_FAIL, ..) or REQUEUE
left         what squeue says a job has left of its time, [D-]H:MM:SS

A failed node and a lack of memory kill without a warning, other ends send SIGTERM first. A job that may be
requeued starts again after NODE_FAIL, PREEMPTED and REQUEUE, under the same number.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

PROGRAMS = ("sbatch", "srun", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr")
SHORT = {"-p": "--partition", "-A": "--account", "-t": "--time", "-D": "--chdir", "-C": "--constraint"}
FLAGS = ("--parsable", "--requeue", "--no-requeue", "--hold")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED")
GRACE_S = 3.0  # KillWait
LOOK_S = 0.05
say = partial(print, flush=True)
PATIENT = """import asyncio
asyncio_sleep = asyncio.sleep
asyncio.sleep = lambda seconds, *rest: asyncio_sleep(min(seconds, 0.3), *rest)
"""  # the plugin polls once in 40 s, and more seldom after each poll without an end


def install(folder: Path) -> Path:
    """Write programs to folder/bin, shorter pauses of the plugin to folder/python; return folder/state."""
    for name in ("bin", "python", "state"):
        (folder / name).mkdir(parents=True)
    for program in PROGRAMS:
        file = folder / "bin" / program
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{Path(__file__)}" {program} "$@"\n')
        file.chmod(0o755)
    (folder / "python" / "sitecustomize.py").write_text(PATIENT)
    return folder / "state"


class Jobs:
    """State of all jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, number: str) -> dict:
        return json.loads((self.folder / f"{number}.json").read_text())

    def change(self, number: str, **changes) -> None:
        draft = self.folder / f"{number}.{os.getpid()}"
        draft.write_text(json.dumps({**self.read(number), **changes}))
        draft.replace(self.folder / f"{number}.json")

    def all(self) -> list[dict]:
        files = sorted(self.folder.glob("*.json"), key=lambda file: int(file.stem))
        return [json.loads(file.read_text()) for file in files]

    def new(self, options: dict) -> str:
        for number in range(1, 1000):
            with suppress(FileExistsError), (self.folder / f"{number}.json").open("x") as file:
                json.dump({"id": str(number), "state": "PENDING", "starts": 0, "ends": [], **options}, file)
                return str(number)
        raise AssertionError

    def end(self, number: str, state: str) -> None:
        (self.folder / f"{number}.end").write_text(state)

    def asked_end(self, number: str) -> str:
        file = self.folder / f"{number}.end"
        return file.read_text() if file.exists() else ""

    def calls(self, program: str) -> list[list[str]]:
        lines = map(json.loads, (self.folder / "calls").read_text().splitlines())
        return [words for name, *words in lines if name == program]


def options_of(words: list[str]) -> tuple[dict, list[str]]:
    """Split off options as --name=X, --name X and -n X from the words that follow."""
    options, rest = {}, list(words)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        name = SHORT.get(name, name)
        options[name] = True if name in FLAGS else value if equals else rest.pop(0)
    return options, rest


def sbatch(jobs: Jobs, words: list[str]) -> None:
    options, rest = options_of(words)
    if options.get("--account") == "nobody":
        sys.exit("sbatch: error: Invalid account or account/partition combination specified")
    assert not rest, f"a script: {rest}"
    number = jobs.new({"options": options, "directory": options.get("--chdir", str(Path.cwd()))})
    me = [sys.executable, "-S", __file__, "node", number]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(me, start_new_session=True, **quiet)
    say(number)


def node(jobs: Jobs, words: list[str]) -> None:
    """The life of one job."""
    number = words[0]
    while wait_for_others(jobs, number) and not once(jobs, number):
        (jobs.folder / f"{number}.end").unlink(missing_ok=True)


def wait_for_others(jobs: Jobs, number: str) -> bool:
    """Wait as --dependency=afterok:1:2 demands."""
    kind, _, numbers = jobs.read(number)["options"].get("--dependency", "").partition(":")
    assert kind in ("", "afterok"), kind
    while not jobs.asked_end(number):
        states = {jobs.read(other)["state"] for other in numbers.split(":") if other}
        if states & set(OVER[1:]):
            jobs.end(number, "CANCELLED")
        if states <= {"COMPLETED"}:
            return True
        time.sleep(LOOK_S)
    jobs.change(number, state=jobs.asked_end(number))
    return False


def once(jobs: Jobs, number: str) -> bool:
    """Run the job until it ends; return whether that was for good."""
    job = jobs.read(number)
    options = job["options"]
    output = Path(options["--output"].replace("%j", number))
    environment = {**os.environ, "SLURM_JOB_ID": number, "SLURM_JOB_NAME": options["--job-name"]}
    environment |= {"SLURM_RESTART_COUNT": str(job["starts"])} if job["starts"] else {}
    environment |= {"CUDA_VISIBLE_DEVICES": "7"} if "--gpus" in options else {}
    jobs.change(number, state="RUNNING", starts=job["starts"] + 1)
    with output.open("ab") as stream:  # fails where there is no such folder, as SLURM does
        shell = subprocess.Popen(
            ["/bin/bash", "-c", options["--wrap"]],
            cwd=job["directory"], env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
    while shell.poll() is None and not jobs.asked_end(number):
        time.sleep(LOOK_S)
    asked = jobs.asked_end(number)
    if asked:
        clear(jobs, number, shell, kindly=asked not in ("NODE_FAIL", "OUT_OF_MEMORY"))
    state = asked or ("FAILED" if shell.returncode else "COMPLETED")
    again = state in ("REQUEUE", "NODE_FAIL", "PREEMPTED") and "--requeue" in options
    jobs.change(number, state="PENDING" if again else state, ends=[*job["ends"], state])
    return not again


def clear(jobs: Jobs, number: str, shell: subprocess.Popen, *, kindly: bool) -> None:
    """End the processes of a job, in whatever session they are."""
    deadline = time.monotonic() + GRACE_S
    if kindly:
        signal_all(jobs, number, signal.SIGTERM)
    while (kindly and time.monotonic() < deadline) and processes(jobs, number):
        shell.poll()
        time.sleep(LOOK_S)
    while processes(jobs, number):
        signal_all(jobs, number, signal.SIGKILL)
        shell.poll()
        time.sleep(LOOK_S)
    shell.wait()


def signal_all(jobs: Jobs, number: str, sign: int) -> None:
    for pid in processes(jobs, number):
        with suppress(ProcessLookupError):
            os.kill(pid, sign)


def processes(jobs: Jobs, number: str) -> list[int]:
    """Return the processes of a job, known by their environment."""
    marks = {f"SLURM_JOB_ID={number}".encode(), f"FAKE_SLURM={jobs.folder}".encode()}
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if marks <= set((entry / "environ").read_bytes().split(b"\0")):
                found.append(int(entry.name))
    return found


def srun(jobs: Jobs, words: list[str]) -> None:
    program = next(i for i, word in enumerate(words) if not word.startswith("-"))
    os.execvp(words[program], words[program:])


def squeue(jobs: Jobs, words: list[str]) -> None:
    """Print jobs that are not over; --format=%T state, %L time left."""
    options, _ = options_of([word for word in words if word != "--noheader"])
    known = {job["id"]: job for job in jobs.all()}
    if options["--jobs"] not in known:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    job, left = known[options["--jobs"]], jobs.folder / "left"
    if job["state"] not in OVER:
        told = {"%T": job["state"], "%L": left.read_text() if left.exists() else "4:00:00"}
        say(told[options["--format"]])


def sacct(jobs: Jobs, words: list[str]) -> None:
    line = shlex.join(words)
    if "JobIdRaw,State" in line:
        name = words[words.index("--name") + 1]
        for job in jobs.all():
            if job["options"]["--job-name"] == name:
                say(f"{job['id']}|{job['state']}")
    elif "--format=State" in line:
        say(next(job["state"] for job in jobs.all() if f"--jobs={job['id']}" in words))
    elif "nodelist" in line:
        say("node1")
    elif "Account" in line:
        sys.exit("sacct: error: Invalid user")


def scancel(jobs: Jobs, words: list[str]) -> None:
    options, numbers = options_of(words)
    if "--name" in options:
        numbers = [job["id"] for job in jobs.all() if job["options"]["--job-name"] == options["--name"]]
    for number in numbers:
        if jobs.read(number)["state"] not in OVER:
            jobs.end(number, "CANCELLED")


def scontrol(jobs: Jobs, words: list[str]) -> None:
    if words == ["show", "config"]:
        say("MinJobAge               = 300 sec\nMaxArraySize            = 1001")
    elif words[0] == "requeue":
        if "--requeue" not in jobs.read(words[1])["options"]:
            sys.exit("Requested operation is presently disabled for job")
        jobs.end(words[1], "REQUEUE")


def sinfo(jobs: Jobs, words: list[str]) -> None:
    say("PARTITION\nmain*\ngpu")


def sacctmgr(jobs: Jobs, words: list[str]) -> None:
    say("lab\nnobody")


def main() -> None:
    program, *words = sys.argv[1:]
    jobs = Jobs(Path(os.environ["FAKE_SLURM"]))
    if program != "node":
        with (jobs.folder / "calls").open("a") as calls:
            calls.write(json.dumps([program, *words]) + "\n")
    globals()[program](jobs, words)


if __name__ == "__main__":
    main()
