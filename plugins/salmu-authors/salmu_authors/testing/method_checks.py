"""The contract of a method, line by line. `MethodTrial` runs it; every function here looks at one thing."""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor, nn

from salmu_authors.testing.contract import Checks, NotApplicable, NotReached
from salmu_authors.testing.declarations import add_declaration_checks
from salmu_authors.testing.method_trial import MethodTrial
from salmu_authors.testing.package import check_card_options, check_finished, check_headings, package_card
from salmu_authors.testing.two_processes import TwoProcessFailure, two_process_weights
from salmu_core.data.pairs import Role
from salmu_core.method import Family, LossMethod
from salmu_core.models.dual_encoder import tower_of
from salmu_core.options import OneOf

METHOD_CHECKS = Checks()
add_declaration_checks(METHOD_CHECKS)
check = METHOD_CHECKS.add

# ---------------------------------------------------------------- what it declares


@check("family", "`family` is one of those that reports group methods by.")
def family(trial: MethodTrial) -> None:
    known = get_args(Family)
    assert trial.cls.family in known, f"family = {trial.cls.family!r} is not one of: {', '.join(known)}."


@check("data", "`data` names forget, retain or both, each once.")
def data(trial: MethodTrial) -> None:
    given = trial.cls.data
    unknown = [role for role in given if role not in get_args(Role)]
    assert isinstance(given, tuple) and not unknown, f"data = {given!r}: give a tuple of 'forget' and 'retain'."
    assert len(set(given)) == len(given), f"data = {given!r} names a split twice."
    reads = trial.new().reads()
    assert set(reads) <= set(given), f"reads() gives {reads!r}, and data = {given!r}: `data` names all that may be read."
    assert given or trial.cls.family in ("baseline", "control"), "A method that sees no data cannot forget: declare `data`."


@check("search", "What `salmu tune` may try are options, and both ends of every range are valid.")
def search(trial: MethodTrial) -> None:
    if not trial.cls.search:
        raise NotApplicable("It declares no `search`.")
    for name, span in trial.cls.search.items():
        assert name in trial.cls.Options.model_fields, f"`search` names '{name}', which is no option of {trial.cls.name}."
        for value in span.values if isinstance(span, OneOf) else (span.low, span.high):
            try:
                trial.cls.Options(**{name: value})
            except ValueError:
                raise AssertionError(f"`search` tries {name} = {value}, which the options refuse.") from None
        if not isinstance(span, OneOf):
            assert span.low < span.high, f"`search` tries {name} from {span.low:g} to {span.high:g}: nothing lies between."
            assert not span.log or span.low > 0, (
                f"`search` tries {name} on a logarithmic scale from {span.low:g}: start above 0."
            )


# ---------------------------------------------------------------- that it runs, and on what it is given


@check("runs", "It runs to its end on the toy benchmark with these options.")
def runs(trial: MethodTrial) -> None:
    error, blame = trial.first.error, trial.blame
    if blame is not None:
        raise NotReached(f"It did not finish: see `{blame}`.")
    assert error is None, f"unlearn raised {type(error).__name__}: {error} ({trial.first.where})"


@check("budget-respected", "What it asks for by default fits into the budget at 1x.")
def budget_respected(trial: MethodTrial) -> None:
    assert trial.blame != "budget-respected", (
        f"{trial.first.error} Options whose default is none should use what `ctx.budget_left` says is left."
    )
    for role, count in trial.first.samples.items():
        assert count <= trial.first.allowed[role], (
            f"{count} {role} samples were seen, {trial.first.allowed[role]} are allowed."
        )


@check("budget-counted", "Every look at data is counted: batches come from the context, and none is used again for free.")
def budget_counted(trial: MethodTrial) -> None:
    first = trial.first
    if first.access.training:
        raise AssertionError(
            f"It reads {', '.join(first.access.training)} from the benchmark, where nothing is counted: use ctx.fit or ctx.batches."
        )
    for role, looks in first.looks.items():
        counted = first.samples.get(role, 0)
        assert looks <= counted, (
            f"{looks} {role} rows were looked at and {counted} were counted: take a batch from ctx.fit or ctx.batches again"
            " instead of keeping it."
        )


@check("undeclared-data", "It reads no split that `data` and `reads` do not name.")
def undeclared_data(trial: MethodTrial) -> None:
    asked = trial.first.undeclared
    assert not asked, (
        f"It asks for {', '.join(asked)} and declares data = {trial.cls.data}, of which reads() gives"
        f" {trial.first.method.reads()}: add it there, or do not read it."
    )


@check("unused-data", "It reads every split that `data` names; one that `reads` leaves out, with some options of `search`.")
def unused_data(trial: MethodTrial) -> None:
    unused = [role for role in trial.finished.method.reads() if not trial.finished.touched[role]]
    assert not unused, (
        f"It declares {', '.join(unused)} and does not read it: take it out of `data`, or out of what reads() gives with these"
        " options, so that tables say what it sees."
    )
    if trial.cls.family == "control":  # not searched, so nothing says which options read more
        return
    for role in set(trial.cls.data) - set(trial.finished.method.reads()):
        options = trial.options_that_read(role)
        assert options is not None, (
            f"`data` names {role}, and no options of `search` make reads() give it: take it out of `data`."
        )
        seen = trial.observe(trial.new(**options))
        assert seen.error is None, f"With {options} it raises {type(seen.error).__name__}: {seen.error} ({seen.where})"
        assert seen.touched[role], f"With {options}, reads() gives {role}, and it is not read."


@check("columns", "It reads no metadata column that `columns` does not name.")
def declared_columns(trial: MethodTrial) -> None:
    unnamed = trial.finished.undeclared_columns
    assert not unnamed, (
        f"It reads {', '.join(unnamed)}, from ctx.columns or as codes of a batch: name them, columns ="
        f" {(*trial.cls.columns, *unnamed)}, so that tables say what it sees."
    )


@check("evaluation-out-of-reach", "It asks for no evaluation split.")
def evaluation_out_of_reach(trial: MethodTrial) -> None:
    asked = trial.first.access.evaluation
    assert not asked, (
        f"It reads the evaluation split {', '.join(asked)}: a method sees forget and retain through its context only."
    )


@check("clean-out-of-reach", "It does not ask for the Clean model, or says so with `oracle = True`.")
def clean_out_of_reach(trial: MethodTrial) -> None:
    assert trial.cls.oracle or not trial.first.asked_clean, (
        "It asks for the Clean model: set oracle = True, and it is ranked apart."
    )
    assert trial.first.access.clean <= 0, (
        "It loads the Clean model from a benchmark: use ctx.clean_model() with oracle = True."
    )


@check("inputs-unchanged", "Images, captions and columns are as they were: batches are read and not written.")
def inputs_unchanged(trial: MethodTrial) -> None:
    changed = trial.first.changed_inputs
    assert not changed, (
        f"It changed {', '.join(changed)} in place: work on a clone, later batches are cut from the same tensors."
    )


@check("options-unchanged", "Its options are after the run what they were before.")
def options_unchanged(trial: MethodTrial) -> None:
    assert not trial.first.options_changed, (
        "It changed self.options while it ran: the record would show other options than were given."
    )


# ---------------------------------------------------------------- what it leaves behind


@check("stays-finite", "No loss, gradient or weight stops being finite.")
def stays_finite(trial: MethodTrial) -> None:
    assert trial.blame != "stays-finite", (
        f"It diverges on the toy benchmark: {trial.first.error} Lower the default lr, or clip."
    )
    broken = [name for name, tensor in trial.first.weights.items() if not torch.isfinite(tensor.float()).all()]
    assert not broken, (
        f"Weights are not finite after unlearning ({broken[0]}): look for a division by zero or a log of zero."
    )


@check("has-effect", "It changes the model.")
def has_effect(trial: MethodTrial) -> None:
    if not trial.cls.data:
        raise NotApplicable("It declares no data.")
    after = trial.finished.weights
    same = all(_equal(tensor, after[name]) for name, tensor in trial.start.items() if name in after)
    assert not same, "No weight changed: change ctx.model itself (parameters in place under torch.no_grad(), or ctx.fit)."


@check("model-in-place", "`ctx.model` is changed and not replaced by another object.")
def model_in_place(trial: MethodTrial) -> None:
    assert not trial.first.replaced_model, (
        "It assigned another object to ctx.model, which is lost: change the model's weights."
    )


@check("structure", "The model has the same weights as before, of the same shapes.")
def structure(trial: MethodTrial) -> None:
    before = {name: tuple(tensor.shape) for name, tensor in trial.start.items()}
    after = {name: tuple(tensor.shape) for name, tensor in trial.finished.weights.items()}
    odd = sorted(set(before.items()) ^ set(after.items()))
    assert not odd, (
        f"The model's weights have other names or shapes than before ({odd[0][0]}): change values, not structure."
    )


@check("dtype", "Weights keep their number type.")
def dtype(trial: MethodTrial) -> None:
    after = trial.finished.weights
    odd = [name for name, tensor in trial.start.items() if name in after and after[name].dtype != tensor.dtype]
    assert not odd, (
        f"{odd[0]} was {trial.start[odd[0]].dtype} and is {after[odd[0]].dtype}: copy_ values into the parameter."
    )


@check("device", "Weights stay on the run's device.")
def device(trial: MethodTrial) -> None:
    after = trial.finished.weights
    odd = [name for name, tensor in trial.start.items() if name in after and after[name].device != tensor.device]
    assert not odd, (
        f"{odd[0]} moved to {after[odd[0]].device}: copy_ values into the parameter, and leave the model where it is."
    )


@check("logit-scale", "The logit scale is not touched: scaling logits satisfies most losses without forgetting anything.")
def logit_scale(trial: MethodTrial) -> None:
    after = trial.finished.weights
    for name in ("logit_scale", "logit_bias"):
        if name in trial.start and name in after:
            assert _equal(trial.start[name], after[name]), (
                f"{name} was changed: leave it out of params (ctx.parameters() does)."
            )


@check("eval-mode", "The model is in eval mode again.")
def eval_mode(trial: MethodTrial) -> None:
    training = [name or "the model" for name, module in trial.finished.model.named_modules() if module.training]
    assert not training, f"{training[0]} was left in training mode: call ctx.model.eval() at the end."


@check("gradients-released", "Every parameter may take gradients again, and none holds one.")
def gradients_released(trial: MethodTrial) -> None:
    frozen = [name for name, required in trial.finished.grads_required.items() if not required]
    assert not frozen, (
        f"{frozen[0]} was left with requires_grad=False: audits and wrappers that train afterwards would skip it."
    )
    held = [name for name, parameter in trial.finished.model.named_parameters() if parameter.grad is not None]
    assert not held, f"{held[0]} still holds a gradient: set .grad to None, it is memory that the evaluation lacks."


@check("hooks-removed", "No hook is left on the model.")
def hooks_removed(trial: MethodTrial) -> None:
    for name, module in trial.finished.model.named_modules():
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        left = [kind for kind in kinds if getattr(module, kind, None)]
        assert not left, f"A hook was left on {name or 'the model'}: remove() it in a finally block."


@check("frozen-tower", "With the option `tower`, the other encoder stays bit-equal.")
def frozen_tower(trial: MethodTrial) -> None:
    field = trial.cls.Options.model_fields.get("tower")
    if field is None or not {"image", "text"} <= {*get_args(field.annotation)}:
        raise NotApplicable("It has no option `tower`.")
    _ = trial.finished
    for tower, other in (("image", "text"), ("text", "image")):
        seen = trial.observe(trial.new(tower=tower))
        if seen.error is not None:
            raise AssertionError(f"With tower={tower} it raises {type(seen.error).__name__}: {seen.error} ({seen.where})")
        moved = [
            n
            for n, t in seen.weights.items()
            if tower_of(n) == other and n in trial.start and not torch.equal(t, trial.start[n])
        ]
        assert not moved, (
            f"With tower={tower} the {other} encoder changed ({moved[0]}): pass params=ctx.parameters(tower).values()."
        )


# ---------------------------------------------------------------- that it does the same again


@check("deterministic", "The same seed gives the same weights, bit for bit.")
def deterministic(trial: MethodTrial) -> None:
    odd = _unequal(trial.finished.weights, trial.again.weights)
    assert trial.again.error is None, f"A second run raised {trial.again.error}: keep nothing in the class or the module."
    assert not odd, (
        f"Two runs with one seed gave other weights ({odd[0]}, {len(odd)} in all): draw through ctx.generator, and do not depend on"
        " time, on the order of a set, or on what an earlier run left in the class."
    )


@check("no-global-randomness", "Nothing is drawn from global generators.")
def no_global_randomness(trial: MethodTrial) -> None:
    # Twice: importing a library for the first time may draw, too.
    drawn = [name for name in trial.finished.drawn if name in trial.again.drawn]
    assert not drawn, f"It draws from or seeds {', '.join(drawn)}: pass generator=ctx.generator('what for')."


@check(
    "process-settings", "The process is as it was: gradients on, number type, threads, folder, environment, code of others."
)
def process_settings(trial: MethodTrial) -> None:
    changed = trial.first.settings
    assert not changed, f"It left the process changed: use a with block, or put it back yourself. {' '.join(changed)}"


@check("prints-nothing", "Nothing is printed to standard output, which is for results.")
def prints_nothing(trial: MethodTrial) -> None:
    printed = trial.finished.printed.strip()
    assert not printed, f"It prints '{printed.splitlines()[0]}': log values with ctx.log, or use logging."


@check("state", "What `state` gives can be saved, and `load_state` takes it back.")
def state(trial: MethodTrial) -> None:
    method = trial.finished.method
    kept = method.state()
    odd = [name for name, value in kept.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    assert not odd, f"state() gives {odd[0]!r}, which is no tensor under a name: checkpoints hold tensors only."
    copied = {name: tensor.detach().clone() for name, tensor in kept.items()}
    method.load_state(copied)
    back = method.state()
    odd = [name for name, tensor in copied.items() if name not in back or not torch.equal(back[name], tensor)]
    assert back.keys() == kept.keys() and not odd, f"load_state does not take back what state() gave ({[*odd, *kept][0]})."


@check("resumes", "A run that is killed while it trains goes on to the same weights.")
def resumes(trial: MethodTrial) -> None:
    finished, resumed = trial.finished, trial.resumed
    if _unequal(finished.weights, trial.again.weights):
        raise NotReached("It is not deterministic.")
    assert resumed.error is None, f"A resumed run raised {type(resumed.error).__name__}: {resumed.error} ({resumed.where})"
    odd = _unequal(finished.weights, resumed.weights)
    assert not odd, (
        f"A run that was killed and resumed ends at other weights ({odd[0]}): tensors that change while it trains go through state()"
        " and load_state(), and everything between two fits must come out the same again."
    )


@check("trained-parameters", "What it trains is known to the run's record.")
def trained_parameters(trial: MethodTrial) -> None:
    if not issubclass(trial.cls, LossMethod):
        raise NotApplicable("It is not a LossMethod.")
    method = trial.new()
    own = {id(parameter) for parameter in trial.finished.model.parameters()}
    given = list(method.trainable(trial.finished.model))  # type: ignore[attr-defined]
    assert given, "trainable() gives no parameter."
    foreign = [item for item in given if not isinstance(item, nn.Parameter) or id(item) not in own]
    assert not foreign, "trainable() gives something that is not a parameter of the model: the loop would not train it."


@check("record", "The runner makes a record of it that can be read back.")
def record(trial: MethodTrial) -> None:
    from salmu_core.records.schema import RunRecord

    made = trial.record
    assert made.status == "ok", f"The run's status is {made.status}: {made.error}"
    back = RunRecord.model_validate_json(made.model_dump_json())
    assert back == made, "The record is another after it was written and read."
    asked, noted = trial.new().options.model_dump(mode="json"), made.options
    assert asked == noted, "The record shows other options than the run had."
    change = made.weight_change
    assert change is not None and math.isfinite(change), "The record has no weight change."


@check("no-warnings", "A run leaves nothing for its record to warn of.")
def no_warnings(trial: MethodTrial) -> None:
    assert not trial.record.warnings, f"The record warns: {' '.join(trial.record.warnings)}"


@check("two-processes", "Two data-parallel processes end with the same weights.", slow=True)
def two_processes(trial: MethodTrial) -> None:
    finished = trial.finished
    try:
        one, other = two_process_weights(trial.cls, trial.options)
    except TwoProcessFailure as failure:
        raise AssertionError(f"{failure}") from None
    odd = _unequal(one, other)
    assert not odd, (
        f"Two processes end with different weights ({odd[0]}): draw through ctx.generator, measure with ctx.batches, and depend"
        " neither on the process's number nor on its share of a batch."
    )
    alone, shared = _change(trial.start, finished.weights), _change(trial.start, one)
    likeness = float(nn.functional.cosine_similarity(alone, shared, dim=0)) if alone.any() and shared.any() else 1.0
    assert likeness > 0.9, (
        f"Two processes change the model otherwise than one does (cosine of both changes {likeness:.2f}): take embeddings from"
        " model(pairs), which gives those of the whole batch with the right gradients."
    )


# ---------------------------------------------------------------- what its package says


@check("card", "The package has a card with the shared headings that names the method.")
def card(trial: MethodTrial) -> None:
    text = package_card(trial)
    assert trial.cls.name in text, f"The card does not mention {trial.cls.name}."
    check_headings(text)
    check_finished(text)


@check("card-options", "The card's table has every option with the code's default.")
def card_options(trial: MethodTrial) -> None:
    check_card_options(package_card(trial), trial.cls)


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second)


def _unequal(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in first.items() if name not in second or not _equal(tensor, second[name])]


def _change(before: dict[str, Tensor], after: dict[str, Tensor]) -> Tensor:
    return torch.cat(
        [(after[name] - tensor).flatten().float() for name, tensor in before.items() if tensor.is_floating_point()]
    )
