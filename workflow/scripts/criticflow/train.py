"""``python -m criticflow.train``: see :mod:`criticflow.commands.train`."""

from criticflow.commands.train import main

if __name__ == "__main__":
    main()
