"""Requests to tokens: groups of sequences, their schedule, and the loop that runs them."""

from kept.engine.async_engine import AsyncEngine
from kept.engine.beams import BeamGroup
from kept.engine.completion import (
    Completion,
    FinishReason,
    GenerationError,
    GenerationInterrupted,
)
from kept.engine.continuation import Continuation
from kept.engine.counters import Counters, Snapshot
from kept.engine.draft_model import DraftModel
from kept.engine.engine import PREFILL_CHUNK, Engine
from kept.engine.group import Draw, Group, Move
from kept.engine.hearing import Piece
from kept.engine.holds import Hold
from kept.engine.inputs import Inputs
from kept.engine.make_group import make_group
from kept.engine.passes import Work
from kept.engine.request import Event, Phase, Request
from kept.engine.room import Lender, Room
from kept.engine.samples import SampleGroup
from kept.engine.scheduler import Scheduler
from kept.engine.slot_caches import Held, SlotCaches
from kept.engine.step_time import StepTime
from kept.engine.view import (
    BlockMap,
    BlockState,
    EngineView,
    MemoryUse,
    Owner,
    RequestNote,
    StepNote,
    TenantShare,
)
from kept.engine.window import ContextRule, default_hop

__all__ = [
    "PREFILL_CHUNK",
    "AsyncEngine",
    "BeamGroup",
    "BlockMap",
    "BlockState",
    "Completion",
    "ContextRule",
    "Continuation",
    "Counters",
    "DraftModel",
    "Draw",
    "Engine",
    "EngineView",
    "Event",
    "FinishReason",
    "GenerationError",
    "GenerationInterrupted",
    "Group",
    "Held",
    "Hold",
    "Inputs",
    "Lender",
    "MemoryUse",
    "Move",
    "Owner",
    "Phase",
    "Piece",
    "Request",
    "RequestNote",
    "Room",
    "SampleGroup",
    "Scheduler",
    "SlotCaches",
    "Snapshot",
    "StepNote",
    "StepTime",
    "TenantShare",
    "Work",
    "default_hop",
    "make_group",
]
