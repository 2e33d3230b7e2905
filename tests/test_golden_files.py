"""Samples of golden files: parts of the full ones, from which a test sees what it would see of the whole."""

import json

import numpy as np
import pytest
import torch
from golden_files import FULL, N_VOXELS, SAMPLES, random_input, read_full, read_sample, write_sample

SHAPE = (1, 3, 8, 20, 20)


@pytest.fixture
def full_file(tmp_path):
    """A function: a file as the papers' code leaves one, with an input of its own or the usual one."""

    def write(image: torch.Tensor):
        truth = np.random.default_rng(0).normal(size=SHAPE)
        truth.flat[-1] = -10
        arrays = {
            "out0_fp64": truth,
            "out0": truth.astype(np.float32),
            "output1": truth[:, :, 0],
            "skip0": truth,
        }
        texts = {
            "state_dict_shapes": {"weight": [4], "second.weight": [4]},
            "alias_json": {"second.weight": "weight"},
        }
        np.savez(
            tmp_path / "net.npz",
            input=image.numpy(),
            n_params=np.int64(4),
            **arrays,
            **{key: json.dumps(value) for key, value in texts.items()},
        )
        return read_full(tmp_path / "net.npz")

    return write


@pytest.mark.parametrize("seeded", [True, False])
def test_a_sample_is_read_as_the_full_file_is(full_file, tmp_path, seeded):
    image = random_input([1, 1, 8, 20, 20]) * (1 if seeded else 2)
    full = full_file(image)
    write_sample(full, tmp_path / "sample.npz")
    sample = read_sample(tmp_path / "sample.npz")
    assert sample.about == full.about
    assert list(full.about) == ["n_params", "state_dict", "aliases"]
    assert torch.equal(sample.input, image)
    assert ("input" in np.load(tmp_path / "sample.npz")) is not seeded
    assert {name: len(output.voxels) for name, output in sample.outputs.items()} == {
        "out0": N_VOXELS,
        "out1": 1200,
    }
    truth = torch.from_numpy(full.outputs["out0"].values).reshape(SHAPE)
    for file in (full, sample):
        assert file.outputs["out0"].error(truth) == 0
        assert file.outputs["out0"].error(truth + 1e-3) == pytest.approx(1e-4)
        assert file.outputs["out0"].difference(truth + 1e-3) == pytest.approx(1e-3)
        assert not file.outputs["out0"].error(truth * torch.nan) < 1
        with pytest.raises(AssertionError):
            file.outputs["out0"].error(truth.flatten())


def test_outputs_at_some_voxels_are_read_with_the_shape_and_size_of_the_whole(tmp_path):
    """As in files of one `index` per output, and values under two rules of weights."""
    image, truth = random_input([1, 1, 8, 20, 20]), np.random.default_rng(0).normal(size=(3, *SHAPE))
    voxels = np.arange(1, truth[0].size, 3, dtype=np.int32)
    names = ("out0_mild", "out0_strong", "train_out0_mild")
    values = {name: whole.ravel()[voxels] for name, whole in zip(names, truth, strict=True)}
    config = {"shapes": [SHAPE], "mild": {"absmax": [7.0]}, "strong": {"absmax": [8.0]}}
    texts = {"config_json": config, "probes_mild_json": {"layer": [0.5]}, "alias_json": {}}
    np.savez(
        tmp_path / "net.npz",
        input=image.numpy(),
        index0=voxels,
        **values,
        **{key: json.dumps(value) for key, value in texts.items()},
    )
    full = read_full(tmp_path / "net.npz")
    write_sample(full, tmp_path / "sample.npz")
    sample = read_sample(tmp_path / "sample.npz")
    assert list(full.about) == list(sample.about) == ["config", "aliases"]
    for file, n_voxels in ((full, len(voxels)), (sample, N_VOXELS)):
        for name, whole in zip(names, truth, strict=True):
            output = file.outputs[name]
            assert len(output.voxels) == n_voxels and set(output.voxels) <= set(voxels)
            assert output.error(torch.from_numpy(whole)) == 0
        assert [file.outputs[name].largest for name in names[:2]] == [7, 8]
        assert file.outputs["out0_mild"].error(torch.from_numpy(truth[0] + 7)) == pytest.approx(1)


def test_voxels_follow_from_the_names(full_file):
    full = full_file(random_input([1, 1, 8, 20, 20]))
    voxels = [full.sample(name).outputs["out0"].voxels for name in ("one", "one", "other")]
    assert np.array_equal(voxels[0], voxels[1])
    assert not np.array_equal(voxels[0], voxels[2])
    assert len(set(voxels[0])) == N_VOXELS


def test_samples_are_parts_of_the_full_files():
    if not FULL.is_dir():
        pytest.skip("the full golden files are not at ../shared/golden")
    for path in SAMPLES.glob("*.npz"):
        sample, expected = read_sample(path), read_full(FULL / path.name).sample(path.stem)
        assert json.dumps(sample.about) == json.dumps(expected.about), path.name
        assert sample.inputs.keys() == expected.inputs.keys()
        assert all(torch.equal(sample.inputs[key], expected.inputs[key]) for key in expected.inputs), (
            path.name
        )
        assert sample.outputs.keys() == expected.outputs.keys()
        for entry, output in expected.outputs.items():
            for field in ("shape", "largest", "voxels", "values"):
                same = np.array_equal(getattr(sample.outputs[entry], field), getattr(output, field))
                assert same, (
                    f"{field} of {entry} of {path.name}; write the samples again with tests/golden_files.py"
                )
    names = "vmamba_v0_keys.json"
    assert (SAMPLES / names).read_bytes() == (FULL / names).read_bytes()
