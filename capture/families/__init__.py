"""One file a model family: which layers attend to the reference, and where its tokens are.

May import `profiles` and `hooks`, and `pipelines` for its types. Importing this folder registers every family.
"""

from i2am.capture.families import (
    compvis,
    first_frame,
    flux,
    hunyuan,
    ip_adapter,
    kandinsky,
    qwen,
    reference_only,
    unet,
    wan,
)

__all__ = [
    "compvis",
    "first_frame",
    "flux",
    "hunyuan",
    "ip_adapter",
    "kandinsky",
    "qwen",
    "reference_only",
    "unet",
    "wan",
]
