"""Batched predictions beside stock ones: the same random networks, odd images, all choices.

Tolerances: a batch changes how a convolution sums, which in float32 is some 1e-6 of the logits. Both
predictors add up in float16, whose spacing is 2**-11 of a value: a difference of 1e-6 before rounding can end
on the other side of a rounding border, once per tile that covers a voxel.
"""

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch.overrides import _get_current_function_mode as _get_current_mode

from nnunet_mamba import create_network, list_networks
from nnunet_mamba.inference import BatchedPredictor
from nnunet_mamba.inference.channels_last import ChannelsLast, channels_last
from nnunet_mamba.inference.predictor import torch_threads
from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.family import get_config
from nnunet_mamba.networks.finite import NonFiniteError, NonFiniteWeightsError

CPU = torch.device("cpu")
PATCH = {2: (16, 12), 3: (8, 12, 8)}
IMAGES = {
    "2d": (2, (3, 21, 17)),
    "2d smaller than the patch": (2, (2, 9, 11)),
    "3d": (3, (9, 17, 7)),
    "3d smaller than the patch": (3, (5, 14, 7)),
}
SIZES = {"features_per_stage": [4, 8], "input_channels": 1, "num_classes": 3}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """For many small passes on a busy machine."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with torch_threads(1):
        yield


def network(ndim, name="nnunet", seed=0):
    torch.manual_seed(seed)
    strides, kernels = [[1] * ndim, [2] * ndim], [[3] * ndim] * 2
    made = create_network(name, **SIZES, strides=strides, kernel_sizes=kernels, patch_size=PATCH[ndim])
    return made.eval()


@pytest.fixture
def make_predictor(make_plans, make_dataset_json):
    """A function: a predictor of that class for random networks of 2 or 3 axes."""

    def make(kind, ndim, net=None, axes=(0,), seeds=(0,), **options):
        plans = PlansManager(make_plans(2, patch=PATCH[ndim]))
        configuration = plans.get_configuration("2d" if ndim == 2 else "3d_fullres")
        configuration.configuration["patch_size"] = list(PATCH[ndim])
        predictor = kind(device=CPU, allow_tqdm=False, **options)
        predictor.manual_initialization(
            net or network(ndim),
            plans,
            configuration,
            [network(ndim, seed=seed).state_dict() for seed in seeds],
            make_dataset_json(),
            "nnUNetTrainer",
            axes,
        )
        return predictor

    return make


def image(shape, seed=7):
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))


def agree(ours, stock, n_tiles=8):
    assert ours.shape == stock.shape and ours.dtype == stock.dtype == torch.float16
    spacing = 2**-11 * stock.float().abs().max()
    assert (ours.float() - stock.float()).abs().max() <= n_tiles * spacing
    best, second = stock.float().topk(2, dim=0).values
    clear = best - second > 2 * n_tiles * spacing
    assert clear.float().mean() > 0.5
    assert (ours.argmax(0) == stock.argmax(0))[clear].all()


@pytest.mark.parametrize("mirrored", ["none", "some", "all"])
@pytest.mark.parametrize("case", IMAGES)
def test_logits_are_nnunets(make_predictor, case, mirrored):
    ndim, shape = IMAGES[case]
    axes = {"none": None, "some": (ndim - 1,), "all": tuple(range(ndim))}[mirrored]
    stock = make_predictor(nnUNetPredictor, ndim, axes=axes)
    expected = stock.predict_logits_from_preprocessed_data(image(shape))
    for batch_size in (1, 3, 100, None):
        ours = make_predictor(BatchedPredictor, ndim, axes=axes, batch_size=batch_size)
        agree(ours.predict_logits_from_preprocessed_data(image(shape)), expected)


@pytest.mark.parametrize(
    "options", [{"tile_step_size": 1.0}, {"use_gaussian": False}, {"use_mirroring": False}], ids=str
)
def test_the_options_of_nnunet_mean_what_they_mean_there(make_predictor, options):
    stock = make_predictor(nnUNetPredictor, 2, axes=(0, 1), **options)
    ours = make_predictor(BatchedPredictor, 2, axes=(0, 1), batch_size=8, **options)
    data = image((2, 21, 17))
    agree(*(p.predict_logits_from_preprocessed_data(data) for p in (ours, stock)))


def test_folds_are_averaged_as_in_nnunet(make_predictor):
    stock, ours = (make_predictor(kind, 3, seeds=(1, 2, 3)) for kind in (nnUNetPredictor, BatchedPredictor))
    data = image((9, 17, 7))
    averaged = ours.predict_logits_from_preprocessed_data(data)
    agree(averaged, stock.predict_logits_from_preprocessed_data(data))
    single = make_predictor(BatchedPredictor, 3, seeds=(1,)).predict_logits_from_preprocessed_data(data)
    assert not torch.allclose(averaged, single)


@pytest.mark.parametrize("ndim", [2, 3])
def test_before_they_are_added_up_logits_agree_to_rounding(make_predictor, ndim):
    """In float64, where a batch changes 1e-15 and a wrong flip everything."""
    axes = tuple(range(ndim))
    net = network(ndim).double()
    stock, ours = (make_predictor(kind, ndim, net, axes) for kind in (nnUNetPredictor, BatchedPredictor))
    ours.batch_size = 4
    patches = torch.randn(3, 1, *PATCH[ndim], dtype=torch.float64)
    together = ours._internal_maybe_mirror_and_predict(patches)
    for patch, found in zip(patches, together, strict=True):
        torch.testing.assert_close(
            found[None], stock._internal_maybe_mirror_and_predict(patch[None]), rtol=1e-12, atol=1e-12
        )


class PerVoxel(nn.Module):
    """A network whose arithmetic cannot depend on the batch; keeps the sizes of its batches."""

    def __init__(self, most=10**9, error=None):
        super().__init__()
        self.most, self.error, self.sizes = most, error or torch.OutOfMemoryError("CUDA out of memory."), []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise self.error
        ramp = torch.arange(x.shape[-1], dtype=x.dtype)  # so that an unmirrored output is distinguishable
        return torch.cat([x + ramp, x * 2, -x], 1)


def test_where_a_batch_changes_nothing_results_are_equal_to_the_last_bit(make_predictor):
    nets = PerVoxel(), PerVoxel()
    stock = make_predictor(nnUNetPredictor, 2, nets[0], axes=(0, 1))
    ours = make_predictor(BatchedPredictor, 2, nets[1], axes=(0, 1), batch_size=16)
    data = image((3, 37, 29))
    assert torch.equal(*(p.predict_sliding_window_return_logits(data) for p in (ours, stock)))
    n_tiles = 3 * 4 * 4
    assert nets[0].sizes == [1] * 4 * n_tiles
    assert nets[1].sizes == [16] * (n_tiles // 4)


@pytest.mark.parametrize("asked, passes", [(1, [1] * 12), (3, [2] * 6), (4, [4] * 3), (100, [8, 4])])
def test_batches_are_powers_of_two_of_whole_tiles(make_predictor, asked, passes):
    net = PerVoxel()
    ours = make_predictor(BatchedPredictor, 2, net, axes=(0, 1), batch_size=asked)
    ours.predict_sliding_window_return_logits(image((3, 16, 12)))  # three slices of one tile, four copies
    assert net.sizes == passes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["cuda", "cpu"],
)
def test_without_memory_batches_are_halved_and_stay_so(make_predictor, error):
    net = PerVoxel(most=5, error=error)
    ours = make_predictor(BatchedPredictor, 2, net, axes=(0, 1), batch_size=16)
    stock = make_predictor(nnUNetPredictor, 2, PerVoxel(), axes=(0, 1))
    data = image((5, 16, 12))
    assert torch.equal(*(p.predict_sliding_window_return_logits(data) for p in (ours, stock)))
    assert net.sizes == [16, 8, 4, 4, 4, 4, 4]
    assert ours.batch_size == 4
    ours.predict_sliding_window_return_logits(data)
    assert net.sizes[7:] == [4] * 5


@pytest.mark.parametrize(
    "net",
    [PerVoxel(most=0), PerVoxel(most=3, error=RuntimeError("shapes do not fit"))],
    ids=["memory", "bug"],
)
def test_what_smaller_batches_cannot_help_is_raised(make_predictor, net):
    ours = make_predictor(BatchedPredictor, 2, net, batch_size=4)
    with pytest.raises(RuntimeError, match=r"out of memory|do not fit"):
        ours.predict_sliding_window_return_logits(image((3, 16, 12)))
    assert net.sizes == ([4, 2, 1] if net.most == 0 else [4])


def test_an_error_holds_no_tensors_while_nnunet_tries_again(make_predictor):
    ours = make_predictor(BatchedPredictor, 2, PerVoxel(most=0), batch_size=1)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        ours._internal_predict_sliding_window_return_logits(
            image((1, 16, 12)), [(slice(None), 0, slice(0, 16), slice(0, 12))], False
        )
    frames = [entry.frame for entry in raised.traceback]
    (inner,) = (frame for frame in frames if frame.code.name == "_predict_tiles")
    assert not inner.f_locals


def test_infinite_logits_are_refused(make_predictor):
    ours = make_predictor(BatchedPredictor, 2, PerVoxel(), batch_size=1)
    with pytest.raises(NonFiniteError, match=r"infinite.*65504"):
        ours.predict_sliding_window_return_logits(torch.full((1, 1, 16, 12), 3e4))


class Fails(PerVoxel):
    """PerVoxel with a NaN in the first output where the image is brightest, if that is above `most`."""

    def forward(self, x):
        y = super().forward(x)
        y[:, 0][x[:, 0] > 100] = torch.nan
        return y


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("mirrored", [True, False])
def test_a_single_nan_is_refused_with_its_tile(make_predictor, batch_size, mirrored):
    axes = (0, 1) if mirrored else None
    ours = make_predictor(BatchedPredictor, 2, Fails(), axes=axes, batch_size=batch_size, tile_step_size=1.0)
    data = image((3, 32, 24))
    data[0, 1, 20, 5] = 101
    with pytest.raises(
        NonFiniteError, match=r"^the image, by the network: tile \[1, 16:32, 0:12\] of the .* \(Fails\)"
    ):
        ours.predict_sliding_window_return_logits(data)


def test_the_case_is_named_whose_turn_it_was(make_predictor):
    ours = make_predictor(BatchedPredictor, 2, Fails(), axes=None, cases=["a", "b", "c"])
    bright = image((1, 16, 12))
    bright[0, 0, 0, 0] = 101
    ours.predict_sliding_window_return_logits(image((1, 16, 12)))
    with pytest.raises(NonFiniteError, match=r"^b, by the network: tile \[0, 0:16, 0:12\]"):
        ours.predict_sliding_window_return_logits(bright)
    bright[0, 0, 0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match=r"^c: 1 of the 192 values of the prep"):
        ours.predict_sliding_window_return_logits(bright)


def test_after_a_failure_the_next_case_has_its_own_name(make_predictor):
    """The folds that were not tried are not counted as cases."""
    ours = make_predictor(BatchedPredictor, 2, axes=None, seeds=(1, 2, 3))
    ours.dataset_json = {"file_ending": ".png"}
    ours._manage_input_and_output_lists([["x_0000.png"], ["y_0000.png"]], ["out/x", "out/y"])
    broken = image((1, 16, 12)) * torch.inf
    for case in ("x", "y"):
        with pytest.raises(NonFiniteError, match=f"^{case}: 192 of the 192 values of the preprocessed image"):
            ours.predict_logits_from_preprocessed_data(broken)


def test_a_sum_of_folds_that_overflows_is_refused(make_predictor):
    """Each fold's logits are below float16's 65504, and their sum is not."""
    ours = make_predictor(BatchedPredictor, 2, axes=None, seeds=(1, 2))
    ours.use_gaussian = False
    for parameters in ours.list_of_parameters:
        name = [name for name in parameters if name.startswith("decoder.seg_layers")][-1]
        parameters[name].fill_(40000)  # the bias of the last head
    with pytest.raises(NonFiniteError, match=r"^the image: the sum of 2 sets of logits exceeds"):
        ours.predict_logits_from_preprocessed_data(image((2, 16, 12)))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_weights_that_leave_no_trace_in_the_output_are_found(make_predictor, value):
    """The exponential of minus infinity is 0, and that is what A_log is for."""
    ours = make_predictor(BatchedPredictor, 2, network(2, "umamba_bot"), axes=None)
    ours.list_of_parameters = [network(2, "umamba_bot", seed).state_dict() for seed in (1, 2)]
    name = next(name for name in ours.list_of_parameters[1] if name.endswith("A_log"))
    ours.list_of_parameters[1][name].view(-1)[0] = value
    with pytest.raises(NonFiniteWeightsError, match=f"^the image, by set 2 of 2 of weights: .*{name}"):
        ours.predict_logits_from_preprocessed_data(image((2, 16, 12)))


def test_the_last_fold_counts_as_much_as_the_first(make_predictor):
    ours = make_predictor(BatchedPredictor, 2, seeds=(1, 2))
    next(iter(ours.list_of_parameters[1].values())).view(-1)[0] = torch.nan
    found = r"^the image, by set 2 of 2 of weights: .*Weights that hold NaN or infinity: encoder"
    with pytest.raises(NonFiniteWeightsError, match=found):
        ours.predict_logits_from_preprocessed_data(image((2, 16, 12)))


def test_nothing_is_done_twice_on_a_gpu(make_predictor):
    """nnU-Net tries again with its results on the CPU after any RuntimeError."""
    ours = make_predictor(BatchedPredictor, 2, Fails(), axes=None, batch_size=1)
    ours.perform_everything_on_device = True
    data = torch.full((1, 1, 16, 12), 101.0)
    with pytest.raises(NonFiniteError):
        ours.predict_sliding_window_return_logits(data)
    assert ours.network.sizes == [1, 1]  # the second to find the layer


def test_a_single_patch_at_a_time_is_nnunet_to_the_last_bit(make_predictor):
    for ndim, shape in IMAGES.values():
        stock, ours = (
            make_predictor(kind, ndim, axes=tuple(range(ndim)), **options)
            for kind, options in ((nnUNetPredictor, {}), (BatchedPredictor, {"batch_size": 1}))
        )
        assert torch.equal(*(p.predict_sliding_window_return_logits(image(shape)) for p in (ours, stock)))


@pytest.mark.parametrize("name", ["batch_size", "n_threads"])
def test_nonsense_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        BatchedPredictor(device=CPU, **{name: 0})


def test_forward_passes_have_the_threads_asked_for(make_predictor, monkeypatch):
    monkeypatch.setattr("nnunetv2.inference.predict_from_raw_data.default_num_processes", 1)
    seen, net = [], network(2)
    net.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    for n_threads in (3, None):
        predictor = make_predictor(BatchedPredictor, 2, net, axes=None, n_threads=n_threads)
        predictor.predict_logits_from_preprocessed_data(image((1, 16, 12)))
    assert seen == [3, 2]
    assert torch.get_num_threads() == 1


def small(name):
    """A tiny network of that name and a batch of two that it takes."""
    base = name.removesuffix("_nossm")
    if not isinstance(get_config(name), FixedConfig):
        return network(3, name), torch.randn(2, 1, *PATCH[3])
    features, grid = [8, 16, 32, 64], (40, 56)
    if base in ("segmamba", "segmamba_v2", "nnmamba", "lightm_unet"):
        features, grid = {"segmamba": [4, 4, 8, 8], "nnmamba": [16] * 4}.get(base, [8] * 4), (24, 16, 16)
    features = [4, *features] if base == "swin_umamba" else features
    sizes = {"features_per_stage": features, "depths": 1, "input_channels": 1, "num_classes": 3}
    return create_network(name, **sizes).eval(), torch.randn(2, 1, *grid)


@pytest.mark.parametrize("name", list_networks())
def test_networks_keep_the_items_of_a_batch_apart(name):
    torch.manual_seed(0)
    net, x = small(name)
    if "lightm" in name:  # it amplifies the rounding of float32
        net, x = net.double(), x.double()
    with torch.inference_mode():
        together = net(x)
        other = net(torch.stack([x[0], 100 * x[1]]))
        alone = torch.cat([net(item[None]) for item in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))
    torch.testing.assert_close(other[0], together[0], rtol=1e-5, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize("name", list_networks())
def test_networks_return_the_same_with_channels_last(name):
    torch.manual_seed(0)
    net, x = small(name)
    with torch.inference_mode():
        expected = net(x)
        with channels_last(net, CPU):
            found = net(x)
    error = 3e-3 if "lightm" in name else 1e-4  # it amplifies the rounding of float32
    torch.testing.assert_close(found, expected, rtol=error, atol=error * float(expected.abs().max()))


def test_only_a_batch_size_of_one_keeps_torchs_operators(make_predictor):
    for batch_size, is_torchs in ((None, False), (2, False), (1, True)):
        net, seen = network(3), []
        net.register_forward_pre_hook(lambda *_, seen=seen: seen.append(type(_get_current_mode())))
        predictor = make_predictor(BatchedPredictor, 3, net, axes=None, batch_size=batch_size)
        predictor.predict_sliding_window_return_logits(image((8, 12, 8)))
        assert set(seen) == {type(None) if is_torchs else ChannelsLast}


@pytest.mark.parametrize("ndim, shape", [(2, (5, 21, 17)), (3, (9, 30, 17))])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_constant_tiles_are_predicted_once(make_predictor, ndim, shape, batch_size):
    """Equal to nnU-Net to the last bit. Four fifths of the image hold two constants."""
    nets = PerVoxel(), PerVoxel()
    axes = tuple(range(ndim))
    stock = make_predictor(nnUNetPredictor, ndim, nets[0], axes=axes)
    ours = make_predictor(BatchedPredictor, ndim, nets[1], axes=axes, batch_size=batch_size)
    data = image(shape)
    along = data.movedim(ndim - 1, 0)
    along[: len(along) * 4 // 5] = -2.5
    along[: len(along) * 2 // 5] = 1.25
    assert torch.equal(*(p.predict_sliding_window_return_logits(data) for p in (ours, stock)))
    assert sum(nets[1].sizes) < sum(nets[0].sizes) - 2**ndim


def test_a_constant_tile_of_other_values_is_predicted(make_predictor):
    net = PerVoxel()
    ours = make_predictor(BatchedPredictor, 2, net, axes=None, batch_size=1)
    data = torch.zeros(1, 6, 16, 12)  # six tiles
    data[:, 2:4] = 1
    data[:, 5, 3, 4] = 2
    ours.predict_sliding_window_return_logits(data)
    assert net.sizes == [1] * 4  # zeros, ones, zeros again, and a tile that differs in one voxel
