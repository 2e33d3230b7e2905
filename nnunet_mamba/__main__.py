"""python -m nnunet_mamba: the command `nnunet-mamba`."""

import sys

from nnunet_mamba.cli import main

sys.exit(main())
