from ml_packages import copied, packages

__all__ = ["copied", "packages"]
