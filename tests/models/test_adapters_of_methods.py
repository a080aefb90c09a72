"""Low-rank adapters in every installed method that is one loss: `adapter=lora` is an option of the loop, and no method's own."""

import torch

from salmu_authors.testing import toy_context
from salmu_core import LossMethod
from salmu_core.plugins.loading import load_plugins

#: It is made of adapters itself, and refuses to have others.
MADE_OF_ADAPTERS = {"vl-eraser"}


def problem_of(cls):
    """What is wrong with a method's weights after it trained adapters of rank 1; nothing: an empty string."""
    given = {"adapter": "lora", "adapter_rank": 1, "batch_size": 12, "lr": 1e-2}
    given |= {"rewind": False} if "rewind" in cls.Options.model_fields else {}  # it may go back to the start
    method = cls(cls.Options(**given))
    with toy_context(method, budget=0.5) as ctx:
        start = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        end = ctx.model.weights()
        changes = {name: (end[name] - start[name]).double() for name in start if not torch.equal(end[name], start[name])}
        if not changes:
            return "nothing was trained"
        if len(ctx.added) != 1 or {f"clip.{name}" for name in changes} != ctx.trained:
            return "what was added is not what changed"
    for name, change in changes.items():
        if change.ndim < 2:
            return f"{name} has no adapter, and changed"
        first, second = torch.linalg.svdvals(change.flatten(1))[:2].tolist()
        if second > 1e-5 + 1e-4 * first:
            return f"{name} changed by more than the rank of its adapter"
    return ""


def test_every_loss_method_trains_adapters_that_are_merged():
    classes = {name: entry.cls for name, entry in load_plugins().methods.items()}
    losses = {name: cls for name, cls in classes.items() if issubclass(cls, LossMethod) and name not in MADE_OF_ADAPTERS}
    assert {"npo", "delete", "scrub", "cliperase", "name-backdoor", "stranger-targets"} <= losses.keys()
    problems = {name: found for name, cls in losses.items() if (found := problem_of(cls))}
    assert not problems
