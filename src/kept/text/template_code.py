"""The code a chat template is compiled to: with a count in everything that repeats or grows.

Jinja's sandbox asks the environment before each operator, call and filter; this adds the rest by
rewriting the template's syntax tree: turns of loops, output, `~`, slices, and lists that are
written out.
"""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.visitor import NodeTransformer


class CountingGenerator(CodeGenerator):
    """Jinja's code generator, over the rewritten tree; mutates the tree."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        counting = _Counting().visit(node)
        counting.set_environment(self.environment)
        super().visit_Template(counting, frame)


class _Counting(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("count", node.lineno)))
        if node.test is not None:
            node.test = nodes.And(_call("count", node.lineno), node.test, lineno=node.lineno)
        return node

    def visit_Output(self, node: nodes.Output) -> Any:
        self.generic_visit(node)
        plain = sum(len(x.data) for x in node.nodes if isinstance(x, nodes.TemplateData))
        if not plain:
            return node
        return [nodes.ExprStmt(_call("count", node.lineno, nodes.Const(plain))), node]

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("join_texts", node.lineno, *node.nodes)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        ends = (node.arg.start, node.arg.stop, node.arg.step)
        return _call("cut", node.lineno, node.node, *(end or nodes.Const(None) for end in ends))

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _held(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _held(node, node.items) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _held(node, [part for pair in node.items for part in (pair.key, pair.value)])


def _held(node: nodes.Expr, parts: list[nodes.Expr]) -> nodes.Expr:
    # What is written out in constants is no larger than the template.
    if all(isinstance(part, nodes.Const) for part in parts):
        return node
    return _call("hold", node.lineno, node)


def _call(method: str, line: int, *args: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), list(args), [], None, None, lineno=line)
