"""LaME runtime: embeds pictures and texts from an exported bundle, without PyTorch.

from lame_runtime import Encoder

with Encoder.load("bundle") as encoder:
    queries = encoder.encode_query(["digits that add up to fifteen"])
    pictures = encoder.encode_document([{"image": "a.png"}, {"image": "b.png", "text": "a caption"}])
    scores = queries @ pictures.T
"""

from lame_runtime.contract.prompts import Input
from lame_runtime.encoder import Encoder
from lame_runtime.errors import BackendError, BundleError, InputError, LameError

__all__ = ["BackendError", "BundleError", "Encoder", "Input", "InputError", "LameError"]
__version__ = "0.1.0"
