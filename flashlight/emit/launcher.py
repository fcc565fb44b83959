"""The function that launches a kernel: checks what it is given, allocates the outputs, passes strides and sizes."""

from __future__ import annotations

import re

from flashlight.diagnostics import Diagnostic
from flashlight.emit.host import python
from flashlight.emit.signature import Kernel, parts_of
from flashlight.emit.torch_code import rows_code, step_code
from flashlight.ir import build, integers
from flashlight.ir.expr import ELEMENT, Const, Expr, Iota, Scalar, Tensor, is_float, walk
from flashlight.ir.printer import show
from flashlight.ir.program import Output, Program, tensors
from flashlight.region import Region
from flashlight.schedule.model import WIDEST, Schedule
from flashlight.schedule.roles import extent_name, is_size
from flashlight.trace.traced import Parameter, Traced

HELPERS = '''
def runs_kernel(*tensors):
    """Whether a kernel takes these tensors: all on a GPU (or under Triton's interpreter), and with values in memory."""
    for tensor in tensors:
        if not (tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1") or tensor.numel() == 0:
            return False
        if not torch.compiler.is_compiling() and tensor.is_neg():  # z.conj().imag: what lies in memory is -x
            return False
    return True


def expect(name, tensor, shape, dtypes, device):
    """Raise a TypeError or ValueError that says what is wrong with an argument, if anything is."""
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected {' or '.join(map(str, dtypes))}")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, expected {device}")
    if tensor.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(f"{name} requires grad, and this kernel has no backward: use torch.no_grad()")


LAUNCHED = {}  # what runs a kernel again, for each of the launches so far


def launch(kernel, programs, tensors, sizes, numbers, alike=None, **constants):
    """Run so many programs of a kernel on the device of its tensors, which come first, then integers, then floats.

    `kernel[(programs,)](...)` looks for what Triton has compiled by all of them. Here it is kept by what that may
    depend on, numbers apart: sizes and constants, dtypes, the last bits of addresses. To launch a kernel again takes
    the host half the time. For `relaunch` it is kept by what is `alike` too. `torch.compile` traces launches by
    Triton itself.
    """
    device = tensors[0].device
    if device.type == "cuda" and device.index != torch.cuda.current_device():  # on which Triton launches
        with torch.cuda.device(device):
            launch(kernel, programs, tensors, sizes, numbers, alike, **constants)
        return
    if torch.compiler.is_compiling():
        kernel[(programs,)](*tensors, *sizes, *numbers, **constants)
        return
    triton.set_allocator(scratch)
    numbers = tuple(map(float, numbers))
    kinds = [(tensor.dtype, tensor.data_ptr() % 128) for tensor in tensors]
    known = (kernel.fn, device, programs, sizes, *constants.values(), *kinds)
    run, values = LAUNCHED.get(known, (None, ()))
    if run is not None:
        run(*tensors, *sizes, *numbers, *values)
    else:
        compiled = kernel[(programs,)](*tensors, *sizes, *numbers, **constants)
        if compiled is None:  # the interpreter compiles nothing
            return
        run, values = compiled[(programs, 1, 1)], [constants[name] for name in kernel.arg_names if name in constants]
        keep(known, run, values)
    if alike is not None:
        keep(alike, run, (*sizes, *numbers, *values))


def keep(known, run, values):
    """Keep what runs a kernel, and what it is given after its tensors; of 4096 launches at most."""
    if len(LAUNCHED) == 4096:
        LAUNCHED.clear()
    LAUNCHED[known] = run, values
'''

CALLED = '''
def layouts(tensors, *values):
    """What a launch follows from: how tensors lie in memory, and values; None while `torch.compile` traces it."""
    if torch.compiler.is_compiling():
        return None
    laid = [(t.shape, t.stride(), t.dtype, t.device, t.data_ptr() % 128, t.requires_grad) for t in tensors]
    return (*map(str, values), torch.is_grad_enabled(), *laid)  # as strings: -0.0 equals 0.0, and NaN nothing


def relaunch(alike, *tensors):
    """Launch what was launched when arguments were alike, and nothing if that is not known; whether it was."""
    run, values = LAUNCHED.get(alike, (None, ()))
    if run is None or tensors[0].get_device() != torch.cuda.current_device():
        return False
    triton.set_allocator(scratch)
    run(*tensors, *values)
    return True


def spread(name, tensor, shape):
    """The tensor with its dimensions of size 1 spread to a shape; none may be missing, since they are counted."""
    if tensor.dim() != len(shape):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
    return tensor if tensor.shape == shape else tensor.expand(shape)


def number(name, value):
    """A float, also of an int or a tensor of one number."""
    if isinstance(value, torch.Tensor) and value.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(f"{name} requires grad, and this kernel has no backward: use torch.no_grad()")
    return float(value)


def quotient(a, b):
    """a / b as tensors have it: infinite or NaN where b is zero."""
    return a / b if b else math.copysign(math.inf, a) * math.copysign(1.0, b) if a else math.nan


def integer(name, value):
    """An integer that positions can be added to in 32 bits."""
    if not (-(2**30) < value < 2**30 and int(value) == value):
        raise ValueError(f"{name} is {value}, expected an integer between -2**30 and 2**30")
    return int(value)
'''
"""Functions for launchers, of which a kernel file has those that are called."""


def write_launcher(
    traced: Traced, region: Region, schedule: Schedule, kernel: Kernel, hopper: Kernel | None = None
) -> str:
    """The launcher's source: ``<name>(<tensors and numbers of the program>) -> outputs``.

    It launches ``hopper`` instead of ``kernel`` where there is one, and a tile of it was tuned.
    """
    program = schedule.program
    arguments = [argument_name(p) for p in traced.parameters if p.tensor is not None or p.scalar is not None]
    lines = [f"def {program.name}({', '.join(arguments)}):"]
    lines.append(f'    """Launch `{kernel.name}` on tensors of one device."""')
    body = _Body(traced, region, schedule, kernel, hopper)
    lines += [f"    {line}" if line else "" for line in body.lines()]
    return "\n".join(lines)


def argument_name(parameter: Parameter) -> str:
    """The launcher's name for a parameter (items of a list of tensors are passed one by one)."""
    if parameter.tensor is not None:
        return parameter.tensor.name
    return parameter.name


class _Body:
    def __init__(
        self, traced: Traced, region: Region, schedule: Schedule, kernel: Kernel, hopper: Kernel | None
    ) -> None:
        self.traced = traced
        self.region = region
        self.schedule = schedule
        self.program: Program = schedule.program
        self.kernel = kernel
        self.hopper = hopper
        self.parameters = [p for p in traced.parameters if p.tensor is not None]
        given_tensors = [p.tensor for p in self.parameters if p.tensor is not None]
        # where every dtype is stated, the device is that of the first and the tile that of its dtype
        self.first = next((tensor for tensor in given_tensors if tensor.dtype == ELEMENT), given_tensors[0])
        self.before = [f"{step.tensor.name} = {step_code(step, self.first.name)}" for step in schedule.before]
        self.after = self._after()
        given = {parameter.name for parameter in traced.parameters}
        self.unused = "_" if "_" not in given else "_unused"
        used = {scalar.name for scalar in _scalars(*(expr for _, expr in self.kernel.numbers))} | self._needed()
        self.scalars = [p.scalar for p in traced.parameters if p.scalar is not None and p.scalar.name in used]
        # a launch that follows from the arguments alone, and from nothing computed on the way to it, can be repeated
        names = _arguments(kernel)
        assert hopper is None or _arguments(hopper) == names, names  # either is repeated with these
        self.views = self._views()
        around = (*self.before, *self.after, *self.kernel.matched, *self.views)
        self.alike = "" if around else "alike" if "alike" not in given else "alike_launch"

    def lines(self) -> list[str]:
        checks = self._checks()
        if self.alike:
            again = [*self._outputs(), *self._relaunch(), *checks, "", *self._launch()]
        else:
            again = [*checks, "", *self.before, *self.views, *self._outputs(), *self._launch(), *self.after]
        return [*self._sizes(), *self._numbers(), *again, self._returned()]

    def _relaunch(self) -> list[str]:
        """The early return of a call with arguments that are alike those of one before."""
        kernel = self.kernel
        values = [f'"{self.program.name}"', *(scalar.name for scalar in self.scalars)]
        values += [f"precision({self.first.name})"] * ("PRECISION" in kernel.text)
        given = _tuple([parameter.tensor.name for parameter in self.parameters if parameter.tensor is not None])
        return [
            f"{self.alike} = layouts({given}, {', '.join(values)})",
            f"if relaunch({self.alike}, {', '.join(_arguments(kernel))}):",
            f"    {self._returned()}",
            "",
        ]

    def _sizes(self) -> list[str]:
        """Names for the sizes, taken from the first tensor that has each."""
        needed = self._needed()
        known = {p.scalar.name for p in self.traced.parameters if p.scalar is not None}
        lines: list[str] = []
        ordered = sorted(self.parameters, key=lambda p: p.broadcast)
        for parameter in ordered:
            tensor = parameter.tensor
            assert tensor is not None
            names = []
            for size in tensor.shape:
                fresh = isinstance(size, Scalar) and size.name not in known and size.name in needed
                wanted = fresh and isinstance(size, Scalar) and size.name not in names
                names.append(size.name if wanted and isinstance(size, Scalar) else self.unused)
            if all(name == self.unused for name in names):
                continue
            known |= set(names) - {self.unused}
            trailing = "," if len(names) == 1 else ""
            lines.append(f"{', '.join(names)}{trailing} = {tensor.name}.shape")
        return [*lines, *self._solved(ordered, needed, known)]

    def _solved(self, parameters: list[Parameter], needed: set[str], known: set[str]) -> list[str]:
        """Sizes that no tensor has by themselves, from the dimensions that are made of them: 3 * E gives E."""
        dimensions = [(p.tensor, n) for p in parameters if p.tensor for n in range(len(p.tensor.shape))]
        lines: list[str] = []
        found = True
        while found:
            found = False
            for tensor, number in dimensions:
                unknown = {s for s in walk(tensor.shape[number]) if isinstance(s, Scalar) and s.name not in known}
                if len(unknown) == 1 and {s.name for s in unknown} <= needed:
                    (scalar,) = unknown
                    inverse = integers.solved(tensor.shape[number], scalar)
                    if inverse is not None:
                        factor, rest = inverse
                        left = f"{tensor.name}.shape[{number}]"
                        if rest is not build.integer(0):
                            left = f"({left} - {python(rest, 6)})"
                        lines.append(f"{scalar.name} = {left} // {python(factor, 7)}")
                        known.add(scalar.name)
                        found = True
        for name in sorted(needed - known):
            if not name.startswith("finfo_"):
                hint = "state it as a dimension of its own, or pass it as a number"
                raise Diagnostic("FL204", f"the size {name} does not follow from the tensors' shapes", hint)
        return lines

    def _needed(self) -> set[str]:
        """The sizes that checks, outputs, the grid or the kernel use."""
        roots: list[Expr] = [size for p in self.parameters if p.tensor for size in p.tensor.shape]
        roots += [axis.extent for output in self.program.outputs for axis in output.axes]
        roots += [axis.extent for axis in (*self.schedule.roles.grid, *self.kernel.widths, self.schedule.stream)]
        kernels = [self.kernel, self.hopper] if self.hopper is not None else [self.kernel]
        roots += [root for kernel in kernels for root in (*(expr for _, expr in kernel.numbers), *kernel.sizes)]
        roots += self.program.assumptions
        named = {scalar.name for scalar in _scalars(*roots)}
        around = [step.value for step in self.schedule.before] + [step.value for step in self.region.after]
        extents = [node.axis.extent for root in around for node in walk(root) if isinstance(node, Iota)]
        words = set(re.findall(r"\w+", "\n".join((*self.before, *self.after))))
        return named | {scalar.name for scalar in _scalars(*around, *extents) if scalar.name in words}

    def _checks(self) -> list[str]:
        lines = []
        for parameter in self.parameters:
            tensor = parameter.tensor
            assert tensor is not None
            shape = _tuple([python(size) for size in tensor.shape])
            if parameter.whole:
                lines.append(f'{tensor.name} = spread("{tensor.name}", {tensor.name}, {shape})')
            elif parameter.broadcast:
                lines.append(f"{tensor.name} = {tensor.name}.expand{shape if tensor.shape else '(())'}")
            dtypes, device = self._dtypes(tensor), f"{self.first.name}.device"
            lines.append(f'expect("{tensor.name}", {tensor.name}, {shape}, {dtypes}, {device})')
        for assumption in self.program.assumptions:
            text = python(assumption)
            lines.append(f"if not ({text}):")
            message = f"{self.program.name} was transpiled for sizes with {show(assumption)}"
            lines.append(f'    raise ValueError("{message}")')
        keys = self.schedule.stream.extent  # as it is under these assumptions
        if not integers.known_size(keys):
            lines.append(f"if {python(keys, 5)} < 1:")
            lines.append(f'    raise ValueError("{self.program.name} has no keys left, and so no kernel")')
        return lines

    def _numbers(self) -> list[str]:
        """The numbers among the arguments, as kernels take them."""
        kinds = [(scalar.name, "number" if is_float(scalar) else "integer") for scalar in self.scalars]
        return [f'{name} = {kind}("{name}", {name})' for name, kind in kinds]

    def _views(self) -> list[str]:
        """Tensors of which the kernel reads several dimensions as one."""
        every = [*(p.tensor for p in self.parameters), *(step.tensor for step in self.schedule.before)]
        given = {tensor.name: tensor.shape for tensor in every if tensor is not None}
        lines = []
        for tensor in self.kernel.tensors:
            shape = given.get(tensor.name, tensor.shape)
            lines += _flattened(tensor.name, list(shape), list(tensor.shape))
        return lines

    def _dtypes(self, tensor: Tensor) -> str:
        if tensor.dtype == ELEMENT:
            every = "(torch.float16, torch.bfloat16, torch.float32)"
            return every if tensor is self.first else f"({self.first.name}.dtype,)"
        if tensor.dtype in ("int64", "int32"):
            return "(torch.int64, torch.int32)"
        return f"(torch.{tensor.dtype},)"

    def _outputs(self) -> list[str]:
        lines = []
        for output in self.program.outputs:
            shape = _tuple([python(axis.extent) for axis in output.axes])
            dtype = self._output_dtype(output)
            lines.append(f"{output.name} = {self.first.name}.new_empty({shape}{dtype and f', dtype={dtype}'})")
        return lines

    def _output_dtype(self, output: Output) -> str:
        """The dtype of an output where it is not that of the first tensor."""
        dtype = self.first.dtype if output.dtype == ELEMENT else output.dtype
        return "" if dtype == self.first.dtype else f"torch.{dtype}"

    def _launch(self) -> list[str]:
        kernel, first = self.kernel, self.first.name
        lines = []
        for axis in kernel.widths:
            name = extent_name(axis)
            if not isinstance(axis.extent, Scalar):
                lines.append(f"{name} = {python(axis.extent)}")
        tile = f"block_rows, block_keys, warps, stages, {'descriptors' if kernel.described else self.unused}"
        if "EXPAND" in kernel.text:
            lines.append(f"expand = expandable({first})")
        demoted = self.schedule.roles.demoted
        if demoted is not None:
            width = extent_name(demoted)
            own = " + ".join(f"padded({extent_name(axis)})" for axis in kernel.burden.own)
            lines.append(f"{self._batch} = batch_size({python(demoted.extent)}, ({own}) * {first}.element_size())")
        asked = f"{self._widest()}, {python(self.schedule.stream.extent)}"
        choose = "configuration" if demoted is None else "batch_configuration"
        launch = [f'{tile} = {choose}("{self.program.name}", {first}, {asked}, {self._burden()})']
        if kernel.described:
            tensors = ", ".join(tensor.name for tensor in kernel.described)
            launch.append(f"descriptors = descriptors and describable({tensors})")
        call = self._call(kernel, kernel.name, self._tiles("block_rows"), "block_rows", "block_keys")
        call += [f"    BLOCK_{width}={self._batch},"] if demoted is not None else []
        call += ["    BLOCK_ROWS=block_rows,", "    BLOCK_KEYS=block_keys,"]
        if "WHOLE" in kernel.text:
            call.append(f"    WHOLE={python(self.schedule.stream.extent, 9)} % block_keys == 0,")
        if kernel.described:
            call.append("    DESCRIPTORS=descriptors,")
        if "PRECISION" in kernel.text:
            call.append(f"    PRECISION=precision({first}),")
        call += self._approximate(kernel) + self._bounded(kernel)
        if "EXPAND" in kernel.text:
            call.append("    EXPAND=expand,")
        if kernel.gathered:
            tensors = ", ".join(tensor.name for tensor in kernel.gathered)
            call.append(f"    VECTOR=vector_width({tensors}),")
        launch += [*call, "    num_warps=warps, num_stages=stages,", ")"]
        if self.hopper is None:
            return lines + launch
        return [*lines, *self._launch_hopper(self.hopper, asked), "else:", *(f"    {line}" for line in launch)]

    def _launch_hopper(self, kernel: Kernel, asked: str) -> list[str]:
        """The launch of the Hopper kernel where there is a tile for it, as the first half of an `if`."""
        first = self.first.name
        read = [tensor.name for tensor in kernel.described]
        written = [output.name for output in kernel.written]
        names = ", ".join(dict.fromkeys([*read, *written]))
        given = {*(p.name for p in self.traced.parameters), *self._needed(), *names.split(", ")}
        own = "hopper" if "hopper" not in given else "hopper_choice"
        rows, keys = f'{own}["BLOCK_ROWS"]', f'{own}["BLOCK_KEYS"]'
        programs = f"min(multiprocessors({first}.device), {self._tiles(rows)})"
        call = self._call(kernel, f"hopper_kernels().{kernel.name}", programs, rows, keys)
        call += [*self._approximate(kernel), *self._bounded(kernel), "    num_warps=4,", f"    **{own},", ")"]
        lines = [f'{own} = hopper_tile("{self.program.name}", {asked}, {names})', f"if {own} is not None:"]
        return lines + [f"    {line}" for line in call]

    def _call(self, kernel: Kernel, name: str, programs: str, rows: str, keys: str) -> list[str]:
        """A launch up to the widths of tiles."""
        arguments = _arguments(kernel)
        for _, match in kernel.matched:
            values = ((match.row_value, self.schedule.roles.rows), (match.key_value, self.schedule.stream))
            both = ", ".join(rows_code(value, match.axes, last, self.first.name) for value, last in values)
            found = f"matching_ranges({both}, {rows}, {keys})"
            if kernel.order is not None and match is kernel.order.match:
                found = f"*heaviest_first({found})"
            arguments.append(found)
        sizes = [*self._strides(kernel), *(size.name for size in kernel.sizes)]
        sizes += [self._number(expr) for _, expr in kernel.numbers if not is_float(expr)]
        floats = [self._number(expr) for _, expr in kernel.numbers if is_float(expr)]
        positional = [
            name,
            programs,
            _tuple(arguments),
            _tuple(sizes),
            _tuple(floats),
            *[self.alike] * bool(self.alike),
        ]
        call = ["launch(", *(f"    {text}," for text in positional)]
        plain = {axis.extent for axis in kernel.widths}
        inner = [f"{s.name}={s.name}," for s in parts_of(kernel.widths) if s not in plain]
        call += [
            f"    {given}" for given in inner if re.search(rf"\b{given.split('=')[0]}: \w+\.constexpr", kernel.text)
        ]
        for axis in kernel.widths:
            width = extent_name(axis)
            given = f"{width}={width}, " if is_size(axis.extent) else ""
            call.append(f"    {given}BLOCK_{width}=padded({width}),")
        return call

    def _widest(self) -> str:
        """The widest head."""
        widths = ", ".join(extent_name(axis) for axis in self.kernel.widths) or "1"
        return f"max({widths})" if len(self.kernel.widths) > 1 else widths

    def _tiles(self, rows: str) -> str:
        """How many tiles of so many rows there are."""
        roles = self.schedule.roles
        blocks = [f"-(-{python(roles.rows.extent, 9)} // {rows})"]
        if roles.demoted is not None:
            blocks.append(f"-(-{python(roles.demoted.extent, 9)} // {self._batch})")
        return " * ".join([*blocks, *(python(axis.extent, 7) for axis in roles.grid)])

    @property
    def _batch(self) -> str:
        """The variable for how many positions of the demoted axis a tile has."""
        demoted = self.schedule.roles.demoted
        assert demoted is not None
        name = f"block_{extent_name(demoted).lower()}"
        return name if name not in ("block_rows", "block_keys") else f"batch_of_{name[6:]}"

    def _approximate(self, kernel: Kernel) -> list[str]:
        return [f"    APPROXIMATE=approximate({self.first.name}),"] * ("APPROXIMATE" in kernel.text)

    def _bounded(self, kernel: Kernel) -> list[str]:
        """Whether bounds of the scores stand in for their maxima: float16 weights have too few powers of two."""
        if "BOUNDED" not in kernel.text:
            return []
        items = [item for one in self.schedule.passes for item in one.accumulators]
        spreads = [item.bound.spread for item in items if item.bound is not None]
        tests = [f"{self._number(one)} <= {WIDEST}" for one in spreads if not isinstance(one, Const)]
        return [f"    BOUNDED={' and '.join([f'{self.first.name}.dtype != torch.float16', *tests])},"]

    def _after(self) -> list[str]:
        """What PyTorch makes of the kernel's outputs."""
        lines = []
        given = {output.name: [axis.extent for axis in output.axes] for output in self.kernel.outputs}
        given |= {p.tensor.name: list(p.tensor.shape) for p in self.parameters if p.tensor is not None}
        for tensor in tensors(*(step.value for step in self.region.after)):
            lines += _flattened(tensor.name, given.get(tensor.name, list(tensor.shape)), list(tensor.shape))
        for step in self.region.after:
            text = step_code(step, self.first.name)
            if not step.value.axes.issuperset(step.axes):
                sizes = ", ".join(python(axis.extent) for axis in step.axes)
                text = f"({text}).expand({sizes})"
            lines.append(f"{step.tensor.name} = {text}")
        return lines

    def _returned(self) -> str:
        shapes = {
            **{output.name: tuple(axis.extent for axis in output.axes) for output in self.kernel.outputs},
            **{step.tensor.name: step.tensor.shape for step in self.region.after},
        }
        returned = []
        for item in self.traced.returns:
            if item.name is None:
                returned.append("None")
            elif item.shape == shapes[item.name]:
                returned.append(item.name)
            else:
                # dimensions that the user merges are axes of their own in the kernel
                returned.append(f"{item.name}.view{_tuple([python(size) for size in item.shape])}")
        text = ", ".join(returned)
        return f"return {text}" if self.traced.single else f"return ({text},)"

    def _burden(self) -> str:
        """What the kernel holds at once, as the arguments of `configuration`."""
        one = self.kernel.burden
        depths = [f"padded({extent_name(axis)})" for axis in one.deep]
        depths += [f"1 if expand else padded({extent_name(axis)})" for axis in one.deep_exact]
        depth = f"max({', '.join(depths)})" if len(depths) > 1 else "".join(depths)
        if self.schedule.roles.demoted is not None:
            return self._batch + f", depth={depth}" * bool(depths)
        text = f"accumulators={one.accumulators}, scores={one.scores}"
        text += f", blocks={one.blocks}" * (one.blocks > 2) + ", exact=True" * one.exact
        if depths:
            text += f", depth={depth}, row_count=padded({python(self.schedule.roles.rows.extent)})"
            text += ", gathered=True" * bool(self.kernel.gathered)
        return text

    def _strides(self, kernel: Kernel) -> list[str]:
        """The strides that the kernel takes, all of a tensor's at once where it takes them all."""
        used: dict[str, list[int]] = {}
        for name, dimension in kernel.strides:
            used.setdefault(name, []).append(dimension)
        ranks = {tensor.name: len(tensor.shape) for tensor in kernel.tensors}
        ranks |= {output.name: len(output.axes) for output in kernel.outputs}
        texts: list[str] = []
        for name, dimensions in used.items():
            rank = ranks[name]
            every = {rank: f"*{name}.stride()", rank - 1: f"*{name}.stride()[:-1]"}.get(len(dimensions))
            leading = dimensions == list(range(len(dimensions))) and len(dimensions) > 1
            texts += [every] if every and leading else [f"{name}.stride({dimension})" for dimension in dimensions]
        return texts

    def _number(self, expr: Expr) -> str:
        text = python(expr)
        for limit in ("min", "max", "tiny", "eps"):
            text = text.replace(f"finfo_{limit}", f"torch.finfo({self.first.name}.dtype).{limit}")
        return text


def _arguments(kernel: Kernel) -> list[str]:
    """The tensors that a launch is given, but for what the launcher makes for it alone."""
    return [*(tensor.name for tensor in kernel.tensors), *(output.name for output in kernel.outputs)]


def _flattened(name: str, given: list[Expr], wanted: list[Expr]) -> list[str]:
    """The statements that make one dimension of several, where a tensor is wanted with fewer than it is given with."""
    lines = []
    while len(given) > len(wanted):
        place = next(n for n, (old, new) in enumerate(zip(given, [*wanted, None], strict=False)) if old is not new)
        merged, last = given[place], place
        while merged is not wanted[place]:
            last += 1
            merged = integers.mul(merged, given[last])
        lines.append(f"{name} = {name}.flatten({place}, {last})")
        given = [*given[:place], merged, *given[last + 1 :]]
    return lines


def _scalars(*exprs: Expr) -> set[Scalar]:
    return {node for expr in exprs for node in walk(expr) if isinstance(node, Scalar)}


def _tuple(items: list[str]) -> str:
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
