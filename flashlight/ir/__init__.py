"""The intermediate representation: expressions over named axes, their printer and their reference evaluator."""
