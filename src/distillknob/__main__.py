"""`python -m distillknob`, which is what `accelerate launch -m distillknob …` needs."""

import sys

from distillknob.cli.main import main

sys.exit(main())
