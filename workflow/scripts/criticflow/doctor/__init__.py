"""Whether a machine can do the work: judgements about facts, each with the line that mends it.

A module finds out and judges one kind of thing. What is found out and what is judged are apart, so
that the judgement can be asked about any machine. ``criticflow doctor`` prints all of it; a
training asks before it starts for what would end it.
"""
