"""Makes the toy lab importable; it is also run as a script by the test that kills it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
