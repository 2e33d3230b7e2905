"""docs/datasets.md says what the specs say."""

from pathlib import Path

from nnunet_mamba.study.datasets.page import update_page

PAGE = Path(__file__).parents[3] / "docs" / "datasets.md"


def test_the_page_is_printed_from_the_specs():
    fix = "run: python -m nnunet_mamba.study.datasets.page docs/datasets.md"
    assert PAGE.read_text() == update_page(PAGE.read_text()), fix
