"""`pytest --strict-skips`, as CI runs it: a test that is skipped fails, unless its reason is listed here.

Another machine may lack what a test needs. In CI such a skip would hide a check that nobody runs.
"""

import re

import pytest

ALLOWED_SKIPS = {  # the beginning of a reason, and why CI cannot help it
    "needs a CUDA device": "no GPU; test_triton_interpreted.py runs these tests under Triton's interpreter",
    "takes too long under the interpreter": "the larger sizes of the same tests",
    "mamba_ssm is not installed": "it is compiled for a GPU; the product does without",
    "no Chromium here": "a browser is no dependency; the page's content is tested without one",
    "the hippocampus data are not at": "they are large; synthetic images are predicted everywhere",
    "mounting ": "a small disk, to be filled, is mounted by root, and not in every container",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--strict-skips", action="store_true", help="skips fail, but for those of strict_skips.py"
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item):
    return judged((yield), item.config)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """Whole modules, whose collection is skipped."""
    return judged((yield), collector.config)


def judged(report, config: pytest.Config):
    """The report, failed if it is of a skip (not of an expected failure) that is not allowed."""
    if config.getoption("strict_skips") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not any(re.match(allowed, reason) for allowed in ALLOWED_SKIPS):
            report.outcome = "failed"
            report.longrepr = (
                f"Skipped: {reason}\n--strict-skips allows only the skips listed in tests/strict_skips.py: "
                "let this test run here (install or provide what it needs), or list its reason there."
            )
    return report
