"""One file a model family: which layers attend to the reference, and where its tokens are.

Some hold a *generic profile*, a function with parameters that serves a kind of model: a further one is one
line at the end of its file.

May import `profiles` and `hooks`, and `pipelines` for its types. Importing this folder registers every family,
and `lookup` finds the one that serves a target.
"""

from i2am.capture.families import (
    canvas,
    compvis,
    fibo2,
    first_frame,
    flux,
    flux2,
    flux3,
    flux_ip_adapter,
    garment_network,
    glm_image,
    hunyuan,
    ip_adapter,
    joy_image,
    kandinsky,
    numbered_pictures,
    omnigen,
    own_grid,
    qwen,
    qwen21,
    reference_only,
    sd3_ip_adapter,
    unet,
    visualcloze,
    wan,
    z_image,
)

__all__ = [
    "canvas",
    "compvis",
    "fibo2",
    "first_frame",
    "flux",
    "flux2",
    "flux3",
    "flux_ip_adapter",
    "garment_network",
    "glm_image",
    "hunyuan",
    "ip_adapter",
    "joy_image",
    "kandinsky",
    "numbered_pictures",
    "omnigen",
    "own_grid",
    "qwen",
    "qwen21",
    "reference_only",
    "sd3_ip_adapter",
    "unet",
    "visualcloze",
    "wan",
    "z_image",
]
