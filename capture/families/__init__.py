"""One file a model family: which layers attend to the reference, and where its tokens are.

May import `profiles` and `hooks`, and `pipelines` for its types. Importing this folder registers every family.
"""

from i2am.capture.families import (
    compvis,
    fibo2,
    flux,
    flux2,
    flux3,
    flux_ip_adapter,
    glm_image,
    ip_adapter,
    joy_image,
    kandinsky,
    numbered_pictures,
    omnigen,
    qwen,
    qwen21,
    reference_only,
    sd3_ip_adapter,
    unet,
    wan,
    z_image,
)

__all__ = [
    "compvis",
    "fibo2",
    "flux",
    "flux2",
    "flux3",
    "flux_ip_adapter",
    "glm_image",
    "ip_adapter",
    "joy_image",
    "kandinsky",
    "numbered_pictures",
    "omnigen",
    "qwen",
    "qwen21",
    "reference_only",
    "sd3_ip_adapter",
    "unet",
    "wan",
    "z_image",
]
