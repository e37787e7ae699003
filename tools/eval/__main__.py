#!/usr/bin/env python3
"""The accuracy laboratory: python3 tools/eval COMMAND ..., or lserve eval COMMAND ... (docs/accuracy.md)."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(1, str(pathlib.Path(__file__).resolve().parent.parent))  # local_server

from lserve_eval.cli import main

sys.exit(main())
