"""What a tile holds past the end of a head dimension, which is padded to a power of two."""

from __future__ import annotations

from flashlight.ir.expr import Axis, Expr, Load, Map


def zero_padded(arg: Expr, axis: Axis) -> bool:
    """Whether the body is zero past the end of the axis, because what is loaded there is zero."""
    if isinstance(arg, Load):
        return axis in arg.axes
    if not isinstance(arg, Map) or axis not in arg.axes:
        return False
    zero = [zero_padded(inner, axis) for inner in arg.args]
    if arg.op == "mul":
        return any(zero) and all(finite_padded(inner, axis) for inner in arg.args)
    if arg.op == "div":
        return zero[0] and axis not in arg.args[1].axes
    if arg.op in ("cast", "neg", "abs", "tanh", "sin", "erf", "sqrt"):
        return zero[0]
    return all(zero) if arg.op in ("add", "sub", "maximum", "minimum") else arg.op == "where" and all(zero[1:])


def finite_padded(arg: Expr, axis: Axis) -> bool:
    """Whether the body is finite past the end of the axis (or spoils what is not past it as well)."""
    if axis not in arg.axes or isinstance(arg, Load):
        return True
    if not isinstance(arg, Map):
        return False
    if arg.op == "div":
        return finite_padded(arg.args[0], axis) and axis not in arg.args[1].axes
    kept = ("cast", "neg", "abs", "tanh", "sigmoid", "sin", "cos", "erf", "exp", "exp2", "add", "sub", "mul", "where")
    return arg.op in (*kept, "maximum", "minimum") and all(finite_padded(inner, axis) for inner in arg.args)
