"""The shim that older tools ask for; everything is said in setup.cfg."""

from setuptools import setup

setup()
