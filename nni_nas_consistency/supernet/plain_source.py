"""A frozen subnet as Python source that needs torch alone: its layers by the names that they have in the subnet.

The subnet is traced by torch.fx, in evaluation mode. Sizes are numbers in the source but for the batch, so that code
which decides by widths can be traced. What cannot be written is refused; see `Unwritable`.
"""

from __future__ import annotations

import builtins
import copy
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

from nni_nas_consistency.errors import InputError

BATCH = 10_007
"""Images in the batch that is traced, on torch's meta device: a prime, so that other sizes are no multiples of it."""

KNOWN = {"torch", "inf", "nan", "device"}
"""Names that the source of a forward pass may use besides its own."""


def forward_and_layers(network: nn.Module, shape: tuple[int, int, int]) -> tuple[str, str]:
    """Return the source of a network's forward pass, and that of its constructor's body, both indented by 4 and 8.

    Args:
        network: A frozen subnet, in evaluation mode.
        shape: Classes, channels and side of the images.

    Raises:
        InputError: The network has something that cannot be written.
    """
    _, channels, side = shape
    on_meta = copy.deepcopy(network).to("meta")
    images = torch.zeros(BATCH, channels, side, side, device="meta", dtype=next(network.parameters()).dtype)
    tracer = SizeTracer(images)
    try:
        with torch.no_grad():
            graph = tracer.trace(on_meta)
    except (fx.proxy.TraceError, TypeError, NotImplementedError) as error:
        raise _unwritable(f"{type(network).__name__}: {' '.join(str(error).split())}") from error
    return _forward(graph), "\n".join(_layers(network, tracer))


class SizedProxy(fx.Proxy):
    """A proxy of fx whose sizes are numbers, but for those that depend on the batch."""

    def __getattr__(self, name: str) -> Any:
        if name == "shape":
            return self.size()
        return super().__getattr__(name)

    def size(self, dim: int | None = None) -> Any:
        """Return the sizes, or one of them, as a tensor does."""
        sizes = cast("SizeTracer", self.tracer).sizes(self)
        return sizes if dim is None else sizes[dim]


class SizeTracer(fx.Tracer):
    """A tracer of fx that runs what it traces, on the meta device, to know all sizes.

    Args:
        images: The batch, on the meta device.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = images
        self.values: dict[fx.Node, Any] = {}
        self._runs = False  # a node, not the network that is traced

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the proxy of a node."""
        return SizedProxy(node, self)

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Callable[[fx.Node], fx.Proxy] | None = None,
    ) -> fx.Proxy:
        """Return the proxy of a new node, which is run at once."""
        proxy = super().create_proxy(kind, target, args, kwargs, name, type_expr, proxy_factory_fn)
        if kind != "output":
            self._runs = True
            try:
                self.values[proxy.node] = self._value(proxy.node)
            finally:
                self._runs = False
        return proxy

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return what a module returns; only those of the traced network become nodes."""
        return forward(*args, **kwargs) if self._runs else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return an attribute of a module; only those of the traced network become nodes."""
        return attr_val if self._runs else super().getattr(attr, attr_val, parameter_proxy_cache)

    def sizes(self, proxy: fx.Proxy) -> tuple[Any, ...]:
        """Return the sizes of a tensor: numbers, or proxies of those that depend on the batch."""
        value = self.values[proxy.node]
        if not isinstance(value, Tensor):
            raise fx.proxy.TraceError(f"{proxy.node.name} is no tensor, and has no sizes")
        return tuple(
            size if size == 0 or size % BATCH else self.create_proxy("call_method", "size", (proxy, dim), {})
            for dim, size in enumerate(value.shape)
        )

    def _value(self, node: fx.Node) -> Any:
        args = fx.node.map_arg(node.args, self.values.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, self.values.__getitem__)
        if node.op == "placeholder":
            return self.images
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            return getattr(self.root.get_submodule(owner), name)
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def _forward(graph: fx.Graph) -> str:
    """Return the source of a traced forward pass, as a method."""
    for node in reversed(graph.nodes):
        node.type = None
        if node.op == "call_method" and node.target == "size" and not node.users:
            graph.erase_node(node)
    code = graph.python_code("self")
    known = KNOWN | vars(builtins).keys()
    unknown = [name for name in code.globals if name not in known and re.search(rf"\b{name}\b", _body(code.src))]
    if unknown:
        raise _unwritable(f"the function {unknown[0]}")
    lines = [line.rstrip() for line in _body(code.src).splitlines() if line.strip()]
    source = textwrap.indent("\n".join(lines), "    ")
    return source.replace("\n", '\n        """Return logits [B, K] of normalised images [B, C, H, W]."""\n', 1)


def _body(source: str) -> str:
    return source[source.index("def forward") :]


def _layers(network: nn.Module, tracer: fx.Tracer) -> Iterator[str]:
    """Yield the lines that make the layers of a network, as statements about `self`."""
    for name, child in network.named_children():
        yield f"        self.{name} = {_constructor(child, name, tracer, ' ' * 8)}"
    for path, module in network.named_modules():
        if not _is_layer(module, path, tracer):
            yield from (f"        {line}" for line in _own_tensors(path, module))


def _is_layer(module: nn.Module, path: str, tracer: fx.Tracer) -> bool:
    containers = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
    return not isinstance(module, containers) and tracer.is_leaf_module(module, path)


def _constructor(module: nn.Module, path: str, tracer: fx.Tracer, indent: str) -> str:
    """Return an expression that makes a layer, or a dictionary of the layers in a part of the network."""
    if _is_layer(module, path, tracer):
        return _layer(module, path)
    deeper = f"{indent}    "
    children = [
        f'{deeper}"{name}": {_constructor(child, f"{path}.{name}", tracer, deeper)},\n'
        for name, child in module.named_children()
    ]
    return f"nn.ModuleDict({{\n{''.join(children)}{indent}}})" if children else "nn.ModuleDict()"


def _layer(module: nn.Module, path: str) -> str:
    if type(module) is nn.MultiheadAttention:
        return (
            f"nn.MultiheadAttention({module.embed_dim}, {module.num_heads}, dropout={module.dropout}, "
            f"bias={module.in_proj_bias is not None}, batch_first={module.batch_first})"
        )
    if type(module) is nn.AvgPool2d:  # whose repr does not tell all
        return (
            f"nn.AvgPool2d({module.kernel_size}, {module.stride}, {module.padding}, ceil_mode={module.ceil_mode}, "
            f"count_include_pad={module.count_include_pad}, divisor_override={module.divisor_override})"
        )
    text = repr(module)
    if vars(nn).get(type(module).__name__) is not type(module) or "\n" in text:
        raise _unwritable(f"{path} ({type(module).__name__})")
    if isinstance(module, (_NormBase, nn.LayerNorm)):
        text = text.replace(", bias=True", "")  # an argument that older versions of torch do not have
    return f"nn.{text}"


def _own_tensors(path: str, module: nn.Module) -> Iterator[str]:
    """Yield statements that make the parameters and buffers of a module that is no layer of torch."""
    owner = f'self.get_submodule("{path}")' if path else "self"
    for name, parameter in module.named_parameters(recurse=False):
        yield f'{owner}.register_parameter("{name}", nn.Parameter(torch.empty({tuple(parameter.shape)})))'
    persistent = module.state_dict(keep_vars=True)
    for name, buffer in module.named_buffers(recurse=False):
        if name not in persistent:
            raise _unwritable(f"the buffer {path}.{name}, which is in no state dict")
        yield f'{owner}.register_buffer("{name}", torch.empty({tuple(buffer.shape)}, dtype={buffer.dtype}))'


def _unwritable(what: str) -> InputError:
    return InputError(
        f"{what}: cannot be written as plain torch; take the weights with sub_state_dict, and the network of the space"
    )


TEMPLATE = '''"""{about}

Made by `nni-consistency extract`; needs torch and safetensors alone, neither NNI nor the package that made it.

    from {module} import MEAN, STD, load

    network = load()  # with the weights of the file beside this one, in evaluation mode
    logits = network((images - MEAN) / STD)  # [B, {channels}, {side}, {side}], pixels in [0, 1] -> [B, {classes}]
"""

{imports}from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

MEAN = torch.tensor({mean}).view(-1, 1, 1)
STD = torch.tensor({std}).view(-1, 1, 1)


class Subnet(nn.Module):
    """The network, with fresh weights. Traced in evaluation mode, and written layer by layer."""

    def __init__(self):
        super().__init__()
{layers}

{forward}


def load(path=Path(__file__).with_name({weights!r})):
    """Return the network with its weights, in evaluation mode."""
    network = Subnet()
    network.load_state_dict(load_file(path), strict=True)
    return network.eval()
'''


def plain_source(
    network: nn.Module,
    shape: tuple[int, int, int],
    *,
    about: str,
    module: str,
    weights: str,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
) -> str:
    """Return the source of a Python file that makes a network and loads its weights, with torch alone.

    Args:
        network: A frozen subnet, in evaluation mode.
        shape: Classes, channels and side of the images.
        about: The first line of the docstring.
        module: The name of the file, without `.py`.
        weights: The name of the safetensors file beside it.
        normalisation: Mean and standard deviation of each channel, of pixels in [0, 1].

    Raises:
        InputError: The network has something that cannot be written.
    """
    forward, layers = forward_and_layers(network, shape)
    used = [name for name in ("inf", "nan") if re.search(rf"\b{name}\b", forward)]
    values: Mapping[str, object] = {
        "about": about.replace("\\", "\\\\"),
        "module": module,
        "weights": weights,
        "classes": shape[0],
        "channels": shape[1],
        "side": shape[2],
        "imports": f"from math import {', '.join(used)}\n" if used else "",
        "mean": normalisation[0],
        "std": normalisation[1],
        "layers": layers,
        "forward": forward,
    }
    return TEMPLATE.format(**values)
