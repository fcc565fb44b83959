"""The algebra: one law a file, and the pipeline that orders them.

A law is a function ``Program -> Program`` that never changes what the program computes (in exact arithmetic), states
its side conditions in its docstring, and has a property test against the reference evaluator. `online` and `dead` are
laws about a loop rather than about an expression: they answer questions that the schedule asks.
"""
