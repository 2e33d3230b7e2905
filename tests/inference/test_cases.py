"""The loop over cases: which they are, what runs at once, what an error stops."""

import gc
import time
import weakref
from pathlib import Path
from threading import Event

import pytest
import torch
from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder
from tiny_models import tiny_plans, write_images, write_model

from nnunet_mamba.inference import CasePredictor, cases, find_cases
from nnunet_mamba.inference.batches import torch_threads
from nnunet_mamba.inference.cases import check_previous_stage, describe_error, summarise
from nnunet_mamba.inference.export import Exporter
from nnunet_mamba.inference.model import load_model
from nnunet_mamba.networks.finite import NonFiniteError, NonFiniteWeightsError

# The cases of a folder


NAMES = ["a_0000.png", "a_0001.png", "a_0002.png", "b_0000.png", "b_0000_0000.png", "a.b_0000.png"]
NAMES += ["A (1)+_0000.png", "ab_0000.png", "b_0001.png", "c_0003.png"]


def test_cases_and_channels_are_those_that_nnunet_finds(tmp_path):
    for name in NAMES:
        (tmp_path / name).touch()
    found = find_cases(tmp_path, tmp_path / "out", ".png")
    expected = create_lists_from_splitted_dataset_folder(str(tmp_path), ".png")
    assert [[str(file) for file in case.files] for case in found] == expected
    assert [case.name for case in found] == ["A (1)+", "a", "a.b", "ab", "b", "b_0000", "c"]
    assert all(case.target == tmp_path / "out" / case.name for case in found)


def test_other_files_are_no_cases(tmp_path):
    for name in (
        "a.png",
        "._a_0000.png",
        "a_000.png",
        "a_00001.png",
        "_0000.png",
        "a_0000.pngx",
        "b_0000.png",
    ):
        (tmp_path / name).touch()
    assert [case.name for case in find_cases(tmp_path, tmp_path, ".png")] == ["b"]


@pytest.mark.parametrize("names", [[], ["a.nii.gz", "b_0000.png", "readme.txt"]])
def test_a_folder_without_images_is_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"holds no image; expected files named CASE_0000.nii.gz"):
        find_cases(tmp_path, tmp_path, ".nii.gz")


def test_label_maps_of_the_previous_stage_belong_to_their_cases(tmp_path):
    for name in ("a_0000.png", "b_0000.png", "c_0000.png"):
        (tmp_path / name).touch()
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / "b.png").touch()
    listed = find_cases(tmp_path, tmp_path, ".png", stage)
    with pytest.raises(ValueError, match=r"stage lacks a.png, c.png: a cascade needs"):
        check_previous_stage(listed)
    check_previous_stage([case for case in listed if case.name == "b"])  # a part's, or those not done yet
    for name in ("a.png", "c.png"):
        (stage / name).touch()
    found = find_cases(tmp_path, tmp_path, ".png", stage)
    assert [case.previous_stage for case in found] == [stage / f"{name}.png" for name in "abc"]


# The loop over them


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "nnUNetTrainer__nnUNetPlans__c"
    write_model(folder, tiny_plans((1.0, 1.3, 1.0), patch=(8, 8, 8)))
    options = {"perform_everything_on_device": False, "allow_tqdm": False, "batch_size": 8, "n_threads": 1}
    return load_model(folder, ["0"], "checkpoint_final.pth", "cpu", **options)


def five(folder):
    return write_images(folder, {f"case{number}": (5 + number, 9, 7) for number in range(5)})


def predict_all(predictor, images, out, **options):
    """Return the outcomes and the names of the cases in the order in which they were reported."""
    reported = []
    report = {"report": lambda outcome: reported.append(outcome.case.name)}
    run = CasePredictor(predictor, **{**report, **options})
    return run.predict(find_cases(images, out, ".nii.gz")), reported


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_reading_and_writing_beside_the_network_changes_nothing(predictor, tmp_path):
    images = five(tmp_path / "images")
    for overlap in (False, True):
        outcomes, reported = predict_all(predictor, images, tmp_path / str(overlap), overlap=overlap)
        assert reported == [outcome.case.name for outcome in outcomes] == [f"case{n}" for n in range(5)]
        for outcome in outcomes:
            assert list(outcome.seconds) == ["read", "network", "label", "write"]
            assert outcome.error is None and min(outcome.seconds.values()) > 0
    assert len(contents(tmp_path / "True")) == 5
    assert contents(tmp_path / "True") == contents(tmp_path / "False")


def test_the_next_image_is_read_and_the_last_written_while_the_network_computes(
    predictor, tmp_path, monkeypatch
):
    """And no more than one of each, for memory."""
    images = five(tmp_path / "images")
    read, written = ([Event() for _ in range(5)] for _ in range(2))
    preprocess, logits_of, write = cases.preprocess_case, predictor.predict_logits, Exporter.write

    def number(name):
        return int(Path(name).name[4])

    def preprocess_and_tell(files, *others):
        result = preprocess(files, *others)
        read[number(files[0])].set()
        return result

    def predict(image, name):
        n = number(name)
        if n < 4:
            assert read[n + 1].wait(10)
        if n > 0:
            assert written[n - 1].wait(10)
        assert not any(event.is_set() for event in read[n + 2 :])
        return logits_of(image, name)

    def write_and_tell(self, prediction, target):
        write(self, prediction, target)
        written[number(target)].set()

    monkeypatch.setattr(cases, "preprocess_case", preprocess_and_tell)
    monkeypatch.setattr(predictor, "predict_logits", predict)
    monkeypatch.setattr(Exporter, "write", write_and_tell)
    outcomes, _ = predict_all(predictor, images, tmp_path / "out", overlap=True)
    assert [outcome.error for outcome in outcomes] == [None] * 5


def test_predictions_do_not_pile_up_before_a_slow_disk(predictor, tmp_path, monkeypatch):
    """One is written and one waits: each may take gigabytes."""
    n_unwritten, most = 0, 0
    logits_of, write = predictor.predict_logits, Exporter.write

    def predict(image, name):
        nonlocal n_unwritten, most
        n_unwritten += 1
        most = max(most, n_unwritten)
        return logits_of(image, name)

    def write_slowly(self, prediction, target):
        nonlocal n_unwritten
        time.sleep(0.1)
        write(self, prediction, target)
        n_unwritten -= 1

    monkeypatch.setattr(predictor, "predict_logits", predict)
    monkeypatch.setattr(Exporter, "write", write_slowly)
    predict_all(predictor, five(tmp_path / "images"), tmp_path / "out", overlap=True)
    assert most == 2 and n_unwritten == 0


def fail_in(stage, case, error, predictor, monkeypatch):
    """Let one stage of one case raise an error."""
    places = {
        "read": (cases, "preprocess_case", lambda files, *_: files[0]),
        "network": (predictor, "predict_logits", lambda image, name: name),
        "write": (Exporter, "write", lambda self, prediction, target: target),
    }
    owner, name, named = places[stage]
    work = getattr(owner, name)

    def fail(*arguments):
        if case in Path(named(*arguments)).name:
            raise error
        return work(*arguments)

    monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])
@pytest.mark.parametrize("stage", ["read", "network", "write"])
@pytest.mark.parametrize("case", ["case0", "case2", "case4"])
def test_a_case_that_fails_stops_no_other(predictor, tmp_path, monkeypatch, stage, case, overlap):
    images, out = five(tmp_path / "images"), tmp_path / "out"
    out.mkdir()
    for name in (f"{case}.nii.gz", f"{case}.npz", f"{case}.pkl", "case1.nii.gz"):
        (out / name).write_text("of an earlier run")
    error = OSError("broken")
    fail_in(stage, case, error, predictor, monkeypatch)
    outcomes, reported = predict_all(predictor, images, out, overlap=overlap)
    assert reported == [f"case{number}" for number in range(5)]
    assert {o.case.name: o.error for o in outcomes if o.error} == {case: error}
    assert set(contents(out)) == {f"{name}.nii.gz" for name in reported if name != case}
    assert contents(out)["case1.nii.gz"] != b"of an earlier run"


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])
def test_weights_that_would_fail_every_case_end_it_all(predictor, tmp_path, monkeypatch, overlap):
    fail_in("network", "case1", NonFiniteWeightsError("NaN"), predictor, monkeypatch)
    with pytest.raises(NonFiniteWeightsError):
        predict_all(predictor, five(tmp_path / "images"), tmp_path / "out", overlap=overlap)
    assert set(contents(tmp_path / "out")) == {"case0.nii.gz"}


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])
def test_a_case_that_fails_leaves_its_memory_to_the_next(predictor, tmp_path, monkeypatch, overlap):
    """Errors know the frames that they were raised in, and these the image and the logits."""
    images = []

    def fail(image, name):
        images.append(weakref.ref(image))
        try:
            raise NonFiniteError("NaN")
        except NonFiniteError as error:
            raise NonFiniteError(f"{name}: NaN") from error

    monkeypatch.setattr(predictor, "predict_logits", fail)
    outcomes, _ = predict_all(predictor, five(tmp_path / "images"), tmp_path / "out", overlap=overlap)
    assert all(isinstance(outcome.error, NonFiniteError) for outcome in outcomes)
    gc.collect()
    assert [image() for image in images] == [None] * 5


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])
def test_images_are_read_with_the_threads_asked_for(predictor, tmp_path, monkeypatch, overlap):
    preprocess, seen = cases.preprocess_case, []

    def count_threads(*arguments):
        seen.append(torch.get_num_threads())
        return preprocess(*arguments)

    monkeypatch.setattr(cases, "preprocess_case", count_threads)
    assert predictor.n_threads == 1
    with torch_threads(3):
        predict_all(predictor, five(tmp_path / "images"), tmp_path / "out", overlap=overlap)
        assert torch.get_num_threads() == 3
    assert seen == [1] * 5


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])
def test_no_case_is_no_error(predictor, overlap):
    assert CasePredictor(predictor, overlap=overlap).predict([]) == []


def outcome_of(name, error=None, **seconds):
    case = cases.Case(name, (), Path(name))
    return cases.Outcome(case, seconds, error)


def test_the_summary_counts_cases_and_adds_up_stages():
    outcomes = [outcome_of("a", read=1, network=2.5), outcome_of("b", read=0.25, network=3.5)]
    assert summarise(outcomes, 7.5) == "2 cases in 7.5 s: read 1.2 s, network 6.0 s"
    outcomes.append(outcome_of("c", ValueError("bad"), read=0.5))
    assert summarise(outcomes, 8) == "2 cases in 8.0 s: read 1.8 s, network 6.0 s"
    assert summarise(outcomes[2:], 1) == "No case was predicted."
    assert summarise([], 1) == "Nothing was left to predict."


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("too thin"), "a: too thin"),
        (ValueError("axes differ"), "a: axes differ"),
        (NonFiniteError("a, by the network: NaN"), "a, by the network: NaN"),
        (KeyError("spacing"), "a: KeyError: 'spacing'"),
        (AssertionError(), "a: AssertionError: --verbose shows where it came from"),
        (torch.OutOfMemoryError("no memory"), "a: OutOfMemoryError: no memory"),
    ],
)
def test_an_error_is_told_once_with_its_case(error, said):
    assert describe_error(outcome_of("a", error)) == said
