"""Decode training images once.   python recipes/pack.py TARGET FOLDER_OR_TAR..."""

import sys
from pathlib import Path

from priorcodec.training.data import pack

pack(sys.argv[2:], Path(sys.argv[1]))
