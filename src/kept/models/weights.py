"""Reading a checkpoint's tensors into a module."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from kept.errors import WeightsError
from kept.exiting import computing
from kept.format import dtype_name
from kept.models.checkpoint import Checkpoint
from kept.models.dtypes import DTYPES, dtype_of_parameter
from kept.models.freed_memory import give_back_freed_memory
from kept.models.weight_map import WeightMap, arranged
from kept.models.weight_plan import Copy, plan_weights
from kept.ops.blocks import BlockMatrix, CodedMatrix
from kept.ops.mxfp4 import Mxfp4Matrix
from kept.ops.quantize import QuantizedMatrix
from kept.ops.stored_rows import StoredMatrix, StoredRows

_STORED_FORMATS = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_GIVE_BACK = 16 << 20  # bytes fetched and freed before the system gets them back


class StoredWeights:
    """The parameters of a module on the meta device, read from a checkpoint one by one.

    Stored tensors are memory-mapped: beside what `read` returns, the pages in use never amount to
    more than the largest of them, and only a tensor that is both cast and transposed is copied once
    more, alone. Of a GGUF file a piece is read at a time.

    Where config.json ties two parameters and the file holds both: equal tensors are one parameter;
    different ones become two, with a warning, as in transformers 5. Where it holds only one, that
    one fills both, provided the other is `optional` in the map.

    names: of the parameters to read, each once, in the order of the files. dtype: to load in.
    """

    def __init__(
        self,
        module: nn.Module,
        checkpoint: Checkpoint,
        weight_map: WeightMap,
        *,
        dtype: torch.dtype,
        device: torch.device,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Verify everything but the data; nothing is allocated, and `module` is not changed.

        Raises `WeightsError` for missing, unexpected or misshapen tensors, and
        `UnsupportedFormatError` for integer and 8-bit ones.
        """
        plan = plan_weights(module, checkpoint, weight_map, dtype)
        self._module, self._checkpoint, self._progress = module, checkpoint, progress
        self.dtype, self._device, self._owners = dtype, device, plan.owners
        self._meta = dict(module.named_parameters(remove_duplicate=False))
        self._copies: dict[str, list[Copy]] = {}
        for copy in plan.copies:
            self._copies.setdefault(copy.parameter, []).append(copy)
        self._copies |= {name: [] for name in plan.zeros}
        self.names = tuple(self._copies)
        sizes = [checkpoint.tensors[copy.stored].num_bytes for copy in plan.copies]
        self._done, self._mapped, self._total = 0, 0, sum(sizes)
        self._largest = max(sizes, default=0)
        self._name_of: dict[int, str] = {}
        self._since_given_back = 0
        self._room = torch.empty(0, dtype=torch.uint8, device="cpu")
        checkpoint.close()  # comparing tied tensors may have mapped some
        if progress is not None:
            progress(0, self._total)

    def read(self, name: str, *, exact: bool = False, borrow: bool = False) -> Tensor:
        """The numbers of parameter `name`.

        exact: as they are stored, whatever the dtype to load in; tensors of several dtypes meet in
        float32. borrow: they may lie in the mapped file, or where the next ones will, and are to be
        dropped before the next `read`. Raises `WeightsError` for a tensor that is unreadable, and
        for values that the dtype cannot hold.
        """
        copies, shape = self._copies[name], self._meta[name].shape
        if not copies:  # which the files leave out because it is zero
            return torch.zeros(shape, dtype=self.dtype, device=self._device)
        stored = [self._checkpoint.tensors[copy.stored] for copy in copies]
        dtype = dtype_of_parameter(name, self.dtype)
        if exact:
            kinds = {info.dtype for info in stored} & set(DTYPES.values())
            dtype = kinds.pop() if len(kinds) == 1 else torch.float32
        as_stored = (stored[0].dtype, stored[0].shape) == (dtype, tuple(shape))
        first = copies[0]
        moved = first.transpose or first.moves_rows
        if borrow and as_stored and not moved and self._device.type == "cpu":
            self._make_room(stored[0].num_bytes)
            found = self._checkpoint.read(copies[0].stored)
            self._tell(stored[0].num_bytes)
            # A file may begin its numbers at any byte, and kernels want them where they belong.
            return found if found.data_ptr() % dtype.itemsize == 0 else found.clone()
        with computing():
            if borrow and self._device.type == "cpu":
                filled = self._borrowed(shape, dtype)
            else:
                filled = torch.empty(shape, dtype=dtype, device=self._device)
        for copy, info in zip(copies, stored, strict=True):
            self._make_room(info.num_bytes)
            with computing():
                _fill(filled, self._checkpoint, copy)
            self._tell(info.num_bytes)
        return filled

    def _borrowed(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Room for a matrix, in place of the one before: memory that is new to a process takes
        longer to come by than a matrix to be copied."""
        size = shape.numel() * dtype.itemsize
        if self._room.numel() < size:
            self._room = torch.empty(size, dtype=torch.uint8, device="cpu")
        return self._room[:size].view(dtype).view(shape)

    def place_all(self) -> None:
        """Read every parameter into the module; if that raises, the module is as it was.

        Each is allocated once, as the dtype and on the device to load in. Buffers are not touched.
        """
        self._place({name: self.read(name) for name in self.names})

    def place_all_but(self, later: Callable[[], Iterable[Tensor]]) -> None:
        """Read every parameter into the module but those that `later` then finds in it.

        Those stay on the meta device, tied as the files have them, and `fetch` reads them.
        """
        empty = {
            name: nn.Parameter(
                torch.empty(self._meta[name].shape, dtype=self.dtype, device="meta"),
                requires_grad=self._meta[name].requires_grad,
            )
            for name in self.names
        }
        self._assign(empty)
        waiting = {id(parameter) for parameter in later()}
        self._name_of = {id(x): name for name, x in empty.items() if id(x) in waiting}
        left = set(self._name_of.values())
        self._place({name: self.read(name) for name in self.names if name not in left})

    def coded_as(self, name: str) -> str | None:
        """`Checkpoint.coded_as` of all tensors that make parameter `name`; None where they differ,
        or are not put together row by row."""
        copies = self._copies[self._owners[name]]
        kinds = {self._checkpoint.coded_as(copy.stored) for copy in copies}
        moved = any(copy.transpose or copy.moves_rows for copy in copies)
        return kinds.pop() if len(kinds) == 1 and not moved else None

    def fetch_coded(self, parameter: Tensor, formats: Collection[str]) -> CodedMatrix | None:
        """A matrix that `place_all_but` has left out, as it is stored, where that is one of
        `formats`; None: it is for `fetch`. Raises as `read`, in part when it is packed."""
        name = self._name_of[id(parameter)]
        if self.coded_as(name) not in formats:
            return None
        copies = sorted(self._copies[name], key=lambda copy: copy.start)
        found = None
        for copy in copies:
            coded = self._checkpoint.coded(copy.stored)
            found = coded if found is None else _joined(found, coded)
            self._tell(self._checkpoint.tensors[copy.stored].num_bytes)
        return found

    def fetch_stored(self, parameter: Tensor) -> StoredMatrix | None:
        """A matrix that `place_all_but` has left out, as rows of the files, where those are of the
        dtype to load in and lie as it has them; None: it is for `fetch`. Packing it raises as
        `read`."""
        name = self._name_of[id(parameter)]
        copies = sorted(self._copies[name], key=lambda copy: copy.start)
        infos = [self._checkpoint.tensors[copy.stored] for copy in copies]
        dtype = dtype_of_parameter(name, self.dtype)
        format = _STORED_FORMATS.get(dtype)
        moved = any(copy.transpose or copy.moves_rows or copy.flat for copy in copies)
        if format is None or self._device.type != "cpu" or moved or parameter.dim() != 2:
            return None
        parts = []
        for copy, info in zip(copies, infos, strict=True):
            if info.start is None or info.dtype != dtype or len(info.shape) != 2:
                return None
            parts.append(StoredRows(info.file, copy.stored, info.start, info.shape[0]))
        if sum(rows.num_rows for rows in parts) != len(parameter):
            return None
        for info in infos:
            self._tell(info.num_bytes)
        num_out, num_in = parameter.shape
        return StoredMatrix(format, num_out, num_in, tuple(parts))

    def fetch(self, parameter: Tensor, *, exact: bool = False, borrow: bool = True) -> Tensor:
        """`read` one that `place_all_but` has left out."""
        if self._since_given_back > _GIVE_BACK:
            give_back_freed_memory()
            self._since_given_back = 0
        self._since_given_back += parameter.numel() * self.dtype.itemsize
        return self.read(self._name_of[id(parameter)], exact=exact, borrow=borrow)

    def fetch_codes(self, parameter: Tensor) -> QuantizedMatrix | None:
        """The codes that all of a matrix `place_all_but` has left out is stored as.

        None where they are not kept's own: it is for `fetch` then. Raises as `read`.
        """
        copies = sorted(self._copies[self._name_of[id(parameter)]], key=lambda copy: copy.start)
        found: list[QuantizedMatrix] = []
        for copy in copies:
            self._make_room(self._checkpoint.tensors[copy.stored].num_bytes)
            codes = None if copy.transpose else self._checkpoint.codes(copy.stored)
            if codes is None:
                return None
            # Out of the mapping, so that it can be dropped before the next.
            rows, scales = (
                arranged(part, copy.grouped, copy.repeats).clone()
                for part in (codes.codes, codes.scales)
            )
            found.append(QuantizedMatrix(codes.format, rows, scales))
        for copy in copies:
            self._tell(self._checkpoint.tensors[copy.stored].num_bytes)
        all_codes, all_scales = ([getattr(x, part) for x in found] for part in ("codes", "scales"))
        return QuantizedMatrix(found[0].format, torch.cat(all_codes), torch.cat(all_scales))

    def _place(self, filled: Mapping[str, Tensor]) -> None:
        self._checkpoint.close()
        self._assign(
            {
                name: nn.Parameter(tensor, requires_grad=self._meta[name].requires_grad)
                for name, tensor in filled.items()
            }
        )

    def _assign(self, made: Mapping[str, nn.Parameter]) -> None:
        for name, owner in self._owners.items():
            if owner in made:
                parent, _, leaf = name.rpartition(".")
                setattr(self._module.get_submodule(parent), leaf, made[owner])

    def _make_room(self, size: int) -> None:
        # The pages of what was read stay in use until the file's mapping is dropped.
        if self._mapped + size > self._largest:
            self._checkpoint.close()
            self._mapped = 0
        self._mapped += size

    def _tell(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self._total)
        if self._done == self._total:
            self._room = self._room[:0].clone()
            self._checkpoint.close()


def _joined(above: CodedMatrix, below: CodedMatrix | None) -> CodedMatrix:
    if isinstance(above, Mxfp4Matrix) and isinstance(below, Mxfp4Matrix):
        return above.joined(below)
    assert isinstance(above, BlockMatrix)
    assert isinstance(below, BlockMatrix)
    return above.joined(below)


def _fill(parameter: Tensor, checkpoint: Checkpoint, copy: Copy) -> None:
    info = checkpoint.tensors[copy.stored]
    rows = parameter[copy.start : copy.stop] if parameter.dim() else parameter
    rows = rows[None] if copy.flat else rows
    if copy.moves_rows:
        whole = arranged(checkpoint.read(copy.stored), copy.grouped, copy.repeats)
        rows.copy_(whole.to(rows.dtype).T if copy.transpose else whole)
        refuse_overflow(rows, info.dtype, info.file, copy.stored)
        return
    for part, stored in checkpoint.pieces(copy.stored):
        if copy.transpose:
            # Casting and transposing in one copy is three times slower than one after the other.
            rows[:, part] = stored.to(rows.dtype).T
        else:
            (rows[part] if rows.dim() else rows).copy_(stored)
    refuse_overflow(rows, info.dtype, info.file, copy.stored)


def refuse_overflow(cast: Tensor, stored_dtype: torch.dtype, file: Path, name: str) -> None:
    """Raise WeightsError where a cast from `stored_dtype` has made numbers infinite."""
    largest = torch.finfo(cast.dtype).max
    if torch.finfo(stored_dtype).max > largest and cast.numel():
        low, high = torch.aminmax(cast)
        if torch.isinf(low) or torch.isinf(high):
            raise WeightsError(
                f"{file}: {name!r} holds values beyond {largest:g}, the largest "
                f"{dtype_name(cast.dtype)} can hold (it is stored as {dtype_name(stored_dtype)}). "
                f"{_overflow_remedy(cast.dtype, stored_dtype)}"
            )


def _overflow_remedy(dtype: torch.dtype, stored_dtype: torch.dtype) -> str:
    largest = torch.finfo(dtype).max
    wider = [name for name, other in DTYPES.items() if torch.finfo(other).max > largest]
    if not wider:
        return "kept computes in no wider one, so it cannot run these weights; is the file damaged?"
    sure = stored_dtype in DTYPES.values()
    return f"Load it as {' or '.join(wider)}{'' if sure else ', if that holds them'}."
