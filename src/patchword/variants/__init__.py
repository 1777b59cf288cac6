"""Named configurations as data, each with the source of its numbers.

They are for networks that are trained from random weights. A checkpoint states its own numbers.
"""

from patchword.variants import blip, clip, images, siglip

VARIANTS = images.VARIANTS | clip.VARIANTS | siglip.VARIANTS | blip.VARIANTS
