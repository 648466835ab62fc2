"""Search in the loop: the dialogue of a model with a retriever, and the retriever.

Neither torch nor vLLM is imported here: training, probe and evaluation share these modules.
"""
