import matplotlib
from matplotlib.figure import Figure

from nnunet_mamba.study.report.charts import (
    draw_labels,
    get_method_styles,
    plot_label_differences,
    plot_labels,
)
from nnunet_mamba.study.statistics.methods import TWIN


def test_a_twin_has_its_networks_colour_and_is_hollow(tiny):
    styles = get_method_styles(tiny)
    assert styles["MMUNet"].colour == styles["MMUNet_NoSSM"].colour != styles["nnUNet"].colour
    assert [name for name in styles if styles[name].hollow] == ["MMUNet_NoSSM"]


def test_charts_do_not_take_the_style_of_the_process(tiny):
    expected = plot_labels(tiny, tiny.leading)
    with matplotlib.rc_context({"font.size": 20.0, "axes.linewidth": 3.0, "axes.facecolor": "grey"}):
        assert plot_labels(tiny, tiny.leading) == expected


def test_charts_hold_the_names_of_labels_and_methods(tiny):
    for svg in (plot_labels(tiny, tiny.leading), plot_label_differences(tiny, tiny.leading, TWIN.against)):
        assert svg.startswith("<svg") and "currentColor" in svg
        for expected in ("large", "small", "MMUNet_NoSSM"):
            assert expected in svg


def test_no_box_or_dot_of_a_label_touches_the_border(tiny):
    axes = Figure().add_subplot()
    draw_labels(axes, tiny, tiny.leading)
    low, high = axes.get_xlim()
    drawn = [x for line in axes.lines for x in line.get_xdata() if line.get_transform() == axes.transData]
    drawn += [bar.get_x() for bar in axes.patches] + [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert drawn and all(low < x < high for x in drawn)
