"""Arguments that several commands have: a study, a split, how a model samples and is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path

from criticflow import config


def command_parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """The parser of ``criticflow NAME``; both texts are printed as they are."""
    return argparse.ArgumentParser(
        prog=f"criticflow {name}",
        description=description,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_study(parser: argparse.ArgumentParser) -> None:
    """A study: its configuration, and where its results are."""
    parser.add_argument(
        "--configfile",
        type=Path,
        nargs="+",
        default=[],
        help="configuration over config/config.yaml, the last file strongest",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(),
        help="working directory of the study, with its results",
    )


def add_costs_from(parser: argparse.ArgumentParser) -> None:
    """Whose jobs say how long such jobs take."""
    parser.add_argument(
        "--costs-from", type=Path, help="working directory of earlier jobs; the same by default"
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """A model and the prepared problems that it answers."""
    add = parser.add_argument
    add("--model", required=True, help="model directory or hub name")
    add("--data", required=True, type=Path, help="prepared split: results/data/TASK/test.parquet")
    add("--temperature", type=float, default=1.0, help="of the samples (default: 1.0)")
    add("--max-prompt-length", type=int, default=512, help="tokens (default: 512)")
    add("--max-response-length", type=int, default=1024, help="tokens (default: 1024)")
    add_loading(parser)


def add_loading(parser: argparse.ArgumentParser) -> None:
    """How a model is loaded, and where it runs."""
    add = parser.add_argument
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="default: float32")
    add("--trust-remote-code", action="store_true", help="run code that comes with the model")
    add("--gpu", action="store_true", help="run on a GPU")


def model_settings(given: argparse.Namespace, path: str, **more: str | None) -> config.Model:
    """What :func:`add_loading` was given, as configuration."""
    return config.Model(
        path=path, dtype=given.dtype, trust_remote_code=given.trust_remote_code, **more
    )


def resources(given: argparse.Namespace) -> config.Resources:
    """The device that :func:`add_loading` was given."""
    return config.Resources(gpu=int(given.gpu))
