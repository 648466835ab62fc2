"""criticflow: what is a trained critic worth in PPO for language models?

The package holds the stages of the workflow; the Snakemake rules in ``workflow/`` call it. This
module stays empty of imports, so that tools needing only torch (the checkpoint converter) can use
their part of the package where verl, vLLM or Ray are not installed.
"""

__version__ = "0.2.0"
