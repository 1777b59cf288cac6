"""Named configurations as data, with the source of the numbers beside each.

A name gives a network to train from random weights; a checkpoint has numbers of its own.
"""

from patchword.variants import blip, clip, images, siglip

VARIANTS = images.VARIANTS | clip.VARIANTS | siglip.VARIANTS | blip.VARIANTS
