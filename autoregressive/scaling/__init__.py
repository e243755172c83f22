"""Test-time scaling: spending more tokens on an image, led by a reward."""
