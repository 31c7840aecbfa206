"""Rank consistency of weight-sharing NAS, for NNI.

The public names stand in the list of `__init__.pyi`. They are loaded when first used: torch, NNI and Lightning take
five seconds to import, which a command like `archs check` does not need.
"""

import warnings

import lazy_loader

__version__ = "0.2.0"

# NNI 3.0 asks of every class in torch.nn whether it is a module, and does not expect torch.nn.Buffer; harmless
warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module", category=RuntimeWarning)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
