"""hubpub: build and release system for model repos on the Hugging Face Hub."""

__version__ = "0.1.0"
